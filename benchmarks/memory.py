"""What autograd keeps between forward and backward: how much, for how many tokens, and from which site on."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmmoe.model import AdaptedModel
from hmmoe.types import Site, Stream


class Kept(NamedTuple):
    """Bytes kept before the method was called at site 0, 1, ... and after the last; tokens of all sites together."""

    by_site: tuple[int, ...]
    tokens: int

    def below(self, site: int) -> int:
        """Bytes kept before the method was called at a site: zero where no adapter lies below it."""
        return sum(self.by_site[: site + 1])


def kept(model: AdaptedModel, forward: Callable[[], Tensor]) -> Kept:
    """What a forward pass of an uncompiled model keeps, by depth. Tokens are those of streams that are updated."""
    calls = tokens = 0

    def visited(_: nn.Module, given: tuple[Site, Mapping[str, Stream]]) -> None:
        nonlocal calls, tokens
        calls += 1
        tokens += sum(stream.out[..., 0].numel() for stream in given[1].values() if not stream.memory)

    hook = model.peft.register_forward_pre_hook(visited)
    try:
        found = _saved(model, forward, lambda: calls)
    finally:
        hook.remove()
    return Kept(tuple(found[site] for site in range(calls + 1)), tokens)


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward, parameters and buffers excluded, each storage once."""
    return _saved(model, forward, lambda: 0).total()


def _saved(model: nn.Module, forward: Callable[[], Tensor], stage: Callable[[], int]) -> Counter[int]:
    """The bytes by the stage in which they were kept first."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: Counter[int] = Counter()
    alive: dict[int, Tensor] = {}  # a freed storage's address could be taken again by the next one

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in alive:
            alive[storage.data_ptr()] = tensor
            found[stage()] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return found
