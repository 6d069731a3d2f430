"""LAVISH: latent-token cross-modal adapters (Lin et al., arXiv 2212.07983, section 3.2).

For stream m with tokens x (N, D) and another stream n with tokens y (M, D):

    S   = L + g1 softmax(L y^T) y        L (K, D) learned latents that gather what stream n has to say
    u   = x + g2 softmax(x S^T) S        stream m reads it: cost (N + M) K in place of N M
    out = up(act(down(u)))               D -> R -> D

Paper: two such adapters per block and modality, beside attention and beside the FFN, both reading the state before the
sublayer. A site opens the FFN only, so here is the second one; it reads ``residual``. Softmax is unscaled, as there.
Chosen here: ``up`` starts at zero and g1 = g2 = 1, so that a fresh method is the identity through one zero factor (the
paper starts g at zero); one adapter per source where three modalities meet; widths are aligned by a linear map.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.peft.base import Size
from hmmoe.peft.bottleneck import Bottleneck
from hmmoe.peft.per_stream import PerStream, need_activation, need_positive
from hmmoe.types import Site, Stream


def attend(
    query: Float[Tensor, "S Q D"],
    memory: Float[Tensor, "S M D"],
    keep: Bool[Tensor, "S M"] | None,
    *,
    scale: float | None = 1.0,
) -> Float[Tensor, "S Q D"]:
    """softmax(scale q k^T) k over the kept keys; zero where none is kept. ``scale`` None is D^-0.5."""
    mask = None if keep is None else (keep | ~keep.any(1, keepdim=True))[:, None]
    out = F.scaled_dot_product_attention(query, memory, memory, attn_mask=mask, scale=scale)
    return out if keep is None else out * keep.any(1)[:, None, None]


class LatentAdapter(nn.Module):
    """The adapter of one (target, source): K D + 2 + 2 D R + R + D parameters, + D_n D where the widths differ.

    Args:
        width: D of the target.
        other: D_n of the source.
        rank: R.
        latents: K.
        act: relu, gelu or silu.
    """

    def __init__(self, width: int, other: int, *, rank: int, latents: int, act: str) -> None:
        super().__init__()
        self.align = nn.Identity() if other == width else nn.Linear(other, width, bias=False)
        self.latents = nn.Parameter(torch.randn(latents, width) * width**-0.5)
        self.gather, self.spread = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.adapter = Bottleneck(width, rank, act)

    def forward(
        self, x: Float[Tensor, "S N D"], y: Float[Tensor, "S M _D"], keep: Bool[Tensor, "S M"] | None
    ) -> Float[Tensor, "S N D"]:
        """The adapter's output; ``keep`` marks the tokens of y that count."""
        y = self.align(y)
        latents = self.latents.to(y.dtype).expand(len(y), -1, -1)
        gathered = latents + self.gather.to(y.dtype) * attend(latents, y, keep)
        return self.adapter(x + self.spread.to(x.dtype) * attend(x, gathered.to(x.dtype), None))


class _Part(nn.Module):
    """All sources of one target."""

    def __init__(self, target: str, widths: Mapping[str, int], *, rank: int, latents: int, act: str) -> None:
        super().__init__()
        self.target = target
        self.sources = nn.ModuleDict(
            {
                n: LatentAdapter(widths[target], d, rank=rank, latents=latents, act=act)
                for n, d in widths.items()
                if n != target
            }
        )

    def forward(self, streams: Mapping[str, Stream]) -> tuple[Float[Tensor, "S N D"], None]:
        """Sum over the sources."""
        x = streams[self.target].residual
        parts = [adapter(x, streams[n].residual, streams[n].keep) for n, adapter in self.sources.items()]
        return torch.stack(parts).sum(0), None


class Lavish(PerStream):
    """LAVISH adapters at every site where two or more modalities meet.

    Args:
        sites: where the backbone stands open.
        rank: R; the paper takes D / 8 on AVE.
        latents: K tokens.
        act: relu, gelu or silu.
        at: sites that get a part, see ``chosen``.

    Raises:
        ConfigError: sizes below 1, unknown activation, or modalities that never meet.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 32,
        latents: int = 2,
        act: str = "relu",
        at: str | Sequence[int] = "all",
    ) -> None:
        need_positive(rank=rank, latents=latents)
        need_activation(act)

        def build(target: str, widths: Mapping[str, int]) -> nn.Module | None:
            return _Part(target, widths, rank=rank, latents=latents, act=act) if len(widths) > 1 else None

        super().__init__(sites, build, at=at)
