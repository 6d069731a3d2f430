"""A bar for a person, one line per epoch for a file."""

import logging
import sys
import time

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar

from hmmoe.callbacks.boundary import EpochBoundary, numbers

log = logging.getLogger(__name__)


def progress() -> Callback:
    """What fits where the output goes."""
    return Bar(leave=True) if sys.stdout.isatty() else EpochLine()


class Bar(RichProgressBar):
    """Lightning's bar; its epochs are counted from 1 to the last, as in every message."""

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        told = f"Epoch {current_epoch + 1}" + ("" if last in (None, -1) else f"/{last}")
        return told.ljust(len(self.validation_description))  # bars of one width do not flicker


class EpochLine(EpochBoundary):
    """Logs the scores of every epoch, best-known names first."""

    _since = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._since = time.monotonic()

    def on_boundary(self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int) -> None:
        """One line, on rank 0."""
        now = time.monotonic()
        scores = numbers(trainer)
        shown = [name for name in sorted(scores, key=rank) if rank(name) < 4]
        if trainer.is_global_zero:
            words = "  ".join(f"{name} {scores[name]:.4f}" for name in shown)
            log.info("epoch %d/%s  %s  (%.1f s)", epoch + 1, trainer.max_epochs, words, now - self._since)
        self._since = now


def rank(name: str) -> int:
    """Training loss, then validation scores; what callbacks log per layer is left to the files."""
    split, _, metric = name.partition("/")
    if "/" in metric or not metric:
        return 9
    return {"train": 0, "val": 1, "dev": 2}.get(split, 9 if split in ("experts", "routing", "collapse") else 3)
