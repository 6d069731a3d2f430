"""Bottleneck adapters beside or behind the FFN.

series    Houlsby et al., arXiv 1902.00751 (the adapter after the feed-forward layer): delta = up(act(down(FFN(x)))).
parallel  He et al., arXiv 2110.04366: delta = s up(act(down(x))), x what the FFN reads, s = 4 in the paper's best form.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmmoe.errors import ConfigError
from hmmoe.experts.kinds import ACTIVATIONS
from hmmoe.peft.base import Peft, chosen
from hmmoe.types import Adapted, Site, Stream


class Bottleneck(nn.Module):
    """up(act(down x)), D -> R -> D, with biases: 2 D R + R + D parameters; ``up`` starts at zero."""

    def __init__(self, width: int, rank: int, act: str) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        self.act = ACTIVATIONS[act]
        with torch.no_grad():
            self.up.weight.zero_()
            self.up.bias.zero_()

    def forward(self, x: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
        """The adapter's output, without residual."""
        return self.up(self.act(self.down(x)))


class SeriesAdapter(Peft):
    """A bottleneck on the FFN's output, every modality for itself.

    Args:
        sites: where the backbone stands open.
        rank: width of the bottleneck.
        act: relu, gelu or silu.
        at: all, "first-last" or a list of site indices.
        scale: factor of the delta.
    """

    reads = "out"

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 32,
        act: str = "relu",
        at: str | Sequence[int] = "all",
        scale: float = 1.0,
    ) -> None:
        super().__init__(sites)
        if rank < 1:
            raise ConfigError(f"peft.rank must be at least 1, found {rank}: peft.rank=32")
        if act not in ACTIVATIONS:
            raise ConfigError(f"peft.act must be one of {', '.join(ACTIVATIONS)}, not {act!r}")
        self.scale = scale
        self.adapters = nn.ModuleDict(
            {
                sites[i].label: nn.ModuleDict(
                    {m: Bottleneck(d, rank, act) for m, d in sites[i].widths.items() if m not in sites[i].memory}
                )
                for i in sorted(chosen(sites, at))
            }
        )

    def forward(self, site: Site, streams: dict[str, Stream]) -> Adapted:
        """One delta per modality, no routing."""
        if site.label not in self.adapters:
            return Adapted({}, {})
        adapters = self.adapters[site.label]
        return Adapted(
            {m: self.scale * adapters[m](getattr(s, self.reads)) for m, s in streams.items() if not s.memory}, {}
        )


class ParallelAdapter(SeriesAdapter):
    """A bottleneck that reads what the FFN reads; its delta joins the FFN's output."""

    reads = "inp"
