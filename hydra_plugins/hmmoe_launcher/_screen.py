"""What a person sees of a sweep: a line per start and end, a table when it is over."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra_plugins.hmmoe_launcher._record import Entry

SHOWN_COSTS = ("trained_percent", "flops_per_sample", "step_ms", "peak_memory_mib")
"""Columns of the closing table, of those that ``python -m hmmoe.report`` has."""


def say(text: str) -> None:
    """One line, at once, into a pipe as well."""
    print(text, flush=True)


def opening(folder: Path, count: int, done: int, parallel: int, *, added: int = 0) -> None:
    """How much there is to do; ``added``: what another command has left unfinished."""
    before = f", {done} done before" if done else ""
    other = f", {added} left over from another command (sweep.drop=all drops them)" if added else ""
    say(f"sweep   {shown(folder)}: {count} jobs{before}{other}, {parallel} at a time")


def started(entry: Entry, environment: dict[str, str], resumed: bool) -> None:
    """A job begins or goes on."""
    place = f"  gpu {environment['CUDA_VISIBLE_DEVICES']}" if "CUDA_VISIBLE_DEVICES" in environment else ""
    say(f"{'goes on' if resumed else 'start':<7} {entry.folder}{place}")


def ended(entry: Entry, monitor: str) -> None:
    """A job is over."""
    word = {"completed": "done"}.get(entry.status, entry.status)
    outcome = entry.reason if entry.score is None else f"{monitor} {entry.score:.4f}"
    say(f"{word:<7} {entry.folder}  {first_line(outcome)}  ({duration(entry.seconds)})")


def closing(folder: Path, entries: Sequence[Entry], monitor: str) -> None:
    """All jobs in a table: how they stand, what they scored, what they cost."""
    from rich.console import Console
    from rich.table import Table

    from hmmoe.analysis.report.runs import Run
    from hmmoe.analysis.report.table import COSTS, NONE

    runs = [Run(folder / entry.folder) for entry in entries]
    chosen, _, metric = monitor.partition("/")
    splits = dict.fromkeys(split for run in runs for split in run.result.get("metrics", {}))
    reported = [f"{split}/{metric}" for split in splits if split not in ("train", chosen)]
    costs = [COSTS[name] for name in SHOWN_COSTS if any(COSTS[name].of(run) is not None for run in runs)]
    numbers = (monitor, *reported, *(cost.title for cost in costs), "time")
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(width=140, highlight=False)
    table = Table(title=f"Sweep {folder.name}", title_justify="left")
    for column in ("job", "status", *numbers):
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for entry, run in zip(entries, runs, strict=True):
        scores = (entry.score, *(run.score(name) for name in reported))
        cells = [NONE if score is None else f"{score:.4f}" for score in scores]
        cells += [NONE if (value := cost.of(run)) is None else cost.show(value) for cost in costs]
        table.add_row(entry.folder, entry.status, *cells, duration(entry.seconds))
    console.print(table, markup=False)


def next_step(folder: Path, *, complete: bool) -> None:
    """What to type now."""
    if complete:
        say(f"report  python -m hmmoe.report {shown(folder)}")
    else:
        script = Path(sys.argv[0]).name
        say(f"go on   {'python ' if script.endswith('.py') else ''}{script} -m sweep.resume={shown(folder)}")


def unfinished(folder: Path, missing: Sequence[Entry], count: int) -> str:
    """The jobs that have no result, in the words of an error message."""
    lines = []
    for entry in missing:
        lines.append(f"  {entry.folder}  {entry.status}: {first_line(entry.reason)}".rstrip(": "))
        if entry.status == "failed":
            lines.append(f"      {shown(folder / entry.folder)}/output.log")
    return f"{len(missing)} of {count} jobs have no result:\n" + "\n".join(lines)


def first_line(text: str | None) -> str:
    """An error's first line, at readable length."""
    line, _, rest = (text or "").strip().partition("\n")
    if line.endswith(":"):  # a heading alone says nothing
        line = f"{line} {rest.strip().partition(chr(10))[0]}"
    return line if len(line) <= 200 else f"{line[:197]}..."


def duration(seconds: float | None) -> str:
    """3725.0 as "1 h 2 min"."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def shown(path: Path) -> str:
    """As short as it can be typed from here."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
