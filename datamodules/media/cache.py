"""Decoded media kept in memory (shared with forked loader processes) or on disk, for every dataset alike."""

import mmap
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from datamodules.media.disk import Shelf, state_of
from hmmoe.errors import ConfigError, DataMissing

Mode = Literal["memory", "disk", "none"]
MODES = ("memory", "disk", "none")
PREPARE = "run `python -m datamodules.prepare <name> --root <root>` with this run's overrides, or set data.cache=none"


class Field(NamedTuple):
    """One tensor of an entry."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return prod(self.shape) * self.dtype.itemsize


class Keep(NamedTuple):
    """Where decoded media are kept: ``data.cache``, ``data.cache_gb`` (of memory, by split and process), folder."""

    mode: Mode = "none"
    limit_gb: float = 16.0
    folder: Path = Path("decoded")

    def check(self) -> None:
        """Refuse an unknown mode.

        Raises:
            ConfigError: names the key.
        """
        if self.mode not in MODES:
            raise ConfigError(f"data.cache={self.mode}: expected memory, disk or none")


@runtime_checkable
class Decoder(Protocol):
    """Makes entries from files."""

    fields: Sequence[Field]

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the tensors beside the files, as plain values."""
        ...

    def sources(self, key: str) -> list[Path]:
        """The files and folders that an entry is made from."""
        ...

    def decode(self, key: str) -> tuple[Tensor, ...]:
        """The tensors of an entry, one for each of ``fields``."""
        ...


class Cache:
    """Entries of a decoder by key: kept in memory from first use on, read from disk, or decoded every time.

    Memory is an anonymous shared map: forked workers fill it for one another and pages cost nothing until written.
    Under another start method every process keeps its own. What lies on disk was put there by ``datamodules.prepare``.

    Args:
        keys: of all entries; repeats count once.
        decoder: makes them.
        keep: where.
        name: of what is kept, for messages.

    Raises:
        ConfigError: the entries would not fit into the limit of memory.
    """

    def __init__(self, keys: Iterable[str], decoder: Decoder, keep: Keep, *, name: str) -> None:
        self.keys, self.decoder, self.keep, self.name = tuple(dict.fromkeys(keys)), decoder, keep, name
        if keep.mode == "memory" and self.bytes > keep.limit_gb * 1e9:
            raise ConfigError(
                f"data.cache=memory would keep {self.bytes / 1e9:.1f} GB of {name}, over data.cache_gb="
                f"{keep.limit_gb:g}: raise it if the machine has the memory, or set data.cache=disk or none"
            )
        self._shelf: Shelf | None = None
        self._kept: list[Tensor] = []
        if keep.mode == "memory" and self.keys:
            self._allocate()  # now, before workers fork

    @property
    def shelf(self) -> Shelf:
        """The entries of this recipe on disk, there or not."""
        if self._shelf is None:
            self._shelf = Shelf(self.keep.folder, self.decoder.recipe())
        return self._shelf

    @property
    def bytes(self) -> int:
        """Of all entries."""
        return len(self.keys) * sum(field.bytes for field in self.decoder.fields)

    def get(self, key: str) -> tuple[Tensor, ...]:
        """An entry. Read only: it may be the kept memory itself."""
        if self.keep.mode == "none":
            return self.decoder.decode(key)
        if self.keep.mode == "disk":
            return self.shelf.get(key)
        if not self._kept:
            self._allocate()
        row = self._row[key]
        if not self._filled[row]:
            for kept, value in zip(self._kept, self.decoder.decode(key), strict=True):
                kept[row] = value
            self._filled[row] = 1  # after the data: two processes may make it, none reads half of it
        return tuple(kept[row] for kept in self._kept)

    def wanting(self) -> tuple[list[str], list[str]]:
        """Keys that are not on disk, and those whose source files have changed since."""
        entries = self.shelf.entries
        missing = [key for key in self.keys if key not in entries]
        there = (key for key in self.keys if key in entries)
        return missing, [key for key in there if entries[key].sources != state_of(self.decoder.sources(key))]

    def check(self) -> None:
        """Refuse a cache on disk that is not this run's, not finished, or older than its files.

        Raises:
            DataMissing: says which, with the first example.
        """
        if self.keep.mode != "disk" or not self.keys:
            return
        missing, stale = self.wanting()
        if len(missing) == len(self.keys) and not self.shelf.entries:
            others = "; ".join(self.shelf.others())
            made = f" What lies there was made with other settings: {others}." if others else ""
            raise DataMissing(
                f"data.cache=disk: {self.keep.folder} holds no {self.name} as wanted.{made} To make it, {PREPARE}"
            )
        if missing:
            raise DataMissing(
                f"data.cache=disk: {self.shelf.folder} holds {len(self.keys) - len(missing)} of {len(self.keys)} "
                f"entries of {self.name}, not {missing[0]}; to go on where it stopped {PREPARE}"
            )
        if stale:
            raise DataMissing(
                f"data.cache=disk: {len(stale)} of {len(self.keys)} entries of {self.name} are older than their files, "
                f"such as {stale[0]} ({self.decoder.sources(stale[0])[0]}); to decode those again {PREPARE}"
            )

    def _allocate(self) -> None:
        self._row = {key: row for row, key in enumerate(self.keys)}
        self._filled = self._shared(Field((), torch.uint8))
        self._kept = [self._shared(field) for field in self.decoder.fields]

    def _shared(self, field: Field) -> Tensor:
        memory = mmap.mmap(-1, len(self.keys) * field.bytes)
        return torch.frombuffer(memory, dtype=field.dtype).view(len(self.keys), *field.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("keys", "decoder", "keep", "name")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _shelf=None, _kept=[])
