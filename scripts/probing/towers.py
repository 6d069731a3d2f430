"""The mini towers as a run builds them, and what they hand to a head."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_module
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from hmmoe.assets import locate
from hmmoe.backbones.base import Encoder
from hmmoe.backbones.towers import Towers
from hmmoe.runtime import schema
from hmmoe.runtime.build import part

WHERE = {
    "vit": ("vit_b_bert_b", "vision"),
    "swinv2": ("lavish_swinv2_l", "vision"),
    "ast": ("vit_b_ast_b", "audio"),
    "bert": ("vit_b_bert_b", "text"),
    "valor_audio": ("valor_base", "audio"),
    "swin3d": ("valor_base", "vision"),
}
"""Which file of conf/scale/mini/backbone, and which of its towers; VLMo, one sequence of both, is none."""


class Tower(NamedTuple):
    """A tower with its weights, the same class with random ones, and the inputs that its configuration asks for."""

    trained: Encoder
    fresh: Encoder
    inputs: dict[str, Any]


def build(name: str, *, seed: int = 0) -> Tower:
    """The tower of ``conf/scale/mini/backbone``; ``seed`` is that of the random twin."""
    backbone, modality = WHERE[name]
    schema.register()
    with initialize_config_module("conf", version_base="1.3"):
        cfg = compose("train", overrides=[f"backbone={backbone}", "scale=mini"]).backbone
    node = cfg.towers[modality]
    stored = Path(locate(node.weights)) / "config.json"  # transformers keep the sizes there, timm's are in the node
    sizes = json.loads(stored.read_text()) if stored.is_file() else {}
    trained = part(node, name)
    torch.manual_seed(seed)
    fresh = part(node, name, weights=None, **sizes)
    return Tower(trained, fresh, OmegaConf.to_container(cfg.inputs, resolve=True))


@torch.no_grad()
def pooled(encoder: Encoder, modality: str, value: Tensor | Mapping[str, Tensor]) -> Float[Tensor, "n D"]:
    """What a head sees of one modality, one segment per sample, with no adapter at the sites.

    Args:
        encoder: any tower.
        modality: vision, audio or text.
        value: (n, 1, C, H, W) pictures or log-mel pictures, or {ids, keep} of sentences.
    """
    towers = Towers({modality: encoder})
    state = towers.embed({modality: value})
    for site in towers.sites:
        state, _ = towers.open(site, state)
        state = towers.close(site, state, {})
    return towers.finish(state)[modality].pooled[:, 0]
