"""Soft-MoA: adapters behind soft slots (Cappellazzo et al., arXiv 2402.00828; slots of Puigcerver et al., 2308.00951).

For a stream with tokens X (N, D), E experts with P slots each, keys Phi (E P, D):

    logits   L = normalised(X) (s normalised(Phi))^T                 (N, E P), s a learned scale
    dispatch slots = softmax over tokens of L, transposed, times X   every slot a mean of all tokens
    experts  Y_p = up_e(act(down_e slot_p))                          D -> R -> D
    combine  delta = softmax over slots of L, times Y

Padding is left out of the dispatch. Reads what the FFN reads, one mixture per row of S; uni-modal. Logits are float32.
``up`` starts at zero. Normalised rows are those of arXiv 2308.00951, section 2.3.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.experts.kinds import ACTIVATIONS
from hmmoe.peft.base import Size
from hmmoe.peft.per_stream import PerStream, need_activation, need_positive
from hmmoe.routing.steered import Steered
from hmmoe.types import Routing, Site, Stream


class Slots(Steered):
    """Keys of the slots: E P D + 1 parameters. Steered are the combine weights of an expert, all its slots at once."""

    def __init__(self, target: str, width: int, experts: int, slots: int) -> None:
        super().__init__(target, ["single"], [experts])
        self.keys = nn.Parameter(torch.randn(experts * slots, width) * width**-0.5)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, stream: Stream) -> tuple[Float[Tensor, "S N P"], Float[Tensor, "S N P"], Routing]:
        """Dispatch weights (sum to 1 over tokens), combine weights (sum to 1 over slots), the latter by expert."""
        x, keep = stream.inp, stream.keep
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(self.keys.dtype)
            logits = F.linear(F.normalize(wide, dim=-1), self.scale * F.normalize(self.keys, dim=-1))
            kept = logits
            if keep is not None:
                kept = logits.masked_fill(~(keep | ~keep.any(1, keepdim=True)).unsqueeze(-1), float("-inf"))
            combine = logits.softmax(-1)
            return kept.softmax(1), *self._steer(combine, stream)

    def _steer(self, combine: Float[Tensor, "S N P"], stream: Stream) -> tuple[Float[Tensor, "S N P"], Routing]:
        slots = combine.unflatten(-1, (*self.sizes, -1))
        weights = slots.sum(-1).unsqueeze(2)  # (S, N, 1, E)
        every = torch.ones_like(weights, dtype=torch.bool)
        routing = Routing(weights.sum(-1), weights, every, weights, stream.keep, self.groups, self.sizes)
        changed = self.steered(routing)
        if changed is not routing:
            # The slots of an expert keep their proportion.
            factor = changed.weights / weights.clamp(min=torch.finfo(weights.dtype).tiny)
            combine = (slots * factor.squeeze(2).unsqueeze(-1)).flatten(2)
        return combine, changed


class _SoftMixture(nn.Module):
    """Slots and experts of one stream: E (2 D R + R + D) parameters beside the keys."""

    def __init__(self, target: str, width: int, *, experts: int, slots: int, rank: int, act: str) -> None:
        super().__init__()
        self.target, self.experts = target, experts
        self.slots, self.act = Slots(target, width, experts, slots), ACTIVATIONS[act]
        self.down = nn.Parameter(torch.empty(experts, width, rank).uniform_(-(width**-0.5), width**-0.5))
        self.down_bias = nn.Parameter(torch.zeros(experts, 1, rank))
        self.up, self.up_bias = (
            nn.Parameter(torch.zeros(experts, rank, width)),
            nn.Parameter(torch.zeros(experts, 1, width)),
        )

    def forward(self, streams: Mapping[str, Stream]) -> tuple[Float[Tensor, "S N D"], Routing]:
        """Delta, and the combine weights by expert as routing."""
        x = streams[self.target].inp
        dispatch, combine, routing = self.slots(streams[self.target])
        slots = (dispatch.to(x.dtype).transpose(1, 2) @ x).unflatten(1, (self.experts, -1))  # (S, E, P, D)
        hidden = self.act(slots @ self.down + self.down_bias)
        out = (hidden @ self.up + self.up_bias).flatten(1, 2)
        return combine.to(out.dtype) @ out, routing


class SoftMoA(PerStream):
    """Soft mixtures of bottleneck adapters, every modality for itself.

    Args:
        sites: where the backbone stands open.
        rank: R of an expert.
        experts: E.
        slots: P per expert.
        act: relu, gelu or silu.
        at: sites that get a part, see ``chosen``.
        balance_weight: see ``Peft``.

    Raises:
        ConfigError: sizes below 1, unknown activation.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 8,
        experts: int = 4,
        slots: int = 1,
        act: str = "relu",
        at: str | Sequence[int] = "all",
        balance_weight: float = 0.0,
    ) -> None:
        need_positive(rank=rank, experts=experts, slots=slots)
        need_activation(act)

        def build(target: str, widths: Mapping[str, int]) -> nn.Module:
            return _SoftMixture(target, widths[target], experts=experts, slots=slots, rank=rank, act=act)

        super().__init__(sites, build, at=at, balance_weight=balance_weight)
