"""Reading the NLVR v1 folder: sentences and labels from JSON lines, pictures by name.

Source: Suhr et al., "A Corpus of Natural Language for Visual Reasoning", ACL 2017; layout of lil-lab/nlvr, ``nlvr/``.
``structured_rep`` is in some of the files and is never read: it holds the answer's scene.
"""

import json
import os
import re
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from datamodules.lines import read_text
from datamodules.media.image import read_rgb
from hmmoe.errors import DataBroken

BOX_LEFT = (0, 150, 300)
"""Left edges of the three 100x100 boxes in a 400x100 picture."""
ORDERS = tuple(permutations(range(3)))
"""Picture k of an example shows in slot j the box ``ORDERS[k][j]`` of picture 0."""


class Example(NamedTuple):
    """One judged pair of a sentence and a scene."""

    identifier: str
    sentence: str
    label: int
    directory: str

    @property
    def group(self) -> str:
        """All examples with one sentence share the first number."""
        return self.identifier.partition("-")[0]


def find_pictures(root: Path, split: str) -> dict[str, Path]:
    """Every PNG below ``<root>/<split>/images``, by name without suffix."""
    return {
        name.removesuffix(".png"): Path(folder, name)
        for folder, _, names in os.walk(root / split / "images")
        for name in names
        if name.endswith(".png")
    }


def read_examples(root: Path, split: str, pictures: dict[str, Path]) -> list[Example]:
    """The lines of ``<root>/<split>/<split>.json``; a line without ``directory`` (hidden) takes its picture's.

    Raises:
        DataBroken: a line that is no valid example, or an identifier twice.
    """
    path = root / split / f"{split}.json"
    lines = read_text(path).splitlines()
    examples = [_parse(line, path, number, pictures) for number, line in enumerate(lines, start=1) if line.strip()]
    if twice := [name for name, count in Counter(e.identifier for e in examples).items() if count > 1]:
        places = [str(n) for n, line in enumerate(lines, start=1) if f'"{twice[0]}"' in line]
        raise DataBroken(f"{path}, lines {', '.join(places)}: identifier {twice[0]} twice: fetch the file again")
    return examples


def _parse(line: str, path: Path, number: int, pictures: dict[str, Path]) -> Example:
    try:
        row = json.loads(line)
        identifier, sentence, label = row["identifier"], row["sentence"], row["label"]
        if not re.fullmatch(r"\d+-\d+", identifier) or label not in ("true", "false") or not sentence.strip():
            raise ValueError(f"identifier {identifier!r}, label {label!r}, sentence {sentence!r}")
        picture = pictures.get(f"{path.stem}-{identifier}-0")
        directory = str(row["directory"]) if "directory" in row else picture.parent.name if picture else ""
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise DataBroken(
            f"{path}, line {number}: expected JSON with an identifier like 12-0, a sentence and a label true or false "
            f"({fault!r}): mend the line or fetch the file again"
        ) from fault
    return Example(identifier, sentence, int(label == "true"), directory)


def read_boxes(path: Path) -> UInt8[np.ndarray, "3 100 100 3"]:
    """The three boxes of a picture, from left to right.

    Raises:
        DataBroken: the picture is not 400x100.
    """
    picture = read_rgb(path)
    if picture.shape != (100, 400, 3):
        raise DataBroken(
            f"{path} is {picture.shape[1]}x{picture.shape[0]} pixels, expected 400x100: fetch or unpack it again"
        )
    return np.stack([picture[:, left : left + 100] for left in BOX_LEFT])
