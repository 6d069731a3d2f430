"""What every datamodule is made of: splits with roles, loaders, manifest, reference lines, messages when files lack.

A dataset file adds: ``splits``, ``modalities``, ``layout``, ``absent``, ``load`` and ``references``.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from datamodules.sampling import Batches, Draw
from hmmoe.errors import ConfigError, DataMissing
from hmmoe.types import Batch

T = TypeVar("T")

REFERENCE_FILE = "reference.json"
"""Written by the miniatures at their root: {split: {name: score}} of what a single modality can reach there."""


class Split(NamedTuple):
    """One named part of a dataset and what it may be used for. A split may appear in two roles."""

    name: str
    role: Literal["train", "validation", "test"]


@runtime_checkable
class Miniature(Protocol):
    """Writes a small generated dataset in the real layout at ``root``; does nothing where it is up to date."""

    root: Path

    def write(self) -> None: ...


class Examples(Dataset, ABC):
    """The examples of one split. Indexed by a list of ``Draw``, it gives one merged batch."""

    dropped: int = 0
    """How many annotated examples were left out because their files lack."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def rows(self) -> Sequence[Sequence[Any]]:
        """Id and targets of every example, for the manifest; reads no media."""

    @abstractmethod
    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """One example without batch axis; ``rng`` augments it, None leaves it as it is."""

    def __getitem__(self, draws: Sequence[Draw]) -> Batch:
        return default_collate([self.sample(draw.index, draw.rng()) for draw in draws])


class DataModule(L.LightningDataModule, ABC):
    """Base of all datamodules.

    Args:
        root: folder of the dataset.
        inputs: what the backbone wants to see, by modality; only these modalities are produced.
        batch_size: examples per batch and process.
        num_workers: loader processes; 0 loads in the training process.
        miniature: generator of a small dataset; runs only where ``root`` is its own root.
        seed: of shuffling and augmentation.
        train_examples: train on so many examples, drawn by ``seed`` (debug=overfit); None takes all.
    """

    splits: ClassVar[tuple[Split, ...]]
    modalities: ClassVar[tuple[str, ...]]
    layout: ClassVar[str]
    """What is expected below the root and how to get it, for messages."""

    def __init__(
        self,
        root: str | Path,
        *,
        inputs: Mapping[str, Mapping[str, Any]],
        batch_size: int,
        num_workers: int = 0,
        miniature: Miniature | None = None,
        seed: int = 0,
        train_examples: int | None = None,
    ) -> None:
        super().__init__()
        if strangers := sorted(inputs.keys() - set(self.modalities)):
            raise ConfigError(
                f"{type(self).__name__} has {', '.join(self.modalities)}; the backbone also wants "
                f"{', '.join(strangers)}: choose another backbone= or data="
            )
        if num_workers < 0:
            raise ConfigError(f"data.num_workers={num_workers}: expected 0 or more")
        self.root, self.inputs, self.miniature = Path(root), inputs, miniature
        if train_examples is not None and train_examples < 1:
            raise ConfigError(f"data.train_examples={train_examples}: expected 1 or more, or null for all")
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.train_examples = train_examples
        self._examples: dict[str, Examples] = {}

    # ---- what a dataset adds

    @abstractmethod
    def absent(self) -> list[Path]:
        """Required files and folders that are not there; quick, reads no content."""

    @abstractmethod
    def load(self, split: str) -> Examples:
        """Read the annotations of one split."""

    @abstractmethod
    def references(self) -> dict[str, dict[str, float]]:
        """Scores that need no model, by evaluation split and name: lines to print beside the results."""

    def annotations(self, split: str) -> list[Path]:
        """The files whose bytes identify the split in the manifest."""
        return []

    def submission(self, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """File name -> text of a test split's predictions as the official evaluator or server reads them.

        ``rows`` have the columns of the predictions file: id, prediction, ...
        """
        return {}

    # ---- what all have

    @property
    def val_splits(self) -> tuple[str, ...]:
        """Names of the validation loaders; the first one selects."""
        return self._names("validation")

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Names of the test loaders."""
        return self._names("test")

    def ceilings(self, split: str) -> dict[str, float]:
        """What a single modality can reach on a split of a miniature; empty for real data."""
        path = self.root / REFERENCE_FILE
        return json.loads(path.read_text()).get(split, {}) if path.is_file() else {}

    def examples(self, split: str) -> Examples:
        """The examples of a split, read at first use."""
        if split not in self._examples:
            self._examples[split] = self.load(split)
        return self._examples[split]

    def prepare_data(self) -> None:
        """Write the miniature if it is the one asked for; then read all annotations, so that faults show early."""
        if self.miniature is not None and self.root.resolve() == Path(self.miniature.root).resolve():
            self.miniature.write()
        self.check()
        for split in self.splits:
            self.examples(split.name)

    def setup(self, stage: str) -> None:
        """Check again: on another node the files may lack."""
        self.check()

    def check(self) -> None:
        """Cheap test that the files are there.

        Raises:
            DataMissing: names them, says how to get them, and what runs without.
        """
        if absent := self.absent():
            listed = "\n".join(f"    {path}" for path in absent[:8])
            more = f"\n    ... and {len(absent) - 8} more" if len(absent) > 8 else ""
            raise DataMissing(
                f"no complete {type(self).__name__} dataset at data.root={self.root}. Not found:\n{listed}{more}\n"
                f"{self.layout.strip()}\n"
                "Then set data.root=<that folder>. Without any download, `scale=mini` (and no data.root) runs now: "
                "it writes a miniature in the same layout."
            )

    def train_dataloader(self) -> DataLoader:
        """Shuffled and augmented."""
        (name,) = self._names("train")
        return self._loader(name, training=True)

    def val_dataloader(self) -> list[DataLoader]:
        """One loader for each of ``val_splits``."""
        return [self._loader(name, training=False) for name in self.val_splits]

    def test_dataloader(self) -> list[DataLoader]:
        """One loader for each of ``test_splits``."""
        return [self._loader(name, training=False) for name in self.test_splits]

    def manifest(self) -> dict[str, Any]:
        """Root; by split: number of examples, number left out, hash over ids, targets and annotation files."""
        names = dict.fromkeys(split.name for split in self.splits)
        return {"root": str(self.root), "splits": {name: self._fingerprint(name) for name in names}}

    def _fingerprint(self, split: str) -> dict[str, Any]:
        examples = self.examples(split)
        rows = examples.rows()
        digest = hashlib.sha256(json.dumps(rows).encode())
        for path in self.annotations(split):
            digest.update(path.read_bytes())
        return {"count": len(rows), "dropped": examples.dropped, "sha256": digest.hexdigest()}

    def _names(self, role: str) -> tuple[str, ...]:
        return tuple(split.name for split in self.splits if split.role == role)

    def _loader(self, split: str, *, training: bool) -> DataLoader:
        examples = self.examples(split)
        trainer = self.trainer
        batches = Batches(
            examples,
            self.batch_size,
            training=training,
            seed=self.seed,
            take=self.train_examples if training else None,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
        )
        return DataLoader(
            examples,
            batch_size=None,
            sampler=batches,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # A stream of its own: starting a loader must not move the global one that dropout reads.
            generator=torch.Generator().manual_seed(self.seed),
        )


def build(kind: Callable[..., T], inputs: Mapping[str, Mapping[str, Any]], modality: str) -> T | None:
    """The reader of a modality from its part of ``inputs``; None where the backbone does not want it.

    Raises:
        ConfigError: a key too many or too few.
    """
    if modality not in inputs:
        return None
    try:
        return kind(**inputs[modality])
    except TypeError as fault:
        raise ConfigError(f"backbone.inputs.{modality}: {str(fault).partition(' ')[2]}") from fault
