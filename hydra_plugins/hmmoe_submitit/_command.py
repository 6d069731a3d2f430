"""What a node of the cluster runs: a job's command, as a process of its own in the job's folder."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra_plugins.hmmoe_launcher._record import lock, read

POLL = 0.2  # seconds


@dataclass
class Command:
    """Called once per task; all tasks of a job are ranks of one run.

    Args:
        words: program, script, overrides. ``ckpt_path=auto`` is among them, so the same words serve a requeue.
        environment: beside what the node has.
        folder: of the run.
        place: directory to run in.
    """

    words: list[str]
    environment: dict[str, str]
    folder: Path
    place: Path

    def __call__(self) -> int:
        """The exit code. Waits while a process of an earlier submission is at work in the folder."""
        if int(os.environ.get("SLURM_PROCID", 0)) == 0:
            self._held = self._take()
            if read(self.folder / "status.json").get("status") == "completed":
                return 0
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.words,
                cwd=self.place,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
            )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        while self._process.poll() is None:
            time.sleep(POLL)
        return self._process.returncode

    def checkpoint(self) -> Any:
        """Submitit's wish shortly before the limit of time, or when the job is pushed aside: end, and come back."""
        from submitit.helpers import DelayedSubmission

        self._pass_on(signal.SIGTERM, None)
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)  # whoever was interrupted here reaps it
        return DelayedSubmission(Command(self.words, self.environment, self.folder, self.place))

    def _take(self) -> int:
        while (held := lock(self.folder)) is None:
            time.sleep(POLL)
        return held

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """The run tidies up when it is told to."""
        self._process.send_signal(signal.SIGTERM)
