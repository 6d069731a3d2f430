"""Miniature NLVR2: two pictures of a tower each and sentences about them, in the published layout.

A set has two sentences that contradict each other and four pairs of which either is true of two. Two sets of three are
about how many of the towers have something (exactly one, or both), the third is about which of them has it (the left
one, or the right one). So every sentence is true as often as not, and of the two sentences on a pair one is true:
whoever reads only or sees only cannot do better than 1/2. Both together reach 1.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.mini.base import MiniatureWriter
from datamodules.mini.scenes import Box, render_box, sample_box
from datamodules.mini.sentences import COLORS

DIRECTORIES = 7
SIDES = ("left", "right")


class Property(NamedTuple):
    """Something a tower may have."""

    words: str
    holds: Callable[[Box], bool]


def _levels(box: Box) -> list[str]:
    """Colours from below."""
    return [item["color"] for item in sorted(box, key=lambda item: -item["y_loc"])]


def properties() -> list[Property]:
    """A colour at the base or at the top."""
    made = []
    for color, code in COLORS.items():
        made.append(Property(f"a {color} block at the base", lambda box, code=code: _levels(box)[0] == code))
        made.append(Property(f"a {color} block at the top", lambda box, code=code: _levels(box)[-1] == code))
    return made


def sentences(wanted: Property, count: bool) -> tuple[str, str]:
    """What is said of a set's pairs: that one has it or both, or that the left has it or the right."""
    if count:
        return f"there is exactly one tower with {wanted.words}", f"there are two towers with {wanted.words}"
    left, right = (f"the tower on the {side} has {wanted.words}" for side in SIDES)
    return left, right


def shown(count: bool) -> tuple[tuple[bool, bool], ...]:
    """Of a set's four pairs, whether left and right have it; the first sentence is true of the first two."""
    if count:
        return (True, False), (False, True), (True, True), (True, True)
    return (True, False), (True, False), (False, True), (False, True)


def draw_pair(rng: np.random.Generator, wanted: Property, have: tuple[bool, bool]) -> tuple[Box, Box]:
    """Two towers of which those that should have the property do."""

    def tower(truth: bool) -> Box:
        while True:
            box = sample_box(rng, "tower")
            if wanted.holds(box) == truth:
                return box

    return tower(have[0]), tower(have[1])


class MiniNLVR2(MiniatureWriter):
    """NLVR2's layout: ``data/<split>.json`` and ``images/train/<directory>``, ``dev``, ``test1`` with PNG files.

    Args:
        root: folder to write.
        sets: by split, how many sets of four pairs with two sentences.
        seed: of all content.
    """

    def __init__(self, root: str | Path, *, sets: Mapping[str, int] | None = None, seed: int = 0) -> None:
        self.sets, self.seed = dict(sets or {"train": 120, "dev": 24, "test1": 24}), seed
        super().__init__(root, sets=self.sets, seed=seed)

    def fill(self, folder: Path) -> None:
        """Draw, write; and the ceilings."""
        (folder / "data").mkdir()
        choices = properties()
        for number, (split, sets) in enumerate(self.sets.items()):
            rng, lines = np.random.default_rng((self.seed, number)), []
            for place in range(sets):
                wanted, count = choices[place % len(choices)], place // len(choices) % 3 != 2
                home = folder / "images" / "train" / str(place % DIRECTORIES) if split == "train" else folder / split
                home.mkdir(parents=True, exist_ok=True)
                for pair, sort in enumerate(rng.permutation(4)):
                    for image, box in enumerate(draw_pair(rng, wanted, shown(count)[sort])):
                        name = home / f"{split}-{place}-{pair}-img{image}.png"
                        Image.fromarray(render_box(box)).save(name, compress_level=1)
                    for which, sentence in enumerate(sentences(wanted, count)):
                        row = {
                            "sentence": sentence,
                            "label": str(which == sort // 2),
                            "identifier": f"{split}-{place}-{pair}-{which}",
                        }
                        if split == "train":
                            row["directory"] = place % DIRECTORIES
                        lines.append(json.dumps(row))
            (folder / "data" / f"{split}.json").write_text("\n".join(lines) + "\n")
        alone = {"vision_alone": 0.5, "text_alone": 0.5}
        ceilings = {split: alone for split in ("val", *self.sets)}
        (folder / "reference.json").write_text(json.dumps(ceilings, indent=1) + "\n")
