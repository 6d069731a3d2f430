"""Single pictures by their path below a root, resized, for a cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.media.cache import Cache, Field
from datamodules.media.image import Pixels, read_rgb


class Pictures:
    """Decodes one picture an entry: (3, H, W) uint8, and whether it is there.

    Args:
        root: folder that keys are relative to.
        pixels: reader.
        fills: zeros stand in for a file that is not there.
    """

    def __init__(self, root: Path, pixels: Pixels, *, fills: bool) -> None:
        self.root, self.pixels, self.fills = root, pixels, fills
        self.fields = [Field(pixels.shape, torch.uint8), Field((), torch.bool)]

    def recipe(self) -> dict[str, Any]:
        """See ``Decoder``."""
        return {"reader": "pictures", "vision": self.pixels.recipe()}

    def sources(self, key: str) -> list[Path]:
        """The file."""
        return [self.root / key]

    def decode(self, key: str) -> tuple[Tensor, ...]:
        """Pixels and True; zeros and False where ``fills`` and there is no file."""
        path = self.root / key
        if self.fills and not path.exists():
            return torch.zeros(self.pixels.shape, dtype=torch.uint8), torch.tensor(False)
        return self.pixels.resize(read_rgb(path)[None])[0], torch.tensor(True)

    def seen(self, cache: Cache, paths: Sequence[Path]) -> dict[str, Any]:
        """vision (n, 3, H, W) of n pictures; where zeros may stand in also keep {"vision": (n,)}."""
        pixels, there = zip(*(cache.get(str(path.relative_to(self.root))) for path in paths), strict=True)
        return self.normalised(torch.stack(pixels), torch.stack(there))

    def normalised(self, pixels: Tensor, there: Tensor) -> dict[str, Any]:
        """As ``seen``, of pixels at hand."""
        if not self.fills:
            return {"vision": self.pixels.normalise(pixels)}
        vision = self.pixels.normalise(pixels) * there.view(-1, 1, 1, 1)
        return {"vision": vision, "keep": {"vision": there}}
