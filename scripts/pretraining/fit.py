"""The one training loop of all mini towers: seeded, one-cycle schedule, loss curve beside the weights."""

import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm


def fit(
    parts: nn.Module,
    batches: Iterator[tuple[Tensor, ...]],
    loss: Callable[..., Tensor],
    *,
    steps: int,
    lr: float,
    folder: Path,
    go_on: bool = False,
) -> None:
    """Train ``parts`` by ``loss(*batch)``; write ``loss.csv`` and ``loss.png``, behind earlier steps with ``go_on``."""
    optimizer = torch.optim.AdamW(parts.parameters(), lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.08)
    rows: list[tuple[int, float, float]] = _read(folder / "loss.csv") if go_on else []
    before, past = rows[-1][::2] if rows else (0, 0.0)
    window, start = [], time.perf_counter() - past
    parts.train()
    for step in (bar := tqdm(range(1, steps + 1), mininterval=20)):
        price = loss(*next(batches))
        optimizer.zero_grad()
        price.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        window.append(price.item())
        if step % 50 == 0 or step == steps:
            rows.append((before + step, sum(window) / len(window), time.perf_counter() - start))
            bar.set_postfix(loss=f"{rows[-1][1]:.4f}")
            window.clear()
    parts.eval()
    with (folder / "loss.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "loss", "seconds"), *rows])
    _plot(rows, folder / "loss.png")


def _read(path: Path) -> list[tuple[int, float, float]]:
    with path.open(newline="") as file:
        return [(int(step), float(loss), float(seconds)) for step, loss, seconds in list(csv.reader(file))[1:]]


def _plot(rows: list[tuple[int, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axis = figure.subplots()
    axis.plot([row[0] for row in rows], [row[1] for row in rows])
    axis.set(xlabel="step", ylabel="training loss (mean of 50 steps)", yscale="log", title=path.parent.name)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def save_half(state: dict[str, Tensor], path: Path) -> None:
    """Weights as float16: the towers travel with the repository. Index tables stay whole numbers."""
    tensors = {name: tensor.detach().half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def shuffled(tensors: tuple[Tensor, ...], size: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Endless batches, every row once per round, order by seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(tensors[0]), generator=generator)
        for index in order[: len(order) // size * size].split(size):
            yield tuple(tensor[index] for tensor in tensors)
