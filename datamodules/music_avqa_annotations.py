"""MUSIC-AVQA's questions: JSON lists with the key ``anser``, lists inside strings and templates to fill.

Source: Li et al., "Learning to Answer Questions in Dynamic Audio-Visual Scenarios", CVPR 2022; GeWu-Lab/MUSIC-AVQA,
``data/json`` and the later ``data/json_update``. In ``json`` some questions (27 of val, 55 of test) stand twice under
one number with two answers; both count, as in the official script. ``json_update`` has none of these.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hmmoe.errors import DataBroken

CELLS = {
    "Audio": ("Counting", "Comparative"),
    "Visual": ("Counting", "Location"),
    "Audio-Visual": ("Existential", "Counting", "Location", "Comparative", "Temporal"),
}
"""Modality -> question types: the nine cells of the published tables."""
KINDS = tuple(f"{modality}/{kind}" for modality, kinds in CELLS.items() for kind in kinds)
SLOT = re.compile(r"<[A-Za-z]+>")
FULL_WIDTH_MARK = "\uff1f"


class Question(NamedTuple):
    """One question: ``kind`` is one of ``KINDS``; ``name`` is its number, with #2 where it stands there again."""

    name: str
    clip: str
    text: str
    kind: str
    answer: str


def read_questions(path: Path) -> list[Question]:
    """The rows of one file, in its order.

    Raises:
        DataBroken: names file, row (counted from 0) and remedy.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError(f"a {type(rows).__name__}")
    except ValueError as fault:
        raise DataBroken(f"{path}: expected a JSON list of questions ({fault}): fetch the file again") from fault
    questions: list[Question] = []
    seen: dict[str, list[Question]] = {}
    for place, row in enumerate(rows):
        question = _parse(row, path, place)
        same = seen.setdefault(question.name, [])
        if any(other[1:4] != question[1:4] or other.answer == question.answer for other in same):
            raise DataBroken(
                f"{path}, row {place}: question_id {question.name} stands there already, for another question or with "
                "the same answer: delete one of the rows or fetch the file again"
            )
        same.append(question)
        questions.append(question if len(same) == 1 else question._replace(name=f"{question.name}#{len(same)}"))
    return questions


def _parse(row: Any, path: Path, place: int) -> Question:
    try:
        modality, kind = json.loads(row["type"])
        text = fill(row["question_content"], json.loads(row["templ_values"]))
        question = Question(str(int(row["question_id"])), row["video_id"], text, f"{modality}/{kind}", row["anser"])
        if question.kind not in KINDS or not question.clip or not isinstance(question.answer, str):
            raise ValueError(f"type {row['type']}, video_id {row['video_id']!r}, anser {row['anser']!r}")
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise DataBroken(
            f"{path}, row {place}: expected question_id, video_id, type (one of {', '.join(KINDS)}, as a list in a "
            f"string), question_content with as many slots as templ_values, and anser ({fault!r}): mend the row or "
            "fetch the file again"
        ) from fault
    return question


def fill(template: str, values: Iterable[str]) -> str:
    """The question with its slots filled in order, in plain words and with a plain question mark.

    Raises:
        ValueError: not as many values as slots.
    """
    values = list(values)
    if len(SLOT.findall(template)) != len(values):
        raise ValueError(f"{len(values)} values for {template!r}")
    rest = iter(values)
    text = SLOT.sub(lambda slot: next(rest).replace("_", " "), template)
    return text.replace(FULL_WIDTH_MARK, "?").strip()


def answers_of(questions: Iterable[Question]) -> list[str]:
    """Distinct answers in the order of first appearance: the official class indices, if these are train's."""
    return list(dict.fromkeys(question.answer for question in questions))
