"""Miniature VQA v2: pictures of a tower of blocks, four questions on each, in the published layout.

What a picture shows answers its four questions differently (two colours, a number, yes or no), so whoever sees only
cannot do better than 1/4; every question is asked of equally many pictures for each of its answers, so whoever reads
only cannot do better than 3/8. Both together reach 1. Ten people answer: in half of the questions all agree, in the
others two of them err and one writes the answer in another form, which the official normalisation forgives.
"""

import json
from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datamodules.mini.base import InBlocks
from datamodules.mini.scenes import Box, Item, render_box
from datamodules.mini.sentences import COLORS, DIGITS
from hmmoe.metrics.vqa import normalise, score

HEIGHTS = (2, 3, 4)
PEOPLE = 10


class Tower(NamedTuple):
    """What a picture shows: colours of the lowest and the highest block, their number, which colour is asked after."""

    base: str
    top: str
    height: int
    asked: str

    def box(self, rng: np.random.Generator) -> Box:
        """Its blocks from below; those between have one of the two colours."""
        between = [str(rng.choice([self.base, self.top])) for _ in range(self.height - 2)]
        return [
            Item(x_loc=40, y_loc=80 - 21 * level, type="square", color=COLORS[color], size=20)
            for level, color in enumerate([self.base, *between, self.top])
        ]


class Asked(NamedTuple):
    """One question: its words, question type, answer type and what people say."""

    text: str
    form: str
    kind: str
    references: tuple[str, ...]


def plan() -> list[Tower]:
    """36 towers: base and top differ, heights and the colour asked after (there in half of them) are balanced."""
    towers = []
    for (base, top), height in product([(a, b) for a, b in product(COLORS, COLORS) if a != b], HEIGHTS):
        (absent,) = set(COLORS) - {base, top}
        towers += [Tower(base, top, height, base if height % 2 else top), Tower(base, top, height, absent)]
    return towers


def ask(tower: Tower, rng: np.random.Generator) -> list[Asked]:
    """The four questions on a tower."""
    there = "yes" if tower.asked in (tower.base, tower.top) else "no"
    said = [
        ("what color is the block at the base?", "what color is the", "other", tower.base, ("red", "white")),
        ("what color is the block at the top?", "what color is the", "other", tower.top, ("green", "grey")),
        ("how many blocks does the tower have?", "how many", "number", str(tower.height), ("1", "5", "6")),
        (f"is there a {tower.asked} block?", "is there a", "yes/no", there, ("maybe", "unsure")),
    ]
    return [Asked(text, form, kind, people(answer, errors, rng)) for text, form, kind, answer, errors in said]


def people(answer: str, errors: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Ten answers of which at least seven are the right one, and an eighth in another form.

    Errors are right for no question, or a guess would earn a little there.
    """
    if rng.random() < 0.5:
        return (answer,) * PEOPLE
    wrong = [str(rng.choice(errors)) for _ in range(2)]
    written = DIGITS[int(answer)].capitalize() if answer.isdecimal() else f"the {answer}."
    return (*(answer,) * (PEOPLE - 3), written, *wrong)


def best_score(cues: Sequence[Hashable], references: Sequence[Sequence[str]]) -> float:
    """Official accuracy of the best rule that answers from the cue alone, fitted to these very questions."""
    gained: defaultdict[Hashable, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for cue, given in zip(cues, references, strict=True):
        for answer in {normalise(reference) for reference in given}:
            gained[cue][answer] += score(answer, given)
    return sum(max(answers.values()) for answers in gained.values()) / len(references)


class MiniVQAv2(InBlocks):
    """VQA v2's layout: COCO's picture names, official JSON for train2014, val2014 and (unanswered) test2015.

    Blocks by folder, each of 36 pictures with 4 questions.
    """

    usual = MappingProxyType({"train2014": 9, "val2014": 3, "test2015": 1})

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Draw, ask, answer, write."""
        ceilings = {}
        for number, (name, blocks) in enumerate(self.blocks.items()):
            rng = np.random.default_rng((self.seed, number))
            (folder / name).mkdir()
            towers = [tower for _ in range(blocks) for tower in plan()]
            first = 1000 * (number + 1)
            asked: list[tuple[int, Asked]] = []
            for place, row in enumerate(rng.permutation(len(towers))):
                image = first + place
                picture = Image.fromarray(render_box(towers[row].box(rng)))
                picture.save(folder / name / f"COCO_{name}_{image:012d}.jpg", quality=95)
                asked += [(image, question) for question in ask(towers[row], rng)]
            self._write(folder, name, asked)
            references = [question.references for _, question in asked]
            ceilings[name] = {
                "vision_alone": best_score([image for image, _ in asked], references),
                "text_alone": best_score([question.text for _, question in asked], references),
            }
        return ceilings

    def _write(self, folder: Path, name: str, asked: Sequence[tuple[int, Asked]]) -> None:
        numbers = [image * 1000 + place % 4 for place, (image, _) in enumerate(asked)]
        questions = [
            {"image_id": image, "question": question.text, "question_id": number}
            for number, (image, question) in zip(numbers, asked, strict=True)
        ]
        head: dict[str, Any] = {"info": {"description": "generated"}, "data_type": "mscoco", "data_subtype": name}
        path = folder / f"v2_OpenEnded_mscoco_{name}_questions.json"
        path.write_text(json.dumps(head | {"task_type": "Open-Ended", "questions": questions}))
        if name.startswith("test"):
            return
        annotations = [
            {
                "question_type": question.form,
                "multiple_choice_answer": question.references[0],
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": place}
                    for place, answer in enumerate(question.references, start=1)
                ],
                "image_id": image,
                "answer_type": question.kind,
                "question_id": number,
            }
            for number, (image, question) in zip(numbers, asked, strict=True)
        ]
        (folder / f"v2_mscoco_{name}_annotations.json").write_text(json.dumps(head | {"annotations": annotations}))
