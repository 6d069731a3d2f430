"""Bytes of tensors that are alive at once: a peak that needs neither an accelerator nor the numbers."""

import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end, views counted once.

    ``peak`` is what a device must hold at the worst moment: weights, gradients, optimizer moments, activations kept for
    the backward pass and results in between. Left out are an allocator's rounding and reserve, and what a kernel keeps
    to itself. Works on the meta device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref] = {}

    def hold(self, module: nn.Module) -> "LiveBytes":
        """Count what a module holds already."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._note(tensor)
        return self

    def restart(self) -> None:
        """The peak from here on."""
        self.peak = self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_iter(out):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self.now += size
        self.peak = max(self.peak, self.now)
        self._alive[key] = weakref.ref(storage, lambda _: self._end(key, size))

    def _end(self, key: int, size: int) -> None:
        if self._alive.pop(key, None) is not None:
            self.now -= size
