"""VQA v2's questions, annotations and list of answers.

Source: Goyal et al., "Making the V in VQA Matter", CVPR 2017; layout of visualqa.org. The list of answers follows the
rule that LXMERT, MCAN, ViLT, VLMo and BEiT-3 share: normalised ``multiple_choice_answer`` with at least 9 occurrences
in train and val, 3,129 in all (the empty string among them: "the" without its article).
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

from hmmoe.errors import DataBroken
from hmmoe.metrics.vqa import agreement, normalise, stripped, unanimous

PEOPLE = 10
ANSWER_TYPES = ("yes/no", "number", "other")


class Question(NamedTuple):
    """One question. Without annotations (test) ``kind`` and ``answer`` are empty and there are no references."""

    number: int
    image: int
    text: str
    kind: str = ""
    form: str = ""
    answer: str = ""
    references: tuple[str, ...] = ()


def read_questions(questions: Path, annotations: Path | None) -> list[Question]:
    """The questions of one file, in its order, with the answers of the other.

    Raises:
        DataBroken: names file, place and remedy.
    """
    asked: dict[int, Question] = {}
    for place, row in _rows(questions, "questions"):
        question = _asked(row, questions, place)
        if question.number in asked:
            raise DataBroken(f"{questions}, questions[{place}]: question_id {question.number} twice: fetch it again")
        asked[question.number] = question
    if annotations is None:
        return list(asked.values())
    answered: dict[int, Question] = {}
    for place, row in _rows(annotations, "annotations"):
        question = _answered(row, asked, annotations, place)
        if question.number in answered:
            raise DataBroken(
                f"{annotations}, annotations[{place}]: question_id {question.number} twice: fetch it again"
            )
        answered[question.number] = question
    if lacking := asked.keys() - answered.keys():
        raise DataBroken(
            f"{annotations} answers {len(answered)} of {len(asked)} questions of {questions}, not {min(lacking)}: the "
            "two files belong to different releases, fetch both again"
        )
    return [answered[number] for number in asked]


def _rows(path: Path, key: str) -> Iterable[tuple[int, Any]]:
    try:
        rows = json.loads(path.read_text())[key]
    except (ValueError, KeyError, TypeError) as fault:
        raise DataBroken(f"{path}: expected JSON with a list of {key!r} ({fault!r}): fetch the file again") from fault
    return enumerate(rows)


def _asked(row: Any, path: Path, place: int) -> Question:
    try:
        number, image, text = row["question_id"], row["image_id"], row["question"]
        if not (isinstance(number, int) and isinstance(image, int) and text.strip()):
            raise ValueError(f"question_id {number!r}, image_id {image!r}, question {text!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise DataBroken(
            f"{path}, questions[{place}]: expected whole numbers question_id and image_id and a question ({fault!r}): "
            "mend it or fetch the file again"
        ) from fault
    return Question(number, image, text)


def _answered(row: Any, asked: dict[int, Question], path: Path, place: int) -> Question:
    try:
        question = asked[row["question_id"]]
        references = tuple(intern(given["answer"]) for given in row["answers"])
        if row["answer_type"] not in ANSWER_TYPES or row["image_id"] != question.image or len(references) != PEOPLE:
            raise ValueError(
                f"answer_type {row['answer_type']!r}, image_id {row['image_id']}, {len(references)} answers"
            )
        return question._replace(
            kind=intern(row["answer_type"]),
            form=intern(row["question_type"]),
            answer=intern(row["multiple_choice_answer"]),
            references=references,
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise DataBroken(
            f"{path}, annotations[{place}]: expected a question_id of the questions file, its image_id, an answer_type "
            f"of {', '.join(ANSWER_TYPES)} and {PEOPLE} answers ({fault!r}): mend it or fetch both files again"
        ) from fault


class AnswerList:
    """The answers that a classifier chooses from.

    Args:
        answers: in the order of the logits.
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = tuple(answers)
        self._exact = {answer: index for index, answer in enumerate(self.answers)}
        self._normal: dict[str, list[int]] = {}
        for index, answer in enumerate(self.answers):
            self._normal.setdefault(normalise(answer), []).append(index)

    def targets(self, references: Sequence[str]) -> dict[int, float]:
        """Soft targets by index: 0.3, 0.6, 0.9, 1 for 1, 2, 3, 4 and more people, after normalisation."""
        given = Counter(normalise(reference) for reference in references)
        return {self._exact[a]: agreement(n, len(references)) for a, n in given.items() if a in self._exact}

    def scores(self, references: Sequence[str]) -> dict[int, float]:
        """What the official evaluator gives, by index; all others get 0."""
        if unanimous(references):
            only = stripped(references[0])
            return {self._exact[only]: 1.0} if only in self._exact else {}
        given = Counter(normalise(reference) for reference in references)
        return {i: agreement(n, len(references)) for a, n in given.items() for i in self._normal.get(a, ())}


def build_answers(questions: Iterable[Question], occurrences: int) -> list[str]:
    """The published rule, in the order of first appearance."""
    counts = Counter(normalise(question.answer) for question in questions)
    return [answer for answer, count in counts.items() if count >= occurrences]


def read_answers(path: Path) -> list[str]:
    """A list of answers as others publish it: a JSON list (LXMERT), or an object of answer -> index (MCAN, ViLT).

    Raises:
        DataBroken: neither, or indices with gaps, or an answer twice.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as fault:
        raise DataBroken(
            f"{path}: expected JSON ({fault}); data.vocabulary=null builds the list by the rule"
        ) from fault
    if isinstance(content, dict) and sorted(content.values(), key=repr) == sorted(range(len(content)), key=repr):
        content = sorted(content, key=content.__getitem__)
    if (
        not isinstance(content, list)
        or not all(isinstance(answer, str) for answer in content)
        or len(set(content)) != len(content)
    ):
        raise DataBroken(
            f"{path}: expected a list of different answers, or an object from answer to index 0, 1, 2, ... without "
            "gaps; data.vocabulary=null builds the list by the rule"
        )
    return content
