"""NLVR v1: is the sentence true of the three boxes? Official folder layout, validation held out by directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.base import DataModule, Examples, Split, build
from datamodules.directories import held_out
from datamodules.media.cache import Field, RowCache
from datamodules.media.image import Pixels
from datamodules.media.text import Text
from datamodules.nlvr_corpus import ORDERS, Example, find_pictures, read_boxes, read_examples
from hmmoe.errors import ConfigError, DataBroken

FILES = ("train", "dev", "test", "hidden")


class Picture(NamedTuple):
    """One box order of one example. ``order`` rearranges the boxes of the file at ``path``."""

    example: Example
    permutation: int
    path: Path
    order: tuple[int, ...]


class NLVRExamples(Examples):
    """Pictures of one split with their sentences, decoded once.

    Args:
        pictures: in evaluation all counted permutations, in training permutation 0 of each example.
        source: name of the JSON file, the first part of every id.
        pixels, text: readers of the modalities; None leaves one out.
        cache: kept resized boxes, (3, 3, S, S) uint8 a row.
        permute, flip: augmentation in training.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        source: str,
        pixels: Pixels | None,
        text: Text | None,
        *,
        cache: RowCache | None,
        permute: bool,
        flip: bool,
    ) -> None:
        self.pictures, self.source, self.pixels, self.cache = pictures, source, pixels, cache
        self.permute, self.flip = permute, flip
        sentences = list(dict.fromkeys(picture.example.sentence for picture in pictures))
        self._sentence = {sentence: row for row, sentence in enumerate(sentences)}
        self._ids, self._keep = text.encode(sentences) if text and sentences else (None, None)

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self) -> list[tuple[str, int]]:
        """Id and label."""
        return [(self._id(picture), picture.example.label) for picture in self.pictures]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, group, label (1 = true), vision (3, 3, S, S), text {ids (L,), keep (L,)}."""
        picture = self.pictures[index]
        example = picture.example
        sample = {"id": self._id(picture), "group": f"{self.source}-{example.group}", "label": example.label}
        if self.pixels is not None:
            sample["vision"] = self.pixels.normalise(self._augment(self._boxes(index), rng))
        if self._ids is not None:
            row = self._sentence[example.sentence]
            sample["text"] = {"ids": self._ids[row], "keep": self._keep[row]}
        return sample

    def _id(self, picture: Picture) -> str:
        return f"{self.source}-{picture.example.identifier}-{picture.permutation}"

    def _boxes(self, index: int) -> Tensor:
        picture = self.pictures[index]
        (boxes,) = self.cache.get(index, lambda: (self.pixels.resize(read_boxes(picture.path)[list(picture.order)]),))
        return boxes

    def _augment(self, boxes: Tensor, rng: np.random.Generator | None) -> Tensor:
        if rng is None:
            return boxes
        if self.permute:
            boxes = boxes[rng.permutation(3)]
        if self.flip and rng.random() < 0.5:
            boxes = boxes.flip(0, -1)
        return boxes


class NLVR(DataModule):
    """NLVR v1 (see ``DataModule`` for what is not listed here).

    Args:
        val_directories: train directories held out for ``val``: how many (spread evenly), or which.
        train_directories: which to train on; None takes all that are not held out.
        permutations: box orders counted in evaluation: 1, 6 (orders that are not on disk are rebuilt from the first),
            or auto: the six where all pictures are on disk, else the first.
        permute_boxes: train on a random order of the boxes.
        flip: also mirror pictures in training; sentences may say left and right, so off by default.
        cache: keep resized boxes in "memory" or "none".
        cache_gb: limit of that, for each split and process.
    """

    splits = (
        Split("train", "train"),
        Split("val", "validation"),
        Split("dev", "validation"),
        Split("dev", "test"),
        Split("test", "test"),
        Split("hidden", "test"),
    )
    modalities = ("vision", "text")
    layout = """
Expected: <root>/<split>/<split>.json and <root>/<split>/images/<directory>/<split>-<n>-<m>-<k>.png
for the splits train, dev, test and hidden; k = 0, or all of 0 to 5.
Get it: the folder nlvr/ of a clone of github.com/lil-lab/nlvr (92,244 pictures, CC BY 4.0)."""

    def __init__(
        self,
        root: str | Path,
        *,
        val_directories: int | Sequence[str | int] = 8,
        train_directories: Sequence[str | int] | None = None,
        permutations: Literal[1, 6, "auto"] = "auto",
        permute_boxes: bool = True,
        flip: bool = False,
        cache: Literal["memory", "none"] = "memory",
        cache_gb: float = 8.0,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        if permutations not in (1, 6, "auto"):
            raise ConfigError(f"data.permutations={permutations}: expected 1, 6 or auto")
        self.val_directories, self.train_directories = val_directories, train_directories
        self.permutations = permutations
        self.permute_boxes, self.flip, self.cache, self.cache_gb = permute_boxes, flip, cache, cache_gb
        self._files: dict[str, tuple[list[Example], dict[str, Path]]] = {}
        self._readers: tuple[Pixels | None, Text | None] | None = None

    def absent(self) -> list[Path]:
        """JSON files and picture folders of the four splits."""
        wanted = [self.root / name / part for name in FILES for part in (f"{name}.json", "images")]
        return [path for path in wanted if not path.exists()]

    def annotations(self, split: str) -> list[Path]:
        """The JSON file."""
        name = _file(split)
        return [self.root / name / f"{name}.json"]

    def load(self, split: str) -> NLVRExamples:
        """Read one split; ``train`` and ``val`` share a file and never a directory."""
        name = _file(split)
        examples, on_disk = self._read(name)
        if name == "train":
            train, val = self._divide(examples)
            examples = train if split == "train" else val
        if self._readers is None:
            self._readers = (build(Pixels, self.inputs, "vision"), build(Text, self.inputs, "text"))
        pixels, text = self._readers
        counted = 1 if split == "train" else self._counted(name, examples, on_disk)
        pictures = [_picture(e, k, name, on_disk) for e in examples for k in range(counted)]
        cache = pixels and RowCache(
            len(pictures),
            [Field((3, *pixels.shape), torch.uint8)],
            keep=self.cache,
            limit_gb=self.cache_gb,
            name=f"boxes of {split}",
        )
        return NLVRExamples(pictures, name, pixels, text, cache=cache, permute=self.permute_boxes, flip=self.flip)

    def references(self) -> dict[str, dict[str, float]]:
        """What always answering with train's more frequent label scores."""
        share = np.mean([label for _, label in self.examples("train").rows()])
        answer = int(share >= 0.5)
        lines = {}
        for split in dict.fromkeys(self.val_splits + self.test_splits):
            right: dict[str, bool] = {}
            pictures = self.examples(split).pictures
            for example in (picture.example for picture in pictures):
                right[example.group] = right.get(example.group, True) and example.label == answer
            lines[split] = {
                "majority": float(np.mean([picture.example.label == answer for picture in pictures])),
                "majority_consistency": float(np.mean(list(right.values()))),
            }
        return lines

    def _read(self, name: str) -> tuple[list[Example], dict[str, Path]]:
        if name not in self._files:
            on_disk = find_pictures(self.root, name)
            self._files[name] = read_examples(self.root, name, on_disk), on_disk
        return self._files[name]

    def _divide(self, examples: list[Example]) -> tuple[list[Example], list[Example]]:
        present = {example.directory for example in examples}
        val = held_out(self.val_directories, present)
        train = present - val if self.train_directories is None else {str(d) for d in self.train_directories}
        if strangers := sorted(train - present):
            raise ConfigError(f"data.train_directories names {', '.join(strangers)}, not in train.json")
        if not train:
            raise ConfigError(f"data.train_directories leaves no directory: expected at least one of {len(present)}")
        if both := sorted(train & val):
            raise ConfigError(
                f"directories {', '.join(both)} are in data.train_directories and in data.val_directories: their "
                "pictures show the same scenes, so name each on one side only"
            )
        parts = tuple([e for e in examples if e.directory in chosen] for chosen in (train, val))
        if both := {e.group for e in parts[0]} & {e.group for e in parts[1]}:
            raise DataBroken(f"sentence group {min(both)} lies in train and val directories: hold out other ones")
        return parts

    def _counted(self, name: str, examples: list[Example], on_disk: dict[str, Path]) -> int:
        if self.permutations != "auto":
            return self.permutations
        extra = sum(f"{name}-{e.identifier}-{k}" in on_disk for e in examples for k in range(1, 6))
        if extra not in (0, 5 * len(examples)):
            raise DataBroken(
                f"{name} has {extra} of {5 * len(examples)} permuted pictures, the official score needs all: complete "
                "them, or set data.permutations=1 (the first order only) or 6 (rebuild those that lack)"
            )
        return 6 if extra else 1


def _file(split: str) -> str:
    return "train" if split == "val" else split


def _picture(example: Example, k: int, name: str, on_disk: dict[str, Path]) -> Picture:
    path = on_disk.get(f"{name}-{example.identifier}-{k}")
    if path is not None:
        return Picture(example, k, path, ORDERS[0])
    return Picture(example, k, on_disk[f"{name}-{example.identifier}-0"], ORDERS[k])
