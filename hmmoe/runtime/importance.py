"""What every site, group or expert is worth: the test scores again with each of them masked (``importance=``)."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig

from hmmoe.analysis.interventions import intervened, leave_one_out
from hmmoe.callbacks.boundary import numbers
from hmmoe.runtime import build

WHAT = ("site", "modality", "group", "expert")


def leave_out(cfg: DictConfig, tested: L.Trainer, task: L.LightningModule, data: L.LightningDataModule) -> Path | None:
    """Write ``importance.csv``: one row for everything that was masked, with its scores and what they lost.

    Args:
        cfg: as composed; ``cfg.importance`` says what is masked, one after the other.
        tested: the trainer that has just tested the whole model.
        task: with the weights that were tested.
        data: its test splits are scored once for every mask.
    """
    whole = {name: score for name, score in numbers(tested).items() if "_only_" not in name}
    alone, task.alone = task.alone, ()  # what one modality reaches is no matter here
    trainer = build.factory(cfg.trainer, "trainer")(callbacks=[], logger=False, enable_progress_bar=False)
    rows = []
    for item, plan in leave_one_out(task.model, cfg.importance):
        with intervened(task.model, plan):
            trainer.test(task, datamodule=data, verbose=False)
        scores = numbers(trainer)
        lost = {f"{name} lost": whole[name] - scores[name] for name in whole}
        rows.append({key: item.get(key, "") for key in WHAT} | {name: scores[name] for name in whole} | lost)
    task.alone = alone
    return _written(Path(cfg.paths.run_dir) / "importance.csv", rows) if tested.is_global_zero else None


def _written(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    return path
