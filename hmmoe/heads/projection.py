"""A head for dual encoders: the vectors of a clip and of a sentence in one space, made without each other."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.errors import ConfigError
from hmmoe.masked import masked_mean
from hmmoe.types import Features

CLIP, TEXT = 0, 1
"""Rows of the output."""
COLDEST = 0.01
"""Lowest temperature, as in CLIP."""


class ProjectionHead(nn.Module):
    """Pooled features of every modality, averaged over kept segments, through a linear map of their own, of length one.

    A clip's vector is the sum of those of its modalities that are there (picture, sound), again of length one; a
    sentence's is the text's. Computed in float32. Nothing of a clip reaches the sentence's vector here, and the other
    way round.

    Args:
        widths: width by modality; "text" and one other at least.
        dim: width of the shared space.
        temperature: the contrastive loss divides scores by it; a learned one starts here and stays above 0.01.
        learned: whether it trains.

    A map whose width is ``dim`` starts as the identity: features that were made to be compared (VALOR's contrastive
    ones) are compared as they are before the first step.

    Raises:
        ConfigError: no text or nothing beside it; a dim or temperature that cannot be.
    """

    def __init__(
        self, widths: Mapping[str, int], *, dim: int = 512, temperature: float = 0.07, learned: bool = True
    ) -> None:
        super().__init__()
        if "text" not in widths or len(widths) < 2:
            raise ConfigError(f"retrieval needs text and another modality, the backbone has {', '.join(widths)}")
        if dim < 1 or not temperature >= COLDEST:
            raise ConfigError(
                f"task.head.dim={dim}, task.head.temperature={temperature}: expected 1 or more, and at least {COLDEST}"
            )
        self.modalities = tuple(widths)
        self.maps = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in widths.items()})
        for linear in self.maps.values():
            if linear.in_features == dim:
                nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        start = torch.tensor(math.log(temperature))
        self.register_parameter("log_temperature", nn.Parameter(start) if learned else None)
        self.fixed = temperature

    def temperature(self) -> Float[Tensor, ""]:
        """The divisor of scores in the loss."""
        if self.log_temperature is None:
            return self.maps["text"].weight.new_tensor(self.fixed)
        return self.log_temperature.exp().clamp(min=COLDEST)

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "B 2 dim"]:
        """Clip and sentence, each of length one; zero where nothing of it is there."""
        vectors = {m: self._vector(m, features[m]) for m in self.modalities}
        clip = F.normalize(sum(vector for m, vector in vectors.items() if m != "text"), dim=-1)
        return torch.stack((clip, vectors["text"]), 1)

    def _vector(self, modality: str, features: Features) -> Float[Tensor, "B dim"]:
        with torch.autocast(features.pooled.device.type, enabled=False):
            pooled = features.pooled.to(self.maps[modality].weight.dtype)
            there = None if features.keep is None else features.keep.any(-1)
            vector = F.normalize(self.maps[modality](masked_mean(pooled, there)), dim=-1)
            return vector if there is None else vector * there.any(1, keepdim=True)
