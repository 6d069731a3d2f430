"""The tuples that every room exchanges, and the one axis legend of the project.

Axis legend
    B samples   T segments (seconds, frames, boxes)   N tokens   D width   R rank   G groups   E experts of a group
    S streams in parallel: B*T where modalities meet segment by segment, B where whole samples meet
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

Batch = dict[str, Any]
"""What a datamodule yields.

    id      list of B str
    vision  (B, T, 3, H, W) float       audio  (B, T, 1, mel, frames) float
    text    {"ids": (B, L) int64, "keep": (B, L) bool}
    keep    optional {modality: (B, T) bool}; False where a modality is missing (its tensor is zero there)
    and the targets that the task reads, such as ``label``
"""
OUTSIDE = -1
"""Label of an answer that is not in the list: never right, and nothing to learn from."""


class Site(NamedTuple):
    """A meeting point: the depth at which all modalities lie open at their FFN.

    ``memory`` names those that are only read here: their streams are constant tokens.
    """

    index: int
    label: str
    widths: dict[str, int]
    memory: frozenset[str] = frozenset()


class Stream(NamedTuple):
    """One modality at a site. ``inp`` is what the FFN read, ``out`` what it wrote, before norm, scale and residual.

    ``rows`` consecutive rows of S belong to one sample; the N tokens of a row are ``parts`` segments in order.
    A ``memory`` stream is read by others and never updated.
    """

    residual: Float[Tensor, "S N D"]
    inp: Float[Tensor, "S N D"]
    out: Float[Tensor, "S N D"]
    keep: Bool[Tensor, "S N"] | None = None
    memory: bool = False
    rows: int = 1
    parts: int = 1


class Routing(NamedTuple):
    """Decisions of one stream's router at one site, always float32.

    A row of ``expert_weights`` is zero for what was not selected. ``probs`` are the local probabilities before
    selection (None where a router has none). ``keep`` marks the tokens that count in statistics.
    Groups with fewer than E experts are padded by zeros at the end; ``sizes`` holds the true counts.
    """

    group_weights: Float[Tensor, "S N G"]
    expert_weights: Float[Tensor, "S N G E"]
    selected: Bool[Tensor, "S N G E"]
    probs: Float[Tensor, "S N G E"] | None
    keep: Bool[Tensor, "S N"] | None
    groups: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def weights(self) -> Float[Tensor, "S N G E"]:
        """Share of every expert in the delta: group weight times expert weight."""
        return self.group_weights.unsqueeze(-1) * self.expert_weights


class Features(NamedTuple):
    """What a tower hands to the head.

    ``levels`` are the tokens at the end of every stage, fine to coarse, without prefix tokens, the last ones as they
    leave the tower; None where a backbone does not offer them.
    """

    tokens: Float[Tensor, "B T N D"]
    keep: Bool[Tensor, "B T N"] | None
    pooled: Float[Tensor, "B T D"]
    levels: tuple[Float[Tensor, "B T _N _D"], ...] | None = None


class Widths(dict[str, int]):
    """Width of every modality's final features; ``levels`` holds those of ``Features.levels``."""

    def __init__(self, final: Mapping[str, int], *, levels: Mapping[str, Sequence[int]]) -> None:
        super().__init__(final)
        self.levels = {modality: tuple(widths) for modality, widths in levels.items()}


class Adapted(NamedTuple):
    """What a PEFT method adds at a site, by modality; a modality that is left alone is absent."""

    deltas: dict[str, Float[Tensor, "S N D"]]
    routing: dict[str, Routing]


class ModelOutput(NamedTuple):
    logits: Tensor
    features: dict[str, Features]
    routing: dict[tuple[str, str], Routing]
    """Keyed by (site label, modality)."""
