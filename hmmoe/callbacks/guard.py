"""Two silent disasters of distributed runs, stopped at the start; and no process left behind at the end."""

import hashlib
import json
import signal
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback


class Guard(Callback):
    """Refuses to train with a process group that is not the trainer's, or with unequal settings on the ranks.

    Both happen when a launcher starts several jobs from one process: half of the data is used, or two ranks train
    different models, and the metrics look normal.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare.

        Raises:
            RuntimeError: sizes or settings differ.
        """
        size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if size != trainer.world_size:
            raise RuntimeError(
                f"the trainer counts {trainer.world_size} processes and the process group {size}: start this run in a "
                "process of its own"
            )
        digests = [self.digest] * size
        if size > 1:
            dist.all_gather_object(digests, self.digest)
        if len(set(digests)) > 1:
            raise RuntimeError("the processes of this run hold different settings: give all of them the same command")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Take the other processes along; they would wait for ever."""
        launcher = trainer.strategy.launcher
        if trainer.is_global_zero and launcher is not None:
            launcher.kill(signal.SIGKILL)
