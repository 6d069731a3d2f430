"""Miniature NLVR: generated boxes and templated sentences in the layout of NLVR v1, its irregularities included."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datamodules.mini.base import MiniatureWriter
from datamodules.mini.scenes import render
from datamodules.mini.sentences import sample_pair
from datamodules.nlvr_corpus import BOX_LEFT, ORDERS

DIRECTORIES = {"train": 40, "dev": 6, "test": 7, "hidden": 7}
GROUP = 4
"""Most pictures that share a sentence, as in the corpus."""
PATIENCE = 20
"""Pairs drawn for every one that is wanted, before smaller groups are accepted."""


class Pair(NamedTuple):
    """Three boxes and whether the sentence of their group is true of them."""

    boxes: Any
    truth: bool


def draw_groups(rng: np.random.Generator, count: int) -> list[tuple[str, list[Pair]]]:
    """``count`` pairs in groups of one sentence each, as many full groups as turn up."""
    full: list[tuple[str, list[Pair]]] = []
    growing: dict[str, list[Pair]] = {}
    for _ in range(count * PATIENCE):
        boxes, sentence, truth = sample_pair(rng)
        group = growing.setdefault(sentence, [])
        group.append(Pair(boxes, bool(truth)))
        if len(group) == GROUP:
            full.append((sentence, growing.pop(sentence)))
        if len(full) * GROUP >= count:
            break
    groups, left = [], count
    for sentence, pairs in [*full, *sorted(growing.items(), key=lambda item: -len(item[1]))]:
        if left:
            groups.append((sentence, pairs[:left]))
            left -= len(groups[-1][1])
    return groups


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
            groups = draw_groups(np.random.default_rng((self.seed, number)), count)
            lines = []
            for n, (sentence, pairs) in enumerate(groups):
                directory = str(n % DIRECTORIES[split])
                for m, pair in enumerate(pairs):
                    self._pictures(folder / split / "images" / directory, f"{split}-{n}-{m}", render(pair.boxes))
                    label = "true" if pair.truth else "false"
                    row = {"sentence": sentence, "label": label, "identifier": f"{n}-{m}"}
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
