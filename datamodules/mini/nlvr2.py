"""Miniature NLVR2: two pictures of a tower each and sentences about the left or the right one, in the published layout.

A set has two sentences, one of the left tower and one of the right, and four pairs of which exactly one side has what
both sentences speak of: left, left, right, right. So every sentence is true of two pairs and false of two, and of the
two sentences on a pair one is true: whoever reads only or sees only cannot do better than 1/2. Both together reach 1.
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

DIRECTORIES = 10
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


def draw_pair(rng: np.random.Generator, wanted: Property, side: int) -> tuple[Box, Box]:
    """Two towers of which only the one on ``side`` has the property."""

    def tower(truth: bool) -> Box:
        while True:
            box = sample_box(rng, "tower")
            if wanted.holds(box) == truth:
                return box

    return tower(side == 0), tower(side == 1)


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
                wanted = choices[place % len(choices)]
                home = folder / "images" / "train" / str(place % DIRECTORIES) if split == "train" else folder / split
                home.mkdir(parents=True, exist_ok=True)
                for pair, side in enumerate(rng.permutation([0, 0, 1, 1])):
                    for image, box in enumerate(draw_pair(rng, wanted, int(side))):
                        name = home / f"{split}-{place}-{pair}-img{image}.png"
                        Image.fromarray(render_box(box)).save(name, compress_level=1)
                    for sentence, word in enumerate(SIDES):
                        row = {
                            "sentence": f"the tower on the {word} has {wanted.words}",
                            "label": str(sentence == side),
                            "identifier": f"{split}-{place}-{pair}-{sentence}",
                        }
                        if split == "train":
                            row["directory"] = place % DIRECTORIES
                        lines.append(json.dumps(row))
            (folder / "data" / f"{split}.json").write_text("\n".join(lines) + "\n")
        alone = {"vision_alone": 0.5, "text_alone": 0.5}
        ceilings = {split: alone for split in ("val", *self.sets)}
        (folder / "reference.json").write_text(json.dumps(ceilings, indent=1) + "\n")
