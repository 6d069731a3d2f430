"""A model's shapes without its numbers: what counting parameters, operations and bytes needs."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from hmmoe.errors import UserError

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


def weightless(module: M) -> M:
    """A copy on torch's meta device: every shape, dtype and ``requires_grad``, no memory for a single number.

    Nothing is copied on the way, so it costs a large backbone milliseconds. Tensors that are shared stay shared.
    """
    known: dict[int, Tensor] = {}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        known[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        known[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, dict(known))


def shaped(build: Callable[[], T]) -> T:
    """What ``build`` makes, made on the meta device; where its library reads numbers on the way, made as usual.

    Raises:
        UserError: what ``build`` raises for a wrong setting.
    """
    try:
        with torch.device("meta"):
            return build()
    except UserError:
        raise
    except Exception:  # libraries and Hydra wrap torch's "cannot be called on meta tensors" in their own ways
        return build()
