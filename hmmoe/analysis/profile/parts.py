"""Parameters by part, and the bytes of what a run stores."""

from typing import Any

from hmmoe.model import AdaptedModel
from hmmoe.trainable import counts, own_state, owners

PARTS = ("adapters", "routers", "heads", "norms", "other")
"""What trains. ``norms`` and ``other`` are unfrozen parts of the backbone."""

SHARE = "trained (adapters + routers + heads + norms + other) / (frozen + trained)"
SHARE_OF_BACKBONE = "trained without heads / parameters of the backbone as published (peft.budget)"
"""Numerator and denominator of the two shares. A tower that two modalities share counts once."""


def parameters(model: AdaptedModel, backbone: int) -> dict[str, Any]:
    """Trained by part, frozen, and the shares in percent.

    Args:
        model: with its method in place.
        backbone: parameters of the backbone before the method; what the method added to it is no part of it.
    """
    own = dict.fromkeys(PARTS, 0)
    seen: set[int] = set()
    for _, module, role in owners(model):
        norm = "norm" in type(module).__name__.lower()
        part = {"router": "routers", "head": "heads", "backbone": "norms" if norm else "other"}.get(role, role)
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                own[part] += parameter.numel()
    total = counts(model)
    beside = total["trained"] - own["heads"]
    return {
        **own,
        "trained": total["trained"],
        "frozen": total["total"] - total["trained"],
        "total": total["total"],
        "backbone": backbone,
        "share_percent": total["trained_percent"],
        "share_of_backbone_percent": 100 * beside / backbone,
    }


def stored_bytes(model: AdaptedModel) -> dict[str, int]:
    """Tensors alone, without file headers: ``adapter.safetensors``, and a checkpoint with two moments per parameter."""
    own = sum(tensor.numel() * tensor.element_size() for tensor in own_state(model).values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return {"adapter_bytes": own, "checkpoint_bytes": own + 2 * trained}
