"""Pictures of expert utilisation: who computes where (heat map), which kinds at which depth, and how it came about.

Figures are built without pyplot: no global state, no display, and safe inside a training process.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hmmoe.analysis.colours import KIND_COLOURS
from hmmoe.analysis.usage_table import UsageTable, shares_by_kind
from hmmoe.routing.usage import Usage

UNUSED, FAIR, CROWDED = "#2b6cb0", "#fbfaf7", "#c2410c"
SCALE: Colormap = LinearSegmentedColormap.from_list("utilisation", [UNUSED, FAIR, CROWDED])
CROSS = "\N{MULTIPLICATION SIGN}"
ABSENT = "#d9d9d9"
MOST = 3.0  # the ratio at which the colour is full: what a sole survivor of three groups has


class Column(NamedTuple):
    """A column of the heat map, one unit wide: a group (expert None) or an expert of it."""

    group: str
    expert: int | None
    x: float

    @property
    def label(self) -> str:
        return self.group if self.expert is None else f"{self.group} {self.expert}"


def usage_heatmap(rows: Sequence[Usage], title: str) -> Figure:
    """Ratio to the fair share: a panel per modality, a line per site, first the groups, then the experts inside them.

    Red takes more than its share, blue less, white is fair; a dead one is crossed out and a group that a site lacks is
    grey. The colour scale is the same in every picture, so epochs and runs compare at a glance. At the right of every
    line stand the entropies of the two levels (1 balanced, 0 collapsed; of the groups' inner ones the lowest).
    """
    modalities = list(dict.fromkeys(row.modality for row in rows))
    panels = [[row for row in rows if row.modality == modality] for modality in modalities]
    columns = [_columns(panel) for panel in panels]
    sites = _sites(rows)
    across = len(panels) if sum(map(len, columns)) <= 20 else 1
    down = -(-len(panels) // across)
    width = 0.52 * max(shown[-1].x for shown in columns) + 2.8
    figure = Figure(figsize=(across * width + 0.9, down * (0.27 * len(sites) + 2.0) + 0.5), layout="constrained")
    for axis, panel, shown in zip(figure.subplots(down, across, squeeze=False).flat, panels, columns, strict=True):
        _panel(axis, panel, shown, sites)
    bar = figure.colorbar(
        ScalarMappable(TwoSlopeNorm(1.0, 0.0, MOST), SCALE), ax=list(figure.axes), pad=0.015, aspect=25, extend="max"
    )
    bar.set_label("share of weight ÷ fair share", fontsize=9)
    bar.set_ticks([0, 0.5, 1, 2, 3], labels=["0 dead", "0.5", "1 fair", "2", "3"], fontsize=8)
    figure.suptitle(title, fontsize=13)
    return figure


def _sites(rows: Sequence[Usage]) -> list[str]:
    return [site for _, site in sorted({(row.depth, row.site) for row in rows})]


def _columns(rows: Sequence[Usage]) -> list[Column]:
    """Groups, then the experts of each group, blocks apart from each other."""
    groups = list(dict.fromkeys(row.group for row in rows))
    columns = [Column(group, None, float(x)) for x, group in enumerate(groups)]
    x = len(groups) + 0.6
    for group in groups:
        for expert in range(1 + max(row.expert or 0 for row in rows if row.group == group)):
            columns.append(Column(group, expert, x))
            x += 1
        x += 0.3
    return columns


def _panel(axis: Axes, rows: Sequence[Usage], columns: Sequence[Column], sites: Sequence[str]) -> None:
    norm = TwoSlopeNorm(1.0, 0.0, MOST)
    lines, places = {site: y for y, site in enumerate(sites)}, {column[:2]: column.x for column in columns}
    for x in places.values():
        axis.add_patch(Rectangle((x - 0.5, -0.5), 1, len(sites), facecolor=ABSENT))
    for row in rows:
        y, x = lines[row.site], places[row.group, row.expert]
        colour = SCALE(norm(min(row.ratio, MOST)))
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
        ink = "white" if row.ratio < 0.35 or row.ratio > 2.2 else "#333333"
        text = CROSS if row.dead else f"{row.ratio:.2f}"
        axis.text(x, y, text, ha="center", va="center", fontsize=10 if row.dead else 7.5, color=ink)
    end = columns[-1].x + 1
    axis.set_xlim(-0.5, end + 1.8)
    axis.set_ylim(len(sites) - 0.5, -0.5)
    axis.set_yticks(range(len(sites)), sites, fontsize=8)
    ticks, labels = [column.x for column in columns], [column.label for column in columns]
    axis.set_xticks(ticks, labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    groups = sum(column.expert is None for column in columns)
    heads = (((groups - 1) / 2, "groups"), ((groups + 0.6 + columns[-1].x) / 2, "experts inside their group"))
    for x, text in (*heads, (end + 0.7, "entropy")):
        axis.text(x, -0.65, text, ha="center", va="bottom", fontsize=8.5, color="#555555", style="italic")
    axis.set_title(f"{rows[0].modality}  ({max(row.tokens for row in rows):,} tokens)", fontsize=11, pad=20)
    _entropies(axis, rows, lines, end)


def _entropies(axis: Axes, rows: Sequence[Usage], lines: dict[str, int], start: float) -> None:
    """Two numbers per site behind the last column."""
    lowest: dict[tuple[str, str], float] = {}
    for row in rows:
        lowest[row.site, row.level] = min(lowest.get((row.site, row.level), 1.0), row.entropy)
    bottom = len(lines) - 0.4
    for x, level in ((start + 0.2, "group"), (start + 1.2, "expert")):
        axis.text(x, bottom, f"{level}s", rotation=40, ha="right", va="top", rotation_mode="anchor", fontsize=8)
        for site, y in lines.items():
            if (site, level) in lowest:
                value = lowest[site, level]
                colour = "#b91c1c" if value < 0.5 else "#555555"
                axis.text(x, y, f"{value:.2f}", fontsize=7.5, ha="center", va="center", color=colour)


def kinds_by_depth(rows: Sequence[Usage], title: str) -> Figure:
    """Share of every expert kind from the first site to the last, one panel per modality (as HMMoE's figure 3)."""
    shares, sites = shares_by_kind(rows), _sites(rows)
    modalities = list(dict.fromkeys(row.modality for row in rows))
    kinds = list(dict.fromkeys(kind for one in shares.values() for kind in one))
    colours = dict(zip(kinds, KIND_COLOURS * len(kinds), strict=False))
    width = max(4.2, 0.42 * len(sites) + 1.4)
    figure = Figure(figsize=(width * len(modalities), 3.9), layout="constrained")
    for axis, modality in zip(
        figure.subplots(1, len(modalities), sharey=True, squeeze=False).flat, modalities, strict=True
    ):
        foot = np.zeros(len(sites))
        for kind in kinds:
            heights = np.array([shares.get((site, modality), {}).get(kind, 0.0) for site in sites])
            axis.bar(range(len(sites)), heights, 0.86, bottom=foot, color=colours[kind], label=kind)
            for x, (low, height) in enumerate(zip(foot, heights, strict=True)):
                if height >= 0.08:
                    where = {"ha": "center", "va": "center", "fontsize": 7, "color": "white"}
                    axis.text(x, low + height / 2, f"{100 * height:.0f}", **where)
            foot += heights
        axis.set_xticks(range(len(sites)), sites, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axis.set_title(modality, fontsize=11)
        axis.set_xlim(-0.6, len(sites) - 0.4)
        axis.set_ylim(0, 1)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("share of the delta's weight (%)")
    figure.axes[0].set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9, title="expert kind")
    figure.suptitle(title, fontsize=13)
    return figure


def usage_history(tables: Sequence[UsageTable], title: str) -> Figure:
    """Share of every kind over the epochs of one split: the mean over sites as a line, lowest to highest as a band.

    Below it the number of dead groups and experts. A mean alone would hide the one site that collapsed.
    """
    tables = sorted(tables)
    epochs = [table.epoch + 1 for table in tables]  # people count from 1
    modalities = list(dict.fromkeys(row.modality for table in tables for row in table.rows))
    colours = iter(KIND_COLOURS * 4)
    colour: dict[str, str] = {}
    figure = Figure(figsize=(max(4.0, 0.25 * len(epochs) + 2.2) * len(modalities) + 1.0, 4.6), layout="constrained")
    axes = figure.subplots(2, len(modalities), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    shares = [shares_by_kind(table.rows) for table in tables]
    for (above, below), modality in zip(axes.T, modalities, strict=True):
        for kind in dict.fromkeys(kind for one in shares for kinds in one.values() for kind in kinds):
            colour.setdefault(kind, colour.get(kind) or next(colours))
            values = [[kinds.get(kind, 0.0) for (_, m), kinds in one.items() if m == modality] for one in shares]
            lowest, highest = list(map(min, values)), list(map(max, values))
            above.fill_between(epochs, lowest, highest, color=colour[kind], alpha=0.13, linewidth=0)
            mean = [sum(value) / len(value) for value in values]
            above.plot(epochs, mean, color=colour[kind], marker="o", markersize=3, label=kind)
        dead = [sum(row.dead for row in table.rows if row.modality == modality) for table in tables]
        below.bar(epochs, dead, color="#555555")
        above.set_title(modality, fontsize=11)
        above.set_ylim(0, 1)
        below.set_xlabel("epoch")
        below.xaxis.get_major_locator().set_params(integer=True)
        below.yaxis.get_major_locator().set_params(integer=True)
        for axis in (above, below):
            axis.spines[["top", "right"]].set_visible(False)
    axes[1, 0].set_ylim(0, max(1.0, axes[1, 0].get_ylim()[1]))
    axes[0, 0].set_ylabel("share of the delta's weight")
    axes[1, 0].set_ylabel("dead")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=9, title="expert kind")
    figure.suptitle(title, fontsize=13)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a PNG in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    figure.savefig(scratch, format="png", dpi=130)
    scratch.replace(path)
    return path
