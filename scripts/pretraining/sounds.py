"""Log-mel pictures of one-second synthetic sounds, and how the towers that hear only are trained on them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.media.logmel import LogMel
from datamodules.mini.sounds import SOUNDS, synthesize
from scripts.pretraining.fit import fit, save_half, shuffled

RATE = 16_000
MEL = LogMel(sample_rate=RATE, mels=64, window_ms=25, shift_ms=10, frames=96, mean=-5.0, std=4.0)


def pool(seed: int, count: int, mel: LogMel) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 1, mels, frames), categories, and which fifth of the loudness range each lies in."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, SOUNDS, count)
    waves = torch.from_numpy(np.stack([synthesize(rng, int(kind), 1.0, RATE) for kind in kinds]))
    level = waves.square().mean(1).sqrt()
    fifths = torch.searchsorted(level.quantile(torch.tensor([0.2, 0.4, 0.6, 0.8])), level)
    return torch.cat([mel(part) for part in waves.split(256)]), torch.from_numpy(kinds), fifths


def hear(
    tower: nn.Module, pooled: Callable[[Tensor], Tensor], width: int, folder: Path, *, seed: int, steps: int
) -> None:
    """Train a tower to tell which sound and how loud, and save its weights.

    Args:
        tower: library model.
        pooled: its vector (n, width) of log-mel pictures (n, 1, 64, 96).
        width: of that vector.
        folder: gets ``model.safetensors`` and the loss curve.
        seed, steps: of training.
    """
    parts = nn.ModuleDict({"tower": tower, "kind": nn.Linear(width, SOUNDS), "level": nn.Linear(width, 5)})

    def loss(pictures: Tensor, kinds: Tensor, levels: Tensor) -> Tensor:
        vectors = pooled(pictures)
        return F.cross_entropy(parts["kind"](vectors), kinds) + 0.3 * F.cross_entropy(parts["level"](vectors), levels)

    fit(parts, shuffled(pool(seed, 6000, MEL), 64, seed), loss, steps=steps, lr=1e-3, folder=folder)
    save_half(tower.state_dict(), folder / "model.safetensors")
    pictures, kinds, levels = pool(seed + 77, 1500, MEL)
    with torch.no_grad():
        vectors = pooled(pictures)
        kind = (parts["kind"](vectors).argmax(-1) == kinds).float().mean()
        level = (parts["level"](vectors).argmax(-1) == levels).float().mean()
    print(f"held out: category {kind:.4f} (chance {1 / SOUNDS:.3f}), loudness {level:.4f} (chance 0.2)")
