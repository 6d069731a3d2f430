"""Questions about clips, whichever dataset they are from."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from datamodules.base import Examples
from datamodules.footage import Footage
from datamodules.media.text import Text
from datamodules.sentences import Sentences
from hmmoe.types import OUTSIDE


@runtime_checkable
class ClipQuestion(Protocol):
    """One question: its id, its clip, its words, its answer, and what sort of question it is."""

    @property
    def name(self) -> str: ...

    @property
    def clip(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def answer(self) -> str: ...

    @property
    def kind(self) -> str: ...


class QuestionExamples(Examples):
    """Questions of one split with their clip; a clip that several questions share is decoded once.

    Args:
        questions: of the split.
        labels: index of every listed answer.
        footage: the clips.
        text: tokenizer; None leaves the words out.
    """

    def __init__(
        self, questions: Sequence[ClipQuestion], labels: Mapping[str, int], footage: Footage, text: Text | None
    ) -> None:
        self.questions, self.labels, self.footage, self.media = questions, labels, footage, footage.cache
        self.sentences = Sentences(text, (question.text for question in questions))

    def __len__(self) -> int:
        return len(self.questions)

    def rows(self) -> list[tuple[str, str]]:
        """Id and answer."""
        return [(question.name, question.answer) for question in self.questions]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, kind, label (-1 outside the list), vision (T, 3, H, W), audio (A, 1, mels, frames), keep, text."""
        question = self.questions[index]
        sample = {"id": question.name, "kind": question.kind, "label": self.labels.get(question.answer, OUTSIDE)}
        return sample | self.sentences.get(question.text) | self.footage.get(question.clip, rng)
