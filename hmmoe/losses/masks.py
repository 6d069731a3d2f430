"""Losses over masks: pure functions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def mask_bce(logits: Float[Tensor, "F H W"], masks: Bool[Tensor, "F H W"]) -> Float[Tensor, ""]:
    """Binary cross-entropy, mean over all pixels (AVSBench's F1_IoU_BCELoss and F5_IoU_BCELoss hold nothing else)."""
    return F.binary_cross_entropy_with_logits(logits.float(), masks.float())


def soft_iou(logits: Float[Tensor, "F H W"], masks: Bool[Tensor, "F H W"]) -> Float[Tensor, ""]:
    """1 - (sum p m + 1) / (sum (p + m - p m) + 1), p the sigmoid, mean over frames: small objects weigh as large ones.

    The ones make an empty mask prefer an empty prediction.
    """
    chance, truth = logits.float().sigmoid(), masks.float()
    inter, both = (chance * truth).sum((1, 2)), (chance + truth).sum((1, 2))
    return torch.mean(1 - (inter + 1) / (both - inter + 1))
