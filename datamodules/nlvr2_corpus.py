"""Reading NLVR2: JSON lines, pictures by name.

Source: Suhr et al., "A Corpus for Reasoning About Natural Language Grounded in Photographs", ACL 2019; layout of
lil-lab/nlvr, ``nlvr2/``. An identifier is <split>-<set>-<pair>-<sentence>; the pictures of a pair are named
<split>-<set>-<pair>-img0.png (left) and -img1.png (right), whatever format they really have.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from datamodules.lines import read_text
from hmmoe.errors import DataBroken

LABELS = {"true": 1, "false": 0}


class Example(NamedTuple):
    """One judged sentence about a pair of pictures. ``directory`` is a train example's, empty elsewhere."""

    identifier: str
    sentence: str
    label: int
    directory: str

    @property
    def group(self) -> str:
        """Same set and sentence, any pair: what must be right as a whole for consistency."""
        split, number, _, sentence = self.identifier.split("-")
        return f"{split}-{number}-{sentence}"

    def pictures(self, root: Path) -> tuple[Path, Path]:
        """Left and right, below ``root/images`` where there is such a folder (train), else below ``root`` itself."""
        split, number, pair, _ = self.identifier.split("-")
        folder = root / "images" / split if (root / "images" / split).is_dir() else root / split
        if self.directory:
            folder = folder / self.directory
        return folder / f"{split}-{number}-{pair}-img0.png", folder / f"{split}-{number}-{pair}-img1.png"


def read_examples(path: Path) -> list[Example]:
    """The lines of a JSON file.

    Raises:
        DataBroken: a line that is no valid example, or an identifier twice.
    """
    lines = read_text(path).splitlines()
    examples: dict[str, Example] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        example = _parse(line, path, number)
        if example.identifier in examples:
            raise DataBroken(f"{path}, line {number}: identifier {example.identifier} twice: fetch the file again")
        examples[example.identifier] = example
    return list(examples.values())


def _parse(line: str, path: Path, number: int) -> Example:
    try:
        row = json.loads(line)
        identifier, sentence, label = row["identifier"], row["sentence"], LABELS.get(str(row["label"]).lower())
        if not re.fullmatch(r"[a-z0-9]+-\d+-\d+-\d+", identifier) or label is None or not sentence.strip():
            raise ValueError(f"identifier {identifier!r}, label {row['label']!r}, sentence {sentence!r}")
        directory = str(row["directory"]) if identifier.startswith("train-") else ""
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise DataBroken(
            f"{path}, line {number}: expected JSON with an identifier like dev-850-0-0, a sentence, a label True or "
            f"False and, in train, a directory ({fault!r}): mend the line or fetch the file again"
        ) from fault
    return Example(identifier, sentence, label, directory)
