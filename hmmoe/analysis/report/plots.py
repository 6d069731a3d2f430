"""Pictures of a report: score against cost, rank curve, heat maps, learning curves. Looked at, not only drawn."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from hmmoe.analysis.colours import KIND_COLOURS
from hmmoe.analysis.report.assemble import Report
from hmmoe.analysis.report.rows import ABSENT, Row, as_number, spoken
from hmmoe.analysis.report.statistics import Summary, knee
from hmmoe.analysis.report.table import Entry

COLOURS = KIND_COLOURS
MARKERS, DASHES = "os^DvPX*", ("-", "--", ":", "-.")
"""The next one where the colours are used up: with 39 methods no two look alike."""
BAND = 0.16
MOST_BANDS = 5
"""Rows beyond which bands over seeds would hide each other."""
SIZES = ("rank", "experts_per_group")
"""Settings that are drawn as axes first, where several numbers vary."""


class Look(NamedTuple):
    """What tells a line and its points from others."""

    colour: str | tuple[float, ...]
    marker: str
    dashes: str


def figures(one: Report) -> Iterator[tuple[str, Figure]]:
    """(file name without ending, figure) of all that the runs can show."""
    for name, cost, label, unit in (
        ("score_against_parameters", "trained_parameters", "trained parameters (million)", 1e6),
        ("score_against_flops", "flops_per_sample", "forward cost (GFLOP per sample)", 1e9),
    ):
        if sum(cost in entry.costs for entry in one.entries) > 1:
            yield name, against_cost(one, cost, label, unit)
    numbers = numeric(one.entries)
    for key in numbers:
        yield f"curve_{key.rpartition('.')[2]}", size_curve(one, key)
    if len(numbers) > 1:
        yield f"heatmap_{'_'.join(key.rpartition('.')[2] for key in numbers[:2])}", surface(one, *numbers[:2])
    if any(len(run.history) > 1 for run in one.runs):
        yield "learning_curves", learning_curves(one)


def save(figure: Figure, stem: Path) -> list[Path]:
    """PNG and SVG."""
    paths = [stem.with_suffix(ending) for ending in (".png", ".svg")]
    for path in paths:
        figure.savefig(path, dpi=140)
        figure.set_layout_engine("none")  # the places stand: finding them again takes as long as drawing
    return paths


def numeric(entries: Sequence[Entry]) -> list[str]:
    """Columns with at least two different numbers, ranks and expert counts first."""
    found = []
    for key in dict.fromkeys(key for one in entries for key in one.row.values):
        values = {one.row.values[key] for one in entries} - {ABSENT}
        if len(values) > 1 and all(as_number(value) is not None for value in values):
            found.append(key)
    names = {key: key.rpartition(".")[2] for key in found}
    return sorted(found, key=lambda key: SIZES.index(names[key]) if names[key] in SIZES else len(SIZES))


def series(rows: Sequence[Row], without: Sequence[str]) -> dict[str, list[Row]]:
    """Rows by all their columns but ``without``."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        rest = {key: value for key, value in row.values.items() if key not in without and value != ABSENT}
        found.setdefault(", ".join(spoken(key, value) for key, value in rest.items()), []).append(row)
    return found


def against_cost(one: Report, cost: str, quantity: str, unit: float) -> Figure:
    """A point per row with its 95 % interval (whiskers) where there are two seeds or more; rows of a method joined."""
    shown = [entry for entry in one.entries if cost in entry.costs]
    by_row = {entry.row.label: entry for entry in shown}
    numbers = numeric(shown)[:1]  # lines run along one number; others get a colour of their own
    lines = series([entry.row for entry in shown], numbers)
    figure, axis = _figure(6.8, 4.4, len(lines))
    xs = [entry.costs[cost] / unit for entry in shown]
    beside = "".join(f"; beside the points: {key.rpartition('.')[2].replace('_', ' ')}" for key in numbers)
    for (name, rows), look in zip(lines.items(), looks(len(lines)), strict=True):
        colour = look.colour
        points = sorted((by_row[row.label].costs[cost] / unit, row.label) for row in rows)
        means = [by_row[label].primary for _, label in points]
        if len(points) > 1:
            axis.plot(
                [x for x, _ in points], [m.mean for m in means], look.dashes, color=colour, alpha=0.45, linewidth=1
            )
        for (x, label), told in zip(points, means, strict=True):
            _whisker(axis, x, told, look, name if label == points[0][1] else None)
            if numbers:
                values = by_row[label].row.values
                if (text := values[numbers[0]]) != ABSENT:
                    axis.annotate(text, (x, told.mean), (6, 5), textcoords="offset points", fontsize=7, color=colour)
    if min(xs) > 0 and max(xs) / min(xs) > 3:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        if max(xs) / min(xs) < 30:
            axis.xaxis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else ""))
        axis.tick_params(axis="x", which="minor", labelsize=8)
    axis.margins(x=0.12, y=0.12)
    axis.set_xlabel(quantity)
    axis.set_ylabel(one.metric)
    axis.set_title(f"{one.name}: {_seeds(shown)}{beside}", fontsize=10, loc="left")
    _legend(figure, axis)
    return figure


def size_curve(one: Report, key: str) -> Figure:
    """Mean and interval over a numeric setting; other numeric settings as lines; the knee as a ring."""
    shown = [entry for entry in one.entries if as_number(entry.row.values[key]) is not None]
    by_row = {entry.row.label: entry for entry in shown}
    lines = series([entry.row for entry in shown], [key])
    figure, axis = _figure(6.4, 4.2, len(lines) + 3)
    ticks: set[float] = set()
    ringed = False
    for (name, rows), look in zip(lines.items(), looks(len(lines)), strict=True):
        colour = look.colour
        curve = {float(row.values[key]): by_row[row.label].primary for row in rows}
        curve = dict(sorted(curve.items()))
        ticks |= curve.keys()
        means = [told.mean for told in curve.values()]
        axis.plot(list(curve), means, look.marker + look.dashes, color=colour, markersize=4, label=name or None)
        if all(told.low is not None for told in curve.values()):
            axis.fill_between(
                list(curve),
                [t.low for t in curve.values()],
                [t.high for t in curve.values()],
                color=colour,
                alpha=BAND,
                linewidth=0,
            )
        bend = knee(curve, higher=one.higher)
        if bend is not None:
            axis.plot([bend], [curve[bend].mean], "o", markersize=13, markerfacecolor="none", color=colour)
            axis.annotate(
                f"{bend:g}",
                (bend, curve[bend].mean),
                (0, -17),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=colour,
            )
            ringed = True
    if min(ticks) > 0 and max(ticks) / min(ticks) >= 8:
        axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.margins(y=0.14)
    axis.set_xlabel(key)
    axis.set_ylabel(one.metric)
    axis.set_title(f"{one.name}: {_seeds(shown)}", fontsize=10, loc="left")
    if ringed:
        told = "smallest within one\nstandard error\nof the best"
        axis.plot([], [], "o", markersize=11, markerfacecolor="none", color="#666666", label=told)
    _legend(figure, axis)
    return figure


def surface(one: Report, across: str, up: str) -> Figure:
    """Two numeric settings: the mean over the seeds in every cell with its spread; a panel per other column."""
    shown = [e for e in one.entries if as_number(e.row.values[across]) is not None and e.row.values[up] != ABSENT]
    by_row = {entry.row.label: entry for entry in shown}
    panels = series([entry.row for entry in shown], [across, up])
    xs, ys = (sorted({float(entry.row.values[key]) for entry in shown}) for key in (across, up))
    means = [entry.primary.mean for entry in shown]
    low, high = min(means), max(means)
    width = max(3.2, 0.95 * len(xs) + 1.2)
    figure = Figure(figsize=(width * len(panels) + 1.2, 0.72 * len(ys) + 1.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (name, rows) in zip(axes, panels.items(), strict=True):
        grid = np.full((len(ys), len(xs)), np.nan)
        for row in rows:
            told = by_row[row.label].primary
            x, y = xs.index(float(row.values[across])), ys.index(float(row.values[up]))
            grid[y, x] = told.mean
            dark = high > low and (told.mean - low) / (high - low) < 0.55
            text = f"{told.mean:.4f}" + ("" if told.std is None else f"\n± {told.std:.4f}") + f"\nn {told.n}"
            axis.text(x, y, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "#222222")
        image = axis.imshow(grid, cmap="viridis", vmin=low, vmax=high if high > low else low + 1e-6, aspect="auto")
        axis.invert_yaxis()
        axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axis.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
        axis.set_xlabel(across)
        axis.set_title(name, fontsize=10)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    axes[0].set_ylabel(up)
    figure.colorbar(image, ax=list(axes), label=one.metric, pad=0.02)
    figure.suptitle(f"{one.name}: mean ± standard deviation, n seeds", fontsize=10)
    return figure


def learning_curves(one: Report) -> Figure:
    """The monitored score and the training loss by epoch: mean over the seeds, lowest to highest as a band."""
    monitor = one.runs[0].result["selected"]["monitor"]
    figure = Figure(figsize=(10.4, _height(4.2, len(one.entries))), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = 0
    shown = shades(one.entries)
    for entry in one.entries:
        for axis, name in ((left, monitor), (right, "train/loss")):
            trained = [
                {e + 1: v for e, v in run.curve(name).items() if e in run.curve("train/loss")} for run in entry.row.runs
            ]
            curves = [curve for curve in trained if curve]
            if curves:
                label = entry.row.label if axis is left else None
                _course(axis, curves, shown[entry.row.label], label, banded=len(one.entries) <= MOST_BANDS)
                drawn = max(drawn, len(curves))
    for axis, name in ((left, monitor), (right, "train/loss")):
        axis.set_xlabel("epoch")
        axis.set_ylabel(name)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    band = (": mean, lowest and highest" if len(one.entries) <= MOST_BANDS else ": mean") + " of the seeds"
    band = band if drawn > 1 else ""
    figure.suptitle(f"{one.name}, learning curves{band}", fontsize=11)
    if len(one.entries) > 1:
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    return figure


def shades(entries: Sequence[Entry]) -> dict[str, Look]:
    """How every row is drawn: the larger its first number (rank) the darker, a hue for all else."""
    found = {}
    lines = series([entry.row for entry in entries], numeric(entries)[:1])
    for rows, look in zip(lines.values(), looks(len(lines)), strict=True):
        full = np.array(to_rgb(look.colour))
        for index, row in enumerate(rows):
            white = 0.62 * (1 - (index + 1) / len(rows))
            found[row.label] = look._replace(colour=tuple((1 - white) * full + white))
    return found


def _course(
    axis: Axes,
    curves: Sequence[dict[int, float]],
    look: Look,
    label: str | None,
    *,
    banded: bool,
) -> None:
    epochs = sorted(set().union(*curves))
    told = [[curve[epoch] for curve in curves if epoch in curve] for epoch in epochs]
    means = [float(np.mean(v)) for v in told]
    axis.plot(epochs, means, look.marker + look.dashes, color=look.colour, label=label, markersize=2.5)
    if banded and len(curves) > 1:
        low, high = list(map(min, told)), list(map(max, told))
        axis.fill_between(epochs, low, high, color=look.colour, alpha=BAND, linewidth=0)


def _whisker(axis: Axes, x: float, told: Summary, look: Look, label: str | None) -> None:
    reach = None if told.low is None or told.high is None else [[told.mean - told.low], [told.high - told.mean]]
    axis.errorbar(
        [x],
        [told.mean],
        yerr=reach,
        fmt=look.marker,
        color=look.colour,
        markersize=5,
        capsize=3,
        elinewidth=1.1,
        label=label or None,
    )


def _figure(width: float, height: float, names: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, _height(height, names)), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    return figure, axis


def _height(least: float, names: int) -> float:
    """Inches that a legend of so many names needs."""
    return max(least, 0.5 + 0.17 * names)


def looks(count: int) -> list[Look]:
    """So many that can be told apart: colours first."""
    turns = (divmod(i, len(COLOURS)) for i in range(count))
    return [Look(COLOURS[hue], MARKERS[turn % len(MARKERS)], DASHES[turn % len(DASHES)]) for turn, hue in turns]


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if any(labels):
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)


def _seeds(entries: Sequence[Entry]) -> str:
    """How many runs stand behind a point."""
    counts = sorted({entry.primary.n for entry in entries})
    told = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    return f"{told} seed{'s' if counts[-1] > 1 else ''} each" + (", 95 % intervals" if counts[-1] > 1 else "")
