"""Hydra launchers ``submitit_slurm`` and ``submitit_local``: every job of a sweep goes to a queue.

Folders, record, resume and the table at the end are those of the process launcher; the queue hands out nodes and GPUs.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hmmoe.errors import ConfigError
from hydra_plugins.hmmoe_launcher._job import Job
from hydra_plugins.hmmoe_launcher._pool import Need, Pool
from hydra_plugins.hmmoe_launcher._record import Entry
from hydra_plugins.hmmoe_launcher.launcher import ProcessLauncher
from hydra_plugins.hmmoe_submitit._command import Command

ENDLESS = 10_000


class Queue(Pool):
    """Jobs that may stand in the queue at a time; what they compute on is the cluster's business."""

    def __init__(self, parallel: int | None) -> None:
        super().__init__(parallel or ENDLESS, gpus=(), cores=1)

    def need(self, trainer: Any) -> Need:
        """Nothing of this machine."""
        return Need()

    def take(self, need: Need) -> dict[str, str] | None:
        """No variables; None if the queue is full."""
        return None if super().take(need) is None else {}


class Submitted(Job):
    """A job whose process runs on another machine.

    Args:
        executor: submitit's.
    """

    def __init__(self, entry: Entry, folder: Path, command: Sequence[str], hydra: Sequence[str], executor: Any) -> None:
        super().__init__(entry, folder, command, hydra)
        self._executor = executor

    def _begin(self, command: list[str], environment: dict[str, str]) -> None:
        words = command if command[-1] == "ckpt_path=auto" else [*command, "ckpt_path=auto"]
        self.release()  # the node takes it
        self._submission = self._executor.submit(Command(words, environment, self.folder, Path.cwd()))

    def stop(self, why: str) -> None:
        """Take it out of the queue, or have it end."""
        if self._asked_to_stop is None:
            self.stopped, self._asked_to_stop = why, time.monotonic()
            self._submission.cancel(check=False)

    def ended(self, grace: float) -> bool:
        """Whether the queue has done with it."""
        over = self._asked_to_stop is not None and time.monotonic() - self._asked_to_stop > grace
        if not self._submission.done() and not over:
            return False
        try:
            codes = self._submission.results() if self._submission.done() else [1]
        except Exception as error:  # whatever went wrong on the node or in the queue
            self.log.open("a").write(f"{type(error).__name__}: {error}\n")
            codes = [1]
        self._settle(next((code for code in codes if code), 0))
        return True


class SubmititLauncher(ProcessLauncher):
    """Hands every job to submitit.

    Args:
        cluster: "slurm", or "local" for processes of this machine, to try it out.
        parallel: most jobs in the queue at a time. None: all.
        fail_fast: the first failed job takes the others out of the queue.
        grace: seconds between asking a job to stop and giving it up.
        requeues: how often a job that ran into its limit of time may come back.
        parameters: of submitit's executor: timeout_min, gpus_per_node, slurm_partition and the like; None is left out.
    """

    def __init__(
        self,
        cluster: Literal["slurm", "local"],
        parallel: int | None = None,
        fail_fast: bool = False,
        grace: float = 120.0,
        requeues: int = 10,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(parallel, gpus=(), fail_fast=fail_fast, grace=grace)
        self.pool = Queue(parallel)
        self.cluster, self.requeues = cluster, requeues
        self.parameters = {key: value for key, value in (parameters or {}).items() if value is not None}
        self._executor: Any = None

    def _new(self, entry: Entry, folder: Path, command: Sequence[str], hydra: Sequence[str]) -> Job:
        self._executor = self._executor or self._made()
        return Submitted(entry, folder, command, hydra, self._executor)

    def _made(self) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                f"hydra/launcher=submitit_{self.cluster} needs submitit: pip install -e '.[slurm]'"
            ) from error
        try:
            executor = submitit.AutoExecutor(
                folder=self._record.folder / ".submitit" / "%j",
                cluster=self.cluster,
                slurm_max_num_timeout=self.requeues,
            )
            executor.update_parameters(**{"name": self._record.folder.name, **self.parameters})
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise ConfigError(f"hydra.launcher: submitit says: {error}") from error
        return executor
