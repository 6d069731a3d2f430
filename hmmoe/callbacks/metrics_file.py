"""``metrics.csv``: one file per run, one row per logged step, going on after a resume."""

import csv
import io
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class MetricsFile(Logger):
    """Lightning's CSVLogger starts a second file on resume and deletes the first one's rows; this one does neither.

    Scores logged at one step share a row. ``rewind`` takes back the rows of a killed epoch.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = []
        self._row: dict[str, Any] = {}

    name = "metrics"
    version = ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsFile":
        """Itself: there is no session behind it."""
        return self

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings stand in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add scores to the row of ``step``."""
        step = 0 if step is None else step
        if self._row and (self._row["step"] != step or not metrics.keys().isdisjoint(self._row.keys() - {"epoch"})):
            self.flush()
        self._row |= {"step": step, **metrics}

    @rank_zero_only
    def save(self) -> None:
        """Nothing: a row is written when the next one begins."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the row at hand."""
        self.flush()

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Training goes on from ``step``: forget what was logged from there on by an earlier process."""
        if self.path.is_file():
            rows = self._read()
            self._rewrite([row for row in rows if int(row["step"]) < step])

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        lines = self.path.read_text().splitlines(keepends=True)
        with io.StringIO("".join(line for line in lines if line.endswith("\n"))) as file:  # a cut row never was one
            reader = csv.DictReader(file)
            self._columns = list(reader.fieldnames or [])
            return list(reader)

    @rank_zero_only
    def flush(self) -> None:
        """Write the row at hand; what is logged at its step afterwards gets a row of its own."""
        if not self._row:
            return
        if not self._columns:
            self._read()
        added = [name for name in self._row if name not in self._columns]
        if added:
            rows: list[dict[str, Any]] = [*self._read()]
            first = [name for name in ("epoch", "step") if name in {*self._columns, *added}]
            self._columns = first + sorted({*self._columns, *added} - set(first))
            self._rewrite([*rows, self._row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow(self._row)
        self._row = {}

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        with fresh.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(fresh, self.path)
