"""Means that leave padding out."""

from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(x: Float[Tensor, "S N *D"], keep: Bool[Tensor, "S N"] | None) -> Float[Tensor, "S *D"]:
    """Mean over the kept tokens; zero where none is kept."""
    if keep is None:
        return x.mean(1)
    weight = keep.to(x.dtype).view(*keep.shape, *[1] * (x.ndim - 2))
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)
