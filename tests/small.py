"""Real library towers with small numbers, and batches for them."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn

from hmmoe.backbones.ast import AST
from hmmoe.backbones.bert import Bert
from hmmoe.backbones.timm_swin import TimmSwinV2
from hmmoe.backbones.timm_vit import TimmViT
from hmmoe.backbones.towers import Towers
from hmmoe.heads.fusion import FusionHead
from hmmoe.model import AdaptedModel
from hmmoe.peft.hmmoe import HMMoE
from hmmoe.trainable import roles
from hmmoe.types import Stream

KINDS = {"single": {}, "cross": {}, "channel": {}}


def perturb(module: nn.Module, scale: float = 0.02, seed: int = 0) -> None:
    """Shift every parameter by N(0, scale): a freshly built Swin-V2 is the identity and would pass any parity test."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


def seeded(build: Callable[..., Any]) -> Callable[..., Any]:
    """The same weights at every call, without touching the test's own random state."""

    @wraps(build)
    def builder(*args: Any, **options: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(11)
            return build(*args, **options)

    return builder


@seeded
def vit(**options: Any) -> TimmViT:
    return TimmViT("vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=3, num_heads=2, init_values=0.1, **options)


@seeded
def swin(**options: Any) -> TimmSwinV2:
    sizes = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}
    return TimmSwinV2("swinv2_tiny_window8_256", **sizes, **options)


@seeded
def ast(**options: Any) -> AST:
    sizes = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
    return AST(**sizes, num_mel_bins=32, max_length=48, frequency_stride=16, time_stride=16, **options)


@seeded
def bert(**options: Any) -> Bert:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return Bert(**sizes, vocab_size=50, max_position_embeddings=16, **options)


TOWERS = {"vision": vit, "audio": ast, "text": bert}


def towers(*modalities: str, **options: Any) -> Towers:
    """Perturbed small towers: fresh ones can be the identity."""
    backbone = Towers({m: TOWERS[m]() for m in modalities}, **options)
    perturb(backbone)
    return backbone


def batch(*modalities: str, segments: int = 3, size: int = 2) -> dict[str, Any]:
    made: dict[str, Any] = {"id": [f"sample{i}" for i in range(size)]}
    for m in modalities:
        if m == "vision":
            made[m] = torch.randn(size, segments, 3, 32, 32)
        elif m == "audio":
            made[m] = torch.randn(size, segments, 1, 32, 48)
        else:
            keep = torch.arange(8) < torch.tensor([8, 5, 3, 6])[:size, None]
            made[m] = {"ids": torch.randint(1, 50, (size, 8)) * keep, "keep": keep}
    return made


def as_dtype(batch: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.items()}


def head(**options: Any):
    return partial(FusionHead, **({"classes": 5, "hidden": 16, "level": "sample"} | options))


def hmmoe(**options: Any):
    return partial(HMMoE, **({"groups": KINDS, "rank": 4} | options))


def model(*modalities: str, peft=None, checkpointing: bool = False, **options: Any) -> AdaptedModel:
    return AdaptedModel(towers(*modalities, **options), peft or hmmoe(), head(), checkpointing=checkpointing)


def move(module: nn.Module, scale: float = 0.3, seed: int = 1) -> None:
    """Take adapters and routers away from their start."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(module.named_parameters())
    chosen = roles(module) if isinstance(module, AdaptedModel) else parameters
    with torch.no_grad():
        for name in chosen:
            parameters[name] += scale * torch.randn(parameters[name].shape, generator=generator).to(parameters[name])


def stream(rows: int, tokens: int, width: int, *, keep: Tensor | None = None, **layout: int) -> Stream:
    return Stream(*(torch.randn(rows, tokens, width) for _ in range(3)), keep, **layout)
