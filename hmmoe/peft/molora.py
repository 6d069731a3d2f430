"""Soft mixtures of like experts: MoLoRA and MoV (Zadouri et al., arXiv 2309.05444).

MoLoRA  delta = (alpha / R) sum_e p_e(x) B_e A_e x        x what the FFN reads; A_e (R, D), B_e (D, R) from zero
MoV     delta = out * sum_e p_e(x) v_e                    out what the FFN wrote; 1 + v_e the paper's vector

p = softmax of a linear router on the token, float32; every expert is evaluated, ``k`` keeps the largest only. Paper: on
the linear layers inside attention and FFN of T5; here around the FFN as one map. The homogeneous control of HMMoE:
uni-modal, one kind.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.errors import ConfigError
from hmmoe.peft.base import Size
from hmmoe.peft.per_stream import PerStream, need_positive
from hmmoe.routing.router import Router
from hmmoe.types import Routing, Site, Stream


class _Routed(nn.Module):
    """Token-level softmax over E experts of one stream: E (D + 1) parameters."""

    def __init__(self, target: str, width: int, experts: int, k: int | None) -> None:
        super().__init__()
        self.target = target
        self.router = Router(
            target, {target: width}, [self.group], sizes=[experts], k=[experts if k is None else k], mode="flat"
        )

    group = "single"

    def _gates(self, tokens: Float[Tensor, "S N D"], streams: Mapping[str, Stream]) -> tuple[Tensor, Routing]:
        routing = self.router({self.target: tokens}, streams)
        return routing.weights[:, :, 0].to(tokens.dtype), routing


class LoRAExperts(_Routed):
    """E LoRA updates of one stream as two wide matmuls: 2 E R D parameters and the router.

    ``freeze_a`` leaves A as drawn (LoRA-FA, Zhang et al., arXiv 2308.03303), E R D of them.
    """

    def __init__(
        self, target: str, width: int, experts: int, k: int | None, *, rank: int, alpha: float, freeze_a: bool = False
    ) -> None:
        super().__init__(target, width, experts, k)
        self.scale = alpha / rank
        drawn = torch.empty(experts * rank, width).uniform_(-(width**-0.5), width**-0.5)
        self.A = nn.Parameter(drawn, requires_grad=not freeze_a)
        self.B = nn.Parameter(torch.zeros(width, experts * rank))

    def forward(self, streams: Mapping[str, Stream]) -> tuple[Float[Tensor, "S N D"], Routing]:
        """Delta and routing."""
        x = streams[self.target].inp
        gates, routing = self._gates(x, streams)
        z = F.linear(x, self.A).unflatten(-1, (gates.shape[-1], -1))
        return self.scale * F.linear((z * gates.to(z.dtype).unsqueeze(-1)).flatten(2), self.B), routing


class VectorExperts(_Routed):
    """E vectors of one stream: E D parameters and the router."""

    def __init__(self, target: str, width: int, experts: int, k: int | None) -> None:
        super().__init__(target, width, experts, k)
        self.v = nn.Parameter(torch.zeros(experts, width))

    def forward(self, streams: Mapping[str, Stream]) -> tuple[Float[Tensor, "S N D"], Routing]:
        """Delta and routing; the vectors are merged before they multiply, so E costs next to nothing."""
        out = streams[self.target].out
        gates, routing = self._gates(out, streams)
        return out * (gates @ self.v.to(gates.dtype)), routing


class _Mixture(PerStream):
    """E like experts per site and stream behind one router.

    Args:
        sites: where the backbone stands open.
        make: the experts of a stream, from its name, its width, ``experts`` and ``k``.
        experts: E.
        k: experts kept per token; None keeps all.
        common: see ``PerStream``.

    Raises:
        ConfigError: sizes that cannot be.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        make: Callable[[str, int, int, int | None], nn.Module],
        *,
        experts: int,
        k: int | None = None,
        **common: Any,
    ) -> None:
        need_positive(experts=experts)
        if k is not None and not 1 <= k <= experts:
            raise ConfigError(f"peft.k must lie in 1..{experts} (peft.experts) or be null for all, found {k}")
        super().__init__(sites, lambda target, widths: make(target, widths[target], experts, k), **common)


class MoLoRA(_Mixture):
    """Soft mixture of LoRA experts beside the FFN, every modality for itself.

    Args:
        sites: where the backbone stands open.
        rank: R of an expert.
        alpha: scale of the update, alpha / R.
        experts, common: see ``_Mixture``.
        freeze_a: see ``LoRAExperts``.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 8,
        alpha: float = 8.0,
        experts: int = 4,
        freeze_a: bool = False,
        **common: Any,
    ) -> None:
        need_positive(rank=rank, experts=experts)
        make = partial(LoRAExperts, rank=rank, alpha=alpha, freeze_a=freeze_a)
        super().__init__(sites, make, experts=experts, **common)


class MoV(_Mixture):
    """Soft mixture of scaling vectors on the FFN's output, every modality for itself.

    Args:
        sites: where the backbone stands open.
        experts, common: see ``_Mixture``.
    """

    sizes = (Size("experts"),)

    def __init__(self, sites: Sequence[Site], *, experts: int = 10, **common: Any) -> None:
        super().__init__(sites, VectorExperts, experts=experts, **common)
