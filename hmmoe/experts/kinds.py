"""What an expert does between its down- and its up-projection, at rank R. One class per kind.

Every kind has methods that must agree: ``forward`` treats all experts of a group at once (executor ``wide``), ``one``
is the plain formula for a single expert (executor ``loop``, the oracle); ``grouped`` builds on what they are made of.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.errors import ConfigError
from hmmoe.masked import masked_mean

Scale = Float[Tensor, "S E D"] | None
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


class Single(nn.Module):
    """act(z): with its projections the plain bottleneck, up(act(down x)).

    Args:
        act: relu, gelu or silu.
    """

    def __init__(self, act: str = "relu") -> None:
        super().__init__()
        if act not in ACTIVATIONS:
            raise ConfigError(f"peft.act must be one of {', '.join(ACTIVATIONS)}, not {act!r}")
        self.act = ACTIVATIONS[act]

    def forward(self, z: Float[Tensor, "S N E R"], context: None, keep: None) -> tuple[Float[Tensor, "S N E R"], Scale]:
        """All experts."""
        return self.act(z), None

    def one(self, e: int, z: Float[Tensor, "S N R"], context: None, keep: None) -> tuple[Tensor, Tensor | None]:
        """Expert e."""
        return self.act(z), None


class CrossAttention(nn.Module):
    """attention(q z, k c, v c) in R^R: the stream that is updated asks, the other stream c = down_n y answers.

    A key without kept tokens contributes nothing. The key map has no bias: it would cancel in the softmax.

    Args:
        experts: E.
        rank: R.
        heads: attention heads of one expert; R must be divisible.
    """

    def __init__(self, experts: int, rank: int, *, heads: int = 1) -> None:
        super().__init__()
        if heads < 1 or rank % heads:
            raise ConfigError(f"peft.heads={heads} must divide the rank {rank} of the cross experts")
        self.heads = heads
        bound = rank**-0.5
        self.q = nn.Parameter(torch.empty(experts, rank, rank).uniform_(-bound, bound))
        self.kv = nn.Parameter(torch.empty(experts, rank, 2 * rank).uniform_(-bound, bound))
        self.q_bias = nn.Parameter(torch.zeros(experts, 1, rank))
        self.v_bias = nn.Parameter(torch.zeros(experts, 1, rank))

    def forward(
        self, z: Float[Tensor, "S N E R"], context: Float[Tensor, "S M E R"], keep: Bool[Tensor, "S M"] | None
    ) -> tuple[Float[Tensor, "S N E R"], Scale]:
        """All experts and their heads in one fused attention call."""
        experts, rank = z.shape[2:]
        q = torch.matmul(z.transpose(1, 2), self.q) + self.q_bias.to(z.dtype)
        k, v = torch.matmul(context.transpose(1, 2), self.kv).split(rank, -1)
        q, k, v = (self._split(part) for part in (q, k, v + self.v_bias.to(z.dtype)))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask(keep))
        mixed = mixed.unflatten(1, (experts, self.heads)).permute(0, 3, 1, 2, 4).flatten(3)
        return (mixed if keep is None else mixed * keep.any(1)[:, None, None, None]), None

    def some(
        self,
        z: Float[Tensor, "P R"],
        expert: Int[Tensor, " P"],
        row: Int[Tensor, " P"],
        context: Float[Tensor, "S M E R"],
        keep: Bool[Tensor, "S M"] | None,
    ) -> Float[Tensor, "P R"]:
        """Entries sorted by expert and row, padded to as many queries for each expert and row as the most asked has."""
        rows, experts = context.shape[0], context.shape[2]
        bucket = expert * rows + row
        sizes = torch.bincount(bucket, minlength=experts * rows)
        longest = int(sizes.max())
        place = bucket * longest + torch.arange(len(z), device=z.device) - (sizes.cumsum(0) - sizes)[bucket]
        asked = z.new_zeros(experts * rows * longest, z.shape[1]).index_copy(0, place, z)
        q = torch.matmul(asked.unflatten(0, (experts, -1)), self.q) + self.q_bias.to(z.dtype)
        k, v = torch.matmul(context.permute(2, 0, 1, 3).flatten(1, 2), self.kv).split(z.shape[1], -1)
        v = v + self.v_bias.to(z.dtype)
        q, k, v = (self._split(part.unflatten(1, (rows, -1)).transpose(0, 1)) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask(keep))
        mixed = mixed.unflatten(1, (experts, self.heads)).permute(1, 0, 3, 2, 4).flatten(3).flatten(0, 2)[place]
        return mixed if keep is None else mixed * keep.any(1)[row].unsqueeze(1)

    @staticmethod
    def _mask(keep: Bool[Tensor, "S M"] | None) -> Bool[Tensor, "S 1 1 M"] | None:
        return None if keep is None else (keep | ~keep.any(1, keepdim=True))[:, None, None]

    def _split(self, x: Float[Tensor, "S E N R"]) -> Float[Tensor, "S EH N r"]:
        if self.heads == 1:
            return x
        return x.unflatten(-1, (self.heads, -1)).transpose(2, 3).flatten(1, 2)

    def one(
        self, e: int, z: Float[Tensor, "S N R"], context: Float[Tensor, "S M R"], keep: Bool[Tensor, "S M"] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Expert e, head by head with an explicit softmax."""
        rank = z.shape[-1]
        q = z @ self.q[e] + self.q_bias[e]
        k, v = context @ self.kv[e, :, :rank], context @ self.kv[e, :, rank:] + self.v_bias[e]
        size, mixed = rank // self.heads, []
        for h in range(self.heads):
            part = slice(h * size, (h + 1) * size)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / size**0.5
            if keep is not None:
                scores = scores.masked_fill(~(keep | ~keep.any(1, keepdim=True))[:, None], float("-inf"))
            mixed.append(scores.softmax(-1) @ v[..., part])
        out = torch.cat(mixed, -1)
        return (out if keep is None else out * keep.any(1)[:, None, None]), None


class ChannelAttention(nn.Module):
    """z * (1 + s) with s = sigmoid(gate(mean of c)): the other stream scales channels (low-rank form of DG-SCT's).

    Args:
        experts: E.
        rank: R.
        width: width D of the target stream.
        space: "rank" scales the R hidden channels, "full" the D channels after the up-projection.
    """

    def __init__(self, experts: int, rank: int, *, width: int, space: Literal["rank", "full"] = "rank") -> None:
        super().__init__()
        if space not in ("rank", "full"):
            raise ConfigError(f"peft.gate_space must be rank or full, not {space!r}")
        self.space = space
        out, bound = (rank if space == "rank" else width), rank**-0.5
        self.gate = nn.Parameter(torch.empty(experts, rank, out).uniform_(-bound, bound))
        self.gate_bias = nn.Parameter(torch.zeros(experts, 1, out))

    def forward(
        self, z: Float[Tensor, "S N E R"], context: Float[Tensor, "S M E R"], keep: Bool[Tensor, "S M"] | None
    ) -> tuple[Float[Tensor, "S N E R"], Scale]:
        """All experts; with space "full" the scale is left to the executor."""
        scale = self.scale(masked_mean(context, keep), keep)
        return (z * (1 + scale).unsqueeze(1), None) if self.space == "rank" else (z, scale)

    def scale(self, pooled: Float[Tensor, "S E R"], keep: Bool[Tensor, "S M"] | None) -> Float[Tensor, "S E _out"]:
        """s of all experts, from the mean of the other stream; zero where nothing of it is there."""
        logits = torch.matmul(pooled.transpose(0, 1), self.gate) + self.gate_bias.to(pooled.dtype)
        scale = logits.sigmoid().transpose(0, 1)
        return scale if keep is None else scale * keep.any(1)[:, None, None]

    def one(
        self, e: int, z: Float[Tensor, "S N R"], context: Float[Tensor, "S M R"], keep: Bool[Tensor, "S M"] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Expert e."""
        keep = torch.ones(context.shape[:2], dtype=torch.bool, device=z.device) if keep is None else keep
        pooled = (context * keep.unsqueeze(-1)).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
        scale = torch.sigmoid(pooled @ self.gate[e] + self.gate_bias[e]) * keep.any(1, keepdim=True)
        return (z * (1 + scale).unsqueeze(1), None) if self.space == "rank" else (z, scale)
