"""Bottleneck adapters beside or behind the FFN, and behind attention.

series    delta = up(act(down(FFN(x)))). Pfeiffer et al., arXiv 2005.00247: behind the FFN. Houlsby et al., arXiv
          1902.00751: behind the output projection of attention too, h -> h + up(act(down h)) before norm and residual.
parallel  He et al., arXiv 2110.04366: delta = s up(act(down x)), x what the FFN reads, s = 4 in the paper's best form.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmmoe.errors import ConfigError
from hmmoe.experts.kinds import ACTIVATIONS
from hmmoe.marks import Inserted
from hmmoe.peft.base import Peft, Size, chosen
from hmmoe.peft.per_stream import need_activation
from hmmoe.types import Adapted, Site, Stream

Placement = Literal["pfeiffer", "houlsby"]


class Bottleneck(nn.Module):
    """up(act(down x)), D -> R -> D, with biases: 2 D R + R + D parameters; ``up`` starts at zero.

    ``freeze_down`` leaves the weight of ``down`` as drawn (LoRA-FA, arXiv 2308.03303): D R + R + D of them train.
    """

    def __init__(self, width: int, rank: int, act: str, *, freeze_down: bool = False) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        self.down.weight.requires_grad_(not freeze_down)
        self.act = ACTIVATIONS[act]
        with torch.no_grad():
            self.up.weight.zero_()
            self.up.bias.zero_()

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        """The adapter's output, without residual."""
        return self.up(self.act(self.down(x)))


class Behind(Inserted):
    """An adapter on the output of a frozen layer inside the backbone."""

    def __init__(self, adapter: nn.Module, scale: float) -> None:
        super().__init__()
        self.adapter, self.scale = adapter, scale

    def forward(self, h: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        """h and what the adapter adds."""
        return h + self.scale * self.adapter(h)


def _pass_through(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """Forward hook: what the layer wrote goes through the adapter that hangs on it."""
    return layer.behind(output)


class AtSites(Peft):
    """One adapter per site and stream that is updated.

    Args:
        sites: where the backbone stands open.
        make: adapter of a width.
        at: sites that get one, see ``chosen``.
        scale: factor of the delta.
    """

    reads = "out"

    def __init__(
        self, sites: Sequence[Site], make: Callable[[int], nn.Module], *, at: str | Sequence[int] = "all", scale: float
    ) -> None:
        super().__init__(sites)
        self.make, self.scale = make, scale
        self.adapters = nn.ModuleDict(
            {
                sites[i].label: nn.ModuleDict(
                    {m: make(d) for m, d in sites[i].widths.items() if m not in sites[i].memory}
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


class Placed(AtSites):
    """Adapters behind the FFN, and behind attention where the placement says so.

    Args:
        sites, make, at, scale: see ``AtSites``.
        placement: "pfeiffer" is behind the FFN; "houlsby" also behind the output projection of every block's
            attention, once per layer: modalities that share a tower share these.

    Raises:
        ConfigError: unknown placement, or houlsby with a choice of sites (a block need not be one).
    """

    advice = (
        "this tower reads the weight of its attention's output projection itself, so nothing can stand behind that "
        "layer: set peft.placement=pfeiffer"
    )

    def __init__(
        self,
        sites: Sequence[Site],
        make: Callable[[int], nn.Module],
        *,
        at: str | Sequence[int] = "all",
        scale: float = 1.0,
        placement: Placement = "pfeiffer",
    ) -> None:
        super().__init__(sites, make, at=at, scale=scale)
        if placement not in ("pfeiffer", "houlsby"):
            raise ConfigError(f"peft.placement must be pfeiffer or houlsby, not {placement!r}")
        if placement == "houlsby" and at != "all":
            raise ConfigError(
                f"peft.placement=houlsby puts an adapter behind every attention, peft.at={at} chooses sites: set "
                "peft.at=all or peft.placement=pfeiffer"
            )
        self.placement = placement

    def prepare(self, backbone: nn.Module) -> None:
        """Hang an adapter on the output projection of every attention."""
        if self.placement == "pfeiffer":
            return
        for name in dict.fromkeys(part.name for part in backbone.linears("o")):
            layer = backbone.get_submodule(name)
            layer.behind = Behind(self.make(layer.weight.shape[0]), self.scale)
            layer.register_forward_hook(_pass_through)


class SeriesAdapter(Placed):
    """A bottleneck on the FFN's output, every modality for itself.

    Args:
        sites: where the backbone stands open.
        rank: width of the bottleneck.
        act: relu, gelu or silu.
        freeze_down: see ``Bottleneck``.
        common: see ``Placed``.

    Raises:
        ConfigError: rank below 1, unknown activation or placement.
    """

    sizes = (Size("rank"),)

    def __init__(
        self, sites: Sequence[Site], *, rank: int = 32, act: str = "relu", freeze_down: bool = False, **common: Any
    ) -> None:
        super().__init__(sites, bottleneck(rank, act, freeze_down=freeze_down), **common)


class ParallelAdapter(AtSites):
    """A bottleneck that reads what the FFN reads; its delta joins the FFN's output.

    Args:
        sites, rank, act: as for ``SeriesAdapter``.
        scale: s.
        freeze_down: see ``Bottleneck``.
        common: see ``AtSites``.

    Raises:
        ConfigError: rank below 1, unknown activation.
    """

    reads = "inp"
    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 32,
        act: str = "relu",
        scale: float = 4.0,
        freeze_down: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(sites, bottleneck(rank, act, freeze_down=freeze_down), scale=scale, **common)


def bottleneck(rank: int, act: str, *, freeze_down: bool = False) -> Callable[[int], Bottleneck]:
    """A bottleneck of any width.

    Raises:
        ConfigError: rank below 1, unknown activation.
    """
    if rank < 1:
        raise ConfigError(f"peft.rank must be at least 1, found {rank}: peft.rank=32")
    need_activation(act)
    return partial(Bottleneck, rank=rank, act=act, freeze_down=freeze_down)
