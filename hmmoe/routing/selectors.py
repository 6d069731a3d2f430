"""Which experts are kept, without index lists, host synchronisation or data-dependent shapes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def top_k(probs: Float[Tensor, "*S E"], k: int) -> Bool[Tensor, "*S E"]:
    """The k most probable of the last axis; equal ones go to the lower index, so exactly k are selected."""
    if k >= probs.shape[-1]:
        return torch.ones_like(probs, dtype=torch.bool)
    if k == 1:
        index = torch.arange(probs.shape[-1], device=probs.device)
        return probs.argmax(-1, keepdim=True) == index
    order = torch.argsort(probs, dim=-1, descending=True, stable=True)
    return torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order[..., :k], True)
