"""Decoded arrays kept in memory, shared with forked loader processes."""

import mmap
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hmmoe.errors import ConfigError


class Field(NamedTuple):
    """One tensor of an entry."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return prod(self.shape) * self.dtype.itemsize


class RowCache:
    """``rows`` entries of the same fields, each computed at first use.

    The memory is an anonymous shared map: forked workers fill it for one another and pages cost nothing until written.
    Under another start method every process keeps its own.

    Args:
        rows: number of entries.
        fields: of one entry.
        keep: "memory", or "none" to compute every time.
        limit_gb: refuse to keep more than this.
        name: of what is kept, for the message.

    Raises:
        ConfigError: the entries would not fit into the limit, or an unknown ``keep``.
    """

    def __init__(
        self, rows: int, fields: Sequence[Field], *, keep: Literal["memory", "none"], limit_gb: float, name: str
    ) -> None:
        if keep not in ("memory", "none"):
            raise ConfigError(f"data.cache={keep}: expected memory or none")
        size = rows * sum(field.bytes for field in fields)
        if keep == "memory" and size > limit_gb * 1e9:
            raise ConfigError(
                f"data.cache=memory would keep {size / 1e9:.1f} GB of {name}, over data.cache_gb={limit_gb:g}: "
                "raise it if the machine has the memory, or set data.cache=none to decode every time"
            )
        self._rows, self._fields = rows if keep == "memory" else 0, tuple(fields)
        self._allocate()

    def get(self, row: int, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Entry ``row``, made now if nobody made it before. Read only: it may be the kept memory itself."""
        if not self._rows:
            return make()
        if not self._filled[row]:
            for kept, value in zip(self._kept, make(), strict=True):
                kept[row] = value
            self._filled[row] = 1  # after the data: two processes may make it, none reads half of it
        return tuple(kept[row] for kept in self._kept)

    def _allocate(self) -> None:
        if self._rows:
            self._filled = self._shared(Field((), torch.uint8))
            self._kept = [self._shared(field) for field in self._fields]

    def _shared(self, field: Field) -> Tensor:
        memory = mmap.mmap(-1, self._rows * field.bytes)
        return torch.frombuffer(memory, dtype=field.dtype).view(self._rows, *field.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"_rows": self._rows, "_fields": self._fields}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._allocate()
