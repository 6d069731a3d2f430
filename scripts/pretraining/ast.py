"""Audio tower: which sound, and how loud."""

from pathlib import Path

import torch
from transformers import ASTConfig, ASTModel

from scripts.pretraining.sounds import hear


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
    tower = ASTModel(config)
    config.save_pretrained(folder)
    hear(tower, lambda x: tower(x.squeeze(1).transpose(1, 2)).pooler_output, 128, folder, seed=seed, steps=steps)
