"""Public mixture packages as methods on the same towers; whichever of them is installed takes part.

pip install soft-moe-pytorch mixture-of-experts st-moe-pytorch
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from torch import Tensor, nn

from hmmoe.peft.base import Peft
from hmmoe.types import Adapted, Site, Stream

EXPERTS = 8


def soft_moe(width: int, hidden: int) -> nn.Module:
    """Soft mixture (Puigcerver et al., arXiv 2308.00951), a slot for every fourth expert's token."""
    package = import_module("soft_moe_pytorch")
    return package.SoftMoE(width, num_experts=EXPERTS, num_slots=4, expert_mult=hidden / width)


def shazeer_moe(width: int, hidden: int) -> nn.Module:
    """Top-2 routing with capacities (Shazeer et al., arXiv 1701.06538)."""
    return import_module("mixture_of_experts").MoE(width, num_experts=EXPERTS, hidden_dim=hidden)


def st_moe(width: int, hidden: int) -> nn.Module:
    """Top-2 routing of ST-MoE (Zoph et al., arXiv 2202.08906)."""
    package = import_module("st_moe_pytorch")
    return package.MoE(width, num_experts=EXPERTS, gating_top_n=2, expert_hidden_mult=hidden / width)


PACKAGES: dict[str, Callable[[int, int], nn.Module]] = {
    "soft_moe_pytorch": soft_moe,
    "mixture_of_experts": shazeer_moe,
    "st_moe_pytorch": st_moe,
}


class PublicMixture(Peft):
    """A package's mixture after every FFN of every stream; its output is the delta.

    Args:
        sites: where the backbone stands open.
        make: the package's module, from width and hidden width.
        rank: hidden width of an expert.
    """

    def __init__(self, sites: Sequence[Site], *, make: Callable[[int, int], nn.Module], rank: int) -> None:
        super().__init__(sites)
        self.experts = nn.ModuleDict(
            {s.label: nn.ModuleDict({m: make(d, rank) for m, d in s.widths.items()}) for s in sites}
        )

    def forward(self, site: Site, streams: dict[str, Stream]) -> Adapted:
        """Deltas; the packages' own prices are left out."""
        return Adapted({m: _first(self.experts[site.label][m](s.out)) for m, s in streams.items()}, {})


def _first(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    return found if isinstance(found, Tensor) else found[0]


def installed() -> dict[str, Callable[[int], Callable[..., Peft]]]:
    """Methods by package name; each asks for its rank."""
    return {
        f"{name}, {EXPERTS} experts": lambda rank, make=make: partial(PublicMixture, make=make, rank=rank)
        for name, make in PACKAGES.items()
        if find_spec(name)
    }
