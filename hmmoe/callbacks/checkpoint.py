"""Two files: ``last.ckpt`` to go on from, ``best.ckpt`` to report. Megabytes, loadable under ``weights_only``.

Both are there whole or not at all, whenever the process dies.
"""

import math
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from hmmoe.callbacks.boundary import EpochBoundary, numbers
from hmmoe.callbacks.metrics_file import MetricsFile
from hmmoe.errors import ConfigError, Diverged


class RunCheckpoint(EpochBoundary, Checkpoint):
    """Saves at every epoch boundary; what is best is decided by ``monitor`` and kept by file, not by reference.

    Lightning's ModelCheckpoint leaves ``last`` behind when an epoch is not among the best and stores absolute paths.

    Args:
        folder: of the two files.
        monitor: score that chooses.
        mode: is a larger or a smaller score better.
        card: plain containers that every checkpoint carries beside weights and optimizer.
    """

    def __init__(self, folder: str | Path, *, monitor: str, mode: Literal["max", "min"], card: dict[str, Any]) -> None:
        super().__init__()
        self.folder, self.monitor, self.mode, self.card = Path(folder), monitor, mode, card
        self.metrics: dict[str, float] = {}
        """All scores of the best epoch."""
        self.epoch: int | None = None
        """The best epoch, counted from 0."""

    @property
    def best(self) -> Path:
        """Weights of the best epoch."""
        return self.folder / "best.ckpt"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A score that will never be logged is missed before the first epoch, where the task can tell."""
        names = pl_module.score_names() if hasattr(pl_module, "score_names") else None
        if names is not None:
            self._check_known(names)
        if trainer.is_global_zero:
            for left in self.folder.glob("*.new"):  # of a process that was killed while it wrote
                left.unlink()

    def _check_known(self, names: Collection[str]) -> None:
        if self.monitor not in names:
            raise ConfigError(f"monitor={self.monitor} is never logged: choose from {', '.join(sorted(names))}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Scores of an epoch that was killed are logged again."""
        super().on_train_start(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.rewind(trainer.global_step)

    def on_boundary(self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int) -> None:
        """Save, and copy to ``best`` if this epoch is."""
        if trainer.fast_dev_run:
            return
        metrics = numbers(trainer)
        self._check_known(metrics)
        if not math.isfinite(metrics[self.monitor]):
            raise Diverged(
                f"{self.monitor} is {metrics[self.monitor]} after epoch {epoch + 1}; the checkpoints of the epochs "
                "before are kept. Lower optim.lr.adapters, or use precision=32-true"
            )
        improved = self._better(metrics[self.monitor])
        if improved:
            self.metrics, self.epoch = metrics, epoch
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.flush()  # what this checkpoint goes on from must stand in the file
        fresh = self.folder / "last.new"
        trainer.save_checkpoint(fresh)  # Lightning moves it here from another disk: not in one step
        if trainer.is_global_zero:
            # Best comes first: killed between the two, a run goes on from the epoch before and makes this best again.
            if improved:
                copy = self.best.with_suffix(".new")
                shutil.copyfile(fresh, copy)
                os.replace(copy, self.best)
            os.replace(fresh, self.folder / "last.ckpt")
        trainer.strategy.barrier()

    def _better(self, score: float) -> bool:
        known = self.metrics.get(self.monitor)
        if known is None:
            return True
        return score > known if self.mode == "max" else score < known

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the card, and say that the next epoch has not begun."""
        checkpoint.update(self.card)
        # Lightning counts an epoch as begun before it tells callbacks; resumed so, it would end it without a batch.
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        for counter in (progress["total"], progress["current"]):
            counter["ready"] = counter["processed"]

    def state_dict(self) -> dict[str, Any]:
        """What is best so far."""
        return {"metrics": self.metrics, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with what was best."""
        self.metrics, self.epoch = state_dict["metrics"], state_dict["epoch"]
