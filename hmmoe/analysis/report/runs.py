"""Run folders on disk to plain values: what a run was, how it ended, what it measured."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hmmoe.errors import DataBroken, DataMissing

RECORDS = ("run.json", "status.json")
"""Either one makes a folder a run's."""
ASIDE = {".attempts", "wandb"}
"""Where the launcher keeps what failed jobs had left when they started over, and W&B its copies of the records."""


class Run:
    """One run folder, read lazily.

    ``choices`` are the files that were picked (peft: lora), ``settings`` the resolved leaves (peft.rank: 8),
    ``overrides`` what stood on the command line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record: dict[str, Any] = read_json(folder / "run.json")
        self.result: dict[str, Any] = read_json(folder / "result.json")
        self._status: dict[str, Any] = read_json(folder / "status.json")

    @property
    def status(self) -> str:
        """completed | failed | interrupted | running; a completed one without a result counts as failed."""
        told = str(self._status.get("status", "unknown"))
        return "failed" if told == "completed" and not self.result else told

    @property
    def reason(self) -> str:
        """First line of why it did not complete, with the next one behind a heading; empty where nothing is known."""
        line, _, rest = str(self._status.get("reason") or "").partition("\n")
        return f"{line} {rest.strip().partition(chr(10))[0]}".strip() if line.endswith(":") else line

    @property
    def seed(self) -> int | None:
        return self.record.get("seed")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Leaves of ``config.yaml`` by dotted key; lists count as leaves."""
        path = self.folder / "config.yaml"
        return dict(leaves(_yaml(path))) if path.is_file() else {}

    @cached_property
    def overrides(self) -> dict[str, str]:
        """Key to value of the command line, without the signs of Hydra's grammar."""
        pairs = (word.partition("=") for word in self.record.get("overrides", []))
        return {key.lstrip("+~"): value for key, _, value in pairs}

    @cached_property
    def choices(self) -> dict[str, str]:
        """Picked files by group, without Hydra's own and without those that follow from others."""
        path = self.folder / ".hydra" / "hydra.yaml"
        told = _yaml(path)["hydra"]["runtime"]["choices"] if path.is_file() else {}
        return {k: str(v) for k, v in told.items() if "/" not in k and "@" not in k and k != "hydra" and v is not None}

    @property
    def git(self) -> dict[str, Any]:
        return self.record.get("git") or {"sha": None, "dirty": None}

    @property
    def gits(self) -> list[dict[str, Any]]:
        """That of the start and of every time that it went on."""
        return [self.git, *(again["git"] for again in self.record.get("resumed", []) if again.get("git"))]

    @property
    def splits(self) -> dict[str, dict[str, Any]]:
        """Manifest of the data: split to count, dropped, sha256."""
        return (self.record.get("data") or {}).get("splits", {})

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """Rows of metrics.csv, empty cells left out."""
        path = self.folder / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]

    def curve(self, name: str) -> dict[int, float]:
        """A metric by epoch; of several values in an epoch the last."""
        return {int(row["epoch"]): row[name] for row in self.history if name in row and "epoch" in row}

    def score(self, name: str) -> float | None:
        """``<split>/<metric>`` of the kept weights."""
        split, _, metric = name.partition("/")
        return self.result.get("metrics", {}).get(split, {}).get(metric)

    def predictions(self, split: str) -> Path:
        """Where the rows of a split lie, if any."""
        return self.folder / "predictions" / f"{split}.csv"


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested dicts."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def read_json(path: Path) -> dict[str, Any]:
    """The file's content, empty where there is none.

    Raises:
        DataBroken: it is no JSON.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataBroken(f"{path} is not JSON ({error}): remove the folder, or leave it out") from error


class Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):
    """YAML as OmegaConf writes it: 1e-05 is a number."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _yaml(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader)


def _named(folders: Sequence[Path], name: str) -> set[Path]:
    """Files of that name at any depth; what was put aside, and a copy, is no run."""
    found = ((path, folder) for folder in folders for path in folder.rglob(name))
    return {path.resolve() for path, folder in found if ASIDE.isdisjoint(path.relative_to(folder).parts)}


def not_begun(folders: Sequence[Path]) -> list[str]:
    """A line for every sweep at or below the folders with jobs that have left nothing yet: its table is not whole."""
    lines = []
    for path in sorted(_named(folders, "sweep.json")):
        jobs = [job["folder"] for job in read_json(path).get("jobs", []) if job.get("status") != "dropped"]
        waiting = [job for job in jobs if not any((path.parent / job / name).is_file() for name in RECORDS)]
        if waiting:
            resume = f"python train.py -m sweep.resume={path.parent}"
            lines.append(f"not begun  {len(waiting)} of {len(jobs)} jobs of {path.parent}: {resume}")
    return lines


def find(folders: Sequence[Path]) -> list[Run]:
    """All runs at or below the folders, in the order of their paths; evaluations of a run are no runs.

    Raises:
        DataMissing: a folder that is not there, or none that holds a run.
    """
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if absent:
        raise DataMissing(f"no folder {', '.join(absent)}: name run folders, or a folder above them")
    places = {path.parent.resolve() for name in RECORDS for path in _named(folders, name)}
    runs = [run for run in map(Run, sorted(places)) if run.record.get("job", "train") == "train"]
    if not runs:
        raise DataMissing(
            f"no run below {', '.join(map(str, folders))}: expected folders with run.json and status.json, as "
            "`python train.py` leaves them below logs/"
        )
    return runs
