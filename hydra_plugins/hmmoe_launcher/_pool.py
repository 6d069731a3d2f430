"""What jobs that run side by side must share out: GPUs by their ids, cores by threads."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hmmoe.errors import ConfigError


@dataclass(frozen=True)
class Need:
    """GPUs that a job computes on, or processes that it starts on the CPU."""

    gpus: int = 0
    processes: int = 1


class Pool:
    """Hands out GPUs and threads.

    Args:
        parallel: most jobs at a time; None: one per GPU, one at a time without any.
        gpus: ids to hand out; an id that stands there twice serves two jobs at a time. None: all that are visible.
        cores: to share among the jobs; None: all that this process may use.
    """

    def __init__(
        self, parallel: int | None = None, gpus: Sequence[int | str] | None = None, cores: int | None = None
    ) -> None:
        self.gpus = visible_gpus() if gpus is None else [str(gpu) for gpu in gpus]
        self.parallel = parallel or max(1, len(self.gpus))
        self.cores = cores or len(os.sched_getaffinity(0))
        self._free = list(self.gpus)
        self._jobs = 0

    def need(self, trainer: Any) -> Need:
        """What a job with these ``trainer`` settings takes.

        Raises:
            ConfigError: more GPUs than there are to hand out.
        """
        accelerator, devices = (trainer or {}).get("accelerator", "auto"), (trainer or {}).get("devices", 1)
        on_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and self.gpus)
        everything = str(devices) in ("-1", "auto")
        count = len(devices) if isinstance(devices, list | tuple) else 0 if everything else int(devices)
        if not on_gpu:
            return Need(processes=max(1, count))
        if not self.gpus:
            raise ConfigError(f"trainer.accelerator={accelerator}, and no GPU is visible: hydra.launcher.gpus=[0]")
        distinct = len(set(self.gpus))
        if count > distinct:
            raise ConfigError(f"trainer.devices={devices}: the sweep has {distinct} GPUs (hydra.launcher.gpus)")
        return Need(gpus=count or distinct)

    def take(self, need: Need) -> dict[str, str] | None:
        """Environment of a job that may start now; None if it has to wait."""
        if self._jobs >= self.parallel:
            return None
        chosen = list(dict.fromkeys(self._free))[: need.gpus]
        if len(chosen) < need.gpus:
            return None
        self._jobs += 1
        environment = {}
        if need.gpus:
            for gpu in chosen:
                self._free.remove(gpu)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
        if self.parallel > 1 and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, self.cores // self.parallel // need.processes))
        return environment

    def give_back(self, environment: dict[str, str]) -> None:
        """The job with this environment has ended."""
        self._jobs -= 1
        self._free += [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]


def visible_gpus() -> list[str]:
    """Ids as CUDA_VISIBLE_DEVICES takes them, without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return [str(i) for i, line in enumerate(filter(None, listed.stdout.splitlines()))] if not listed.returncode else []
