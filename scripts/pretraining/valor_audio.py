"""VALOR's audio tower in small: which sound, and how loud."""

from pathlib import Path

import torch

from hmmoe.backbones.valor_audio import ValorAudio
from scripts.pretraining.sounds import hear

ARCHITECTURE = {"mels": 64, "frames": 96, "embed_dim": 128, "depth": 4, "num_heads": 4}


def pretrain(folder: Path, *, seed: int, steps: int) -> None:
    """Train, then save under timm's names."""
    torch.manual_seed(seed)
    tower = ValorAudio(**ARCHITECTURE).library
    hear(tower, lambda x: tower.forward_features(x)[:, 0], 128, folder, seed=seed, steps=steps)
