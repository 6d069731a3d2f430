"""A model's work and memory from shapes alone: a forward pass and a training step on the meta device."""

from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from hmmoe.analysis.profile.batch import on
from hmmoe.analysis.profile.live import LiveBytes
from hmmoe.analysis.profile.meta import without_numbers
from hmmoe.model import AdaptedModel
from hmmoe.types import Batch

MEMORY = "bytes of tensors alive at the worst moment, float32, fused attention, no allocator reserve"
TRAINING = "a step whose optimizer has its moments already: forward, mean of squared logits, backward, update"
FLOPS = "torch's FlopCounterMode: matrix products, convolutions, fused attention; a multiply-add counts two"
"""What the numbers mean."""


def forward(model: AdaptedModel, batch: Batch) -> dict[str, int | float]:
    """FLOPs per sample and peak bytes of a forward pass without gradients.

    Args:
        model: weightless.
        batch: on any device.
    """
    batch = on(batch, "meta")
    model.eval()
    with torch.no_grad(), without_numbers(), LiveBytes().hold(model) as live, FlopCounterMode(display=False) as counter:
        model(batch)
    return {"flops_per_sample": counter.get_total_flops() / len(batch["id"]), "peak_inference_bytes": live.peak}


def training_step(
    model: AdaptedModel, batch: Batch, optimizer: Callable[[AdaptedModel], Optimizer]
) -> dict[str, int | float]:
    """FLOPs per sample and peak bytes of a training step, as in ``TRAINING``.

    Args:
        model: weightless.
        batch: on any device.
        optimizer: builds it for a model.
    """
    batch = on(batch, "meta")
    model.train()
    moves = optimizer(model)
    for group in moves.param_groups:
        group |= {"fused": False} if "fused" in group else {}  # no fused kernels where there are no numbers
    with without_numbers(), LiveBytes().hold(model) as live, FlopCounterMode(display=False) as counter:
        for parameter in (p for group in moves.param_groups for p in group["params"]):
            parameter.grad = torch.zeros_like(parameter)
        moves.step()  # makes the moments, as a first step does
        moves.zero_grad()
        live.restart()
        model(batch).logits.float().square().mean().backward()
        moves.step()
    return {
        "training_flops_per_sample": counter.get_total_flops() / len(batch["id"]),
        "peak_training_bytes": live.peak,
    }
