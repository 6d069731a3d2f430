"""Miniature NLVR: generated boxes and templated sentences in the layout of NLVR v1, its irregularities included."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.mini.base import MiniatureWriter
from datamodules.mini.scenes import Box, render, sample_boxes
from datamodules.mini.sentences import Said, sample_said
from datamodules.nlvr_corpus import BOX_LEFT, ORDERS

DIRECTORIES = {"train": 40, "dev": 6, "test": 7, "hidden": 7}
GROUP = 4
"""Most pictures that share a sentence, as in the corpus."""
PATIENCE = 16
"""Scenes tried for a wanted truth value before another sentence is taken."""


class Group(NamedTuple):
    """Pictures of one sentence, and of which of them it is true."""

    sentence: str
    scenes: list[list[Box]]
    truths: list[bool]


def draw_group(rng: np.random.Generator, size: int) -> Group:
    """A sentence and ``size`` scenes, of each of which it is true with even chance."""
    kind = str(rng.choice(["tower", "scatter"]))
    truths = [bool(truth) for truth in rng.random(size) < 0.5]
    while True:
        said = sample_said(rng, kind)
        scenes = [_scene(rng, kind, said, truth) for truth in truths]
        if None not in scenes:
            return Group(said.words, scenes, truths)


def _scene(rng: np.random.Generator, kind: str, said: Said, truth: bool) -> list[Box] | None:
    tries = (sample_boxes(rng, kind) for _ in range(PATIENCE))
    return next((boxes for boxes in tries if said.holds(boxes) == truth), None)


class MiniNLVR(MiniatureWriter):
    """NLVR v1's layout: ``<split>/<split>.json`` and ``<split>/images/<directory>/<split>-<n>-<m>-<k>.png``.

    Args:
        root: folder to write.
        examples: by split.
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
        self.examples = dict(examples or {"train": 640, "dev": 100, "test": 100, "hidden": 100})
        self.permutations, self.seed = permutations, seed
        super().__init__(root, examples=self.examples, permutations=permutations, seed=seed)

    def fill(self, folder: Path) -> None:
        """Draw, render, write."""
        for number, (split, count) in enumerate(self.examples.items()):
            rng, lines = np.random.default_rng((self.seed, number)), []
            for n, first in enumerate(range(0, count, GROUP)):
                group = draw_group(rng, min(GROUP, count - first))
                directory = str(n % DIRECTORIES[split])
                for m, (boxes, truth) in enumerate(zip(group.scenes, group.truths, strict=True)):
                    self._pictures(folder / split / "images" / directory, f"{split}-{n}-{m}", render(boxes))
                    label = "true" if truth else "false"
                    row = {"sentence": group.sentence, "label": label, "identifier": f"{n}-{m}"}
                    if split != "hidden":  # the published hidden.json has neither
                        row |= {"directory": directory, "evals": {"r0": label}}
                    lines.append(json.dumps(row))
            end = "" if split == "dev" else "\n"  # some published files lack the last newline
            (folder / split / f"{split}.json").write_text("\n".join(lines) + end)

    def _pictures(self, folder: Path, name: str, picture: np.ndarray) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        boxes = [picture[:, left : left + 100] for left in BOX_LEFT]
        for k, order in enumerate(ORDERS[: self.permutations]):
            moved = picture.copy()
            for left, box in zip(BOX_LEFT, order, strict=True):
                moved[:, left : left + 100] = boxes[box]
            Image.fromarray(moved).convert("RGBA").save(folder / f"{name}-{k}.png", compress_level=1)
