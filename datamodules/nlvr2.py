"""NLVR2: is the sentence true of the two photographs? Official layout, validation held out by directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.base import DataModule, Examples, Split, build
from datamodules.directories import held_out
from datamodules.media.cache import Field, RowCache
from datamodules.media.image import Pixels, read_rgb
from datamodules.media.text import Text
from datamodules.missing import Policy, accept, check_policy
from datamodules.nlvr2_corpus import Example, read_examples
from datamodules.sentences import Sentences
from hmmoe.errors import ConfigError, DataBroken

WHOLE = ("dev", "test1", "test2")
TESTS = (*WHOLE, *(f"{part}_{name}" for name in WHOLE for part in ("balanced", "unbalanced")))


class NLVR2Examples(Examples):
    """Sentences of one split with their two pictures; a picture that several sentences share is kept once.

    Args:
        examples: each with the paths of its left and its right picture.
        pixels, text: readers of the modalities; None leaves one out.
        keep, limit_gb: of the cache, see ``RowCache``.
        name: of the split.
    """

    def __init__(
        self,
        examples: Sequence[tuple[Example, tuple[Path, Path]]],
        pixels: Pixels | None,
        text: Text | None,
        *,
        keep: Literal["memory", "none"],
        limit_gb: float,
        name: str,
    ) -> None:
        self.examples, self.pixels = examples, pixels
        paths = dict.fromkeys(path for _, pair in examples for path in pair)
        self._row = {path: row for row, path in enumerate(paths)}
        fields = [Field(pixels.shape, torch.uint8)] if pixels else []
        self.cache = RowCache(len(paths), fields, keep=keep, limit_gb=limit_gb, name=f"pictures of {name}")
        self.sentences = Sentences(text, (example.sentence for example, _ in examples))

    def __len__(self) -> int:
        return len(self.examples)

    def rows(self) -> list[tuple[str, int]]:
        """Id and label."""
        return [(example.identifier, example.label) for example, _ in self.examples]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, group, label (1 = true), vision (2, 3, H, W) left then right, text {ids (L,), keep (L,)}.

        Nothing is augmented: mirrored or swapped pictures would break sentences with left and right.
        """
        example, pair = self.examples[index]
        sample = {"id": example.identifier, "group": example.group, "label": example.label}
        if self.pixels is not None:
            sample["vision"] = self.pixels.normalise(torch.stack([self._picture(path) for path in pair]))
        return sample | self.sentences.get(example.sentence)

    def _picture(self, path: Path) -> Tensor:
        (pixels,) = self.cache.get(self._row[path], lambda: (self.pixels.resize(read_rgb(path)[None])[0],))
        return pixels


class NLVR2(DataModule):
    """NLVR2 in its published layout (see ``DataModule`` for what is not listed here).

    Args:
        val_directories: train directories held out for ``val``: how many (spread evenly), or which. All pairs of a set
            lie in one directory.
        tests: what is reported, of dev, test1 (test-P), test2 (test-U), and their parts balanced_dev, ...
        missing: what to do about examples without their two pictures: "refuse", or "drop" them (counted in the
            manifest; about 5 % of the addresses are dead).
        cache: keep resized pictures in "memory" or "none".
        cache_gb: limit of that, for each split and process.
    """

    splits = (
        Split("train", "train"),
        Split("val", "validation"),
        Split("dev", "validation"),
        Split("dev", "test"),
        Split("test1", "test"),
    )
    modalities = ("vision", "text")
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
        missing: Policy = "refuse",
        cache: Literal["memory", "none"] = "none",
        cache_gb: float = 16.0,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        check_policy(missing)
        if strangers := [name for name in tests if name not in TESTS] or not tests:
            raise ConfigError(f"data.tests={list(tests)}: expected some of {', '.join(TESTS)}, not {strangers}")
        self.splits = (*self.splits[:3], *(Split(name, "test") for name in dict.fromkeys(tests)))
        self.val_directories, self.policy, self.cache, self.cache_gb = val_directories, missing, cache, cache_gb
        self._train: list[Example] | None = None
        self._text: Text | None = None

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
        kept = accept(
            whole,
            lambda example: next((path for path in example[1] if path not in here), None),
            policy=self.policy,
            split=split,
        )
        if self._text is None:
            self._text = build(Text, self.inputs, "text")
        made = NLVR2Examples(
            kept,
            build(Pixels, self.inputs, "vision"),
            self._text,
            keep=self.cache,
            limit_gb=self.cache_gb,
            name=split,
        )
        made.dropped = len(whole) - len(kept)
        return made

    def references(self) -> dict[str, dict[str, float]]:
        """What always answering with train's more frequent label scores; a miniature's single modalities."""
        answer = int(np.mean([label for _, label in self.examples("train").rows()]) >= 0.5)
        lines = {}
        for split in dict.fromkeys(self.val_splits + self.test_splits):
            right: dict[str, bool] = {}
            examples = [example for example, _ in self.examples(split).examples]
            for example in examples:
                right[example.group] = right.get(example.group, True) and example.label == answer
            lines[split] = {
                "majority": float(np.mean([example.label == answer for example in examples])),
                "majority_consistency": float(np.mean(list(right.values()))),
                **self.ceilings(split),
            }
        return lines

    def submission(self, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """What the official ``nlvr2/eval/metrics.py`` reads: identifier,True or identifier,False."""
        lines = [f"{row['id']},{bool(row['prediction'])}\n" for row in rows]
        return {f"{split}_submission.csv": "".join(lines)}

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
