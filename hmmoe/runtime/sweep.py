"""Words of a sweep's command line that are short for others, and what a job knows of the sweep that it belongs to.

``seeds=5`` is ``seed=1,2,3,4,5``. ``sweep.resume=<folder>`` is the command that began the sweep, its folder, and what
stands beside it on the command line; ``sweep.drop=<jobs>`` beside it takes unfinished jobs of other commands out.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hmmoe.errors import ConfigError

FOLDER, JOB = "HMMOE_SWEEP_DIR", "HMMOE_SWEEP_JOB"
"""The first is read by ``conf/hydra/default.yaml``; both are set by the launcher for its jobs."""

DROP = "HMMOE_SWEEP_DROP"
"""Read by the launcher."""

MULTIRUN = ("-m", "--multirun")


def expand(argv: Sequence[str]) -> list[str]:
    """The command line with short words spelled out.

    Raises:
        ConfigError: a number of seeds or a folder that is none, or such a word outside ``-m``.
    """
    words = list(argv)
    resume, drop = _value(words, "sweep.resume"), _value(words, "sweep.drop")
    if drop is not None:
        if resume is None:
            raise ConfigError(f"sweep.drop={drop}: of which sweep? Add sweep.resume=<folder>")
        os.environ[DROP] = drop.strip("[]").replace(" ", "")
        words = [word for word in words if not word.startswith("sweep.drop=")]
    if resume is not None:
        words = _resumed(words, Path(resume))
    seeds = _value(words, "seeds")
    if seeds is not None:
        words = _seeded(words, seeds)
    return words


def _value(words: Sequence[str], key: str) -> str | None:
    """What the last word for ``key`` says."""
    said = [word.partition("=")[2].strip("'\"") for word in words[1:] if word.partition("=")[0] == key]
    return said[-1] if said else None


def _resumed(words: list[str], folder: Path) -> list[str]:
    file = folder / "sweep.json"
    if not file.is_file():
        raise ConfigError(
            f"sweep.resume={folder}: no sweep.json there; it must be the folder of a sweep, as -m made it"
        )
    os.environ[FOLDER] = str(folder)
    rest = [word for word in words[1:] if not word.startswith("sweep.resume=")]
    known = []
    if "experiment" not in map(_key, rest):  # else a command of its own
        changed = {_key(word) for word in rest if "=" in word}
        known = [word for word in json.loads(file.read_text())["words"] if _key(word) not in changed]
    flags = [] if {*known, *rest} & {*MULTIRUN} else ["-m"]
    return [words[0], *flags, *known, *(word for word in rest if word not in known)]


def _key(word: str) -> str:
    """What an override sets; ``seeds`` is another word for ``seed``."""
    key = word.partition("=")[0].lstrip("+~")
    return "seed" if key == "seeds" else key


def _seeded(words: list[str], seeds: str) -> list[str]:
    if not seeds.isdecimal() or int(seeds) < 1:
        raise ConfigError(f"seeds={seeds}: must be a number of repetitions; seed=3,7,11 names the seeds themselves")
    if not {*words} & {*MULTIRUN}:
        raise ConfigError(f"seeds={seeds} repeats a run in a sweep: add -m; seed={seeds} is one run with that seed")
    each = ",".join(str(seed) for seed in range(1, int(seeds) + 1))
    return [f"seed={each}" if word.startswith("seeds=") else word for word in words]


def stamp(run_stamp: str, choice: Any) -> str:
    """Folder name of a sweep: when, and what of ``conf/sweep``."""
    chosen = [choice] if isinstance(choice, str) else list(choice or [])
    return "_".join([run_stamp, *(name for name in chosen if name not in ("null", "None", ""))])


def membership() -> dict[str, Any] | None:
    """The sweep that this process is a job of; None if of none."""
    if JOB not in os.environ:
        return None
    folder = Path(os.environ[FOLDER])
    return {"id": folder.name, "folder": str(folder), "job": int(os.environ[JOB])}
