"""What trains, whose it is, how much it is, and what a checkpoint must hold. One predicate for all of them."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from hmmoe.errors import CheckpointError, ConfigError, Diverged
from hmmoe.marks import Inserted, Routes
from hmmoe.model import AdaptedModel

Role = Literal["adapters", "router", "head", "backbone"]
ROLES: tuple[Role, ...] = ("adapters", "router", "head", "backbone")


def owners(model: AdaptedModel) -> Iterator[tuple[str, nn.Module, Role]]:
    """Every module with its name and the role of the parameters that it holds itself."""

    def walk(prefix: str, module: nn.Module, role: Role) -> Iterator[tuple[str, nn.Module, Role]]:
        if isinstance(module, Routes):
            role = "router"
        elif isinstance(module, Inserted):
            role = "adapters"
        yield prefix, module, role
        for name, child in module.named_children():
            yield from walk(f"{prefix}.{name}", child, role)

    yield from walk("backbone", model.backbone, "backbone")
    yield from walk("peft", model.peft, "adapters")
    yield from walk("head", model.head, "head")


def roles(model: AdaptedModel) -> dict[str, Role]:
    """Role of every parameter that trains, by its name in ``model.named_parameters()``."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: role
        for _, module, role in owners(model)
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad
    }


def own_state(model: AdaptedModel) -> dict[str, Tensor]:
    """What makes this run: all tensors outside the frozen backbone, and what a method has unfrozen inside it.

    Frozen parts of a method (the A of LoRA-FA) belong to it: redrawn at load they would be another model.
    """
    stored = model.state_dict()
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    own = {}
    for _, module, role in owners(model):
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) in names and (role != "backbone" or tensor.requires_grad):
                own[names[id(tensor)]] = stored[names[id(tensor)]]
    return own


def load_own_state(model: AdaptedModel, state: dict[str, Tensor]) -> None:
    """Load what ``own_state`` gave, every key and shape checked.

    Raises:
        CheckpointError: missing, unexpected or differently shaped tensors.
    """
    own = own_state(model)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    unlike = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    if missing or unexpected or unlike:
        raise CheckpointError(
            f"the checkpoint is of another model: {len(missing)} tensors missing {missing[:2]}, {len(unexpected)} "
            f"unexpected {unexpected[:2]}, {len(unlike)} of another shape {unlike[:2]}; use the config that it was "
            "trained with (eval.py takes it from the checkpoint)"
        )
    model.load_state_dict(state, strict=False)


def counts(model: AdaptedModel) -> dict[str, int | float]:
    """Parameters: trained by role, frozen, and the trained share in percent of frozen + trained (heads included).

    Numerator: adapters + router + head + unfrozen backbone. Denominator: frozen backbone + numerator. A tower that two
    modalities share counts once, and no library classification head is part of the backbone.
    """
    by_role = dict.fromkeys(ROLES, 0)
    by_name = dict(model.named_parameters())
    for name, role in roles(model).items():
        by_role[role] += by_name[name].numel()
    trained = sum(by_role.values())
    total = sum(parameter.numel() for parameter in by_name.values())
    return {**by_role, "trained": trained, "total": total, "trained_percent": 100 * trained / total}


def check_live(model: AdaptedModel) -> None:
    """After the first backward: every trainable tensor must have a gradient.

    None means that no path leads from it to the loss (HF peft's LoRA on the fused qkv of timm's Swin-V2); zero may be
    a fresh start behind the one zero factor.

    Raises:
        ConfigError: names what is dead.
    """
    parameters = dict(model.named_parameters())
    dead = [name for name in roles(model) if parameters[name].grad is None]
    if dead:
        raise ConfigError(
            f"{len(dead)} trainable tensors received no gradient, so they can never learn: {', '.join(dead[:4])}; "
            f"{model.peft.advice}"
        )


def check_finite(loss: Tensor, epoch: int, step: int) -> None:
    """Stop at a loss that is NaN or infinite; both counts start at 0.

    Raises:
        Diverged: names epoch, step and what to change.
    """
    if not torch.isfinite(loss):
        raise Diverged(
            f"the loss is {loss.item()} in epoch {epoch + 1}, step {step}; the checkpoints of the epochs before are "
            "kept. Lower optim.lr.adapters or trainer.gradient_clip_val, raise optim.warmup, or use precision=32-true"
        )
