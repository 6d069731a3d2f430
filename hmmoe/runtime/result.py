"""What came out: numbers by split beside their reference lines, cost, and where everything lies."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from hmmoe.analysis.profile.forward import cost, peak_memory_mib
from hmmoe.callbacks.boundary import numbers
from hmmoe.callbacks.checkpoint import RunCheckpoint
from hmmoe.callbacks.edits import Edits
from hmmoe.callbacks.step_times import StepTimes
from hmmoe.runtime.sharded import is_sharded
from hmmoe.trainable import counts


def measure(
    cfg: DictConfig, job: str, trainer: L.Trainer, task: L.LightningModule, data: L.LightningDataModule
) -> dict[str, Any]:
    """Scores of the kept weights by split, how they were chosen, parameters and cost."""
    checkpoint = next(c for c in trainer.callbacks if isinstance(c, RunCheckpoint))
    times = next(c for c in trainer.callbacks if isinstance(c, StepTimes))
    # A test leaves only its own scores with the trainer; those of the kept epoch come with its weights.
    kept = {} if job == "eval" else checkpoint.metrics
    scores = {**kept, **_of(numbers(trainer), data.test_splits)} if checkpoint.metrics else numbers(trainer)
    chosen_on = cfg.monitor.partition("/")[0]
    return {
        "metrics": by_split(scores, tuple(dict.fromkeys(("train", *data.val_splits, *data.test_splits)))),
        "references": data.references(),
        "data": data.manifest(),
        "selected": {
            "monitor": cfg.monitor,
            "mode": cfg.mode.value,
            "score": {**scores, **checkpoint.metrics}.get(cfg.monitor),
            "epoch": checkpoint.epoch,
            "on_test": chosen_on in data.test_splits,
        },
        "edits": [line for callback in trainer.callbacks if isinstance(callback, Edits) for line in callback.done],
        "parameters": counts(task.model),
        "cost": times.report() | forward_cost(trainer, task, data)
        if trainer.is_global_zero and not trainer.fast_dev_run
        else {},
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "precision": cfg.precision,
        "processes": trainer.world_size,
        "seed": cfg.seed,
    }


def _of(scores: dict[str, float], splits: tuple[str, ...]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if name.partition("/")[0] in splits}


def by_split(scores: dict[str, float], splits: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """val/acc to {"val": {"acc": ...}}, in the order of ``splits``; all other names stay in metrics.csv."""
    table: dict[str, dict[str, float]] = {split: {} for split in splits}
    for name, value in sorted(scores.items()):
        split, _, metric = name.partition("/")
        if split in table:
            table[split][metric] = value
    return {split: metrics for split, metrics in table.items() if metrics}


def forward_cost(trainer: L.Trainer, task: L.LightningModule, data: L.LightningDataModule) -> dict[str, float]:
    """FLOPs and latency of one batch of the first test split, in the run's precision.

    None of a backbone that is spread over processes: this one alone cannot run it.
    """
    if is_sharded(task):
        return {}
    batch = next(iter(data.test_dataloader()[0]))
    batch = task.transfer_batch_to_device(batch, task.device, 0)
    return cost(task.model, batch, context=trainer.precision_plugin.forward_context)


def engineering(value: float) -> str:
    """1234567 as "1.23 M"."""
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.2f} {letter}"
    return f"{value:.0f} "


def export(checkpoint: Path, target: Path) -> None:
    """The trained tensors alone, with what they belong to in the header."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    tensors = {name.removeprefix("model."): tensor.contiguous() for name, tensor in content["state_dict"].items()}
    header = {"fingerprint": content["fingerprint"], "settings": content["settings"], "stamp": content["stamp"]}
    save_file(tensors, target, metadata={key: json.dumps(value) for key, value in header.items()})


def examples(data: dict[str, Any], split: str) -> str:
    """How many examples a score is over, and what became of those whose files lack."""
    facts = data.get("splits", {}).get(split)
    if facts is None:
        return ""
    count, dropped, zeroed = (facts.get(key, 0) for key in ("count", "dropped", "zeroed"))
    lacking = [f"{dropped:,} dropped"] * bool(dropped) + [f"{zeroed:,} as zeros"] * bool(zeroed)
    return f"{count:,}" + (f" ({', '.join(lacking)})" if lacking else "")


def show(result: dict[str, Any], folder: str, best: str | None) -> None:
    """The closing table."""
    console = Console(width=110, highlight=False)
    table = Table(title="Result", title_justify="left")
    for column in ("split", "metric", "score", "examples", "reference lines"):
        table.add_column(column, justify="right" if column == "score" else "left")
    for split, metrics in result["metrics"].items():
        lines = ", ".join(f"{name} {value:.4f}" for name, value in result["references"].get(split, {}).items())
        for index, (metric, value) in enumerate(metrics.items()):
            once = (examples(result["data"], split), lines) if index == 0 else ("", "")
            table.add_row(split if index == 0 else "", metric, f"{value:.4f}", *once)
    console.print(table)
    for line in result["edits"]:
        console.print(f"changed    {line}")
    selected, sizes = result["selected"], result["parameters"]
    if selected["score"] is not None:
        epoch = "" if selected["epoch"] is None else f" (epoch {selected['epoch'] + 1})"
        warning = "  SELECTED ON A TEST SPLIT" if selected["on_test"] else ""
        console.print(f"chosen by  {selected['monitor']} = {selected['score']:.4f}{epoch}{warning}")
    roles = ", ".join(f"{role} {sizes[role]:,}" for role in ("adapters", "router", "head", "backbone") if sizes[role])
    console.print(
        f"trained    {sizes['trained']:,} of {sizes['total']:,} parameters = {sizes['trained_percent']:.2f} % ({roles})"
    )
    spent, used = result["cost"], f"peak memory {result['peak_memory_mib']:.0f} MiB; {result['seconds']:.0f} s in all"
    if "flops_per_sample" in spent:
        flops, took = engineering(spent["flops_per_sample"]), spent["latency_ms_per_sample"]
        console.print(f"forward    {flops}FLOP and {took:.1f} ms per sample; {used}")
    elif spent:
        console.print(f"cost       {used}")
    console.print(f"run        {folder}", soft_wrap=True)
    if best:
        console.print(f"next       python eval.py ckpt_path={best}", soft_wrap=True)
