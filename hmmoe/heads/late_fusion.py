"""Late fusion: one classifier per modality, their logits averaged."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmmoe.heads.fusion import FusionHead, Level
from hmmoe.types import Features


class LateFusionHead(FusionHead):
    """mean_m MLP_m(x_m): no modality sees another before the logits, the floor of every fusion.

    With ``peft=linear_probe`` it is late fusion of frozen features. A head and no method at sites, see ``GMUHead``.

    Args:
        widths: width by modality.
        classes: number of logits.
        hidden: width of every hidden layer.
        level: as in ``FusionHead``.
        act: activation after the hidden layer; None for none.
        norm: LayerNorm on every modality's pooled vector first.
        dropout: before the last layers.
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
        super().__init__(widths, classes=classes, hidden=hidden, level=level, act=act, norm=norm, dropout=dropout)
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
