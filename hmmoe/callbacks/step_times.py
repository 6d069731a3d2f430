"""How long a training step takes, data loading included."""

import statistics
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class StepTimes(Callback):
    """Measures from the start of one training batch to the start of the next, inside epochs.

    No synchronisation: a GPU works behind the calls, and over many batches their starts come at its pace. Validation
    and checkpoints lie between epochs and do not count.

    Args:
        keep: of the last so many steps the median is reported.
    """

    def __init__(self, keep: int = 1000) -> None:
        self.keep = keep
        self._times: list[float] = []
        self._last: float | None = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What lay between two epochs is no step."""
        self._last = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A step has ended and the next begins."""
        now = time.perf_counter()
        if self._last is not None:
            self._times.append(now - self._last)
            del self._times[: -self.keep]
        self._last = now

    def report(self) -> dict[str, float]:
        """``step_ms``: median milliseconds per step (batch); empty where fewer than two steps were seen."""
        return {"step_ms": 1000 * statistics.median(self._times)} if self._times else {}
