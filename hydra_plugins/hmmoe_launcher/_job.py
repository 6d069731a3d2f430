"""One job: a process of its own in a folder of its own, and what became of it."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra_plugins.hmmoe_launcher._record import Entry, lock, now, read, write

RANKS = (
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PL_GLOBAL_SEED",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "HMMOE_HYDRA_DIR",
)
"""What would tell a job that it is a part of somebody else's process group or run."""

ERROR = re.compile(r"^(?:\[rank\d+\]:? *)?((?:[\w.]*(?:Error|Exception|Interrupt|Exit)|error)\b: .+)$", re.MULTILINE)


class Job:
    """A job that may be started, ended and asked how it went.

    Args:
        entry: its line in the sweep's record.
        folder: of the sweep.
        command: program and script; the overrides follow.
        hydra: overrides of Hydra's own settings.
    """

    def __init__(self, entry: Entry, folder: Path, command: Sequence[str], hydra: Sequence[str]) -> None:
        self.entry, self.folder = entry, folder / entry.folder
        self._attempts = folder / ".attempts"
        self._sweep, self._command, self._hydra = folder, list(command), list(hydra)
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._since = 0.0
        self._asked_to_stop: float | None = None
        self.environment: dict[str, str] = {}
        """Share of the pool."""
        self.stopped: str | None = None
        """Why the launcher ended it."""

    @property
    def log(self) -> Path:
        """Everything that its processes print."""
        return self.folder / "output.log"

    def done_before(self) -> bool:
        """Whether the folder holds the job's result already."""
        return read(self.folder / "status.json").get("status") == "completed"

    def free(self) -> bool:
        """Whether no process of an earlier launcher is left in the folder; if so, it is ours from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder)
        return self._lock is not None

    def release(self) -> None:
        """Nothing to be done in the folder after all."""
        os.close(self._lock)

    def start(self, environment: dict[str, str]) -> bool:
        """Start the process; a failed run starts over and its remains move away, an interrupted one goes on (True)."""
        status = read(self.folder / "status.json").get("status")
        if status == "failed":
            self._put_aside()
        self.environment = environment
        own = {"HMMOE_RUN_DIR": str(self.folder), "HMMOE_SWEEP_DIR": str(self._sweep)}
        words = [*self.entry.overrides, *self._hydra]
        resumed = status is not None and status != "failed"
        if resumed:
            words.append("ckpt_path=auto")
            own["HMMOE_HYDRA_DIR"] = f".hydra/resumed_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        self._begin([*self._command, *words], {**own, "HMMOE_SWEEP_JOB": str(self.entry.number), **environment})
        self._since = time.monotonic()
        self.entry.status, self.entry.reason, self.entry.attempts = "running", None, self.entry.attempts + 1
        return resumed

    def _begin(self, command: list[str], environment: dict[str, str]) -> None:
        """Start the command with these variables beside the inherited ones; the lock goes to its process."""
        inherited = {name: value for name, value in os.environ.items() if name not in RANKS}
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited, **environment},
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which tells the jobs
                pass_fds=(self._lock,),  # the lock holds as long as the process lives, whoever dies first
                preexec_fn=_die_with(os.getpid()),
            )
        self.release()

    def drop(self) -> None:
        """It is wanted no more: what it has left is put aside. The caller holds the folder (``free``)."""
        if [path.name for path in self.folder.iterdir()] != [".lock"]:
            self._put_aside()
        self.release()
        (self.folder / ".lock").unlink()
        self.folder.rmdir()
        self.entry.status, self.entry.reason, self.entry.score = "dropped", None, None

    def _put_aside(self) -> None:
        """A folder holds one run: the one that lies there moves away, the lock stays."""
        self._attempts.mkdir(exist_ok=True)
        place = self._attempts / f"{self.entry.folder}_{self.entry.attempts}"
        while place.exists():
            place = place.with_name(f"{place.name}+")
        os.rename(self.folder, place)
        self.release()
        self.free()

    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._since

    def stop(self, why: str) -> None:
        """Ask it to tidy up and end."""
        if self._process is not None and self._asked_to_stop is None:
            self.stopped, self._asked_to_stop = why, time.monotonic()
            self._process.send_signal(signal.SIGTERM)

    def ended(self, grace: float) -> bool:
        """Whether it is over; one that was asked to stop is killed with all its processes after ``grace`` seconds."""
        if self._process.poll() is None:
            if self._asked_to_stop is not None and time.monotonic() - self._asked_to_stop > grace:
                self._kill()
            return False
        self._kill()  # what it may have left behind: ranks of a process group, loaders, services
        self._settle(self._process.returncode)
        return True

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

    def _settle(self, code: int) -> None:
        """Take down how it went. A status that claims a run is still going is set right; exit codes prove nothing."""
        entry, path = self.entry, self.folder / "status.json"
        entry.seconds = round(self.seconds(), 1)
        known = read(path)
        entry.status = known.get("status", "")
        entry.reason = known.get("reason")
        if entry.status == "completed":
            entry.score = score(self.folder)
            entry.reason = None
            return
        if entry.status not in ("failed", "interrupted"):
            entry.status = "interrupted" if self.stopped else "failed"
            entry.reason = self.stopped or self._last_words(code)
            write(path, {**known, "status": entry.status, "reason": entry.reason, "until": now(), "exit_code": code})
        elif self.stopped and entry.status == "interrupted":  # it knows only the signal that it was stopped with
            entry.reason = self.stopped
            write(path, {**known, "reason": self.stopped})

    def _last_words(self, code: int) -> str:
        """The last error that was printed, else the exit code."""
        how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        text = self.log.read_bytes()[-100_000:].decode(errors="replace") if self.log.is_file() else ""
        errors = list(ERROR.finditer(text))
        if not errors:
            return f"{how}, see {self.log.name}"
        said = text[errors[-1].start(1) :][:2000].strip().removeprefix("error: ")
        return f"{how}: {said}"


def score(folder: Path) -> float | None:
    """The monitored score of a run's kept weights."""
    selected = read(folder / "result.json").get("selected", {})
    return selected.get("score")


def _die_with(parent: int) -> Callable[[], None] | None:
    """Linux: a job whose launcher was killed is told to stop, so that it does not go on unseen."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return ask
