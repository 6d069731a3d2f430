"""Pictures: any Pillow mode to RGB, resizing in uint8, normalisation by mean and deviation."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from hmmoe.errors import ConfigError, DataBroken, DataMissing


def read_rgb(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """Decode a picture of any mode (palette, grey, 16 bit, with alpha, which is dropped).

    Raises:
        DataMissing: no such file.
        DataBroken: not a picture, or cut off.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits at 255
                return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as fault:
        raise DataMissing(f"no picture at {path}: complete the dataset at data.root") from fault
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as fault:
        raise DataBroken(f"{path} is not a whole picture ({fault}): fetch or unpack this file again") from fault


def crop(
    picture: UInt8[np.ndarray, "H W 3"],
    rng: np.random.Generator,
    area: tuple[float, float],
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> UInt8[np.ndarray, "h w 3"]:
    """A random part of a picture: share of its area and width over height uniform (the latter in the logarithm).

    The recipe of torchvision's RandomResizedCrop, drawing from numpy so that an example's crop hangs on nothing else.
    """
    height, width = picture.shape[:2]
    for _ in range(10):
        size = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*np.log(aspect)))
        h, w = round(math.sqrt(size / ratio)), round(math.sqrt(size * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return picture[top : top + h, left : left + w]
    return picture


class Pixels:
    """Resize and normalise as the vision tower wants it (``inputs.vision``).

    Args:
        size: side of the square, or (height, width); aspect is not kept.
        mean, std: per channel, of values in 0..1.
        interpolation: with antialiasing, rounded to uint8 so that decoded pictures can be kept small.
    """

    def __init__(
        self,
        *,
        size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: Literal["bilinear", "bicubic"] = "bicubic",
    ) -> None:
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1 or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigError(
                f"backbone.inputs.vision: expected a positive size (or height and width) and three mean and std > 0, "
                f"found size={size}, mean={list(mean)}, std={list(std)}"
            )
        self.interpolation = interpolation
        self._shift = torch.tensor(mean).view(3, 1, 1) * 255
        self._scale = 1 / (torch.tensor(std).view(3, 1, 1) * 255)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one resized picture: (3, H, W)."""
        return (3, *self.size)

    def recipe(self) -> dict[str, Any]:
        """What decides the pixels that ``resize`` gives."""
        return {"size": list(self.size), "interpolation": self.interpolation}

    def resize(self, pictures: UInt8[np.ndarray, "N h w 3"]) -> UInt8[Tensor, "N 3 H W"]:
        """Channels first, at the wanted size."""
        pixels = torch.from_numpy(np.require(pictures, requirements=["C", "W"])).permute(0, 3, 1, 2)
        if pixels.shape[-2:] != self.size:
            pixels = interpolate(pixels, self.size, mode=self.interpolation, antialias=True)
        return pixels.contiguous()

    def normalise(self, pixels: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
        """(x / 255 - mean) / std."""
        return pixels.float().sub_(self._shift).mul_(self._scale)
