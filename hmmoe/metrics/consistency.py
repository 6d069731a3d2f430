"""Share of groups in which every example is right (NLVR, NLVR2)."""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from jaxtyping import Bool
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Consistency(Metric):
    """Share of groups with no wrong example.

    A group is named by a string (the sentence, or the example's identifier without its image number), so its examples
    may arrive in any batch, in any order and on any rank. An example that a distributed sampler repeats changes
    nothing.
    """

    full_state_update = False
    higher_is_better = True
    groups: list[Tensor]
    correct: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("groups", [], dist_reduce_fx="cat")
        self.add_state("correct", [], dist_reduce_fx="cat")

    def update(self, correct: Bool[Tensor, " B"], groups: Sequence[str]) -> None:
        """Add a batch.

        Raises:
            ValueError: not one group per example.
        """
        if correct.ndim != 1 or len(groups) != len(correct):
            raise ValueError(f"one group per example: found {len(groups)} groups for correct of {tuple(correct.shape)}")
        names = torch.tensor([group_number(name) for name in groups], dtype=torch.int64)
        self.groups.append(names.to(correct.device))
        self.correct.append(correct.to(torch.int64))

    def compute(self) -> Tensor:
        """Consistency in 0..1; NaN before the first example."""
        if len(self.groups) == 0:
            return torch.tensor(float("nan"), device=self.device)
        groups, correct = dim_zero_cat(self.groups), dim_zero_cat(self.correct)
        names, member = groups.unique(return_inverse=True)
        return torch.ones_like(names).scatter_reduce(0, member, correct, "amin").double().mean().float()


def group_number(name: str) -> int:
    """A string as int64, equal in every process: Python's own hash is salted, and ranks exchange tensors only."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)
