"""Two silent disasters of distributed runs, stopped at the start; and no process left behind at the end."""

import hashlib
import json
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from hmmoe.errors import ConfigError

SHOWN = 4
"""Unequal settings that a message names."""


class Guard(Callback):
    """Refuses to train with a process group that is not the trainer's, or with unequal settings on the ranks.

    Both happen when a launcher starts several jobs from one process: half of the data is used, or two ranks train
    different models, and the metrics look normal.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = dict(_leaves(settings))
        self.digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare.

        Raises:
            ConfigError: sizes or settings differ; on every process.
        """
        size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if size != trainer.world_size:
            raise ConfigError(
                f"the trainer counts {trainer.world_size} processes (trainer.devices x trainer.num_nodes) and the "
                f"process group holds {size}: start this run in a process of its own, or set them to what was started"
            )
        if size == 1:
            return
        digests = [self.digest] * size
        dist.all_gather_object(digests, self.digest)
        if len(set(digests)) > 1:
            everyone = [self.settings] * size
            dist.all_gather_object(everyone, self.settings)
            raise ConfigError(
                f"the processes of this run hold different settings: {_differences(everyone)}. Give all of them the "
                "same command"
            )

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Take the other processes along; they would wait for ever."""
        launcher = trainer.strategy.launcher
        if trainer.is_global_zero and launcher is not None:
            launcher.kill(signal.SIGKILL)


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every setting by its dotted name, as text."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(node, sort_keys=True, default=str)


def _differences(everyone: Sequence[dict[str, str]]) -> str:
    """The settings that are not the same on all ranks, each with what the ranks hold."""
    keys = sorted({key for settings in everyone for key in settings})
    unlike = [key for key in keys if len({settings.get(key) for settings in everyone}) > 1]
    told = []
    for key in unlike[:SHOWN]:
        held = ", ".join(f"{settings.get(key, 'nothing')} on rank {rank}" for rank, settings in enumerate(everyone[:4]))
        told.append(f"{key} ({held})")
    more = [f"and {len(unlike) - SHOWN} more"] if len(unlike) > SHOWN else []
    return ", ".join([*told, *more])
