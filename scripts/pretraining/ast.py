"""Audio tower: which sound, and how loud."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ASTConfig, ASTModel

from datamodules.media.logmel import LogMel
from datamodules.mini.sounds import SOUNDS
from scripts.pretraining.fit import fit, save_half, shuffled
from scripts.pretraining.sounds import RATE, pool

MEL = LogMel(sample_rate=RATE, mels=64, window_ms=25, shift_ms=10, frames=96, mean=-5.0, std=4.0)


def pretrain(folder: Path, *, seed: int, steps: int) -> None:
    """Train, then save in transformers' layout."""
    torch.manual_seed(seed)
    config = ASTConfig(
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        patch_size=16,
        frequency_stride=16,
        time_stride=16,
        num_mel_bins=64,
        max_length=96,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    parts = nn.ModuleDict({"tower": ASTModel(config), "kind": nn.Linear(128, SOUNDS), "level": nn.Linear(128, 5)})

    def tokens(pictures: Tensor) -> Tensor:
        return parts["tower"](pictures.squeeze(1).transpose(1, 2)).pooler_output

    def loss(pictures: Tensor, kinds: Tensor, levels: Tensor) -> Tensor:
        pooled = tokens(pictures)
        return F.cross_entropy(parts["kind"](pooled), kinds) + 0.3 * F.cross_entropy(parts["level"](pooled), levels)

    fit(parts, shuffled(pool(seed, 6000, MEL), 64, seed), loss, steps=steps, lr=1e-3, folder=folder)
    config.save_pretrained(folder)
    save_half(parts["tower"].state_dict(), folder / "model.safetensors")
    pictures, kinds, levels = pool(seed + 77, 1500, MEL)
    with torch.no_grad():
        pooled = tokens(pictures)
        kind = (parts["kind"](pooled).argmax(-1) == kinds).float().mean()
        level = (parts["level"](pooled).argmax(-1) == levels).float().mean()
    print(f"held out: category {kind:.4f} (chance {1 / SOUNDS:.3f}), loudness {level:.4f} (chance 0.2)")
