"""A row of the utilisation table. Whoever only reads tables waits for no torch."""

from typing import Literal, NamedTuple


class Usage(NamedTuple):
    """One row of the utilisation table.

    At level "group" the shares are of the whole delta and ``expert`` is None; at level "expert" they are of the
    expert's own group. ``ratio`` is weight share over fair share: 0 dead, 1 fair. ``entropy`` is that of the shares
    of the row's level (of its group, at level "expert"), 1 where all share alike; ``token_entropy`` is the mean entropy
    of the single decisions: near 1 the router has no opinion, whatever the shares say. Both are divided by the
    logarithm of the number of choices; with one choice they are 1 and 0.
    """

    site: str
    depth: int
    modality: str
    level: Literal["group", "expert"]
    group: str
    expert: int | None
    weight_share: float
    selection_share: float
    ratio: float
    entropy: float
    token_entropy: float
    tokens: int
    dead: bool

    @property
    def kind(self) -> str:
        """The expert kind: what stands before the source in the group's name."""
        return self.group.split(":")[0]
