"""What methods reach and what they cost, side by side: a line per method, a panel per number."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hmmoe.analysis.report.plots import COLOURS

INK, REST = COLOURS[0], COLOURS[5]


class Reading(NamedTuple):
    """A number, with its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


class Panel(NamedTuple):
    """One number of all methods that have it.

    Args:
        title: what it is, with its unit.
        readings: by method.
        digits: behind the point.
        bars: costs are bars from zero, scores points on an axis of their own.
        line: a value to compare with.
    """

    title: str
    readings: Mapping[str, Reading]
    digits: int = 2
    bars: bool = True
    line: float | None = None


def side_by_side(methods: Sequence[str], panels: Sequence[Panel], *, marked: Collection[str], title: str) -> Figure:
    """Methods from top to bottom in the given order, ``marked`` ones in colour; numbers stand beside their marks."""
    figure = Figure(figsize=(1.6 + 2.05 * len(panels), 1.25 + 0.3 * len(methods)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for place, method in enumerate(methods):
            if method not in panel.readings:
                axis.annotate("-", (0.03, place), xycoords=("axes fraction", "data"), va="center", color=REST)
                continue
            told = panel.readings[method]
            colour = INK if method in marked else REST
            if panel.bars:
                axis.barh(place, told.value, height=0.62, color=colour, alpha=0.85, linewidth=0)
            else:
                axis.plot(told.value, place, "o", color=colour, markersize=5.5)
            end = told.value
            if told.low is not None and told.high is not None:
                axis.plot((told.low, told.high), (place, place), color="#333333", linewidth=1.2)
                end = max(end, told.high)
            text = f"{told.value:,.{panel.digits}f}"
            axis.annotate(text, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=7.5)
        if panel.line is not None:
            axis.axvline(panel.line, color="#333333", linewidth=0.8, linestyle=":")
        low, high = axis.get_xlim()
        axis.set_xlim(low, high + 0.34 * (high - low))  # room for the numbers
        axis.set_title(panel.title, fontsize=8.5, loc="left")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.tick_params(axis="x", labelsize=7.5)
        axis.tick_params(axis="y", length=0, labelsize=9)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(axis="x", alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(methods)), [method.replace("_", " ") for method in methods])
    axes[0].set_ylim(len(methods) - 0.4, -0.6)
    for label, method in zip(axes[0].get_yticklabels(), methods, strict=True):
        label.set_fontweight("bold" if method in marked else "normal")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure
