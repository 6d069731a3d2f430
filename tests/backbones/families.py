"""Every family of encoders at small sizes: how to build it, what to feed it, what its library would answer."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hmmoe.backbones.base import Encoder
from hmmoe.backbones.bert import Roberta
from hmmoe.backbones.clip import ClipText, ClipVision
from hmmoe.backbones.hf_vit import HfViT
from hmmoe.backbones.siglip import SiglipText, SiglipVision
from hmmoe.backbones.timm_beit import TimmBeit
from hmmoe.backbones.timm_eva import TimmEva
from hmmoe.backbones.timm_swin import TimmSwin
from hmmoe.backbones.timm_vit import TimmViT
from hmmoe.backbones.videomae import VideoMAE
from hmmoe.backbones.whisper import Whisper
from tests import small

KEEP = torch.arange(8) < torch.tensor([8, 5])[:, None]


class Family(NamedTuple):
    """``forward`` is the library's answer to ``make()``; families of text read ``KEEP`` where ``masked``."""

    build: Callable[..., Encoder]
    make: Callable[[], Tensor]
    forward: Callable[[nn.Module, Tensor], Tensor]
    masked: bool = False


def picture() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def words() -> Tensor:
    return torch.randint(3, 48, (2, 8))


def features(model: nn.Module, x: Tensor) -> Tensor:
    return model.forward_features(x)


def flat(model: nn.Module, x: Tensor) -> Tensor:
    return model.forward_features(x).flatten(1, 2)


def last(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).last_hidden_state


def timm(kind: type[Encoder], name: str, **sizes: Any) -> Callable[..., Encoder]:
    return small.seeded(partial(kind, name, img_size=32, **sizes))


VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN = {"window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2), "drop_path_rate": 0.3}
HF = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PIXELS = HF | {"image_size": 32, "patch_size": 16}
WORDS = HF | {"vocab_size": 50, "max_position_embeddings": 16}
WHISPER = {
    "d_model": 24,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "vocab_size": 60,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
    "num_mel_bins": 16,
    "max_source_positions": 12,
    "max_target_positions": 8,
    "dropout": 0.1,
}

FAMILIES = {
    "vit": Family(partial(small.vit, drop_path_rate=0.3, proj_drop_rate=0.1), picture, features),
    "deit": Family(timm(TimmViT, "deit_tiny_distilled_patch16_224", **VIT), picture, features),
    "clip_timm": Family(timm(TimmViT, "vit_base_patch16_clip_quickgelu_224", **VIT), picture, features),
    "siglip_timm": Family(timm(TimmViT, "vit_base_patch16_siglip_224", **VIT, pool="library"), picture, features),
    "dinov2": Family(timm(TimmViT, "vit_small_patch14_dinov2", **VIT, patch_size=16), picture, features),
    "dinov2_reg": Family(timm(TimmViT, "vit_small_patch14_reg4_dinov2", **VIT, patch_size=16), picture, features),
    "beit": Family(timm(TimmBeit, "beit_base_patch16_224", **VIT, drop_path_rate=0.3), picture, features),
    "beit_shared": Family(
        timm(TimmBeit, "beit_base_patch16_224", **VIT, use_rel_pos_bias=False, use_shared_rel_pos_bias=True),
        picture,
        features,
    ),
    "beitv2": Family(timm(TimmBeit, "beitv2_base_patch16_224", **VIT), picture, features),
    "eva02": Family(timm(TimmEva, "eva02_tiny_patch14_224", **VIT, patch_size=16), picture, features),
    "eva02_clip": Family(timm(TimmEva, "eva02_base_patch16_clip_224", **VIT), picture, features),
    "dinov3": Family(timm(TimmEva, "vit_small_patch16_dinov3", **VIT), picture, features),
    "swin_v1": Family(timm(TimmSwin, "swin_tiny_patch4_window7_224", **SWIN), picture, flat),
    "swin": Family(partial(small.swin, drop_path_rate=0.3, proj_drop_rate=0.1), picture, flat),
    "ast": Family(
        partial(small.ast, hidden_dropout_prob=0.1),
        lambda: torch.randn(2, 1, 32, 48),
        lambda m, x: m(x.squeeze(1).transpose(1, 2)).last_hidden_state,
    ),
    "bert": Family(small.bert, words, lambda m, x: m(x, attention_mask=KEEP.long()).last_hidden_state, masked=True),
    "roberta": Family(
        small.seeded(partial(Roberta, **WORDS, pad_token_id=1)),
        lambda: words().where(KEEP, 1),
        lambda m, x: m(x, attention_mask=KEEP.long()).last_hidden_state,
        masked=True,
    ),
    "hf_vit": Family(small.seeded(partial(HfViT, **PIXELS, hidden_dropout_prob=0.1)), picture, last),
    "clip_vision": Family(
        small.seeded(partial(ClipVision, **PIXELS)), picture, lambda m, x: m.post_layernorm(last(m, x))
    ),
    "clip_text": Family(
        small.seeded(partial(ClipText, **WORDS, eos_token_id=49, bos_token_id=48)),
        words,
        lambda m, x: m(x, attention_mask=KEEP.long()).last_hidden_state,
        masked=True,
    ),
    "siglip_vision": Family(small.seeded(partial(SiglipVision, **PIXELS)), picture, last),
    "siglip_text": Family(small.seeded(partial(SiglipText, **WORDS)), words, last),
    "videomae": Family(
        small.seeded(partial(VideoMAE, **PIXELS, num_frames=4, use_mean_pooling=False, hidden_dropout_prob=0.1)),
        lambda: torch.randn(2, 4, 3, 32, 32),
        last,
    ),
    "whisper": Family(
        small.seeded(partial(Whisper, **WHISPER)),
        lambda: torch.randn(2, 1, 16, 24),
        lambda m, x: m(x.squeeze(1)).last_hidden_state,
    ),
}


def run(encoder: Encoder, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """The tower, block by block."""
    x, ctx = encoder.embed(x, keep)
    for k in range(len(encoder.widths)):
        x = encoder.merge(k, encoder.half(k, x, ctx), ctx)
    return encoder.finish(x, ctx)
