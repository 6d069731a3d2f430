"""timm models from a name, with local weights that are checked key by key.

timm itself only logs a line when a file does not fit and goes on with random weights.
"""

from typing import Any

import timm
from torch import nn

from hmmoe.backbones.base import Roles
from hmmoe.backbones.weights import load_strictly, read_state
from hmmoe.errors import ConfigError

ROLES: Roles = {
    "q": ("attn.qkv", 0, 3),
    "k": ("attn.qkv", 1, 3),
    "v": ("attn.qkv", 2, 3),
    "o": ("attn.proj", 0, 1),
    "fc1": ("mlp.fc1", 0, 1),
    "fc2": ("mlp.fc2", 0, 1),
}
"""Where timm's blocks with a fused qkv keep their linear layers."""

HEADS = ("head.", "fc_norm.", "head_dist.")


def create(name: str, weights: str | None, options: dict[str, Any]) -> nn.Module:
    """A headless timm model.

    Args:
        name: timm model name.
        weights: None leaves it random, "hub" asks timm to download, else a local .safetensors or torch file. Files in
            a published layout go through the model's own key filter (positions, windows and channels are resized).
        options: further keywords of ``timm.create_model``.

    Raises:
        ConfigError: unknown name, or a file that does not fit.
        WeightsMissing: no such file.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ConfigError(f"timm has no model {name!r}; near it: {', '.join(close) or 'nothing'}")
    model = timm.create_model(name, pretrained=weights == "hub", num_classes=0, **options)
    if weights is None or weights == "hub":
        return model
    state = read_state(weights)
    own = model.state_dict()
    if any(key not in own or own[key].shape != value.shape for key, value in state.items()):
        state = published(model, state)
    load_strictly(model, state, source=weights, unused=HEADS)
    return model


def published(model: nn.Module, state: dict) -> dict:
    """A published checkpoint in this model's names and sizes, by the key filter that timm keeps beside the class."""
    module = __import__(type(model).__module__, fromlist=["checkpoint_filter_fn"])
    return module.checkpoint_filter_fn(state, model)
