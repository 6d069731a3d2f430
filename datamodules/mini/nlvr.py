"""Miniature NLVR: three towers of blocks and a sentence, in the layout of NLVR v1, its irregularities included.

A set has four pictures and two sentences, each with a group of its own as in the corpus. The sentences name two colours
at the base, or at the top, of a tower; of the four pictures two show the one colour there and two the other, in one to
three of their towers, none shows both. So either sentence is true of half of the pictures, and of either picture one
sentence is true: whoever reads only or sees only cannot do better than 1/2. Both together reach 1.
"""

import json
from collections.abc import Mapping
from itertools import permutations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.mini.ave import ceiling
from datamodules.mini.base import MiniatureWriter
from datamodules.mini.scenes import Box, render, sample_box
from datamodules.mini.sentences import COLORS
from datamodules.nlvr_corpus import BOX_LEFT, ORDERS

DIRECTORIES = {"train": 40, "dev": 6, "test": 7, "hidden": 7}
GROUP = 4
"""Pictures that share a sentence: the most that do in the corpus."""
PLACES = {"base": 0, "top": -1}
WORDINGS = (
    "there is a tower with a {color} block at the {place}",
    "there is a {color} block at the {place} of a tower",
)


class Topic(NamedTuple):
    """What a set is about: a place, the two colours that are named, and the one that is not."""

    place: str
    colors: tuple[str, str]
    other: str


def topics() -> list[Topic]:
    """All twelve."""
    orders = list(permutations(COLORS))
    return [Topic(place, (one, two), other) for place, (one, two, other) in product(PLACES, orders)]


def shows(box: Box, place: str) -> str:
    """Colour at a place of a tower, in words."""
    code = sorted(box, key=lambda item: -item["y_loc"])[PLACES[place]]["color"]
    return next(word for word, known in COLORS.items() if known == code)


def tower(rng: np.random.Generator, place: str, color: str) -> Box:
    """One with that colour there."""
    box = sample_box(rng, "tower")
    while shows(box, place) != color:
        box = sample_box(rng, "tower")
    return box


def draw(rng: np.random.Generator, topic: Topic, color: str, count: int = 3) -> list[Box]:
    """Towers: at least one has the colour at the topic's place, the others have that which is not named."""
    there = rng.permutation(count) < rng.integers(1, count + 1)
    return [tower(rng, topic.place, color if has else topic.other) for has in there]


class MiniNLVR(MiniatureWriter):
    """NLVR v1's layout: ``<split>/<split>.json`` and ``<split>/images/<directory>/<split>-<n>-<m>-<k>.png``.

    Args:
        root: folder to write.
        examples: by split; balanced where they are a multiple of 8.
        permutations: box orders written for each example, 1 or 6.
        seed: of all content.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        examples: Mapping[str, int] | None = None,
        permutations: int = 1,
        seed: int = 0,
    ) -> None:
        self.examples = dict(examples or {"train": 384, "dev": 48, "test": 96, "hidden": 48})
        self.permutations, self.seed = permutations, seed
        super().__init__(root, examples=self.examples, permutations=permutations, seed=seed)

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Draw, render, write; and the ceilings."""
        ceilings = {}
        for number, (split, count) in enumerate(self.examples.items()):
            rng, rows, cues = np.random.default_rng((self.seed, number)), [], []
            for place in range(-(-count // (2 * GROUP))):
                topic = topics()[place % len(topics())]
                shown = [str(color) for color in rng.permutation(topic.colors * (GROUP // 2))]
                pictures = [render(draw(rng, topic, color)) for color in shown]
                directory = str(place % DIRECTORIES[split])
                for side, asked in enumerate(topic.colors):
                    sentence = str(rng.choice(WORDINGS)).format(color=asked, place=topic.place)
                    n = 2 * place + side
                    for m, (picture, color) in enumerate(zip(pictures, shown, strict=True)):
                        if len(rows) == count:
                            break
                        self._picture(folder / split / "images" / directory, f"{split}-{n}-{m}", picture)
                        rows.append(self._row(split, sentence, f"{n}-{m}", color == asked, directory))
                        cues.append(((place, m), sentence))
            end = "" if split == "dev" else "\n"  # some published files lack the last newline
            lines = [json.dumps(row) for row in rows]
            (folder / split / f"{split}.json").write_text("\n".join(lines) + end)
            labels = [row["label"] for row in rows]
            seen, read = ([cue[side] for cue in cues] for side in range(2))
            ceilings[split] = {"vision_alone": ceiling(seen, labels), "text_alone": ceiling(read, labels)}
        ceilings["val"] = ceilings["train"]  # whole sets of it
        return ceilings

    def _row(self, split: str, sentence: str, identifier: str, truth: bool, directory: str) -> dict:
        label = "true" if truth else "false"
        row = {"sentence": sentence, "label": label, "identifier": identifier}
        if split == "hidden":  # the published hidden.json has neither
            return row
        return row | {"directory": directory, "evals": {"r0": label}}

    def _picture(self, folder: Path, name: str, picture: np.ndarray) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        boxes = [picture[:, left : left + 100] for left in BOX_LEFT]
        for k, order in enumerate(ORDERS[: self.permutations]):
            moved = picture.copy()
            for left, box in zip(BOX_LEFT, order, strict=True):
                moved[:, left : left + 100] = boxes[box]
            Image.fromarray(moved).convert("RGBA").save(folder / f"{name}-{k}.png", compress_level=1)
