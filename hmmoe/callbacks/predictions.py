"""Predictions of the test splits: one CSV per split, and what the dataset's official evaluator or server reads."""

import csv
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

Row = dict[str, Any]


class Predictions(Callback):
    """Writes ``<folder>/<split>.csv``: id, prediction, label and whatever else the task's test step returns by row.

    ``pictures`` of a test step, {file name: (H, W) uint8}, go to ``<folder>/<split>/`` at once, from every process.
    Rows that a task knows only at the end of a test come from its ``rows_at_end``, {split: rows}.
    ``arrays_at_end``, {name: {key: array}}, go to ``<folder>/<name>.npz``: what evaluators of retrieval read.
    A datamodule that knows an official format has ``submission(split, rows) -> {file name: text}``; these files are
    written beside.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._rows: dict[str, list[Row]] = {}

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier test."""
        self._rows = {}

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: dict[str, Any],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the rows of a batch, write its pictures."""
        split = pl_module.test_splits[dataloader_idx]
        for name, picture in outputs.get("pictures", {}).items():
            path = self.folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.numpy()).save(path)
        count = len(outputs["id"])
        columns = {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in outputs.items()
            if isinstance(value, list) or (isinstance(value, Tensor) and value.ndim)
        }
        rows = [{name: column[i] for name, column in columns.items()} for i in range(count)]
        self._rows.setdefault(split, []).extend(rows)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the processes' rows and write them in the order of their ids."""
        late = getattr(pl_module, "rows_at_end", {})
        own = {split: self._rows.get(split, []) + late.get(split, []) for split in dict.fromkeys((*self._rows, *late))}
        gathered = [own]
        if trainer.world_size > 1:
            gathered = [None] * trainer.world_size
            dist.all_gather_object(gathered, own)
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, arrays in getattr(pl_module, "arrays_at_end", {}).items():
            np.savez_compressed(self.folder / f"{name}.npz", **arrays)
        for split in dict.fromkeys(name for rows in gathered for name in rows):
            table = sorted((row for rows in gathered for row in rows.get(split, [])), key=lambda row: str(row["id"]))
            with (self.folder / f"{split}.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, table[0])
                writer.writeheader()
                writer.writerows(table)
            if trainer.datamodule is not None:
                for name, text in trainer.datamodule.submission(split, table).items():
                    (self.folder / name).write_text(text)
