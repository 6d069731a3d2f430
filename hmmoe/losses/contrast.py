"""Symmetric contrastive loss (InfoNCE) between two sets of vectors whose rows belong together."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F


class Gathered(torch.autograd.Function):
    """Rows of all processes in the order of their ranks; the gradient that they have anywhere comes back."""

    @staticmethod
    def forward(ctx: Any, rows: Float[Tensor, "B D"]) -> Float[Tensor, "WB D"]:
        """Equally many rows from each."""
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "WB D"]) -> Float[Tensor, "B D"]:
        """Summed over processes, then this one's rows."""
        whole = gradient.clone()
        dist.all_reduce(whole)
        return whole.chunk(dist.get_world_size())[dist.get_rank()]


def contrast(
    first: Float[Tensor, "B D"], second: Float[Tensor, "B D"], temperature: Float[Tensor, ""], *, gather: bool = False
) -> Float[Tensor, ""]:
    """Mean cross-entropy of every row against all rows of the other set, both ways, halved: CLIP's loss.

    ``-log softmax_j(a_i b_j / t)`` at j = i.

    Args:
        first, second: row i of one belongs to row i of the other.
        temperature: t.
        gather: set rows against those of all processes, gradients included; averaged over processes, as DDP does, this
            is the loss of all rows together. Needs equally many rows everywhere, which training batches have.
    """
    firsts, seconds, start = first, second, 0
    if gather and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        firsts, seconds = Gathered.apply(first), Gathered.apply(second)
        start = dist.get_rank() * len(first)
    own = torch.arange(len(first), device=first.device) + start
    there = F.cross_entropy(first @ seconds.T / temperature, own)
    back = F.cross_entropy(second @ firsts.T / temperature, own)
    return (there + back) / 2
