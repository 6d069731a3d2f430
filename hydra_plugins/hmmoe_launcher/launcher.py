"""Hydra launcher ``process``: what ``-m`` starts jobs with (``conf/hydra/launcher/process.yaml``).

Lightning's DDP starts its other processes from the command line; inside a multirun that repeats the whole sweep, in
ghost folders and with mixed process groups. A job that is a plain command of its own has none of this.
"""

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hmmoe.errors import ConfigError, JobsFailed
from hydra_plugins.hmmoe_launcher import _screen
from hydra_plugins.hmmoe_launcher._drop import asked, drop
from hydra_plugins.hmmoe_launcher._job import Job, score
from hydra_plugins.hmmoe_launcher._names import names, split
from hydra_plugins.hmmoe_launcher._pool import Need, Pool
from hydra_plugins.hmmoe_launcher._record import Entry, Record

POLL = 0.1  # seconds

OURS = ("hydra.launcher", "hydra/launcher", "hydra.sweep", "hydra/sweep", "hydra.mode", "hydra.run.dir")
"""Settings of the sweep itself, which a job has no use for."""

FLAGS = ("--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd")


class ProcessLauncher(Launcher):
    """One clean process per job; what has completed is not run again; a failed job is named and stops nobody.

    Args:
        parallel: most jobs at a time. None: one per GPU, one at a time without any.
        gpus: ids to hand out, [0, 0, 1, 1] for two jobs on each of two. None: all that are visible.
        cores: shared among the jobs as OMP_NUM_THREADS. None: all.
        time_limit: minutes after which a job is stopped.
        fail_fast: the first failed job stops the sweep.
        grace: seconds between asking a job to stop and killing it.
    """

    def __init__(
        self,
        parallel: int | None = None,
        gpus: Sequence[int | str] | None = None,
        cores: int | None = None,
        time_limit: float | None = None,
        fail_fast: bool = False,
        grace: float = 60.0,
    ) -> None:
        for name, value in (("parallel", parallel), ("cores", cores), ("time_limit", time_limit)):
            if value is not None and not value > 0:
                raise ConfigError(f"hydra.launcher.{name}={value}: must be above 0, or null")
        self.pool = Pool(parallel, gpus, cores)
        self.time_limit, self.fail_fast, self.grace = time_limit, fail_fast, grace
        self._record: Record | None = None
        self._signal: int | None = None
        self._told: list[Job] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over."""
        self._context, self._config = hydra_context, config
        self._monitor = str(config.get("monitor", "score"))
        sweeper = config.hydra.sweeper
        self._basic = sweeper._target_.endswith("BasicSweeper")
        self._whole = self._basic and not sweeper.get("max_batch_size")
        """Whether one call brings all jobs; any other sweeper calls again, for further ones."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run what is missing: of these jobs, and of those that another command has added to the folder.

        Returns:
            one entry per job, in order, with its score; the entry of a job without result raises ``JobsFailed``.

        Raises:
            ConfigError: ``sweep.drop`` names what is no unfinished job of another command.
        """
        folder = Path(self._config.hydra.sweep.dir).resolve()
        self._record = self._record or Record.open(folder, sys.argv[1:])
        batch = self._jobs(job_overrides)
        words: dict[Job, Sequence[str]] = dict(zip(batch, job_overrides, strict=True))
        added = self._others(batch)
        batch += added
        waiting = [job for job in dict.fromkeys(batch) if not self._skip(job)]
        trainers = {job: self._trainer(words.get(job, job.entry.overrides), alone=job in added) for job in waiting}
        needs = {job: self.pool.need(trainer) for job, trainer in trainers.items()}
        if initial_job_idx == 0:
            count = len(set(batch))
            _screen.opening(folder, count, count - len(waiting), self.pool.parallel, added=len(added))
        self._record.write("running")
        with self._signals():
            self._run(waiting, needs)
        return self._conclude(batch)

    @staticmethod
    def _skip(job: Job) -> bool:
        """Whether there is nothing left to do."""
        done = job.done_before()
        if done:
            job.entry.status, job.entry.reason, job.entry.score = "completed", None, score(job.folder)
        return done

    def _jobs(self, job_overrides: Sequence[Sequence[str]]) -> list[Job]:
        """Jobs in the order of the batch; two with the same overrides are one."""
        own = [[word for word in job if split(word)[0] != "sweep"] for job in job_overrides]
        known = [entry.overrides for entry in self._record.jobs] if self._whole else []
        jobs: dict[int, Job] = {}
        batch = []
        for overrides, name in zip(own, names([*known, *own], sys.argv[1:])[len(known) :], strict=True):
            entry = self._record.find(overrides) or self._record.add(name, overrides)
            if entry.status == "dropped":  # and asked for again
                entry.status = "waiting"
            batch.append(jobs.setdefault(entry.number, self._job(entry)))
        return batch

    def _job(self, entry: Entry) -> Job:
        given = OmegaConf.to_container(self._config.hydra.overrides.hydra)
        hydra = [word for word in given if not split(word)[0].startswith(OURS)]
        return self._new(entry, self._record.folder, program(), hydra)

    def _new(self, entry: Entry, folder: Path, command: Sequence[str], hydra: Sequence[str]) -> Job:
        return Job(entry, folder, command, hydra)

    def _others(self, batch: Sequence[Job]) -> list[Job]:
        """Jobs of the folder without a result that this command does not name; those to be dropped are dropped."""
        unwanted = asked()
        if not self._whole:
            if unwanted is not None:
                raise ConfigError(f"sweep.drop={unwanted} is for grids: a search chooses its jobs itself")
            return []
        named = {job.entry.number for job in batch}
        entries = [entry for entry in self._record.jobs if entry.number not in named and entry.status != "dropped"]
        return drop(unwanted, [job for job in map(self._job, entries) if not self._skip(job)])

    def _run(self, waiting: list[Job], needs: dict[Job, Need]) -> None:
        running: list[Job] = []
        while running or (waiting and self._signal is None):
            for job in list(waiting) if self._signal is None else ():
                if self._start(job, needs[job], running):
                    waiting.remove(job)
            for job in [job for job in running if job.ended(self.grace)]:
                running.remove(job)
                self.pool.give_back(job.environment)
                _screen.ended(job.entry, self._monitor)
                self._record.write()
                if job.entry.status == "failed" and self.fail_fast:
                    waiting.clear()
                    self._stop(running, f"{job.entry.folder} failed (hydra.launcher.fail_fast)")
            if self.time_limit is not None:
                late = [job for job in running if job.seconds() > 60 * self.time_limit]
                self._stop(late, f"over hydra.launcher.time_limit={self.time_limit} minutes")
            if self._signal is not None:
                self._stop(running, signal.Signals(self._signal).name)
            if running or waiting:
                time.sleep(POLL)

    def _start(self, job: Job, need: Need, running: list[Job]) -> bool:
        environment = self.pool.take(need)
        if environment is None:
            return False
        if not job.free():
            self.pool.give_back(environment)
            if job not in self._told:
                _screen.say(f"waits   {job.entry.folder}  a process of an earlier launcher is at work in its folder")
                self._told.append(job)
            return False
        if self._skip(job):  # that process has completed it meanwhile
            job.release()
            self.pool.give_back(environment)
            return True
        resumed = job.start(environment)
        running.append(job)
        _screen.started(job.entry, environment, resumed)
        self._record.write()
        return True

    def _trainer(self, words: Sequence[str], *, alone: bool) -> Any:
        """The trainer settings of a job; ``alone``: its words are those of another command."""
        if not alone and not any(split(word)[0].startswith("trainer") for word in words):
            config = self._config
        else:
            config = self._context.config_loader.load_sweep_config(self._config, list(words))
        node = OmegaConf.select(config, "trainer")
        return {} if node is None else {key: node.get(key) for key in ("accelerator", "devices") if key in node}

    @staticmethod
    def _stop(jobs: Sequence[Job], why: str) -> None:
        for job in jobs:
            job.stop(why)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals are noted, the jobs told, the record written; only then they take their usual way."""
        usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: FrameType | None) -> None:
            self._signal = self._signal or number

        for number in usual:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)
            if self._signal is not None:
                self._record.write("interrupted")
        if self._signal is not None:
            _screen.say(f"stopped by {signal.Signals(self._signal).name}")
            _screen.next_step(self._record.folder, complete=False)
            signal.raise_signal(self._signal)

    def _conclude(self, batch: Sequence[Job]) -> list[JobReturn]:
        folder, entries = self._record.folder, list({job.entry.number: job.entry for job in batch}.values())
        states = {entry.status for entry in self._record.jobs} - {"dropped"}
        complete = states == {"completed"}
        self._record.write("completed" if complete else "failed" if "failed" in states else "interrupted")
        if self._basic:
            _screen.closing(folder, entries, self._monitor)
            _screen.next_step(folder, complete=complete)
        missing = [entry for entry in entries if entry.status != "completed"]
        error = JobsFailed(_screen.unfinished(folder, missing, len(entries))) if missing else None
        return [self._answer(job, error) for job in batch]

    @staticmethod
    def _answer(job: Job, error: JobsFailed | None) -> JobReturn:
        done = job.entry.status == "completed"
        answer = Answer(
            overrides=job.entry.overrides,
            working_dir=str(job.folder),
            task_name=job.entry.folder,
            status=JobStatus.COMPLETED if done else JobStatus.FAILED,
        )
        answer.return_value = job.entry.score if done else error
        return answer


class Answer(JobReturn):
    """What became of one job. Hydra's own prints the overrides of the job that is asked first above any error."""

    @property
    def return_value(self) -> Any:
        """The score.

        Raises:
            JobsFailed: names all jobs of the batch that have no result.
        """
        if self.status == JobStatus.FAILED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def program() -> list[str]:
    """What was started, without its overrides."""
    main = sys.modules["__main__"].__spec__
    script = ["-m", main.name] if main is not None else [str(Path(sys.argv[0]).resolve())]
    flags = [word for pair in zip(sys.argv, sys.argv[1:], strict=False) if pair[0] in FLAGS for word in pair]
    return [sys.executable, *script, *flags]
