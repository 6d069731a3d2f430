"""Folders to reports: one per data set, each with its rows, notes and tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hmmoe.analysis.report import provenance
from hmmoe.analysis.report.comparison import Comparison, compare
from hmmoe.analysis.report.rows import latest, rows, split_by_dataset
from hmmoe.analysis.report.runs import Run, find, not_begun
from hmmoe.analysis.report.table import Entry, Table, cost_table, counted, difference_table, entry, notes, score_table
from hmmoe.errors import ConfigError, DataMissing

LOWER = ("loss", "MeanR", "MedR")


class Report(NamedTuple):
    """All that is said about the runs on one data set. ``metric`` is what was tested, the first of ``metrics``.

    ``unfit`` says why nothing was compared, where a baseline was asked for that these runs do not have.
    """

    name: str
    metrics: list[str]
    higher: bool
    entries: list[Entry]
    tables: list[Table]
    notes: list[str]
    unfit: str = ""

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def runs(self) -> list[Run]:
        return [run for one in self.entries for run in one.row.runs]


def reports(
    folders: Sequence[Path],
    *,
    baseline: str | None = None,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    mix: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> tuple[list[Report], list[str]]:
    """(Reports, lines on the runs that are left out).

    Args:
        folders: searched to any depth.
        baseline: see ``comparison.find_baseline``.
        by: settings that name the rows; without it, all that differ.
        metrics: <split>/<metric>, the first one is tested; without it the monitored metric on test.
        mix: "data" and "code" may differ between runs.
        ignore: settings that shall not tell rows apart.

    Raises:
        UserError: no completed run, data or code mixed, or a name that fits nothing (a baseline: in no data set).
    """
    runs = find(folders)
    done = [run for run in runs if run.status == "completed"]
    missing = [*(_unfinished(run) for run in runs if run.status != "completed"), *not_begun(folders)]
    if not done:
        raise DataMissing("no completed run among these:\n  " + "\n  ".join(missing))
    blocks = split_by_dataset(done)
    made = [_report(name, block, baseline, by, metrics, mix, ignore) for name, block in blocks.items()]
    unfit = [one.unfit for one in made if one.unfit]
    if len(unfit) == len(made):
        raise ConfigError(unfit[0])
    return made, missing


def _unfinished(run: Run) -> str:
    reason = f": {run.reason}" if run.reason else ""
    return f"{run.status}  {run.folder}{reason}"


def _report(
    name: str,
    runs: Sequence[Run],
    baseline: str | None,
    by: Sequence[str],
    metrics: Sequence[str],
    mix: Sequence[str],
    ignore: Sequence[str],
) -> Report:
    kept, twice = latest(runs, ignore)
    shown = list(metrics) or default_metrics(kept)
    table = rows(kept, by, ignore)
    remarks = provenance.check(table, [metric.partition("/")[0] for metric in shown], allow=mix)
    remarks += [f"left out, older than a run with the same settings and seed: {run.folder}" for run in twice]
    compared: dict[str, Comparison] = {}
    unfit = ""
    if baseline:
        try:
            compared, alone = compare(table, baseline, shown[0])
            remarks += alone
        except ConfigError as error:  # another data set may have it
            unfit = str(error)
            remarks.append(f"no differences: {unfit}")
    entries = [entry(row, shown, compared.get(row.label), ignore) for row in table]
    absent = [one.row.label for one in entries if shown[0] not in one.scores]
    entries = [one for one in entries if shown[0] in one.scores]
    if not entries:
        known = dict.fromkeys(f"{s}/{m}" for run in kept for s, ms in run.result.get("metrics", {}).items() for m in ms)
        raise ConfigError(f"--metric {shown[0]}: no run has it; found {', '.join(known)}")
    remarks += [f"without {shown[0]}, left out: {label}" for label in absent]
    tables = [
        score_table(entries, f"{name}: {counted(len(kept))}"),
        difference_table(entries, shown[0]),
        cost_table(entries),
    ]
    told = [*remarks, *_selection(entries, shown[0]), *notes(entries, shown[0])]
    tables = [one for one in tables if one is not None]
    return Report(name, shown, is_higher(kept, shown[0]), entries, tables, told, unfit)


def default_metrics(runs: Sequence[Run]) -> list[str]:
    """The monitored metric: on ``test`` where there is one, else on the last split; then on the others, train aside."""
    monitor = runs[0].result["selected"]["monitor"]
    chosen_on, _, metric = monitor.partition("/")
    splits = [split for split, scores in runs[0].result["metrics"].items() if metric in scores and split != "train"]
    if not splits:
        return [monitor]
    first = "test" if "test" in splits else splits[-1]
    rest = [split for split in splits if split not in (first, chosen_on)]
    chosen = [chosen_on] if chosen_on in splits and chosen_on != first else []
    return [f"{split}/{metric}" for split in (first, *rest, *chosen)]


def _selection(entries: Sequence[Entry], metric: str) -> list[str]:
    monitors = {run.result["selected"]["monitor"] for one in entries for run in one.row.runs}
    if metric in monitors:
        return [f"{metric} also chose the weights: it is a maximum over epochs, too good as an estimate"]
    return []


def is_higher(runs: Sequence[Run], metric: str) -> bool:
    """Whether more of a metric is better."""
    selected = runs[0].result.get("selected", {})
    if metric.partition("/")[2] == selected.get("monitor", "").partition("/")[2]:
        return selected.get("mode") != "min"
    return not metric.endswith(LOWER)
