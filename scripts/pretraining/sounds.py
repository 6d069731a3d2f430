"""Log-mel pictures of one-second synthetic sounds, for the towers that hear."""

import numpy as np
import torch
from torch import Tensor

from datamodules.media.logmel import LogMel
from datamodules.mini.sounds import SOUNDS, synthesize

RATE = 16_000


def pool(seed: int, count: int, mel: LogMel) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 1, mels, frames), categories, and which fifth of the loudness range each lies in."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, SOUNDS, count)
    waves = torch.from_numpy(np.stack([synthesize(rng, int(kind), 1.0, RATE) for kind in kinds]))
    level = waves.square().mean(1).sqrt()
    fifths = torch.searchsorted(level.quantile(torch.tensor([0.2, 0.4, 0.6, 0.8])), level)
    return torch.cat([mel(part) for part in waves.split(256)]), torch.from_numpy(kinds), fifths
