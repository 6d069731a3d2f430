"""``sweep.drop=``: unfinished jobs that nobody wants any more leave the sweep; the record keeps them as dropped."""

import os
from collections.abc import Sequence

from hmmoe.errors import ConfigError
from hydra_plugins.hmmoe_launcher import _screen
from hydra_plugins.hmmoe_launcher._job import Job

DROP = "HMMOE_SWEEP_DROP"
"""What ``sweep.drop=`` said, put there by ``hmmoe.runtime.sweep``."""


def asked() -> str | None:
    """What is to be dropped; said once."""
    return os.environ.pop(DROP, None)


def drop(said: str | None, others: Sequence[Job]) -> list[Job]:
    """The jobs that remain.

    Args:
        said: "all", or numbers or folder names with commas between them; None drops nothing.
        others: jobs without a result that the command does not ask for.

    Raises:
        ConfigError: names anything else, or a job that a process is at work on.
    """
    if said is None:
        return list(others)
    chosen = others if said == "all" else [_named(word, others) for word in said.split(",")]
    for job in dict.fromkeys(chosen):
        if not job.free():
            raise ConfigError(f"sweep.drop: a process of an earlier launcher is at work in {job.folder}: end it")
        job.drop()
        _screen.say(f"dropped {job.entry.folder}")
    return [job for job in others if job not in chosen]


def _named(word: str, others: Sequence[Job]) -> Job:
    for job in others:
        if word in (str(job.entry.number), job.entry.folder):
            return job
    can = ", ".join(job.entry.folder for job in others) or "none"
    raise ConfigError(
        f"sweep.drop={word}: only a job without a result that the command does not ask for can be dropped, here {can}. "
        "What else is not wanted must be left out of the command"
    )
