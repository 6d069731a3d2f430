"""timm models from a name, with local weights that are checked key by key.

timm itself only logs a line when a file does not fit and goes on with random weights.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from hmmoe.backbones.base import Roles
from hmmoe.backbones.weights import load_strictly, log_resized, read_state
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

HEADS = ("head.", "fc_norm.", "head_dist.", "head_drop.", "attn_pool.")


def create(name: str, weights: str | None, options: dict[str, Any], *, pooled: bool = True) -> nn.Module:
    """A headless timm model.

    Args:
        name: timm model name.
        weights: None leaves it random, "hub" asks timm to download, else a local .safetensors or torch file. Files in
            a published layout go through the model's own key filter (positions, windows and channels are resized).
        options: further keywords of ``timm.create_model``.
        pooled: keep timm's own pooling. Where nothing runs through it its weights would be dead under peft=full.

    Raises:
        ConfigError: unknown name, or a file that does not fit.
        WeightsMissing: no such file.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ConfigError(f"timm has no model {name!r}; near it: {', '.join(close) or 'nothing'}")
    model = timm.create_model(name, pretrained=weights == "hub", num_classes=0, **options)
    for part in () if pooled else ("fc_norm", "attn_pool"):
        if isinstance(getattr(model, part, None), nn.Module):
            setattr(model, part, nn.Identity())
    if weights is None or weights == "hub":
        return model
    state = read_state(weights)
    own = model.state_dict()
    if any(key not in own or own[key].shape != value.shape for key, value in state.items()):
        state = published(model, state, source=weights)
    load_strictly(model, state, source=weights, unused=HEADS)
    return model


def published(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """A published checkpoint in this model's names and sizes, by the key filter that timm keeps beside the class.

    Raises:
        ConfigError: the filter does not know this layout.
    """
    module = importlib.import_module(type(model).__module__)
    try:
        fitted = module.checkpoint_filter_fn(dict(state), model)
    except (AttributeError, KeyError, RuntimeError, ValueError) as fault:
        raise ConfigError(
            f"{source} is no checkpoint of {type(model).__name__} ({type(fault).__name__}: {fault}); it begins with "
            f"{', '.join(sorted(state)[:3])}: correct the backbone's `weights`"
        ) from fault
    log_resized(source, state, fitted)
    return fitted


def expect(library: nn.Module, kind: type[nn.Module], block: type[nn.Module] | None = None) -> None:
    """Refuse a model, or a flavour of its blocks, that this family does not open.

    Raises:
        ConfigError: names what was found.
    """
    found = type(library).__name__
    if not isinstance(library, kind):
        raise ConfigError(
            f"timm made a {found}, this family opens {kind.__name__}: choose another model name, or the family of "
            f"{found} (docs/backbones.md)"
        )
    flavours = {type(b).__name__ for b in library.blocks if type(b) is not block} if block else set()
    if flavours:
        raise ConfigError(
            f"this {found} has blocks of type {', '.join(sorted(flavours))}, this family opens {block.__name__} only: "
            "take hmmoe.backbones.blocks.Blocks, which adapts after whole blocks"
        )
