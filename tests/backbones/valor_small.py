"""VALOR with small numbers, and checkpoints in its released layout, their values drawn in the order of their names."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hmmoe.backbones.bert_cross import BertCross
from hmmoe.backbones.swin3d import Swin3D
from hmmoe.backbones.timm_vit import TimmViT
from hmmoe.backbones.valor import Valor
from hmmoe.backbones.valor_audio import ValorAudio
from tests.small import seeded

SIZE = {"base": 32, "large": 28}
"""Pixels: Video Swin sees a map of 8 x 8 patches, CLIP a grid of 2 x 2."""

ANSWER, QUESTION, LENGTH = 4, [11, 12], 7
CONTRAST = [2, 13, 14, 3]


def vision(variant: str) -> Swin3D | TimmViT:
    if variant == "base":
        return Swin3D(stride=1, embed_dim=16, depths=(1, 2), num_heads=(2, 4), window_size=(2, 7, 7))
    name = "vit_large_patch14_clip_quickgelu_224"
    return TimmViT(name, img_size=SIZE[variant], embed_dim=32, depth=2, num_heads=2)


@seeded
def valor(
    variant: str = "base", *, audio: bool = True, cross: bool = True, prompts: bool = False, **options: Any
) -> Valor:
    """Base has a Swin tower as wide as BERT and a narrower audio tower, large the other way round."""
    towers: dict[str, Any] = {"vision": vision(variant)}
    if audio:
        towers["audio"] = ValorAudio(mels=32, frames=48, embed_dim=24, depth=2, num_heads=2)
    towers["text"] = BertCross(
        cross=cross,
        answer=(2, 4),
        question_prompt=QUESTION if prompts else (),
        contrast_prompt=CONTRAST if prompts else (),
        vocab_size=60,
        hidden_size={"base": 32, "large": 24}[variant],
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=24,
    )
    return Valor(towers, contrast=10, frames=6, **options)


def drawn(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Tensors by name: gains near one, matrices of spread 0.2, all else of spread 0.1."""
    generator = torch.Generator().manual_seed(23)
    state = {}
    for name in sorted(shapes):
        value = torch.randn(shapes[name], generator=generator)
        state[name] = 0.2 * value if value.ndim > 1 else 0.1 * value + (name.endswith("weight") and "bias" not in name)
    return state


def complete(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With what a released file holds twice, or as an index: tied words, the shared text encoder, window indices."""
    state = dict(state) | {"cls.decoder.weight": state["multimodal_encoder.embeddings.word_embeddings.weight"]}
    for name in [name for name in state if name.startswith("multimodal_encoder.")]:
        state[name.replace("multimodal_encoder.", "txt_encoder.", 1)] = state[name]
    if any(name.startswith("video_encoder.") for name in state):
        index = vision("base").library.features[0][0].attn.relative_position_index
        for stage, block in ((0, 0), (1, 0), (1, 1)):
            state[f"video_encoder.layers.{stage}.blocks.{block}.attn.relative_position_index"] = index
    return state


def batch(variant: str = "base", *, frames: int = 3, slices: int = 2) -> dict[str, Any]:
    """Two samples; the second question is shorter, its answer too."""
    generator = torch.Generator().manual_seed(29)
    keep = torch.arange(LENGTH) < torch.tensor([[LENGTH], [4]])
    told = torch.arange(ANSWER) < torch.tensor([[ANSWER], [3]])
    side = SIZE[variant]
    return {
        "id": ["a", "b"],
        "vision": torch.randn(2, frames, 3, side, side, generator=generator),
        "audio": torch.randn(2, slices, 1, 32, 48, generator=generator),
        "text": {
            "ids": torch.randint(5, 60, (2, LENGTH), generator=generator) * keep,
            "keep": keep,
            "answer": torch.randint(5, 60, (2, ANSWER), generator=generator) * told,
        },
    }
