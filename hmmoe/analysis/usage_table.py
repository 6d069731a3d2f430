"""Utilisation tables on disk: one tidy CSV per split and epoch, so a resumed run replaces, and never doubles, rows."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hmmoe.routing.usage import Usage

COLUMNS = ("epoch", "split", *Usage._fields)


class UsageTable(NamedTuple):
    """The rows of one split at the end of one epoch."""

    epoch: int
    split: str
    rows: list[Usage]


def usage_path(folder: str | Path, epoch: int, split: str) -> Path:
    """Where the table of one epoch lies."""
    return Path(folder) / f"epoch_{epoch:04d}_{split}.csv"


def write_usage(folder: str | Path, table: UsageTable) -> Path:
    """Write one epoch's table in one step: a reader, or a killed run, never sees half of it."""
    path = usage_path(folder, table.epoch, table.split)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    with scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in table.rows:
            writer.writerow(["" if cell is None else _short(cell) for cell in (table.epoch, table.split, *row)])
    scratch.replace(path)
    return path


def read_usage(folder: str | Path) -> list[UsageTable]:
    """All tables of a run's ``routing`` folder, by epoch, then split.

    ``pandas.concat(map(pandas.read_csv, sorted(folder.glob("epoch_*.csv"))))`` gives the same as one frame.

    Raises:
        FileNotFoundError: no table there.
        ValueError: a table with other columns.
    """
    paths = sorted(Path(folder).glob("epoch_*.csv"))
    if not paths:
        raise FileNotFoundError(
            f"no epoch_*.csv in {folder}: the run ended before its first epoch, had callbacks.utilization switched "
            "off, or its method does not route"
        )
    return [_read(path) for path in paths]


def _read(path: Path) -> UsageTable:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has the columns {reader.fieldnames}, expected {COLUMNS}")
        lines = list(reader)
    # The name carries the epoch too, for a table without rows.
    _, epoch, split = path.stem.split("_", 2)
    return UsageTable(int(epoch), split, [_usage(line) for line in lines])


def _usage(line: dict[str, str]) -> Usage:
    parse: dict[str, Any] = {"depth": int, "tokens": int, "expert": lambda text: int(text) if text else None}
    parse |= dict.fromkeys(("site", "modality", "level", "group"), str) | {"dead": lambda text: text == "True"}
    return Usage(**{name: parse.get(name, float)(line[name]) for name in Usage._fields})


def _short(cell: object) -> object:
    return f"{cell:.6g}" if isinstance(cell, float) else cell


def shares_by_kind(rows: Sequence[Usage]) -> dict[tuple[str, str], dict[str, float]]:
    """(site, modality) -> {kind: share of the delta's weight}; kinds and sites in order of appearance."""
    shares: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row.level == "group":
            kinds = shares.setdefault((row.site, row.modality), {})
            kinds[row.kind] = kinds.get(row.kind, 0.0) + row.weight_share
    return shares
