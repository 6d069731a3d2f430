"""A report on the terminal and in its folder."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hmmoe.analysis.report.assemble import Report
from hmmoe.analysis.report.plots import figures, save
from hmmoe.analysis.report.render import latex, markdown, show, write_csv
from hmmoe.analysis.report.table import COSTS, flat


def publish(made: Sequence[Report], missing: Sequence[str], out: Path, *, plots: bool = True) -> list[Path]:
    """Write ``report.{md,tex,csv}``, ``runs.csv`` and the figures, in a folder per data set; show every report.

    Files come first: whoever reads what is shown through ``head`` has them whole.

    Returns:
        The files.
    """
    console = Console(highlight=False, markup=False, width=None if Console().is_terminal else 200)
    written = []
    for one in made:
        folder = out / one.name if len(made) > 1 else out
        folder.mkdir(parents=True, exist_ok=True)
        left_out = [f"left out, {line}" for line in missing]
        written += _write(one, folder, [*left_out, *one.notes])
        if plots:
            written += [path for name, figure in figures(one) for path in save(figure, folder / name)]
    for one in made:
        for table in one.tables:
            show(table, console)
        for note in one.notes:
            console.print(f"* {note}", soft_wrap=True)
    for line in missing:
        console.print(f"* left out, {line}", soft_wrap=True)
    console.print(f"{len(written)} files in {out}", soft_wrap=True)
    return written


def _write(one: Report, folder: Path, notes: Sequence[str]) -> list[Path]:
    paths = [folder / name for name in ("report.md", "report.tex", "report.csv", "runs.csv")]
    paths[0].write_text(markdown(one.tables, notes, f"{one.name}: {one.metric}"), encoding="utf-8")
    paths[1].write_text(latex(one.tables, notes), encoding="utf-8")
    write_csv(paths[2], [flat(entry) for entry in one.entries])
    lines = []
    for entry in one.entries:
        for run in entry.row.runs:
            line = {"row": entry.row.label, **entry.row.values, "seed": run.seed, "folder": str(run.folder)}
            line |= {f"{split}/{name}": v for split, ms in run.result["metrics"].items() for name, v in ms.items()}
            lines.append(line | {name: cost.of(run) for name, cost in COSTS.items()})
    write_csv(paths[3], lines)
    return paths
