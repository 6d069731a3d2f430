"""Words and patches by expert on disk: a table, and the crops in one picture beside it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

TILE = 48
"""Side of a stored crop in pixels; its middle third is the patch itself."""
ACROSS = 16
"""Crops in a row of the stored picture."""


class Example(NamedTuple):
    """A row of the file. Words: ``token`` with its mean share over ``count`` occurrences; patches: one token of ``id``.

    ``share`` is the part of a token's weight that goes to the expert, ``overall`` the expert's mean over all tokens
    of the modality. ``tile`` numbers the crop in the picture beside the file, row by row, None for words.
    """

    site: str
    modality: str
    group: str
    expert: int
    rank: int
    token: str
    share: float
    overall: float
    count: int
    id: str
    tile: int | None


def write_examples(folder: Path, split: str, epoch: int, rows: Sequence[Example], tiles: Sequence[np.ndarray]) -> None:
    """``tokens_<split>.csv`` and, where there are crops, ``patches_<split>.png``; an earlier epoch's are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    if tiles:
        sheet = np.full((-(-len(tiles) // ACROSS) * TILE, ACROSS * TILE, 3), 128, dtype=np.uint8)
        for index, tile in enumerate(tiles):
            y, x = divmod(index, ACROSS)
            sheet[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] = tile
        scratch = folder / f".patches_{split}.new"
        Image.fromarray(sheet).save(scratch, format="png")
        scratch.replace(folder / f"patches_{split}.png")
    scratch = folder / f".tokens_{split}.new"
    with scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("epoch", *Example._fields))
        for row in rows:
            cells = [f"{cell:.6g}" if isinstance(cell, float) else "" if cell is None else cell for cell in row]
            writer.writerow([epoch, *cells])
    scratch.replace(folder / f"tokens_{split}.csv")


def read_examples(folder: Path, split: str) -> tuple[list[Example], list[np.ndarray]]:
    """Rows of a split and all its crops, by ``tile``; both empty where the run left none."""
    path, sheet = folder / f"tokens_{split}.csv", folder / f"patches_{split}.png"
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [_example(line) for line in csv.DictReader(file)]
    if not sheet.is_file():
        return rows, []
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture)
    count = 1 + max((row.tile for row in rows if row.tile is not None), default=-1)
    places = [divmod(i, ACROSS) for i in range(count)]
    return rows, [pixels[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE] for y, x in places]


def _example(line: dict[str, str]) -> Example:
    parse = {"expert": int, "rank": int, "share": float, "overall": float, "count": int}
    parse["tile"] = lambda text: int(text) if text else None
    return Example(**{name: parse.get(name, str)(line[name]) for name in Example._fields})
