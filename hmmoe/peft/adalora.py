"""AdaLoRA (Zhang et al., arXiv 2303.10512): W + P diag(E) Q, whose rank budget falls while it trains.

The layers, the importance scores and the masking are HF peft's; there they run in the caller's training loop, here in
the hooks that every method has. The budget of singular values over all layers falls from ``init_r`` to ``target_r`` per
layer as a cubic, between the first ``start`` and the last ``settle`` of all optimizer steps; a masked triplet keeps its
P and Q and has E = 0. To the loss comes ``orth_reg_weight`` times the mean of ||Q Q^T - I||_F and ||P^T P - I||_F.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hmmoe.errors import ConfigError
from hmmoe.peft.hf import HFPeft
from hmmoe.peft.hf_format import Stored
from hmmoe.types import Site

log = logging.getLogger(__name__)

SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""Of the library's allocator: tensors by parameter name."""


class AdaLoRA(HFPeft):
    """HF peft's AdaLoRA with its schedule and its price.

    Args:
        sites: where the backbone stands open (the method changes its layers instead).
        start: share of all optimizer steps before the budget falls.
        settle: share of all optimizer steps after it has fallen.
        common: see ``HFPeft``; ``config`` builds ``peft.AdaLoraConfig``, whose ``tinit``, ``tfinal`` and ``total_step``
            follow from the run.

    Raises:
        ConfigError: shares that leave no room for the fall, or a target rank that is not below the first.
    """

    def __init__(self, sites: Sequence[Site], *, start: float = 0.1, settle: float = 0.5, **common: Any) -> None:
        super().__init__(sites, **common)
        if start < 0 or settle < 0 or start + settle >= 1:
            raise ConfigError(
                f"peft.start={start} and peft.settle={settle} are shares of the training, 0 <= start + settle < 1"
            )
        self.start, self.settle = start, settle
        self._falls = False

    def prepare(self, backbone: nn.Module) -> None:
        """Attach; the budget must have somewhere to fall to."""
        super().prepare(backbone)
        if not 0 < self.applied.target_r < self.applied.init_r:
            raise ConfigError(
                f"peft.config.target_r must lie below peft.config.init_r={self.applied.init_r}, found "
                f"{self.applied.target_r}; the paper takes two thirds of it"
            )

    def begin(self, steps: int) -> None:
        """Lay the schedule over the run."""
        config = self.applied
        config.total_step, config.tinit, config.tfinal = steps, int(self.start * steps), int(self.settle * steps)
        self._falls = steps - config.tfinal >= 2  # the importance of a triplet is known after one step
        if not self._falls:
            log.warning(
                "AdaLoRA: %d optimizer steps are too few for the rank to fall, it stays %d", steps, config.init_r
            )

    def penalty(self) -> Tensor:
        """The weighted price of P and Q that are not orthogonal."""
        gaps = [_gap(name, matrix) for name, matrix in self._matrices()]
        return self.applied.orth_reg_weight * torch.stack(gaps).mean()

    def after_step(self, step: int) -> None:
        """Score the triplets, mask the least important."""
        if self._falls:
            self.tuner.update_and_allocate(step)

    def schedule(self) -> dict[str, Any]:
        """Importance scores, and the triplets that are left."""
        allocator = self.tuner.rankallocator
        return {
            "scores": {kind: dict(getattr(allocator, kind)) for kind in SCORES},
            "kept": self.applied.rank_pattern,
        }

    def resume(self, schedule: dict[str, Any]) -> None:
        """Go on scoring where an interrupted run stood."""
        device = next(matrix.device for _, matrix in self._matrices())
        for kind, scores in schedule["scores"].items():
            setattr(self.tuner.rankallocator, kind, {name: score.to(device) for name, score in scores.items()})
        self.applied.rank_pattern = schedule["kept"]

    def stored(self, backbone: nn.Module, prefix: str) -> Stored | None:
        """As the other methods, at ``init_r``: a masked triplet has E = 0, so the list of those kept is left out."""
        stored = super().stored(backbone, prefix)
        if stored is not None:
            stored.config.rank_pattern = None
        return stored

    def ranks(self) -> dict[str, int]:
        """Singular values that are left, by layer."""
        return {
            name: int(self.tuner.model.get_submodule(name).lora_E["default"].count_nonzero()) for name in self.attached
        }

    def _matrices(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.attached:
            layer = self.tuner.model.get_submodule(name)
            yield "Q", layer.lora_A["default"]
            yield "P", layer.lora_B["default"]


def _gap(name: str, matrix: Tensor) -> Tensor:
    """||Q Q^T - I||_F for Q (R, in), ||P^T P - I||_F for P (out, R), in float32."""
    with torch.autocast(matrix.device.type, enabled=False):
        gram = matrix @ matrix.T if name == "Q" else matrix.T @ matrix
        return (gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)).norm()
