"""What a router looks at: one token, one segment or one sample, and the mean of the other modalities."""

from typing import Literal

from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from hmmoe.masked import masked_mean
from hmmoe.types import Stream

Granularity = Literal["token", "segment", "sample"]


def pool_rows(
    x: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"] | None, granularity: Granularity, stream: Stream
) -> Float[Tensor, "S n D"]:
    """Tokens to what one decision is made of.

    "token" leaves them (n = N); "segment" pools every segment (n = parts of a row), "sample" the whole sample over
    its rows and parts (n = 1, equal in all rows of a sample). Padding never counts.
    """
    if granularity == "token":
        return x
    if granularity == "segment":
        split = (x.shape[0] * stream.parts, -1)
        flat = masked_mean(x.reshape(*split, x.shape[-1]), None if keep is None else keep.reshape(*split))
        return flat.unflatten(0, (-1, stream.parts))
    split = (x.shape[0] // stream.rows, -1)
    flat = masked_mean(x.reshape(*split, x.shape[-1]), None if keep is None else keep.reshape(*split))
    return flat.repeat_interleave(stream.rows, 0).unsqueeze(1)


def spread(decision: Shaped[Tensor, "S n L"], tokens: int) -> Shaped[Tensor, "S N L"]:
    """Hand a decision back to the tokens that it was made for."""
    return decision if decision.shape[1] == tokens else decision.repeat_interleave(tokens // decision.shape[1], 1)
