"""MUSIC-AVQA: questions about what is seen and heard in clips of music, one of 42 answers."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.answers import check_size
from datamodules.base import DataModule, Examples, Split, build
from datamodules.media.cache import Field, RowCache
from datamodules.media.image import Pixels
from datamodules.media.logmel import LogMel
from datamodules.media.text import Text
from datamodules.missing import Policy, accept, check_policy
from datamodules.music_avqa_annotations import KINDS, Question, answers_of, read_questions
from datamodules.music_avqa_media import Clips
from datamodules.sentences import Sentences
from hmmoe.errors import ConfigError, DataBroken


class MusicAVQAExamples(Examples):
    """Questions of one split with their clip; a clip that several questions share is kept once.

    Args:
        questions: rows of the split.
        labels: index of every answer.
        clips: where pictures and sounds are.
        starts: seconds at which the segments begin.
        pixels, logmel, text: readers of the modalities; None leaves one out.
        keep, limit_gb: of the cache, see ``RowCache``; the limit holds for frames and sound together.
        name: of the split.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        labels: Mapping[str, int],
        clips: Clips,
        starts: Sequence[float],
        *,
        pixels: Pixels | None,
        logmel: LogMel | None,
        text: Text | None,
        keep: Literal["memory", "none"],
        limit_gb: float,
        name: str,
    ) -> None:
        self.questions, self.labels, self.clips, self.starts = questions, labels, clips, starts
        self.pixels, self.logmel = pixels, logmel
        videos = dict.fromkeys(question.video for question in questions)
        self._row = {video: row for row, video in enumerate(videos)}
        count = len(starts)
        fields = [Field((count, *pixels.shape), torch.uint8), Field((count,), torch.bool)] if pixels else []
        if logmel:
            fields += [Field((count, *logmel.shape), torch.float32), Field((count,), torch.bool)]
        self.cache = RowCache(len(videos), fields, keep=keep, limit_gb=limit_gb, name=f"frames and sound of {name}")
        self.sentences = Sentences(text, (question.text for question in questions))

    def __len__(self) -> int:
        return len(self.questions)

    def rows(self) -> list[tuple[str, str]]:
        """Id and answer."""
        return [(question.name, question.answer) for question in self.questions]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, kind, label, vision (T, 3, H, W), audio (T, 1, mels, frames), keep {modality: (T,)}, text."""
        question = self.questions[index]
        sample: dict[str, Any] = {"id": question.name, "kind": question.kind, "label": self.labels[question.answer]}
        sample |= self.sentences.get(question.text)
        media = list(self.cache.get(self._row[question.video], lambda: self._decode(question.video)))
        keep = {}
        if self.pixels is not None:
            pictures, keep["vision"] = media.pop(0), media.pop(0)
            sample["vision"] = self.pixels.normalise(pictures) * keep["vision"].view(-1, 1, 1, 1)
        if self.logmel is not None:
            sample["audio"], keep["audio"] = media
        return sample | ({"keep": keep} if keep else {})

    def _decode(self, video: str) -> tuple[Tensor, ...]:
        media: tuple[Tensor, ...] = ()
        if self.pixels is not None:
            # Half a second into the segment: the frame that extraction at one frame per second takes.
            media += self.clips.pictures(video, [start + 0.5 for start in self.starts], self.pixels)
        if self.logmel is not None:
            media += self.clips.spectra(video, self.starts, self.logmel)
        return media


class MusicAVQA(DataModule):
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
        missing: what to do about questions whose clip is not there: "refuse", or "drop" them (counted in the manifest).
        cache: keep decoded frames and log-mel pictures in "memory", or "none".
        cache_gb: limit of that, for each split and process.
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
        media: Literal["video", "extracted"] = "video",
        fps: float = 1.0,
        segments: int = 10,
        every: float = 6.0,
        answers: int = 42,
        parts: Mapping[str, Sequence[str]] | None = None,
        missing: Policy = "refuse",
        cache: Literal["memory", "none"] = "none",
        cache_gb: float = 16.0,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        check_policy(missing)
        if variant not in ("json", "json_update") or media not in ("video", "extracted"):
            raise ConfigError(
                f"data.variant={variant}, data.media={media}: expected json or json_update, video or extracted"
            )
        if segments < 1 or every <= 0 or fps <= 0:
            raise ConfigError(f"data.segments={segments}, data.every={every}, data.fps={fps}: expected more than zero")
        self.parts = {name: tuple(kinds) for name, kinds in (parts or {}).items()}
        if strangers := sorted({kind for kinds in self.parts.values() for kind in kinds} - set(KINDS)):
            raise ConfigError(f"data.parts names {', '.join(strangers)}; the kinds are {', '.join(KINDS)}")
        self.variant, self.policy, self.size = variant, missing, answers
        self.starts = tuple(segment * every for segment in range(segments))
        self.clips = Clips(self.root, extracted=media == "extracted", fps=fps)
        self.cache, self.cache_gb = cache, cache_gb
        self._read: dict[str, list[Question]] = {}
        self._text: Text | None = None

    @property
    def _wanted(self) -> dict[str, bool]:
        return {modality: modality in self.inputs for modality in ("vision", "audio")}

    def absent(self) -> list[Path]:
        """JSON files and media folders."""
        wanted = [*(path for split in self.splits for path in self.annotations(split.name))]
        return [path for path in (*wanted, *self.clips.folders(**self._wanted)) if not path.exists()]

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
        kept = accept(questions, self._lacks, policy=self.policy, split=split)
        if self._text is None:
            self._text = build(Text, self.inputs, "text")
        examples = MusicAVQAExamples(
            kept,
            labels,
            self.clips,
            self.starts,
            pixels=build(Pixels, self.inputs, "vision"),
            logmel=build(LogMel, self.inputs, "audio"),
            text=self._text,
            keep=self.cache,
            limit_gb=self.cache_gb,
            name=split,
        )
        examples.dropped = len(questions) - len(kept)
        return examples

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

    def _lacks(self, question: Question) -> Path | None:
        files = self.clips.files(question.video, **self._wanted)
        return next((path for path in files if not path.exists()), None)
