"""Late fusion: one classifier per modality, their logits averaged."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmmoe.heads.fusion import FusionHead
from hmmoe.types import Features


class LateFusionHead(FusionHead):
    """mean_m MLP_m(x_m): no modality sees another before the logits, the floor of every fusion.

    With ``peft=linear_probe`` it is late fusion of frozen features. A head and no method at sites, see ``GMUHead``.

    Args:
        widths: width by modality.
        options: as in ``FusionHead``; ``hidden`` is the width of every hidden layer.
    """

    def __init__(self, widths: Mapping[str, int], **options: Any) -> None:
        super().__init__(widths, **options)
        hidden, classes = self.hidden.out_features, self.out.out_features
        del self.hidden, self.out
        self.hiddens = nn.ModuleDict({m: nn.Linear(d, hidden) for m, d in widths.items()})
        self.outs = nn.ModuleDict({m: nn.Linear(hidden, classes) for m in widths})

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "*B classes"]:
        """Logits."""
        votes = []
        for m in self.modalities:
            hidden = self.act(self.hiddens[m](self.norms[m](self._pool(features[m]))))
            votes.append(self.outs[m](self.dropout(hidden)))
        return torch.stack(votes).mean(0)
