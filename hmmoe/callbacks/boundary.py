"""The moment when an epoch is over with all that belongs to it: scores logged, schedules stepped."""

from abc import ABC, abstractmethod

import lightning as L
from lightning.pytorch.callbacks import Callback


class EpochBoundary(Callback, ABC):
    """Calls ``on_boundary`` once after every training epoch, when the next one starts or training ends.

    Lightning's own ``on_train_epoch_end`` comes before the module has logged the epoch's scores and before epoch-wise
    schedules step; a checkpoint from there resumes in the middle of the epoch's ending.
    """

    _completed: int | None = None

    @abstractmethod
    def on_boundary(self, trainer: L.Trainer, pl_module: L.LightningModule, epoch: int) -> None:
        """``epoch``, counted from 0, is complete."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Epochs before this one belong to an earlier process."""
        self._completed = trainer.current_epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The previous epoch is complete."""
        self._pass(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last epoch is complete."""
        self._pass(trainer, pl_module)

    def _pass(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._completed is not None and trainer.current_epoch > self._completed:
            self._completed = trainer.current_epoch
            self.on_boundary(trainer, pl_module, trainer.current_epoch - 1)


def numbers(trainer: L.Trainer) -> dict[str, float]:
    """All scores logged so far, by name."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
