"""MoA: a mixture of unlike uni-modal adapters under sigmoid gates (Cao et al., arXiv 2506.05928).

    delta = sum_t g_t A_t,   g = sigmoid(W x + b) per token and adapter, not normalised across adapters, float32

Adapters of a stream here: ``lora`` (alpha / R) B A x and ``parallel`` up(act(down x)) on what the FFN reads, ``series``
up(act(down out)) on what it wrote. Soft: all count. Sparse: one with g_t below ``threshold`` drops out, the others
keep their weight. Paper: LoRA on single projections, parallel adapters and prompts in a language model; prompts have
no counterpart at an FFN, and the learned threshold is left out, since no gradient reaches it when kept weights stay as
they are. Every ``up`` and B starts at zero. What it lacks against HMMoE: the other modality.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.errors import ConfigError
from hmmoe.peft.base import Size
from hmmoe.peft.bottleneck import Bottleneck
from hmmoe.peft.per_stream import PerStream, need_activation, need_positive
from hmmoe.routing.steered import Steered
from hmmoe.types import Routing, Site, Stream

KINDS = ("lora", "parallel", "series")


class LowRankMap(nn.Module):
    """(alpha / R) B A x: 2 R D parameters, B from zero."""

    def __init__(self, width: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, width).uniform_(-(width**-0.5), width**-0.5))
        self.B = nn.Parameter(torch.zeros(width, rank))

    def forward(self, x: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
        """The update."""
        return self.scale * F.linear(F.linear(x, self.A), self.B)


class SigmoidGates(Steered):
    """One number in (0, 1) per adapter and token: T (D + 1) parameters. Every adapter is a group of one."""

    undefined: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"force": "its gates do not depend on each other, so no weight can be moved: mask the other adapters instead"}
    )

    def __init__(self, target: str, width: int, adapters: Sequence[str], threshold: float) -> None:
        super().__init__(target, adapters, [1] * len(adapters))
        self.threshold = threshold
        self.linear = nn.Linear(width, len(adapters))
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, stream: Stream) -> Routing:
        """Gates (S, N, T) as group weights; one below the threshold is zero."""
        x = stream.inp
        with torch.autocast(x.device.type, enabled=False):
            gates = self.linear(x.to(self.linear.weight.dtype)).sigmoid()
        chosen = gates >= self.threshold
        picked = chosen.unsqueeze(-1)
        return self.steered(
            Routing(gates * chosen, picked.to(gates.dtype), picked, None, stream.keep, self.groups, self.sizes)
        )


class _Unlike(nn.Module):
    """The adapters of one stream."""

    def __init__(
        self, target: str, width: int, kinds: Sequence[str], *, rank: int, alpha: float, act: str, threshold: float
    ) -> None:
        super().__init__()
        self.target = target
        make = {
            "lora": lambda: LowRankMap(width, rank, alpha),
            "parallel": lambda: Bottleneck(width, rank, act),
            "series": lambda: Bottleneck(width, rank, act),
        }
        self.adapters = nn.ModuleDict({kind: make[kind]() for kind in kinds})
        self.gates = SigmoidGates(target, width, kinds, threshold)

    def forward(self, streams: Mapping[str, Stream]) -> tuple[Float[Tensor, "S N D"], Routing]:
        """Gated sum."""
        stream = streams[self.target]
        routing = self.gates(stream)
        outs = [adapter(stream.out if kind == "series" else stream.inp) for kind, adapter in self.adapters.items()]
        weights = routing.weights.squeeze(-1).unbind(-1)
        return sum(w.unsqueeze(-1).to(out.dtype) * out for w, out in zip(weights, outs, strict=True)), routing


class MoA(PerStream):
    """Unlike adapters at every site, every modality for itself.

    Args:
        sites: where the backbone stands open.
        kinds: some of lora, parallel, series.
        rank: R of every adapter.
        alpha: scale of lora, alpha / R.
        threshold: gates below it drop out; 0 is the soft form.
        act: of the bottlenecks: relu, gelu or silu.
        at: sites that get a part, see ``chosen``.
        balance_weight: see ``Peft``.

    Raises:
        ConfigError: unknown kind or activation, a threshold outside 0..1, rank below 1.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        kinds: Sequence[str] = KINDS,
        rank: int = 32,
        alpha: float = 32.0,
        threshold: float = 0.0,
        act: str = "relu",
        at: str | Sequence[int] = "all",
        balance_weight: float = 0.0,
    ) -> None:
        need_positive(rank=rank)
        if not kinds or not set(kinds) <= set(KINDS) or len(set(kinds)) < len(kinds):
            raise ConfigError(f"peft.kinds must name some of {', '.join(KINDS)}, each once, found {list(kinds)}")
        need_activation(act)
        if not 0 <= threshold < 1:
            raise ConfigError(f"peft.threshold={threshold}: expected 0 <= threshold < 1")

        def build(target: str, widths: Mapping[str, int]) -> nn.Module:
            return _Unlike(target, widths[target], kinds, rank=rank, alpha=alpha, act=act, threshold=threshold)

        super().__init__(sites, build, at=at, balance_weight=balance_weight)
