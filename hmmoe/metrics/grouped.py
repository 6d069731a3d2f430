"""Mean score over all examples or over those of some kinds: overall accuracy and its cells."""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

UNIT = 1_000_000


class GroupMean(Metric):
    """Mean of scores (0..1) over the examples whose kind is among ``kinds``.

    Sum and count are kept, both as whole numbers (scores in millionths): the result is the same to the last bit
    however examples are cut into batches or spread over processes, on devices without float64 too.

    Args:
        kinds: which examples count; None counts all.
    """

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, kinds: Collection[str] | None = None) -> None:
        super().__init__()
        self.kinds = None if kinds is None else frozenset(kinds)
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores: Float[Tensor, " B"], kinds: Sequence[str] | None = None) -> None:
        """Add a batch: the score and the kind of every example.

        Raises:
            ValueError: kinds are asked for and there is not one for every score.
        """
        if self.kinds is not None:
            if kinds is None or len(kinds) != len(scores):
                raise ValueError(f"one kind per score: found {len(kinds or ())} kinds for {len(scores)} scores")
            chosen = [kind in self.kinds for kind in kinds]
            scores = scores[torch.tensor(chosen, dtype=torch.bool, device=scores.device)]
        self.total += (scores.float() * UNIT).round().to(torch.int64).sum()
        self.count += len(scores)

    def compute(self) -> Tensor:
        """The mean; NaN where no example counted."""
        return self.total / self.count / UNIT
