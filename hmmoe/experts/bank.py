"""All experts of one site: stacked projections of every stream and what each kind needs between them."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.experts.kinds import ChannelAttention, CrossAttention, Single

KINDS = ("single", "cross", "channel")


class Plan(NamedTuple):
    """Size of the groups of one kind."""

    rank: int
    experts: int


class Slot(NamedTuple):
    """E experts that share their down-projections: of one modality, or of a pair in both directions."""

    kind: str
    modalities: tuple[str, ...]
    rank: int
    experts: int

    @property
    def name(self) -> str:
        """The kind and those whom it joins: single:vision, cross:vision+text."""
        return f"{self.kind}:{'+'.join(self.modalities)}"


class Group(NamedTuple):
    """One group of one target stream, in the order of its router's outputs."""

    name: str
    slot: int
    source: str | None
    experts: int


class ExpertBank(nn.Module):
    """Experts of one site (HMMoE, arXiv 2503.20633, section III-C), for every stream at once.

    Groups of stream m: single, cross:n and channel:n for each other stream n. The expert e of a cross or channel group
    between m and n owns one down-projection per stream, used in both directions; up-projections and the maps at rank R
    belong to a direction. Down-projections are never shared between groups. ``up`` starts at zero, the only zero
    factor of every path; its last columns are the experts' output biases, weighted by the gates.

    Parameters of one site for two streams of widths summing to D, E experts each, all three kinds:
    E (3 (2 R D + 2 R + D) + 8 R^2 + 6 R).

    Args:
        widths: width by modality.
        plans: sizes by kind (single, cross, channel); kinds that need a partner vanish where there is none.
        act: activation of the single experts.
        heads: attention heads of a cross expert.
        gate_space: where a channel expert scales, "rank" or "full".
        memory: modalities that are read and never updated: no group of their own, no up-projection.
        drop: slot name -> experts that are not built (they were pruned); a slot without experts is no group.
        freeze_down: down-projections stay as drawn, their biases train (the A of LoRA-FA, Zhang et al., arXiv
            2308.03303): 3 R D parameters of every expert are saved and do not train, and no gradient needs the tokens.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        plans: Mapping[str, Plan],
        *,
        act: str = "relu",
        heads: int = 1,
        gate_space: Literal["rank", "full"] = "rank",
        memory: Collection[str] = (),
        drop: Mapping[str, Collection[int]] = MappingProxyType({}),
        freeze_down: bool = False,
    ) -> None:
        super().__init__()
        self.modalities = tuple(widths)
        self.targets = tuple(m for m in widths if m not in memory)
        self.whole = tuple(
            Slot(kind, pair, *plans[kind])
            for kind in KINDS
            if kind in plans
            for pair in combinations(self.modalities, 1 if kind == "single" else 2)
            if set(pair) - set(memory)
        )
        """The slots before anything was dropped."""
        left = (slot._replace(experts=slot.experts - len(set(drop.get(slot.name, ())))) for slot in self.whole)
        self.slots = tuple(slot for slot in left if slot.experts)
        self.groups = {m: groups_of(m, self.slots) for m in self.targets}
        self.down, self.down_bias, self.up = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for m, width in widths.items():
            mine = [slot for slot in self.slots if m in slot.modalities]
            if not mine:
                continue  # a memory that no kind of expert reads
            hidden, experts = sum(s.rank * s.experts for s in mine), sum(s.experts for s in mine)
            drawn = torch.empty(hidden, width).uniform_(-(width**-0.5), width**-0.5)
            self.down[m] = nn.Parameter(drawn, requires_grad=not freeze_down)
            self.down_bias[m] = nn.Parameter(torch.zeros(hidden))
            if m in self.targets:
                self.up[m] = nn.Parameter(torch.zeros(width, hidden + experts))
        self.middle = nn.ModuleDict()
        for m in self.targets:
            for group in self.groups[m]:
                slot = self.slots[group.slot]
                if slot.kind == "single":
                    middle = Single(act)
                elif slot.kind == "cross":
                    middle = CrossAttention(slot.experts, slot.rank, heads=heads)
                else:
                    middle = ChannelAttention(slot.experts, slot.rank, width=widths[m], space=gate_space)
                self.middle[key(m, group)] = middle

    def split(self, m: str, flat: Float[Tensor, "*S H"]) -> dict[int, Float[Tensor, "*S E R"]]:
        """Hidden channels of stream m to its slots."""
        mine = [i for i, slot in enumerate(self.slots) if m in slot.modalities]
        parts = flat.split([self.slots[i].rank * self.slots[i].experts for i in mine], -1)
        return {i: part.unflatten(-1, (self.slots[i].experts, -1)) for i, part in zip(mine, parts, strict=True)}

    def hidden(self, m: str) -> int:
        """Hidden channels of stream m: columns of ``up`` before the output biases."""
        return self.down[m].shape[0]


def groups_of(m: str, slots: Sequence[Slot]) -> tuple[Group, ...]:
    """The groups of a target stream, in the order of the slots."""
    groups = []
    for index, slot in enumerate(slots):
        if m in slot.modalities:
            source = next((n for n in slot.modalities if n != m), None)
            name = slot.kind if source is None else f"{slot.kind}:{source}"
            groups.append(Group(name, index, source, slot.experts))
    return tuple(groups)


def key(m: str, group: Group) -> str:
    """Name of a direction's middle part."""
    return f"{m}<{group.name}"


Gates = Mapping[str, Float[Tensor, "S _N _G _E"]]
Tokens = Mapping[str, Float[Tensor, "S _N _D"]]
Keeps = Mapping[str, Bool[Tensor, "S _N"] | None]
