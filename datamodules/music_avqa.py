"""MUSIC-AVQA: questions about what is seen and heard in clips of music, one of 42 answers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from datamodules.answers import check_parts, check_size
from datamodules.base import TRAIN_VAL_TEST
from datamodules.clip_data import ClipData, Media
from datamodules.clip_questions import QuestionExamples
from datamodules.footage import Grid
from datamodules.music_avqa_annotations import KINDS, Question, answers_of, read_questions
from datamodules.priors import Priors
from hmmoe.errors import ConfigError, DataBroken


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

    splits = TRAIN_VAL_TEST
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
        self.parts = check_parts(parts, KINDS)
        self.variant, self.size = variant, answers
        self.grid = Grid(tuple(segment * every for segment in range(segments)))
        self._read: dict[str, list[Question]] = {}

    def annotations(self, split: str) -> list[Path]:
        """The split's file, and train's, which numbers the answers."""
        return [self.root / self.variant / f"avqa-{name}.json" for name in dict.fromkeys((split, "train"))]

    def load(self, split: str) -> QuestionExamples:
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
        kept = self.accept(split, questions, lambda question: self.lacking(question.clip))
        footage = self.footage(split, (question.clip for question in kept), self.grid)
        return QuestionExamples(kept, labels, footage, self.text())

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
                "video_id": asked[row["id"]].clip,
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
        cues = {"kind": lambda question: question.kind, "question": lambda question: question.text}
        priors = Priors(self.examples("train").questions, cues)
        return {
            split: priors.lines(self.examples(split).questions) | self.ceilings(split)
            for split in self.val_splits + self.test_splits
        }

    def _questions(self, split: str) -> list[Question]:
        if split not in self._read:
            self._read[split] = read_questions(self.annotations(split)[0])
        return self._read[split]
