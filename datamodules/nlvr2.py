"""NLVR2: is the sentence true of the two photographs? Official layout, validation held out by directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import DataModule, Examples, Split, build
from datamodules.directories import held_out
from datamodules.judged import Judged, majority_lines
from datamodules.media.cache import Cache, Keep
from datamodules.media.image import Pixels
from datamodules.media.pictures import Pictures
from datamodules.media.text import Text
from datamodules.nlvr2_corpus import Example, read_examples
from datamodules.sentences import Sentences
from hmmoe.errors import ConfigError, DataBroken

WHOLE = ("dev", "test1", "test2")
TESTS = (*WHOLE, *(f"{part}_{name}" for name in WHOLE for part in ("balanced", "unbalanced")))
PUBLISHED = {
    "train": 86373,
    **dict(zip(WHOLE, (6982, 6967, 6970), strict=True)),
    "balanced_dev": 2300,
    "unbalanced_dev": 3562,
    "balanced_test1": 2316,
    "unbalanced_test1": 3536,
}
"""Sizes of the published files; those of the parts of test2 are not known here."""


class NLVR2Examples(Examples):
    """Sentences of one split with their two pictures; a picture that several sentences share is kept once.

    Args:
        examples: each with the paths of its left and its right picture.
        pictures: decoder of theirs; None leaves them out.
        text: tokenizer; None leaves the words out.
        keep: of what is decoded, see ``Cache``.
        name: of the split.
    """

    def __init__(
        self,
        examples: Sequence[tuple[Example, tuple[Path, Path]]],
        pictures: Pictures | None,
        text: Text | None,
        keep: Keep,
        *,
        name: str,
    ) -> None:
        self.examples, self.pictures = examples, pictures
        if pictures is not None:
            keys = (str(path.relative_to(pictures.root)) for _, pair in examples for path in pair)
            self.media = Cache(keys, pictures, keep, name=f"pictures of {name}")
        self.sentences = Sentences(text, (example.sentence for example, _ in examples))

    def __len__(self) -> int:
        return len(self.examples)

    def rows(self) -> list[tuple[str, int]]:
        """Id and label."""
        return [(example.identifier, example.label) for example, _ in self.examples]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, group, label (1 = true), vision (2, 3, H, W) left then right, text {ids (L,), keep (L,)}.

        Under data.missing=zero also keep {"vision": (2,)}. Nothing is augmented: mirrored or swapped pictures would
        break sentences with left and right.
        """
        example, pair = self.examples[index]
        sample = {"id": example.identifier, "group": example.group, "label": example.label}
        if self.pictures is not None:
            sample |= self.pictures.seen(self.media, pair)
        return sample | self.sentences.get(example.sentence)


class NLVR2(DataModule):
    """NLVR2 in its published layout (see ``DataModule`` for what is not listed here).

    Args:
        val_directories: train directories held out for ``val``: how many (spread evenly), or which. All pairs of a set
            lie in one directory.
        tests: what is reported, of dev, test1 (test-P), test2 (test-U), and their parts balanced_dev, ...
        missing: as for every dataset; about 5 % of the published addresses are dead.
    """

    splits = (
        Split("train", "train"),
        Split("val", "validation"),
        Split("dev", "validation"),
        Split("dev", "test"),
        Split("test1", "test"),
    )
    modalities = ("vision", "text")
    fixed_segments = (("vision", 2),)
    layout = """
Expected: <root>/data/{train,dev,test1}.json (JSON lines; also test2.json, balanced/ and unbalanced/ where data.tests
names them), <root>/images/train/<directory>/train-<set>-<pair>-img{0,1}.png, <root>/{dev,test1,test2}/ (or below
images/ too).
Get it: data/ from the folder nlvr2/ of github.com/lil-lab/nlvr (CC BY 4.0); pictures by the form in its README."""

    def __init__(
        self,
        root: str | Path,
        *,
        val_directories: int | Sequence[str | int] = 4,
        tests: Sequence[str] = ("dev", "test1"),
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        if strangers := [name for name in tests if name not in TESTS] or not tests:
            raise ConfigError(f"data.tests={list(tests)}: expected some of {', '.join(TESTS)}, not {strangers}")
        self.splits = (*self.splits[:3], *(Split(name, "test") for name in dict.fromkeys(tests)))
        self.val_directories = val_directories
        self._train: list[Example] | None = None

    def absent(self) -> list[Path]:
        """JSON files and picture folders."""
        names = dict.fromkeys(split.name for split in self.splits)
        wanted = [path for name in names for path in self.annotations(name)]
        missing = [path for path in dict.fromkeys(wanted) if not path.exists()]
        folders = dict.fromkeys(_pictures(name) for name in names)
        return missing + [
            self.root / "images" / name
            for name in folders
            if not ((self.root / "images" / name).is_dir() or (self.root / name).is_dir())
        ]

    def annotations(self, split: str) -> list[Path]:
        """The JSON file."""
        name = "train" if split == "val" else split
        part = name.partition("_")[0] if "_" in name else "."
        return [self.root / "data" / part / f"{name}.json"]

    def load(self, split: str) -> NLVR2Examples:
        """Read one split; ``train`` and ``val`` share a file and never a directory."""
        examples = self._divide(split) if split in ("train", "val") else read_examples(*self.annotations(split))
        whole = [(example, example.pictures(self.root)) for example in examples]
        here = {path for folder in {path.parent for _, pair in whole for path in pair} for path in folder.glob("*.png")}
        kept = self.accept(split, whole, lambda example: next((path for path in example[1] if path not in here), None))
        pixels = build(Pixels, self.inputs, "vision")
        pictures = pixels and Pictures(self.root, pixels, fills=self.fills)
        return NLVR2Examples(kept, pictures, self.text(), self.keep, name=split)

    def published(self) -> dict[str, int]:
        """Sentences with their pair."""
        tests = {split: PUBLISHED[split] for split in self.test_splits if split in PUBLISHED}
        return {"train+val": PUBLISHED["train"], "dev": PUBLISHED["dev"], **tests}

    def references(self) -> dict[str, dict[str, float]]:
        """What always answering with train's more frequent label scores; a miniature's single modalities."""
        train = self._judged("train")
        names = dict.fromkeys(self.val_splits + self.test_splits)
        return {name: majority_lines(train, self._judged(name)) | self.ceilings(name) for name in names}

    def submission(self, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """What the official ``nlvr2/eval/metrics.py`` reads: identifier,True or identifier,False."""
        lines = [f"{row['id']},{bool(row['prediction'])}\n" for row in rows]
        return {f"{split}_submission.csv": "".join(lines)}

    def _judged(self, split: str) -> list[Judged]:
        return [Judged(example.group, example.label) for example, _ in self.examples(split).examples]

    def _divide(self, split: str) -> list[Example]:
        if self._train is None:
            self._train = read_examples(*self.annotations("train"))
        val = held_out(self.val_directories, (example.directory for example in self._train))
        parts = tuple([e for e in self._train if (e.directory in val) == side] for side in (False, True))
        sets = tuple({e.identifier.split("-")[1] for e in part} for part in parts)
        if both := sets[0] & sets[1]:
            raise DataBroken(
                f"{self.annotations('train')[0]}: set {min(both)} lies in train and val directories: hold out others"
            )
        return parts[split == "val"]


def _pictures(split: str) -> str:
    """The folder of a split's pictures."""
    return "train" if split == "val" else split.rpartition("_")[2]
