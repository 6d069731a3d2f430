"""What question answering and retrieval on clips share, whichever dataset: examples, splits, reference lines."""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch.utils.data import default_collate

from datamodules.answers import check_parts, most_frequent
from datamodules.base import TRAIN_VAL_TEST, Examples
from datamodules.clip_data import ClipData, Media
from datamodules.clip_questions import QuestionExamples
from datamodules.footage import Footage, Take
from datamodules.media.text import Text
from datamodules.priors import Priors
from datamodules.sampling import Draw
from datamodules.sentences import Sentences
from datamodules.video_text_annotations import FORMS, Captions, Question
from hmmoe.errors import ConfigError, DataBroken
from hmmoe.types import Batch

KINDS = (*FORMS, "other")


def held_out(clips: Sequence[str], count: int) -> set[str]:
    """``count`` of the training clips, spread evenly, to choose the model on.

    Raises:
        ConfigError: none or all of them.
    """
    if not 0 < count < len(clips):
        raise ConfigError(f"data.held_out={count}: expected 1 to {len(clips) - 1} of the {len(clips)} training clips")
    return {clips[i * len(clips) // count] for i in range(count)}


class VideoText(ClipData):
    """Clips with sentences about them (see ``DataModule`` and ``ClipData`` for what is not listed here).

    Args:
        release: "original", the authors' files, "valor", those of VALOR, or "auto": valor where they are there.
        frames, test_frames: of a clip, spread evenly, in training and elsewhere.
        slices: of sound, each as long as the backbone's log-mel picture.
        jitter, area, flip: of the training clips, see ``Take``.
        held_out: training clips to choose the model on, where the files name none for that.
        cache: as for every dataset; training with jitter or area decodes every time.
    """

    splits = TRAIN_VAL_TEST
    valor_file: ClassVar[str]
    """Name of a file that only VALOR's layout has."""

    def __init__(
        self,
        root: str | Path,
        *,
        release: Literal["auto", "original", "valor"] = "auto",
        media: Media = "video",
        fps: float = 4.0,
        frames: int = 4,
        test_frames: int = 8,
        slices: int = 1,
        jitter: bool = False,
        area: Sequence[float] | None = None,
        flip: bool = False,
        held_out: int = 500,
        **common: Any,
    ) -> None:
        super().__init__(root, media=media, fps=fps, **common)
        if release not in ("auto", "original", "valor"):
            raise ConfigError(f"data.release={release}: expected auto, original or valor")
        heard = slices if "audio" in self.inputs else 0
        span = None if area is None else (area[0], area[-1])
        self.training = Take(frames, heard, jitter=jitter, area=span, flip=flip)
        self.testing = Take(test_frames, heard)
        for take in (self.training, self.testing):
            take.check()
        if "audio" in self.inputs and slices < 1:
            raise ConfigError(f"data.slices={slices}: the backbone listens, so expected 1 or more")
        self.valor = release == "valor" or (release == "auto" and (self.root / self.valor_file).exists())
        self.held = held_out

    @abstractmethod
    def files(self) -> list[Path]:
        """All annotation files."""

    def absent(self) -> list[Path]:
        """Annotation files and media folders."""
        return [path for path in (*self.files(), *self.clips.folders(**self.wanted)) if not path.exists()]

    def annotations(self, split: str) -> list[Path]:
        """Every file may say something about every split."""
        return [path for path in self.files() if path.is_file()]

    def take(self, split: str) -> Take:
        """What is taken of the clips of a split."""
        return self.training if split in self._names("train") else self.testing


class VideoQA(VideoText):
    """Open questions, answered from the most frequent answers of train.

    Args:
        answers: how many of them: the size of the head. Questions of train with another answer are left out, all others
            are asked and cannot be answered.
        parts: name -> question words that a part of the score averages over (``task.parts``).
        common: see ``VideoText``.
    """

    def __init__(
        self, root: str | Path, *, answers: int, parts: Mapping[str, Sequence[str]] | None = None, **common: Any
    ) -> None:
        super().__init__(root, **common)
        self.parts = check_parts(parts, KINDS)
        self.size = answers
        self._labels: dict[str, int] | None = None
        self._asked: dict[str, list[Question]] = {}

    @abstractmethod
    def read(self) -> dict[str, list[Question]]:
        """The questions of every split."""

    def asked(self, split: str) -> list[Question]:
        """All questions of a split, listed answer or not."""
        if not self._asked:
            self._asked = self.read()
            if empty := [name for name, questions in self._asked.items() if not questions]:
                raise DataBroken(f"no questions for {', '.join(empty)} in {self.files()[0]}: fetch the files again")
        return self._asked[split]

    def labels(self) -> dict[str, int]:
        """Answer -> index: train's answers from the most frequent down, of equals the first to appear."""
        if self._labels is None:
            answers = (question.answer for question in self.asked("train"))
            listed = most_frequent(answers, self.size, f"train of {self.root}")
            self._labels = {answer: index for index, answer in enumerate(listed)}
        return self._labels

    def load(self, split: str) -> QuestionExamples:
        """Read one split."""
        labels, questions = self.labels(), self.asked(split)
        if split in self._names("train"):
            questions = [question for question in questions if question.answer in labels]
        kept = self.accept(split, questions, lambda question: self.lacking(question.clip))
        footage = self.footage(split, (question.clip for question in kept), self.take(split))
        return QuestionExamples(kept, labels, footage, self.text())

    def annotated(self, split: str) -> int:
        """Questions, those of train included whose answer is not listed."""
        return len(self.asked(split))

    def submission(self, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Rows as in the authors' <split>_qa.json, with the predicted answers: there is no server.

        VALOR's evaluator compares ``answer`` word by word, as does the authors'.
        """
        answers = list(self.labels())
        asked = {question.name: question for question in self.examples(split).questions}
        content = [
            {
                "id": row["id"],
                "video_id": asked[row["id"]].clip,
                "question": asked[row["id"]].text,
                "answer": answers[row["prediction"]],
            }
            for row in rows
        ]
        return {f"{split}_submission.json": json.dumps(content)}

    def references(self) -> dict[str, dict[str, float]]:
        """Train's most frequent answer: of all, of the question word, of the very words; what the list can answer."""
        cues = {"question_word": lambda question: question.kind, "question": lambda question: question.text}
        priors, lines = Priors(self.asked("train"), cues), {}
        for split in dict.fromkeys(self.val_splits + self.test_splits):
            asked = self.examples(split).questions
            listed = float(np.mean([question.answer in self.labels() for question in asked]))
            lines[split] = priors.lines(asked) | {"answer_list": listed} | self.ceilings(split)
        return lines


class CaptionExamples(Examples):
    """Clips of one split with their sentences: a random one in training, all of them in evaluation.

    Args:
        captions: sentences by clip.
        footage: the clips.
        text: tokenizer, None leaves the words out.
    """

    def __init__(self, captions: Captions, footage: Footage, text: Text | None) -> None:
        self.captions, self.names, self.footage, self.media = captions, list(captions), footage, footage.cache
        self.sentences = Sentences(text, (sentence for own in captions.values() for sentence in own))

    def __len__(self) -> int:
        return len(self.names)

    def rows(self) -> list[tuple[str, list[str]]]:
        """Clip and sentences."""
        return [(clip, self.captions[clip]) for clip in self.names]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id (the clip), sentence (the name of the one in ``text``), vision, audio, keep, text."""
        clip = self.names[index]
        own = self.captions[clip]
        place = 0 if rng is None else int(rng.integers(len(own)))
        sample = {"id": clip, "sentence": f"{clip}#{place}", **self.sentences.get(own[place])}
        return sample | self.footage.get(clip, rng)

    def __getitem__(self, draws: Sequence[Draw]) -> Batch:
        """In evaluation with ``more``: the further sentences of all clips, {ids, keep, names, clip}."""
        batch = default_collate([self.sample(draw.index, draw.rng()) for draw in draws])
        clips = [self.names[draw.index] for draw in draws if draw.entropy is None]
        further = [(clip, place) for clip in clips for place in range(1, len(self.captions[clip]))]
        if further and "text" in batch:
            texts = [self.sentences.get(self.captions[clip][place])["text"] for clip, place in further]
            batch["more"] = {
                "ids": torch.stack([text["ids"] for text in texts]),
                "keep": torch.stack([text["keep"] for text in texts]),
                "names": [f"{clip}#{place}" for clip, place in further],
                "clip": [clip for clip, _ in further],
            }
        return batch


class VideoRetrieval(VideoText):
    """Clips and sentences that are to find each other; arguments as ``VideoText``."""

    def __init__(self, root: str | Path, **common: Any) -> None:
        super().__init__(root, **common)
        self._told: dict[str, Captions] = {}

    @abstractmethod
    def read(self) -> dict[str, Captions]:
        """The sentences of every split."""

    def load(self, split: str) -> CaptionExamples:
        """Read one split; no clip may be in two."""
        if not self._told:
            told = self.read()
            for name, captions in told.items():
                if bare := [clip for clip, sentences in captions.items() if not sentences]:
                    raise DataBroken(f"{self.files()[0]} has no sentence for {bare[0]} of {name}: fetch the file again")
                if not captions:
                    raise DataBroken(f"{self.files()[0]} names no clip of {name}: fetch the files again")
            self._told = told
        captions = self._told[split]
        kept = self.accept(split, list(captions), self.lacking)
        told = Captions((clip, captions[clip]) for clip in kept)
        return CaptionExamples(told, self.footage(split, kept, self.take(split)), self.text())

    def references(self) -> dict[str, dict[str, float]]:
        """How many clips and sentences there are, and what chance gives."""
        lines = {}
        for split in dict.fromkeys(self.val_splits + self.test_splits):
            examples = self.examples(split)
            clips, sentences = len(examples), sum(len(own) for own in examples.captions.values())
            chance = {f"chance_t2v_R{cut}": min(1.0, cut / clips) for cut in (1, 10)}
            lines[split] = {"clips": float(clips), "sentences": float(sentences), **chance, **self.ceilings(split)}
        return lines
