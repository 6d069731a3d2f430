"""Reference lines of questions: what train's most frequent answers score."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar


class Answered(Protocol):
    """A question with its answer."""

    @property
    def answer(self) -> str: ...


Q = TypeVar("Q", bound=Answered)


class Priors(Generic[Q]):
    """The most frequent answer of all, and by ever finer cues; of equals the one that appeared first.

    Args:
        train: at least one question.
        cues: name -> what is known of a question, coarse to fine.
    """

    def __init__(self, train: Iterable[Q], cues: Mapping[str, Callable[[Q], Hashable]]) -> None:
        self.cues: dict[str, Callable[[Q], Hashable]] = {"majority": lambda question: None, **cues}
        counts = {name: defaultdict[Hashable, Counter[str]](Counter) for name in self.cues}
        for question in train:
            for name, cue in self.cues.items():
                counts[name][cue(question)][question.answer] += 1
        self._best = {
            name: {value: answers.most_common(1)[0][0] for value, answers in by_cue.items()}
            for name, by_cue in counts.items()
        }

    def guesses(self, asked: Sequence[Q]) -> dict[str, list[str]]:
        """By "majority" and every cue an answer to each question; a value new to train gets that of the cue before."""
        found: dict[str, list[str]] = {}
        known = [""] * len(asked)
        for name, cue in self.cues.items():
            best = self._best[name]
            known = [best.get(cue(question), guess) for question, guess in zip(asked, known, strict=True)]
            found[name] = known
        return found

    def lines(self, asked: Sequence[Q]) -> dict[str, float]:
        """Share of the questions that each of these guesses gets right."""
        answers = [question.answer for question in asked]
        return {
            name: sum(guess == answer for guess, answer in zip(guesses, answers, strict=True)) / len(answers)
            for name, guesses in self.guesses(asked).items()
        }
