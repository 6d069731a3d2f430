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

from datamodules.media.cache import Cache, Keep, Mode
from datamodules.media.text import Text
from datamodules.missing import Accepted, Policy, accept, check_policy
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


TRAIN_VAL_TEST = (Split("train", "train"), Split("val", "validation"), Split("test", "test"))
"""As most datasets are published."""


@runtime_checkable
class Miniature(Protocol):
    """Writes a small generated dataset in the real layout at ``root``; does nothing where it is up to date."""

    root: Path

    def write(self) -> None: ...


class Examples(Dataset, ABC):
    """The examples of one split. Indexed by a list of ``Draw``, it gives one merged batch."""

    media: Cache | None = None
    """The decoded files of the split, which ``prepare`` and ``verify`` walk over; None if none are read."""

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
        train_examples: train on so many examples, or below 1 on that share of them, drawn by ``seed``; None takes all.
        missing: what to do about annotated examples without their files: "refuse", "drop" them, or keep them with
            "zero" in place of what lacks and a ``keep`` of False; counted in the manifest and the result.
        cache: keep decoded media in "memory", read what ``datamodules.prepare`` left on "disk", or "none".
        cache_gb: limit of memory, for each split and process.
        cache_dir: folder on disk; None is ``<root>/decoded``.
    """

    splits: ClassVar[tuple[Split, ...]]
    modalities: ClassVar[tuple[str, ...]]
    fixed_segments: ClassVar[tuple[tuple[str, int], ...]] = ()
    """(modality, T) where the dataset itself says how many segments a sample has; the profiler asks."""
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
        train_examples: int | float | None = None,
        missing: Policy = "refuse",
        cache: Mode = "none",
        cache_gb: float = 16.0,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_policy(missing)
        if strangers := sorted(inputs.keys() - set(self.modalities)):
            raise ConfigError(
                f"{type(self).__name__} has {', '.join(self.modalities)}; the backbone also wants "
                f"{', '.join(strangers)}: choose another backbone= or data="
            )
        if num_workers < 0:
            raise ConfigError(f"data.num_workers={num_workers}: expected 0 or more")
        self.root, self.inputs, self.miniature = Path(root), inputs, miniature
        if train_examples is not None and (train_examples <= 0 or (train_examples > 1 and train_examples % 1)):
            raise ConfigError(
                f"data.train_examples={train_examples}: expected a number of examples, a share below 1, or null for all"
            )
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.train_examples, self.policy = train_examples, missing
        self.keep = Keep(cache, cache_gb, self.root / "decoded" if cache_dir is None else Path(cache_dir))
        self.keep.check()
        self._examples: dict[str, Examples] = {}
        self._gaps: dict[str, Accepted[Any]] = {}
        self._identities: dict[str, dict[str, Any]] = {}
        self._text: Text | None = None

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

    def published(self) -> dict[str, int]:
        """Number of annotated examples of the published splits; "train+val" where both are cut out of one."""
        return {}

    def needs(self, path: Path) -> bool:
        """Whether a media file that is not there is missing; some clips have no sound."""
        return True

    def annotated(self, split: str) -> int:
        """Annotated examples of a split, those without files included, in the unit that ``published`` counts."""
        return len(self.examples(split)) + self.gaps(split).dropped

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
        """The examples of a split, read at first use.

        Raises:
            ConfigError: there is no such split.
        """
        if split not in self._examples:
            names = dict.fromkeys(known.name for known in self.splits)
            if split not in names:
                raise ConfigError(f"{type(self).__name__} has no split {split!r}: expected one of {', '.join(names)}")
            self._examples[split] = self.load(split)
        return self._examples[split]

    def accept(
        self, split: str, examples: Sequence[T], lacks: Callable[[T], Path | None], *, target: bool = False
    ) -> list[T]:
        """The examples to use under ``data.missing``, see ``accept`` in ``missing``; what lacks is counted."""
        found = accept(examples, lacks, policy=self.policy, split=split, target=target)
        earlier = self.gaps(split)
        self._gaps[split] = Accepted([], earlier.dropped + found.dropped, earlier.zeroed + found.zeroed)
        return found.kept

    def gaps(self, split: str) -> Accepted[Any]:
        """How many annotated examples of a split were left out, or have zeros in place of their files."""
        return self._gaps.get(split, Accepted([]))

    @property
    def wanted(self) -> dict[str, bool]:
        """Which of picture and sound the backbone wants."""
        return {modality: modality in self.inputs for modality in ("vision", "audio")}

    @property
    def fills(self) -> bool:
        """Whether zeros stand in for files that are not there."""
        return self.policy == "zero"

    def text(self) -> Text | None:
        """The tokenizer, made once; None where the backbone reads no text."""
        if self._text is None:
            self._text = build(Text, self.inputs, "text")
        return self._text

    def write_miniature(self) -> None:
        """Write the miniature if it is the one asked for."""
        if self.miniature is not None and self.root.resolve() == Path(self.miniature.root).resolve():
            self.miniature.write()

    def prepare_data(self) -> None:
        """Write the miniature if it is the one asked for; then read all annotations, so that faults show early."""
        self.write_miniature()
        self.check()
        for split in dict.fromkeys(split.name for split in self.splits):
            media = self.examples(split).media
            if media is not None:
                media.check()

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
        """Root and policy; by split: roles, examples, those left out or with zeros for files, and a hash.

        The hash is over ids, targets and annotation files.
        """
        roles: dict[str, list[str]] = {}
        for split in self.splits:
            roles.setdefault(split.name, []).append(split.role)
        splits = {name: {"roles": own, **self._identity(name)} for name, own in roles.items()}
        return {"root": str(self.root), "missing": self.policy, "splits": splits}

    def _identity(self, split: str) -> dict[str, Any]:
        if split not in self._identities:
            rows, gaps = self.examples(split).rows(), self.gaps(split)
            digest = hashlib.sha256(json.dumps(rows).encode())
            for path in self.annotations(split):
                digest.update(path.read_bytes())
            facts = {"count": len(rows), "dropped": gaps.dropped, "zeroed": gaps.zeroed}
            self._identities[split] = facts | {"sha256": digest.hexdigest()}
        return self._identities[split]

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
        # How many segments a backbone takes is for those who cut clips (data.frames), not for the reader of one.
        return kind(**{key: value for key, value in inputs[modality].items() if key != "segments"})
    except TypeError as fault:
        raise ConfigError(f"backbone.inputs.{modality}: {str(fault).partition(' ')[2]}") from fault
