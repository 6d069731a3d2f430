"""What a forward pass costs where it really runs: FLOPs, latency, peak memory of the process."""

import resource
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hmmoe.types import Batch


def cost(
    model: nn.Module,
    batch: Batch,
    *,
    repeats: int = 5,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """FLOPs per sample (a multiply-add counts two) and milliseconds per sample of a forward pass in eval mode.

    Args:
        model: takes a batch.
        batch: on the model's device.
        repeats: timed passes after one to warm up; their median counts.
        context: entered around every pass, such as autocast.
    """
    size = len(batch["id"])
    training = model.training
    model.eval()
    # Fused attention is opaque to the counter on some devices, a compiled graph everywhere; the plain formula is the
    # same work.
    eager, formula = torch.compiler.set_stance("force_eager"), sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), context(), FlopCounterMode(display=False) as counter, eager, formula:
        model(batch)
    spent = median_seconds(model, batch, repeats=repeats, context=context)
    model.train(training)
    return {
        "flops_per_sample": counter.get_total_flops() / size,
        "latency_ms_per_sample": 1000 * spent / size,
        "latency_batch_size": size,
    }


def median_seconds(
    model: nn.Module,
    batch: Batch,
    *,
    repeats: int,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> float:
    """Of forward passes without gradients; the caller has warmed up and set the mode."""
    cuda = next(model.parameters()).is_cuda
    times = []
    with torch.no_grad(), context():
        for _ in range(repeats):
            start = time.perf_counter()
            model(batch)
            if cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_memory_mib() -> float:
    """Most memory held so far: allocated on the GPU where there is one, else resident in this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
