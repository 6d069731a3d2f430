"""NLVR v1: is the sentence true of the three boxes? Official folder layout, validation held out by directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.base import DataModule, Examples, Split, build
from datamodules.directories import held_out
from datamodules.judged import Judged, majority_lines
from datamodules.media.cache import Cache, Field, Keep
from datamodules.media.image import Pixels
from datamodules.media.text import Text
from datamodules.nlvr_corpus import ORDERS, Example, find_pictures, read_boxes, read_examples
from datamodules.sentences import Sentences
from hmmoe.errors import ConfigError, DataBroken

FILES = ("train", "dev", "test", "hidden")


class Picture(NamedTuple):
    """One box order of one example. ``order`` rearranges the boxes of the file at ``path``."""

    example: Example
    permutation: int
    path: Path
    order: tuple[int, ...]


class Boxes:
    """Decodes the three boxes of a picture, in an order: (3, 3, S, S) uint8, and whether it is there.

    Args:
        pictures: by id.
        pixels: reader.
        fills: zeros stand in for a file that is not there.
    """

    def __init__(self, pictures: Mapping[str, Picture], pixels: Pixels, *, fills: bool) -> None:
        self.pictures, self.pixels, self.fills = pictures, pixels, fills
        self.fields = [Field((3, *pixels.shape), torch.uint8), Field((), torch.bool)]

    def recipe(self) -> dict[str, Any]:
        """See ``Decoder``. An order that is rebuilt and one that is read differ by a shade, and by their source."""
        return {"reader": "nlvr boxes", "vision": self.pixels.recipe()}

    def sources(self, key: str) -> list[Path]:
        """The file."""
        return [self.pictures[key].path]

    def decode(self, key: str) -> tuple[Tensor, ...]:
        """Pixels and True; zeros and False where ``fills`` and there is no file."""
        picture = self.pictures[key]
        if self.fills and not picture.path.exists():
            return torch.zeros(self.fields[0].shape, dtype=torch.uint8), torch.tensor(False)
        return self.pixels.resize(read_boxes(picture.path)[list(picture.order)]), torch.tensor(True)


class NLVRExamples(Examples):
    """Pictures of one split with their sentences.

    Args:
        pictures: by id; in evaluation all counted permutations, in training permutation 0 of each example.
        source: name of the JSON file, the first part of every id.
        boxes: decoder of the pictures; None leaves them out.
        text: tokenizer; None leaves the words out.
        keep: of what is decoded, see ``Cache``.
        permute, flip: augmentation in training.
        name: of the split.
    """

    def __init__(
        self,
        pictures: Mapping[str, Picture],
        source: str,
        boxes: Boxes | None,
        text: Text | None,
        keep: Keep,
        *,
        permute: bool,
        flip: bool,
        name: str,
    ) -> None:
        self.names, self.pictures, self.source, self.boxes = list(pictures), list(pictures.values()), source, boxes
        self.permute, self.flip = permute, flip
        if boxes is not None:
            self.media = Cache(pictures, boxes, keep, name=f"boxes of {name}")
        self.sentences = Sentences(text, (picture.example.sentence for picture in self.pictures))

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self) -> list[tuple[str, int]]:
        """Id and label."""
        return [(name, p.example.label) for name, p in zip(self.names, self.pictures, strict=True)]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, group, label (1 = true), vision (3, 3, S, S), text {ids (L,), keep (L,)}.

        Under data.missing=zero also keep {"vision": (3,)}.
        """
        name, example = self.names[index], self.pictures[index].example
        sample: dict[str, Any] = {"id": name, "group": f"{self.source}-{example.group}", "label": example.label}
        if self.boxes is not None:
            boxes, there = self.media.get(name)
            sample["vision"] = self.boxes.pixels.normalise(self._augment(boxes, rng))
            if self.boxes.fills:
                sample["vision"] = sample["vision"] * there
                sample["keep"] = {"vision": there.expand(3).clone()}
        return sample | self.sentences.get(example.sentence)

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
    fixed_segments = (("vision", 3),)
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
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        if permutations not in (1, 6, "auto"):
            raise ConfigError(f"data.permutations={permutations}: expected 1, 6 or auto")
        self.val_directories, self.train_directories = val_directories, train_directories
        self.permutations = permutations
        self.permute_boxes, self.flip = permute_boxes, flip
        self._files: dict[str, tuple[list[Example], dict[str, Path]]] = {}

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
        name, examples = _file(split), self._chosen(split)
        on_disk = self._read(name)[1]
        counted = 1 if split == "train" else self._counted(name, examples, on_disk)
        whole = [(_id(name, e, k), self._picture(e, k, name, on_disk)) for e in examples for k in range(counted)]
        here = set(on_disk.values())
        pictures = dict(self.accept(split, whole, lambda pair: None if pair[1].path in here else pair[1].path))
        pixels = build(Pixels, self.inputs, "vision")
        boxes = pixels and Boxes(pictures, pixels, fills=self.fills)
        return NLVRExamples(
            pictures,
            name,
            boxes,
            self.text(),
            self.keep,
            permute=self.permute_boxes,
            flip=self.flip,
            name=split,
        )

    def published(self) -> dict[str, int]:
        """Examples; each has six pictures, or one."""
        return {"train+val": 12408, "dev": 989, "test": 990, "hidden": 985}

    def annotated(self, split: str) -> int:
        """Examples, however many of their permutations are counted."""
        return len(self._chosen(split))

    def references(self) -> dict[str, dict[str, float]]:
        """What always answering with train's more frequent label scores; a miniature's single modalities."""
        train = self._judged("train")
        names = dict.fromkeys(self.val_splits + self.test_splits)
        return {name: majority_lines(train, self._judged(name)) | self.ceilings(name) for name in names}

    def submission(self, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """What the official ``nlvr/metrics_images.py`` reads: <split>-<n>-<m>-<k>.png,true or false.

        It wants all six box orders: data.permutations=6 where only the first is on disk.
        """
        lines = [f"{row['id']}.png,{str(bool(row['prediction'])).lower()}\n" for row in rows]
        return {f"{split}_submission.csv": "".join(lines)}

    def _judged(self, split: str) -> list[Judged]:
        return [Judged(picture.example.group, picture.example.label) for picture in self.examples(split).pictures]

    def _chosen(self, split: str) -> list[Example]:
        examples = self._read(_file(split))[0]
        if _file(split) != "train":
            return examples
        train, val = self._divide(examples)
        return train if split == "train" else val

    def _picture(self, example: Example, k: int, name: str, on_disk: dict[str, Path]) -> Picture:
        """Of the file of that order, or of the first one, or of where that should lie."""
        if (path := on_disk.get(_id(name, example, k))) is not None:
            return Picture(example, k, path, ORDERS[0])
        first = _id(name, example, 0)
        lost = self.root / name / "images" / example.directory / f"{first}.png"
        return Picture(example, k, on_disk.get(first, lost), ORDERS[k])

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
        whole = [e for e in examples if _id(name, e, 0) in on_disk]
        extra = sum(_id(name, e, k) in on_disk for e in whole for k in range(1, 6))
        if extra not in (0, 5 * len(whole)):
            raise DataBroken(
                f"{name} has {extra} of {5 * len(whole)} permuted pictures, the official score needs all: complete "
                "them, or set data.permutations=1 (the first order only) or 6 (rebuild those that lack)"
            )
        return 6 if extra else 1


def _file(split: str) -> str:
    return "train" if split == "val" else split


def _id(name: str, example: Example, permutation: int) -> str:
    return f"{name}-{example.identifier}-{permutation}"
