"""What all routers have in common: for a test they can be told whom to leave out, and how to change their decision."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from hmmoe.marks import Routes
from hmmoe.types import Routing


class Steered(Routes):
    """Decides by a ``Routing`` that goes through ``steered`` before anyone mixes by it.

    ``barred`` (G, E), where it is set, takes experts away: they weigh nothing, and nobody else is scaled up. A router
    that selects must select among the others. ``changes`` are made one after the other.
    ``hmmoe.analysis.interventions`` sets both and takes them back.

    Args:
        target: the modality whose delta is mixed.
        groups: group names.
        sizes: experts per group.
    """

    undefined: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Actions that mean nothing here (force, swap), each with the reason and what to do instead."""

    real: Bool[Tensor, "G E"]
    """Which places of the padded table are experts."""

    barred: Bool[Tensor, "G E"] | None

    def __init__(self, target: str, groups: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__()
        self.target, self.groups, self.sizes = target, tuple(groups), tuple(sizes)
        taken = torch.arange(max(self.sizes, default=0)) < torch.tensor(self.sizes)[:, None]
        self.register_buffer("real", taken, persistent=False)
        self.register_buffer("barred", None, persistent=False)
        self.changes: tuple[Callable[[Routing], Routing], ...] = ()

    def steered(self, routing: Routing) -> Routing:
        """The decision to mix by; the very same object where nothing is set."""
        if self.barred is not None:
            routing = routing._replace(
                expert_weights=routing.expert_weights.masked_fill(self.barred, 0),
                selected=routing.selected & ~self.barred,
            )
        for change in self.changes:
            routing = change(routing)
        return routing
