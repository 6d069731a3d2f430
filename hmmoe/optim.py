"""Optimizer and schedule from the roles of the parameters: adapters, router, head, unfrozen backbone."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hmmoe.errors import ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.trainable import ROLES, roles


class Recipe:
    """How the trainable parameters move.

    Args:
        optimizer: builds the optimizer from parameter groups.
        lr: peak learning rate by role; adapters, router, head and backbone must all be named.
        warmup: share of all steps over which the rate rises linearly from 0.
        decay: shape after the warm-up: constant, linear or cosine, the last two towards 0.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        *,
        lr: Mapping[str, float],
        warmup: float = 0.0,
        decay: Literal["constant", "linear", "cosine"] = "constant",
    ) -> None:
        if set(lr) != set(ROLES):
            raise ConfigError(f"optim.lr needs a rate for each of {', '.join(ROLES)}, found {', '.join(lr)}")
        if not 0 <= warmup < 1 or decay not in ("constant", "linear", "cosine"):
            raise ConfigError(
                f"optim.warmup must lie in 0..1 and optim.decay be constant, linear or cosine, found {warmup}, {decay}"
            )
        self.optimizer, self.lr, self.warmup, self.decay = optimizer, dict(lr), warmup, decay

    def build(self, model: AdaptedModel, steps: int) -> dict[str, Any]:
        """Lightning's optimizer configuration for a run of ``steps`` optimizer steps.

        Vectors (biases, norms) are kept out of weight decay.
        """
        parameters = dict(model.named_parameters())
        groups: dict[tuple[str, bool], list[Any]] = {}
        for name, role in roles(model).items():
            groups.setdefault((role, parameters[name].ndim > 1), []).append(parameters[name])
        optimizer = self.optimizer(
            [
                {"params": tensors, "lr": self.lr[role], "name": role if decays else f"{role}_vectors"}
                | ({} if decays else {"weight_decay": 0.0})
                for (role, decays), tensors in groups.items()
            ]
        )
        # A fused optimizer would take back the scaling of float16 itself, behind gradient clipping; Lightning refuses
        # that, in bfloat16 too. Without this mark the scaler takes it back first.
        optimizer._step_supports_amp_scaling = False
        schedule = LambdaLR(optimizer, lambda step: self.factor(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int, steps: int) -> float:
        """Share of the peak rate at an optimizer step."""
        rise = self.warmup * steps
        if step < rise:
            return (step + 1) / (rise + 1)
        if self.decay == "constant":
            return 1.0
        left = max(0.0, 1 - (step - rise) / max(1.0, steps - rise))
        return left if self.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
