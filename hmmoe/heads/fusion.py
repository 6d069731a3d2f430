"""Heads: features by modality to logits."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmmoe.errors import ConfigError
from hmmoe.experts.kinds import ACTIVATIONS
from hmmoe.masked import masked_mean
from hmmoe.types import Features

Level = Literal["segment", "sample"]


class FusionHead(nn.Module):
    """Pooled features of all modalities, concatenated, then an MLP.

    Args:
        widths: width by modality.
        classes: number of logits.
        hidden: width of the hidden layer.
        level: "segment" gives (B, T, classes), "sample" averages kept segments first and gives (B, classes).
        act: activation after the hidden layer; None for the two bare linear layers of LAVISH's AVE head.
        norm: LayerNorm on every modality's pooled vector first.
        dropout: before the last layer.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        classes: int,
        hidden: int,
        level: Level,
        act: str | None = "gelu",
        norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if level not in ("segment", "sample"):
            raise ConfigError(f"task.head.level must be segment or sample, not {level!r}")
        self.level = level
        self.modalities = tuple(widths)
        self.norms = nn.ModuleDict({m: nn.LayerNorm(d) if norm else nn.Identity() for m, d in widths.items()})
        self.hidden = nn.Linear(sum(widths.values()), hidden)
        self.act = ACTIVATIONS[act] if act else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, classes)

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "*B classes"]:
        """Logits."""
        pooled = [self.norms[m](self._pool(features[m])) for m in self.modalities]
        return self.out(self.dropout(self.act(self.hidden(torch.cat(pooled, -1)))))

    def _pool(self, features: Features) -> Float[Tensor, "*B D"]:
        if self.level == "segment":
            return features.pooled
        return masked_mean(features.pooled, None if features.keep is None else features.keep.any(-1))
