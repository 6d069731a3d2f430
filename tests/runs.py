"""Whole runs inside the test process: real parts with tiny numbers, written to a temporary folder."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

import train as training
from hmmoe.runtime import schema
from hmmoe.runtime.command import run_stamp

TINY_VIT = {
    "name": "vit_tiny_patch16_224",
    "weights": "null",
    "+img_size": 32,
    "+embed_dim": 16,
    "+depth": 2,
    "+num_heads": 2,
}
TINY_BERT = {
    "weights": "null",
    "+hidden_size": 16,
    "+num_hidden_layers": 2,
    "+num_attention_heads": 2,
    "+intermediate_size": 32,
}


def at(path: str, values: dict[str, Any]) -> list[str]:
    """Overrides of a node: ``++`` sets a key whether or not the file names it."""
    return [f"++{path}.{key.lstrip('+')}={value}" for key, value in values.items()]


def tiny(root: Path) -> list[str]:
    """NLVR with 32 generated examples and random towers of 16 units."""
    return [
        "experiment=nlvr_hmmoe",
        "scale=mini",
        "logger=csv",
        "callbacks.utilization.figures_every=0",
        f"data.miniature.root={root}",
        "+data.miniature.examples={train: 48, dev: 8, test: 8, hidden: 8}",
        "data.batch_size=8",
        "data.val_directories=2",
        "peft.rank=2",
        "task.head.hidden=8",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=3",
        "backbone.inputs.vision.size=32",
        *at("backbone.towers.vision", TINY_VIT),
        *at("backbone.towers.text", TINY_BERT),
    ]


@contextmanager
def composed(*overrides: str, config: str = "train") -> Iterator[DictConfig]:
    """The configuration of a command, with Hydra's own part where the code looks for it."""
    schema.register()
    OmegaConf.register_new_resolver("run_stamp", run_stamp, use_cache=True, replace=True)
    with initialize_config_module("conf", version_base="1.3"):
        cfg = compose(config, overrides=list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        try:
            yield cfg
        finally:
            HydraConfig.instance().cfg = None


def run(folder: Path, *overrides: str, config: str = "train", job: Callable[[DictConfig], Any] = training.train) -> Any:
    """What ``job`` returns, its run folder being ``folder``."""
    with composed(f"paths.run_dir={folder}", *overrides, config=config) as cfg:
        return job(cfg)


def load(path: Path) -> dict[str, Any]:
    """A JSON file of a run."""
    return json.loads(path.read_text())


def rows(folder: Path) -> list[dict[str, str]]:
    """The metrics of a run."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_costs(folder: Path) -> dict[str, Any]:
    """The result of a run but for what two equal runs need not share."""
    return {k: v for k, v in load(folder / "result.json").items() if k not in ("seconds", "cost", "peak_memory_mib")}


class FailOnRank(Callback):
    """One rank of one run fails in the first epoch."""

    def __init__(self, rank: int, seed: int, only: int) -> None:
        self.rank, self.chosen = rank, seed == only

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.chosen and trainer.global_rank == self.rank:
            raise RuntimeError(f"rank {self.rank} was told to fail")


class StopAt(Callback):
    """Fails in the middle of an epoch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            raise RuntimeError("stopped by the test")
