"""MUSIC-AVQA: questions about what is seen and heard in clips of music, one of 42 answers."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.answers import check_size
from datamodules.base import Examples, Split, build
from datamodules.clip_data import ClipData, Media
from datamodules.footage import Footage, Grid
from datamodules.media.clips import Clips
from datamodules.media.image import Pixels
from datamodules.media.logmel import LogMel
from datamodules.media.text import Text
from datamodules.music_avqa_annotations import KINDS, Question, answers_of, read_questions
from datamodules.sentences import Sentences
from hmmoe.errors import ConfigError, DataBroken


class MusicAVQAExamples(Examples):
    """Questions of one split with their clip; a clip that several questions share is decoded once.

    Args:
        questions: rows of the split.
        labels: index of every answer.
        footage: the clips.
        text: tokenizer; None leaves the words out.
    """

    def __init__(
        self, questions: Sequence[Question], labels: Mapping[str, int], footage: Footage, text: Text | None
    ) -> None:
        self.questions, self.labels, self.footage, self.media = questions, labels, footage, footage.cache
        self.sentences = Sentences(text, (question.text for question in questions))

    def __len__(self) -> int:
        return len(self.questions)

    def rows(self) -> list[tuple[str, str]]:
        """Id and answer."""
        return [(question.name, question.answer) for question in self.questions]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, kind, label, vision (T, 3, H, W), audio (T, 1, mels, frames), keep {modality: (T,)}, text."""
        question = self.questions[index]
        sample = {"id": question.name, "kind": question.kind, "label": self.labels[question.answer]}
        return sample | self.sentences.get(question.text) | self.footage.get(question.video, rng)


class MusicAVQA(ClipData):
    """MUSIC-AVQA in its published layout (see ``DataModule`` for what is not listed here).

    Args:
        variant: "json", the published questions, or "json_update", the authors' later cleaning.
        media: "video" reads video/<id>.mp4; "extracted" frames/<id>/*.jpg and audio/<id>.wav (LAVISH: video_frames,
            raw_audio).
        fps: of extracted frames.
        segments: how many pictures and sounds of a clip are read.
        every: seconds from one to the next; the authors' ten of sixty seconds.
        answers: how many there are: the size of the head.
        parts: name -> kinds of questions (modality/type) that a part of the score averages over (``task.parts``).
    """

    splits = (Split("train", "train"), Split("val", "validation"), Split("test", "test"))
    modalities = ("vision", "audio", "text")
    layout = """
Expected: <root>/json/avqa-{train,val,test}.json (or json_update/), and <root>/video/<id>.mp4 (9,288 clips of a minute);
with data.media=extracted <root>/frames/<id>/000001.jpg, ... and <root>/audio/<id>.wav.
Get it: data/json of github.com/GeWu-Lab/MUSIC-AVQA (MIT); the README there links the videos."""

    def __init__(
        self,
        root: str | Path,
        *,
        variant: Literal["json", "json_update"] = "json",
        media: Media = "video",
        fps: float = 1.0,
        segments: int = 10,
        every: float = 6.0,
        answers: int = 42,
        parts: Mapping[str, Sequence[str]] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(root, media=media, fps=fps, **common)
        if variant not in ("json", "json_update"):
            raise ConfigError(f"data.variant={variant}: expected json or json_update")
        if segments < 1 or every <= 0:
            raise ConfigError(f"data.segments={segments}, data.every={every}: expected more than zero")
        self.parts = {name: tuple(kinds) for name, kinds in (parts or {}).items()}
        if strangers := sorted({kind for kinds in self.parts.values() for kind in kinds} - set(KINDS)):
            raise ConfigError(f"data.parts names {', '.join(strangers)}; the kinds are {', '.join(KINDS)}")
        self.variant, self.size = variant, answers
        self.grid = Grid(tuple(segment * every for segment in range(segments)))
        self._read: dict[str, list[Question]] = {}

    def footage_of(self, *, extracted: bool, fps: float) -> Clips:
        """Of the authors and of LAVISH."""
        return Clips(self.root, extracted=extracted, fps=fps)

    def annotations(self, split: str) -> list[Path]:
        """The split's file, and train's, which numbers the answers."""
        return [self.root / self.variant / f"avqa-{name}.json" for name in dict.fromkeys((split, "train"))]

    def load(self, split: str) -> MusicAVQAExamples:
        """Read one split; its answers must be among train's.

        Raises:
            DataBroken: an answer that train does not have.
        """
        path, labels = self.annotations(split)[0], self.labels()
        questions = self._questions(split)
        for row, question in enumerate(questions):
            if question.answer not in labels:
                raise DataBroken(
                    f"{path}, row {row}: anser {question.answer!r} is none of the {len(labels)} answers of train: "
                    "fetch the files of one release (data.variant)"
                )
        kept = self.accept(split, questions, lambda question: self.lacking(question.video))
        footage = Footage(
            (question.video for question in kept),
            self.clips,
            self.grid,
            pixels=build(Pixels, self.inputs, "vision"),
            logmel=build(LogMel, self.inputs, "audio"),
            keep=self.keep,
            fills=self.fills,
            name=split,
        )
        return MusicAVQAExamples(kept, labels, footage, self.text())

    def published(self) -> dict[str, int]:
        """Questions; the size of the cleaned train file is not known here."""
        if self.variant == "json":
            return {"train": 32087, "val": 4595, "test": 9185}
        return {"val": 4568, "test": 9129}

    def submission(self, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """The split's file with the predicted answers: there is no server, and the official script scores as it runs.

        A question that stands there twice has one row for each, as in the file.
        """
        answers = list(self.labels())
        asked = {question.name: question for question in self.examples(split).questions}
        content = [
            {
                "video_id": asked[row["id"]].video,
                "question_id": int(row["id"].partition("#")[0]),
                "anser": answers[row["prediction"]],
            }
            for row in rows
        ]
        return {f"{split}_submission.json": json.dumps(content)}

    def labels(self) -> dict[str, int]:
        """Answer -> index, in the order of first appearance in train."""
        answers = answers_of(self._questions("train"))
        check_size(answers, self.size, str(self.annotations("train")[0]))
        return {answer: index for index, answer in enumerate(answers)}

    def references(self) -> dict[str, dict[str, float]]:
        """Train's most frequent answer: of all, of the kind of question, of the very question (a reader's best)."""
        by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
        by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for question in self.examples("train").questions:
            by_kind[question.kind][question.answer] += 1
            by_text[question.text][question.answer] += 1
        most = sum(by_kind.values(), Counter()).most_common(1)[0][0]
        kinds, texts = ({k: c.most_common(1)[0][0] for k, c in table.items()} for table in (by_kind, by_text))
        lines = {}
        for split in self.val_splits + self.test_splits:
            asked = self.examples(split).questions
            of_kind = [kinds.get(question.kind, most) for question in asked]
            guesses = {
                "majority": [most] * len(asked),
                "kind": of_kind,
                "question": [texts.get(q.text, guess) for q, guess in zip(asked, of_kind, strict=True)],
            }
            right = {
                name: float(np.mean([guess == q.answer for guess, q in zip(own, asked, strict=True)]))
                for name, own in guesses.items()
            }
            lines[split] = right | self.ceilings(split)
        return lines

    def _questions(self, split: str) -> list[Question]:
        if split not in self._read:
            self._read[split] = read_questions(self.annotations(split)[0])
        return self._read[split]
