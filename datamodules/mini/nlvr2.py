"""Miniature NLVR2: two pictures of a tower each and sentences about them, in the published layout.

A set has two sentences and four pairs of pictures; either sentence is true of two pairs, and of either pair one
sentence is true: whoever reads only or sees only cannot do better than 1/2. Both together reach 1. Two sets of three
name two colours, of which a pair shows one at the base (or top) of one tower or of both; the third names one colour and
says that the left tower has it, or the right one.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.mini.base import MiniatureWriter
from datamodules.mini.nlvr import Topic, draw, topics, tower
from datamodules.mini.scenes import Box, render_box

DIRECTORIES = 7
SIDES = ("left", "right")


def sentences(topic: Topic, sided: bool) -> tuple[str, str]:
    """What is said of a set's pairs: that one colour is there or the other, or that the left has it or the right."""
    what = [f"a {color} block at the {topic.place}" for color in topic.colors]
    if sided:
        left, right = (f"the tower on the {side} has {what[0]}" for side in SIDES)
        return left, right
    return f"there is a tower with {what[0]}", f"there is a tower with {what[1]}"


def draw_pair(rng: np.random.Generator, topic: Topic, sided: bool, which: int) -> list[Box]:
    """Left and right tower of a pair of which sentence ``which`` is true."""
    if not sided:
        return draw(rng, topic, topic.colors[which], count=2)
    other = str(rng.choice([topic.colors[1], topic.other]))
    pair = [tower(rng, topic.place, color) for color in (topic.colors[0], other)]
    return pair[::-1] if which else pair


class MiniNLVR2(MiniatureWriter):
    """NLVR2's layout: ``data/<split>.json`` and ``images/train/<directory>``, ``dev``, ``test1`` with PNG files.

    Args:
        root: folder to write.
        sets: by split, how many sets of four pairs with two sentences.
        seed: of all content.
    """

    def __init__(self, root: str | Path, *, sets: Mapping[str, int] | None = None, seed: int = 0) -> None:
        self.sets, self.seed = dict(sets or {"train": 84, "dev": 24, "test1": 24}), seed
        super().__init__(root, sets=self.sets, seed=seed)

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Draw, write; and the ceilings."""
        (folder / "data").mkdir()
        choices = topics()
        for number, (split, sets) in enumerate(self.sets.items()):
            rng, lines = np.random.default_rng((self.seed, number)), []
            for place in range(sets):
                topic, sided = choices[place % len(choices)], (place + place // len(choices)) % 3 == 2
                home = folder / "images" / "train" / str(place % DIRECTORIES) if split == "train" else folder / split
                home.mkdir(parents=True, exist_ok=True)
                for pair, sort in enumerate(rng.permutation(4)):
                    for image, box in enumerate(draw_pair(rng, topic, sided, sort // 2)):
                        name = home / f"{split}-{place}-{pair}-img{image}.png"
                        Image.fromarray(render_box(box)).save(name, compress_level=1)
                    for which, sentence in enumerate(sentences(topic, sided)):
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
        return ceilings
