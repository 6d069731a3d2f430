"""What is compared: one pair of frozen towers (ViT-B, AST-B, random weights), several methods on it."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from hmmoe.backbones.ast import AST
from hmmoe.backbones.timm_vit import TimmViT
from hmmoe.backbones.towers import Towers
from hmmoe.heads.fusion import FusionHead
from hmmoe.model import AdaptedModel
from hmmoe.peft.bottleneck import SeriesAdapter
from hmmoe.peft.hmmoe import HMMoE
from hmmoe.peft.lora import LoRA
from hmmoe.peft.policies import LinearProbe
from hmmoe.trainable import roles
from hmmoe.types import Batch

REFERENCE = "series_adapter"
KINDS: Mapping[str, Mapping[str, int]] = {"single": {}, "cross": {}, "channel": {}}
SMALL = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}


class Sizes(NamedTuple):
    """Shapes of the comparison. 160 frames give 12 x 15 patches + 2 = 182 tokens, 166 give 194; a picture gives 197."""

    batch: int = 2
    rank: int = 32
    experts: int = 2
    depth: int = 12
    frames: int = 166
    tiny: bool = False


class PeftLoRA(LinearProbe):
    """HF peft's own LoRA on the same towers: the query, key and value rows of ViT are one layer to it."""

    def __init__(self, *args: Any, rank: int) -> None:
        super().__init__(*args)
        self.rank = rank

    def prepare(self, backbone: nn.Module) -> None:
        """Wrap the attention inputs."""
        config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=["attn.qkv", "q_proj", "v_proj"])
        inject_adapter_in_model(config, backbone)


def towers(sizes: Sizes) -> Towers:
    """ViT-B/16 at 224 beside AST-B; ``tiny`` keeps the structure and shrinks the widths, for tests."""
    vision: dict[str, Any] = {"depth": sizes.depth}
    audio: dict[str, Any] = {"num_hidden_layers": sizes.depth, "max_length": sizes.frames}
    if sizes.tiny:
        vision |= {"embed_dim": 64, "num_heads": 2, "img_size": 32}
        audio |= SMALL
    encoders = {"vision": TimmViT("vit_base_patch16_224", **vision), "audio": AST(**audio)}
    return Towers(encoders, meet="segment")


def methods(sizes: Sizes) -> dict[str, Callable[..., nn.Module]]:
    """Partial methods by the name that the table shows."""
    rank = sizes.rank
    hmmoe = partial(HMMoE, groups=KINDS, rank=rank, experts_per_group=sizes.experts)
    everything = ("q", "k", "v", "o", "fc1", "fc2")
    return {
        "linear_probe": LinearProbe,
        REFERENCE: partial(SeriesAdapter, rank=rank),
        f"series_adapter, rank {8 * rank}": partial(SeriesAdapter, rank=8 * rank),
        "lora on q, v": partial(LoRA, rank=rank),
        "lora by HF peft, qkv": partial(PeftLoRA, rank=rank),
        "lora on all linears": partial(LoRA, rank=rank, targets=everything),
        "hmmoe wide": hmmoe,
        "hmmoe loop": partial(hmmoe, executor="loop"),
    }


def contestants(sizes: Sizes) -> dict[str, AdaptedModel]:
    """One model per method. Those that inject nothing share the backbone; weights start away from the identity."""
    backbone = towers(sizes)
    head = partial(FusionHead, classes=29, hidden=512 if not sizes.tiny else 16, level="segment")
    models = {}
    for name, method in methods(sizes).items():
        own = copy.deepcopy(backbone) if name.startswith("lora") else backbone
        torch.manual_seed(1)
        models[name] = AdaptedModel(own, method, head)
        _move(models[name])
    models["hmmoe loop"].peft.load_state_dict(models["hmmoe wide"].peft.state_dict())
    return models


def _move(model: AdaptedModel) -> None:
    """A fresh adapter multiplies by zeros, which neither tests nor times the way back."""
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in roles(model):
            parameters[name] += 0.02 * torch.randn(parameters[name].shape, generator=generator)


def draw(sizes: Sizes, seed: int) -> Batch:
    """A random batch of one picture and one sound per sample, with labels."""
    generator = torch.Generator().manual_seed(seed)
    size = 32 if sizes.tiny else 224
    return {
        "id": [str(i) for i in range(sizes.batch)],
        "vision": torch.randn(sizes.batch, 1, 3, size, size, generator=generator),
        "audio": torch.randn(sizes.batch, 1, 1, 128, sizes.frames, generator=generator),
        "label": torch.randint(0, 29, (sizes.batch,), generator=generator),
    }
