"""The tower that LAVISH's recipe shares: objects in pictures, and sounds as log-mel pictures, never together."""

from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.media.image import Pixels
from datamodules.media.logmel import LogMel
from datamodules.mini.scenes import OBJECTS
from datamodules.mini.sounds import SOUNDS
from scripts.pretraining.fit import fit, save_half, shuffled
from scripts.pretraining.sounds import RATE, pool
from scripts.pretraining.vit import objects

NAME = "swinv2_tiny_window8_256"
ARCHITECTURE = {
    "img_size": 96,
    "patch_size": 8,
    "window_size": 6,
    "embed_dim": 32,
    "depths": (2, 2, 4),
    "num_heads": (2, 4, 8),
    "num_classes": 0,
}
PIXELS = Pixels(size=96, mean=(0.5,) * 3, std=(0.5,) * 3)
MEL = LogMel(sample_rate=RATE, mels=96, window_ms=25, shift_ms=10, frames=96, mean=-5.0, std=4.0)


def pretrain(folder: Path, *, seed: int, steps: int) -> None:
    """Train on batches of either kind, then save under timm's names."""
    torch.manual_seed(seed)
    tower = timm.create_model(NAME, drop_path_rate=0.0, **ARCHITECTURE)
    parts = nn.ModuleDict(
        {"tower": tower, "seen": nn.Linear(tower.num_features, OBJECTS), "heard": nn.Linear(tower.num_features, SOUNDS)}
    )

    def sights(seed: int, count: int) -> tuple[Tensor, Tensor]:
        pictures, kinds = objects(seed, count)
        return PIXELS.resize(pictures), torch.from_numpy(kinds)

    def score(head: str, pictures: Tensor) -> Tensor:
        return parts[head](tower.forward_features(pictures).mean((1, 2)))

    def loss(pictures: Tensor, seen: Tensor, mels: Tensor, heard: Tensor) -> Tensor:
        price = F.cross_entropy(score("seen", PIXELS.normalise(pictures)), seen)
        return price + F.cross_entropy(score("heard", mels.expand(-1, 3, -1, -1)), heard)

    batches = zip(shuffled(sights(seed, 6000), 24, seed), shuffled(pool(seed, 6000, MEL)[:2], 24, seed), strict=False)
    fit(parts, (sight + sound for sight, sound in batches), loss, steps=steps, lr=1.5e-3, folder=folder)
    save_half(tower.state_dict(), folder / "model.safetensors")
    pictures, seen = sights(seed + 77, 1000)
    mels, heard, _ = pool(seed + 77, 1000, MEL)
    with torch.no_grad():
        seen_right = (
            torch.cat([score("seen", PIXELS.normalise(part)) for part in pictures.split(200)]).argmax(-1) == seen
        )
        heard_right = (
            torch.cat([score("heard", part.expand(-1, 3, -1, -1)) for part in mels.split(200)]).argmax(-1) == heard
        )
    print(f"held out: objects {seen_right.float().mean():.4f}, sounds {heard_right.float().mean():.4f} (chance 0.125)")
