"""A mask for every segment, from the feature maps of all stages of the vision tower and what is heard."""

import math
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.errors import ConfigError
from hmmoe.types import Features, Widths

PYRAMID = (4.0, 2.0, 1.0, 0.5)
"""Scales of the maps made of a plain tower's only one (ViTDet's simple pyramid, arXiv 2203.16527)."""


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "S C H W"]) -> Float[Tensor, "S C H W"]:
        """Same shape."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class Lateral(nn.Module):
    """One stage's tokens as a map of the decoder's channels: norm, linear, sum of dilated convolutions, then the sound.

    Args:
        width: of the tokens.
        channels: of the map.
        reduce: the linear layer divides the width by it.
        dilations: of the convolutions.
        heard: width of the sound's vector that scales the channels; None leaves it out.
    """

    def __init__(self, width: int, channels: int, *, reduce: int, dilations: Sequence[int], heard: int | None) -> None:
        super().__init__()
        narrow = max(1, width // reduce)
        self.norm, self.narrow = nn.LayerNorm(width), nn.Linear(width, narrow)
        self.convs = nn.ModuleList(nn.Conv2d(narrow, channels, 3, padding=d, dilation=d) for d in dilations)
        self.gate = None if heard is None else nn.Linear(heard, channels)

    def forward(
        self, tokens: Float[Tensor, "S N D"], scale: float, sound: Float[Tensor, "S A"] | None
    ) -> Float[Tensor, "S C H W"]:
        """A square map whose side is ``scale`` times that of the tokens' grid."""
        side = math.isqrt(tokens.shape[1])
        if side * side != tokens.shape[1]:
            raise ConfigError(
                f"the vision tower hands out {tokens.shape[1]} places, no square: masks need a square "
                "backbone.inputs.vision.size"
            )
        x = self.narrow(self.norm(tokens)).transpose(1, 2).unflatten(2, (side, side))
        if scale != 1:
            x = F.interpolate(x, size=max(1, round(side * scale)), mode="bilinear", align_corners=False)
        x = sum(conv(x) for conv in self.convs)
        return x if sound is None else x * (1 + self.gate(sound))[:, :, None, None]


class PyramidHead(nn.Module):
    """Maps of all stages, fused from coarse to fine, upsampled to the mask: one logit per pixel and segment.

    The decoder of AVSBench that LAVISH and DG-SCT put on Swin-V2 (avs_s4/model/PVT_AVSModel.py: dilated convolutions
    per stage, residual units top down, two convolutions at the end), with two differences: maps keep their own grids
    instead of 56, 28, 14 and 7 places, and sound enters as one gate per channel and stage instead of TPAVI attention,
    ``map * (1 + W a)`` with a the normed, pooled sound of the segment; where it is missing the gate is 1. A tower of
    one stage (a plain ViT) gives four maps, its own at four scales.

    Args:
        widths: width by modality, with those of the vision tower's stages.
        size: side of the mask.
        channels: of all maps.
        reduce: every stage's width is divided by this before the dilated convolutions (LAVISH: about 3).
        dilations: of these convolutions, which are added up.
        hears: let the pooled sound gate the maps. Without it nothing that a method adds to the last audio block can
            reach the mask, and a method that does so is refused as dead: set peft.at to leave that site out.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        size: int,
        channels: int = 256,
        reduce: int = 3,
        dilations: Sequence[int] = (3, 6, 12, 18),
        hears: bool = True,
    ) -> None:
        super().__init__()
        stages = widths.levels.get("vision", ()) if isinstance(widths, Widths) else ()
        if not stages:
            raise ConfigError(
                "masks need feature maps of a vision tower, but the backbone offers none (it has "
                f"{', '.join(widths)}): choose one of separate towers, such as backbone=lavish_swinv2_l"
            )
        if min(size, channels, reduce) < 1 or not dilations or min(dilations) < 1:
            raise ConfigError(
                f"task.head: expected size, channels, reduce and dilations of 1 or more, found size={size}, "
                f"channels={channels}, reduce={reduce}, dilations={list(dilations)}"
            )
        self.size, self.hears = size, hears and "audio" in widths
        self.scales = (1.0,) * len(stages) if len(stages) > 1 else PYRAMID
        stages = stages if len(stages) > 1 else stages * len(PYRAMID)
        heard = widths["audio"] if self.hears else None
        self.sound_norm = nn.LayerNorm(heard) if heard else None
        self.laterals = nn.ModuleList(
            Lateral(width, channels, reduce=reduce, dilations=dilations, heard=heard) for width in stages
        )
        self.skips = nn.ModuleList(Residual(channels) for _ in stages[1:])
        self.paths = nn.ModuleList(Residual(channels) for _ in stages)
        half, few = max(1, channels // 2), max(1, channels // 8)
        self.before = nn.Conv2d(channels, half, 3, padding=1)
        self.after = nn.Conv2d(half, few, 3, padding=1)
        self.out = nn.Conv2d(few, 1, 1)

    def forward(self, features: Mapping[str, Features]) -> Float[Tensor, "B T size size"]:
        """Logits."""
        vision = features["vision"]
        rows = vision.tokens.shape[:2]
        sound = self._sound(features["audio"], rows[1]) if self.hears else None
        levels = vision.levels if len(vision.levels) > 1 else vision.levels * len(PYRAMID)
        maps = [
            lateral(level.flatten(0, 1), scale, sound)
            for lateral, level, scale in zip(self.laterals, levels, self.scales, strict=True)
        ]
        x = self.paths[-1](maps[-1])
        for k in reversed(range(len(maps) - 1)):
            x = self.paths[k](_resize(x, maps[k].shape[-1]) + self.skips[k](maps[k]))
        x = self.before(_resize(x, 2 * x.shape[-1]))
        return self.out(F.relu(self.after(_resize(x, self.size)))).squeeze(1).unflatten(0, rows)

    def _sound(self, audio: Features, segments: int) -> Float[Tensor, "S A"]:
        """One vector per segment of vision; zero where the sound is missing."""
        sound = self.sound_norm(audio.pooled)
        if audio.keep is not None:
            sound = sound * audio.keep.any(-1, keepdim=True)
        if sound.shape[1] not in (1, segments):
            raise ConfigError(
                f"{sound.shape[1]} segments of sound for {segments} pictures: the data set must pair them, or "
                "give one sound for all"
            )
        return sound.expand(-1, segments, -1).flatten(0, 1)


def _resize(x: Float[Tensor, "S C _H _W"], side: int) -> Float[Tensor, "S C side side"]:
    return x if x.shape[-1] == side else F.interpolate(x, size=side, mode="bilinear", align_corners=False)
