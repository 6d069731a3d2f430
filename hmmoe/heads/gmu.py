"""Gated multi-modal unit: fusion on pooled features (Arevalo et al., arXiv 1702.01992, section 3.1)."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmmoe.heads.fusion import FusionHead
from hmmoe.types import Features


class GMUHead(FusionHead):
    """h = sum_m z_m * tanh(W_m x_m), z = softmax over modalities of V [x], channel by channel; then FusionHead's end.

    For two modalities the softmax is the paper's sigmoid gate z against 1 - z. With ``peft=linear_probe`` this is GMU
    on frozen features. A head and no method at sites: it acts once, behind the towers, so it goes with every peft=.

    Args:
        widths: width by modality.
        options: as in ``FusionHead``; ``hidden`` is the width of h.
    """

    def __init__(self, widths: Mapping[str, int], **options: Any) -> None:
        super().__init__(widths, **options)
        width = self.hidden.out_features
        del self.hidden
        self.maps = nn.ModuleDict({m: nn.Linear(d, width) for m, d in widths.items()})
        self.gates = nn.Linear(sum(widths.values()), len(widths) * width)

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "*B classes"]:
        """Logits."""
        pooled = [self.norms[m](self._pool(features[m])) for m in self.modalities]
        mapped = torch.stack([self.maps[m](x).tanh() for m, x in zip(self.modalities, pooled, strict=True)], -2)
        gates = self.gates(torch.cat(pooled, -1)).unflatten(-1, (len(pooled), -1)).softmax(-2)
        return self.out(self.dropout((gates * mapped).sum(-2)))
