"""AVMoE: one flat router over uni- and cross-modal adapters (Cheng et al., NeurIPS 2024).

    delta_m = sum_e p_e A_e,   p = softmax(MLP([mean x_m; mean of every other stream]))

with U uni-modal experts up(act(down x)) and, for every other stream, C cross-modal experts of the LAVISH type
(``hmmoe.peft.lavish``). All experts run; one decision per row of S (a frame where segments meet, else a sample).

Paper: at two places per block, beside attention and beside the FFN; a site opens the FFN only. All read ``residual``.
No groups, no top-k: what it lacks against HMMoE. Every ``up`` starts at zero, the only zero factor.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmmoe.losses.balance import gate_kl
from hmmoe.masked import masked_mean
from hmmoe.peft.base import Size
from hmmoe.peft.bottleneck import Bottleneck
from hmmoe.peft.lavish import LatentAdapter
from hmmoe.peft.per_stream import PerStream, need_activation, need_positive
from hmmoe.routing.steered import Steered
from hmmoe.types import Routing, Site, Stream


class PooledRouter(Steered):
    """softmax of an MLP (sum of widths, hidden, hidden / 4, experts) on the mean tokens of all streams, float32."""

    def __init__(
        self, target: str, widths: Mapping[str, int], groups: Sequence[str], *, sizes: Sequence[int], hidden: int
    ) -> None:
        super().__init__(target, groups, sizes)
        self.modalities = tuple(widths)
        inner = max(1, hidden // 4)
        self.layers = nn.Sequential(
            nn.Linear(sum(widths.values()), hidden),
            nn.ReLU(),
            nn.Linear(hidden, inner),
            nn.ReLU(),
            nn.Linear(inner, sum(sizes)),
        )

    def forward(self, streams: Mapping[str, Stream]) -> Routing:
        """One decision per row, the same for all of its tokens."""
        wide = self.layers[0].weight.dtype
        pooled = [masked_mean(streams[m].residual.to(wide), streams[m].keep) for m in self.modalities]
        with torch.autocast(pooled[0].device.type, enabled=False):
            flat = self.layers(torch.cat(pooled, -1)).softmax(-1)
        stream, most = streams[self.target], max(self.sizes)
        parts = [nn.functional.pad(part, (0, most - part.shape[-1])) for part in flat.split(self.sizes, -1)]
        padded = torch.stack(parts, 1)[:, None]  # (S, 1, G, E)
        group = padded.sum(-1)
        expert = padded / group.clamp(min=torch.finfo(group.dtype).tiny).unsqueeze(-1)
        selected = self.real.expand_as(padded)
        row = self.steered(Routing(group, expert, selected, expert, stream.keep, self.groups, self.sizes))
        tokens = stream.residual.shape[1]
        return Routing(*(part.expand(-1, tokens, *part.shape[2:]) for part in row[:4]), *row[4:])


class _Mixture(nn.Module):
    """Router and experts of one target. Groups: single, then cross:n for each other stream."""

    def __init__(
        self,
        target: str,
        widths: Mapping[str, int],
        *,
        rank: int,
        latents: int,
        act: str,
        counts: tuple[int, int],
        hidden: int,
    ) -> None:
        super().__init__()
        self.target, width = target, widths[target]
        self.others = tuple(n for n in widths if n != target)
        self.uni = nn.ModuleList(Bottleneck(width, rank, act) for _ in range(counts[0]))
        self.cross = nn.ModuleDict(
            {
                n: nn.ModuleList(
                    LatentAdapter(width, widths[n], rank=rank, latents=latents, act=act) for _ in range(counts[1])
                )
                for n in self.others
            }
        )
        self.router = PooledRouter(
            target,
            widths,
            ["single", *(f"cross:{n}" for n in self.others)],
            sizes=[counts[0], *(counts[1] for _ in self.others)],
            hidden=hidden,
        )

    def forward(self, streams: Mapping[str, Stream]) -> tuple[Float[Tensor, "S N D"], Routing]:
        """All experts, weighted."""
        x, routing = streams[self.target].residual, self.router(streams)
        outs = [expert(x) for expert in self.uni]
        outs += [e(x, streams[n].residual, streams[n].keep) for n in self.others for e in self.cross[n]]
        by_group = zip(routing.weights[:, :1].unbind(2), routing.sizes, strict=True)  # all tokens of a row are alike
        weights = torch.cat([group[..., :size] for group, size in by_group], -1).unbind(-1)
        return sum(w.unsqueeze(-1).to(out.dtype) * out for w, out in zip(weights, outs, strict=True)), routing


class AVMoE(PerStream):
    """A dense mixture of uni- and cross-modal adapters at every site.

    Args:
        sites: where the backbone stands open.
        rank: R of every expert.
        uni: uni-modal experts of a stream.
        cross: cross-modal experts per other stream.
        latents: K tokens of a cross-modal expert.
        hidden: width of the router's first layer.
        act: relu, gelu or silu.
        at: sites that get a part, see ``chosen``.
        balance_weight: of the KL divergence of the mean gate from uniform, as the authors have it (0.01 on AVS-MS3).

    Raises:
        ConfigError: sizes below 1, unknown activation, or modalities that never meet.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 32,
        uni: int = 1,
        cross: int = 1,
        latents: int = 2,
        hidden: int = 128,
        act: str = "relu",
        at: str | Sequence[int] = "all",
        balance_weight: float = 0.0,
    ) -> None:
        need_positive(rank=rank, uni=uni, cross=cross, latents=latents, hidden=hidden)
        need_activation(act)

        def build(target: str, widths: Mapping[str, int]) -> nn.Module | None:
            if len(widths) == 1:
                return None
            return _Mixture(target, widths, rank=rank, latents=latents, act=act, counts=(uni, cross), hidden=hidden)

        super().__init__(sites, build, at=at, balance_weight=balance_weight)

    def balance(self, routing: Mapping[tuple[str, str], Routing]) -> Tensor:
        """The authors' term."""
        return gate_kl(routing)
