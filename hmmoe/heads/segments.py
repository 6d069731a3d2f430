"""A head that looks at every segment in the light of the other modalities before it makes up its mind."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmmoe.errors import ConfigError
from hmmoe.masked import masked_mean
from hmmoe.types import Features


class SegmentFusionHead(nn.Module):
    """Pooled features of all modalities joined segment by segment, then mean and maximum over segments, then an MLP.

    A modality of one segment (a sentence) is set beside each segment of the others (the boxes of a picture): what holds
    of some segment and what holds of all stay apart. The order of the segments does not matter.

    Args:
        widths: width by modality.
        classes: number of logits.
        hidden: width of the hidden layers.
        fusion: "concat" runs an MLP on the vectors side by side; "product" maps each to the hidden width and multiplies
            (low-rank bilinear pooling, arXiv 1610.04325), which binds what is asked to what is seen.
        dropout: after each hidden layer.

    Raises:
        ConfigError: unknown fusion.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        classes: int,
        hidden: int,
        fusion: Literal["concat", "product"] = "concat",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if fusion not in ("concat", "product"):
            raise ConfigError(f"task.head.fusion must be concat or product, not {fusion!r}")
        self.modalities = tuple(widths)
        self.norms = nn.ModuleDict({m: nn.LayerNorm(d) for m, d in widths.items()})
        if fusion == "product":
            self.maps = nn.ModuleDict(
                {
                    m: nn.Sequential(nn.Linear(d, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden))
                    for m, d in widths.items()
                }
            )
            first = [nn.LayerNorm(hidden)]
        else:
            self.maps = None
            first = [nn.Linear(sum(widths.values()), hidden), nn.GELU(), nn.Dropout(dropout)]
        self.each = nn.Sequential(*first, nn.Linear(hidden, hidden), nn.GELU())
        self.out = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "B classes"]:
        """Logits; a segment counts where any modality with several segments has it."""
        segments = max(features[m].pooled.shape[1] for m in self.modalities)
        hidden = self.each(self._join({m: self.norms[m](features[m].pooled) for m in self.modalities}, segments))
        keep = self._keep(features, segments)
        if keep is None:
            return self.out(torch.cat((hidden.mean(1), hidden.amax(1)), -1))
        mean = masked_mean(hidden, keep)
        most = hidden.masked_fill(~keep.unsqueeze(-1), hidden.detach().amin() - 1).amax(1)
        return self.out(torch.cat((mean, torch.where(keep.any(1, keepdim=True), most, 0.0)), -1))

    def _join(self, pooled: dict[str, Float[Tensor, "B _T _D"]], segments: int) -> Float[Tensor, "B T D"]:
        if self.maps is None:
            return torch.cat([vector.expand(-1, segments, -1) for vector in pooled.values()], -1)
        return torch.stack([self.maps[m](vector).expand(-1, segments, -1) for m, vector in pooled.items()]).prod(0)

    def _keep(self, features: Mapping[str, Features], segments: int) -> Tensor | None:
        """Segments that some modality shows; None where nothing is missing."""
        masks = [
            features[m].keep.any(-1)
            for m in self.modalities
            if features[m].keep is not None and features[m].pooled.shape[1] == segments
        ]
        return torch.stack(masks).any(0) if masks else None
