"""What a pass without numbers needs: fused attention, answers to questions about numbers, an autocast that is off."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _Autocast(torch.autocast):
    """Torch knows no autocast for the meta device, not even one that is off."""

    def __init__(self, device_type: str, *args: Any, **options: Any) -> None:
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **options)


@contextmanager
def without_numbers() -> Iterator[None]:
    """Inside, a model on the meta device runs."""
    with patch.object(torch, "autocast", _Autocast), OnMeta():
        yield


class OnMeta(TorchFunctionMode):
    """Two operations of the meta device that a real one has otherwise.

    Torch takes attention apart there and keeps all N x M scores; here it stays one operation, which FlopCounterMode
    counts by its formula. And what is asked about numbers is denied: transformers asks whether no token is padding, and
    leaves the mask out if so; here it stays.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The function first: a weight that stands for a sum answers any other question by computing the sum.
        if func is F.scaled_dot_product_attention and args and args[0].is_meta:
            return _attention(*args, **(kwargs or {}))
        if func is Tensor.__bool__ and args[0].is_meta:
            return False
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``F.scaled_dot_product_attention``; a mask costs its own size, an axis of heads is added where there is none."""
    heads = query.ndim == 4
    q, k, v = (part if heads else part.unsqueeze(1) for part in (query, key, value))
    if enable_gqa:
        k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
    bias = None
    if attn_mask is not None:
        mask = attn_mask if heads or attn_mask.ndim < 3 else attn_mask.unsqueeze(1)
        filled = q.new_zeros(mask.shape) if mask.dtype == torch.bool else mask
        bias = filled.expand(*q.shape[:2], q.shape[2], k.shape[2])
    out, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )
    return out if heads else out.squeeze(1)
