"""A head for samples whose segments have an order, such as the left and the right picture of NLVR2."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmmoe.errors import ConfigError
from hmmoe.types import Features


class PairHead(nn.Module):
    """Pooled vectors of all segments side by side, in order, then VLMo's classifier.

    Linear, LayerNorm, GELU, Linear, as VLMo has it for NLVR2 (``vlmo/modules/vlmo_module.py``: two passes of picture
    and sentence, the two vectors pooled at the sentence). A segment that is missing is a zero vector.

    Args:
        widths: width by modality.
        classes: number of logits.
        hidden: width of the hidden layer; VLMo: that of the vectors together.
        segments: how many segments a sample has; a modality of one segment (the sentence beside two towers' pictures)
            is set beside each.
        reads: modalities that are read, None for all; VLMo: [text].
        fusion: "concat" sets the vectors side by side; "product" first maps those of one segment to the hidden width,
            by maps of its place, and multiplies them (low-rank bilinear pooling, arXiv 1610.04325): what is asked of
            the left picture meets the left picture, for towers whose last vectors know little of each other.
        dropout: before the last layer, and inside the maps.

    Raises:
        ConfigError: ``reads`` names an unknown modality, an unknown fusion, or a batch has another number of segments.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        classes: int,
        hidden: int,
        segments: int = 2,
        reads: Sequence[str] | None = None,
        fusion: Literal["concat", "product"] = "concat",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.modalities, self.segments = tuple(widths if reads is None else reads), segments
        if not self.modalities or not set(self.modalities) <= set(widths) or segments < 1:
            raise ConfigError(
                f"task.head.reads={list(self.modalities)}, task.head.segments={segments}: expected some of "
                f"{', '.join(widths)}, and one segment or more"
            )
        if fusion not in ("concat", "product"):
            raise ConfigError(f"task.head.fusion must be concat or product, not {fusion!r}")
        own = {m: widths[m] for m in self.modalities}
        self.maps = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.LayerNorm(width),
                    nn.Linear(width, hidden),
                    nn.GELU(),
                    nn.Dropout(dropout),
                    nn.Linear(hidden, segments * hidden),
                )
                for m, width in (own if fusion == "product" else {}).items()
            }
        )
        self.hidden = nn.Linear(segments * (hidden if fusion == "product" else sum(own.values())), hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, classes)

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "B classes"]:
        """Logits."""
        vectors = [self._placed(m, self._ordered(m, features[m])) for m in self.modalities]
        joined = torch.stack(vectors).prod(0) if self.maps else torch.cat(vectors, -1)
        return self.out(self.dropout(nn.functional.gelu(self.norm(self.hidden(joined.flatten(1))))))

    def _ordered(self, modality: str, features: Features) -> Float[Tensor, "B T _D"]:
        found = features.pooled.shape[1]
        if found not in (1, self.segments):
            raise ConfigError(
                f"task.head.segments={self.segments}, but {modality} has {found} a sample: name what the data delivers"
            )
        pooled = features.pooled
        if features.keep is not None:
            pooled = pooled * features.keep.any(-1, keepdim=True)
        return pooled.expand(-1, self.segments, -1)

    def _placed(self, modality: str, vectors: Float[Tensor, "B T _D"]) -> Float[Tensor, "B T _H"]:
        """Every vector through the map of its own place."""
        if not self.maps:
            return vectors
        all_places = self.maps[modality](vectors).unflatten(-1, (self.segments, -1))
        return all_places.diagonal(dim1=1, dim2=2).transpose(1, 2)
