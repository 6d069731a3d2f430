"""Decoded arrays kept in memory, shared with forked loader processes."""

import mmap
from collections.abc import Callable
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from hmmoe.errors import ConfigError


class RowCache:
    """``rows`` tensors of one shape, each computed at first use.

    The memory is an anonymous shared map: forked workers fill it for one another and pages cost nothing until written.
    Under another start method every process keeps its own.

    Args:
        rows: number of entries.
        shape, dtype: of one entry.
        keep: "memory", or "none" to compute every time.
        limit_gb: refuse to keep more than this.
        name: of the split, for the message.

    Raises:
        ConfigError: the entries would not fit into the limit, or an unknown ``keep``.
    """

    def __init__(
        self,
        rows: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        keep: Literal["memory", "none"],
        limit_gb: float,
        name: str,
    ) -> None:
        if keep not in ("memory", "none"):
            raise ConfigError(f"data.cache={keep}: expected memory or none")
        self.layout = (rows, shape, dtype)
        size = rows * prod(shape) * dtype.itemsize
        if keep == "memory" and size > limit_gb * 1e9:
            raise ConfigError(
                f"data.cache=memory would keep {size / 1e9:.1f} GB for the split {name!r}, over data.cache_gb="
                f"{limit_gb:g}: raise it if the machine has the memory, or set data.cache=none to decode every time"
            )
        self._rows: Tensor | None = None
        self._filled: Tensor | None = None
        if keep == "memory" and rows:
            self._allocate()

    def get(self, row: int, make: Callable[[], Tensor]) -> Tensor:
        """Entry ``row``, made now if nobody made it before. Read only: the result may be the kept memory itself."""
        if self._rows is None or self._filled is None:
            return make()
        if not self._filled[row]:
            self._rows[row] = make()
            self._filled[row] = 1  # after the data: a second process may make it too, but never reads half of it
        return self._rows[row]

    def _allocate(self) -> None:
        rows, shape, dtype = self.layout
        memory = mmap.mmap(-1, rows * prod(shape) * dtype.itemsize)
        self._rows = torch.frombuffer(memory, dtype=dtype).view(rows, *shape)
        self._filled = torch.frombuffer(mmap.mmap(-1, rows), dtype=torch.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"layout": self.layout, "kept": self._rows is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.layout, self._rows, self._filled = state["layout"], None, None
        if state["kept"]:
            self._allocate()
