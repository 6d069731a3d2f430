"""``sweep.json``: the command of a sweep and how each of its jobs stands; written whole, after every change."""

import fcntl
import json
import os
import socket
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hmmoe.errors import UserError


@dataclass
class Entry:
    """One job. Its folder lies in the sweep's."""

    number: int
    folder: str
    overrides: list[str]
    status: str = "waiting"
    """waiting | running | completed | failed | interrupted | dropped"""
    score: float | None = None
    seconds: float | None = None
    reason: str | None = None
    attempts: int = 0


@dataclass
class Record:
    """A sweep's folder. Only one launcher works in it at a time.

    Args:
        folder: of the sweep.
        words: the command line that began it, for ever.
        jobs: in the order of their numbers.
        later: command lines that went on with it and asked for something else.
    """

    folder: Path
    words: list[str]
    jobs: list[Entry] = field(default_factory=list)
    status: str = "running"
    since: str = ""
    later: list[list[str]] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, words: Sequence[str]) -> "Record":
        """Begin a sweep, or go on with the one that lies there.

        Raises:
            UserError: another launcher is at work there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder)
        if held is None:
            raise UserError(f"another launcher is at work in {folder}: wait for it, or end it")
        known = read(folder / "sweep.json")
        record = cls(
            folder,
            known.get("words", list(words)),
            [Entry(**job) for job in known.get("jobs", [])],
            since=known.get("since") or now(),
            later=known.get("later", []),
        )
        if list(words) not in (record.words, *record.later):
            record.later.append(list(words))
        weakref.finalize(record, os.close, held)
        return record

    def find(self, overrides: Sequence[str]) -> Entry | None:
        """The job with these overrides, in whatever order they stand."""
        return next((job for job in self.jobs if sorted(job.overrides) == sorted(overrides)), None)

    def add(self, name: str, overrides: Sequence[str]) -> Entry:
        """A new job under the next free number."""
        number = 1 + max((job.number for job in self.jobs), default=-1)
        self.jobs.append(Entry(number, f"{number}_{name}".rstrip("_"), list(overrides)))
        return self.jobs[-1]

    def write(self, status: str | None = None) -> None:
        """Put it on disk."""
        self.status = status or self.status
        write(
            self.folder / "sweep.json",
            {
                "id": self.folder.name,
                "status": self.status,
                "since": self.since,
                "changed": now(),
                "words": self.words,
                "later": self.later,
                "launcher": {"pid": os.getpid(), "host": socket.gethostname()},
                "jobs": [asdict(job) for job in self.jobs],
            },
        )


def lock(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock while any process has it open; None if another one does."""
    held = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def now() -> str:
    """Local time with its offset, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def read(path: Path) -> dict[str, Any]:
    """The file's content, empty where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a file as a whole: whoever reads sees the old one or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(content, indent=2, default=str) + "\n")
    os.replace(fresh, path)
