"""Losses over segments: pure functions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def bce_softmax(logits: Float[Tensor, "S C"], labels: Int[Tensor, " S"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of the softmax against one-hot labels, mean over S*C (LAVISH, AVE/main_trans.py)."""
    target = F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    with torch.autocast(logits.device.type, enabled=False):
        return F.binary_cross_entropy(logits.float().softmax(-1), target.float())
