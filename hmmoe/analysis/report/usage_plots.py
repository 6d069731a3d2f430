"""HMMoE's figure 3 over seeds, the load of every expert against its fair share, and what each expert gets to see."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter

from hmmoe.analysis.colours import KIND_COLOURS
from hmmoe.analysis.report.usage import band, fair_shares, kind_shares, loads
from hmmoe.analysis.token_files import TILE, Example
from hmmoe.analysis.usage_table import UsageTable

CEILING = 4.0
"""Ratios above stand at the upper edge, as triangles."""
LEAST = 0.005
"""Share below which a word or a patch is no example of an expert's work."""


def kinds_over_depth(tables: Sequence[UsageTable], title: str) -> Figure:
    """Share of every expert kind from the first site to the last: seeds, mean, and their range as a band."""
    bands = kind_shares(tables)
    fair = fair_shares(tables[0].rows)
    colours = _colours([kind for kinds in bands.values() for kind in kinds])
    sites = [site for _, site in sorted({(row.depth, row.site) for table in tables for row in table.rows})]
    width = max(3.8, 0.3 * len(sites) + 1.4)
    figure = Figure(figsize=(width * len(bands) + 1.3, 3.9), layout="constrained")
    axes = figure.subplots(1, len(bands), sharey=True, squeeze=False)[0]
    for axis, (modality, kinds) in zip(axes, bands.items(), strict=True):
        for kind, by_site in kinds.items():
            xs = [x for x, site in enumerate(sites) if site in by_site]
            told = [band(by_site[sites[x]]) for x in xs]
            axis.plot(xs, [one.mean for one in told], "o-", color=colours[kind], markersize=3.5, label=kind)
            if len(tables) > 1:
                low, high = [one.low for one in told], [one.high for one in told]
                axis.fill_between(xs, low, high, color=colours[kind], alpha=0.13, linewidth=0)
                # Each seed too: a band from 0 to 100 % may be seeds that chose one way or the other.
                for seed in zip(*(by_site[sites[x]] for x in xs), strict=True):
                    axis.plot(xs, seed, color=colours[kind], linewidth=0.7, alpha=0.55)
        for share in sorted(set(fair[modality].values())):
            axis.axhline(share, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
        axis.set_title(modality, fontsize=11)
        axis.set_xticks(range(len(sites)), sites, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
        axis.set_ylim(-0.02, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of the delta's weight (%)")
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}"))
    handles = dict(pair for axis in axes for pair in zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    legend = {"loc": "outside right upper", "frameon": False, "fontsize": 9}
    figure.legend(handles.values(), handles.keys(), title="expert kind", **legend)
    over = f"{len(tables)} seeds (thin), their mean and range" if len(tables) > 1 else "one seed"
    figure.suptitle(f"{title}: {over}; dotted: fair share", fontsize=11)
    return figure


def load_against_fair(tables: Sequence[UsageTable], title: str) -> Figure:
    """Ratio of load to fair share of every group, and of every expert inside its group; a dot per site."""
    found = loads(tables)
    most = max(len(names) for names in found.values())
    highest = max(ratio for names in found.values() for seeds in names.values() for ratios in seeds for ratio in ratios)
    edge = min(CEILING, max(2.0, math.ceil(highest)))
    figure = Figure(figsize=(9.0, (0.24 * most + 0.62) * len(found) + 1.1), layout="constrained")
    axes = figure.subplots(
        len(found), 1, sharex=True, squeeze=False, height_ratios=[len(n) + 1 for n in found.values()]
    )
    colours = [KIND_COLOURS[i % len(KIND_COLOURS)] for i in range(len(tables))]
    for axis, (modality, names) in zip(axes[:, 0], found.items(), strict=True):
        # Each group, then its experts.
        order = sorted(names, key=lambda name: (list(names).index(name.rpartition(" ")[0] or name), " " in name, name))
        for y, name in enumerate(order):
            for seed, ratios in enumerate(names[name]):
                height = y + (seed - (len(tables) - 1) / 2) * 0.6 / len(tables)
                style = {"color": colours[seed], "alpha": 0.75, "linestyle": "none"}
                inside = [ratio for ratio in ratios if ratio <= edge]
                beyond = len(ratios) - len(inside)
                if inside:
                    axis.plot(inside, [height] * len(inside), "o", markersize=3, **style)
                if beyond:
                    axis.plot([edge] * beyond, [height] * beyond, ">", markersize=4, **style)
            if " " not in name:
                axis.axhspan(y - 0.5, y + 0.5, color="#f1f1ee", zorder=0, linewidth=0)
        axis.axvline(1, color="#777777", linewidth=0.9)
        axis.set_yticks(range(len(order)), order, fontsize=8)
        for label, name in zip(axis.get_yticklabels(), order, strict=True):
            label.set_fontweight("normal" if " " in name else "bold")
        axis.set_ylim(len(order) - 0.4, -0.6)
        axis.set_xlim(-0.06, edge + 0.06)
        axis.set_title(modality, fontsize=10, loc="left")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[-1, 0].xaxis.set_major_locator(FixedLocator([x for x in (0, 0.5, 1, 2, 3, CEILING) if x <= edge]))
    labels = {0: "0 dead", 1: "1 fair"} | ({edge: f"{edge:g} or more"} if highest > edge else {})
    axes[-1, 0].xaxis.set_major_formatter(FuncFormatter(lambda x, _: labels.get(x, f"{x:g}")))
    axes[-1, 0].set_xlabel(
        "share of weight ÷ fair share (bold: groups among all groups; below: experts inside their group)"
    )
    seeds = f"; a colour for each of {len(tables)} seeds" if len(tables) > 1 else ""
    figure.suptitle(f"{title}: a dot for every site{seeds}", fontsize=11)
    return figure


def word_examples(rows: Sequence[Example], title: str) -> Figure:
    """Per site and expert the words with the highest mean share; dotted the expert's mean over all words."""
    table = _by_expert(row for row in rows if row.tile is None)
    sites, experts = _axes(table)
    top = max(len(shown) for shown in table.values())
    figure = Figure(figsize=(1.75 * len(experts) + 0.7, (0.2 * top + 0.45) * len(sites) + 0.6), layout="constrained")
    axes = figure.subplots(len(sites), len(experts), squeeze=False, sharex=True)
    kinds = _colours([group.partition(":")[0] for group, _ in experts])
    for down, (line, site) in enumerate(zip(axes, sites, strict=True)):
        for axis, (group, expert) in zip(line, experts, strict=True):
            shown = [row for row in table.get((site, group, expert), []) if row.share >= LEAST]
            if not shown:
                axis.text(0.02, 0, "gets none", va="center", fontsize=7.5, color="#777777")
            axis.barh(range(len(shown)), [row.share for row in shown], color=kinds[group.partition(":")[0]], alpha=0.45)
            for y, row in enumerate(shown):
                axis.text(0.02, y, f"{row.token}  {100 * row.share:.0f}", va="center", fontsize=7.5)
            if shown:
                axis.axvline(shown[0].overall, color="#777777", linewidth=0.9, linestyle=":", zorder=0)
            axis.set_ylim(top - 0.4, -0.6)
            axis.set_xlim(0, 1)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[["top", "right", "bottom"]].set_visible(False)
            if axis is line[0]:
                axis.set_ylabel(site, fontsize=9)
            if down == 0:
                axis.set_title(f"{group} {expert}", fontsize=9)
    figure.suptitle(f"{title}: mean share of the word's weight (%); dotted: mean over all words", fontsize=10)
    return figure


def patch_examples(rows: Sequence[Example], tiles: Sequence[np.ndarray], title: str) -> Figure:
    """Per site and expert the patches with the highest share, each with one patch of surroundings."""
    table = _by_expert(row for row in rows if row.tile is not None)
    sites, experts = _axes(table)
    top = max(len(shown) for shown in table.values())
    gap = TILE // 2
    height = len(experts) * (TILE + 12) + gap
    width = len(sites) * (top * (TILE + 2) + gap)
    figure = Figure(figsize=(width / 75 + 1.6, height / 75 + 0.8), layout="constrained")
    axis = figure.subplots()
    # One canvas for all crops: hundreds of images in an axis take seconds to draw.
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    frames = []
    for column, site in enumerate(sites):
        left = column * (top * (TILE + 2) + gap)
        axis.text(left + top * (TILE + 2) / 2, -8, site, ha="center", va="bottom", fontsize=9)
        for line, expert in enumerate(experts):
            up = line * (TILE + 12)
            shown = [row for row in table.get((site, *expert), []) if row.share >= LEAST]
            if not shown:
                axis.text(left, up + TILE / 2, "gets none", va="center", fontsize=8, color="#777777")
            for row in shown:
                x = left + row.rank * (TILE + 2)
                canvas[up : up + TILE, x : x + TILE] = tiles[row.tile]
                frames.append(Rectangle((x + TILE / 3, up + TILE / 3), TILE / 3, TILE / 3))
                share = {"ha": "center", "va": "top", "fontsize": 6, "color": "#555555"}
                axis.text(x + TILE / 2, up + TILE + 1, f"{100 * row.share:.0f}", **share)
    axis.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest")
    axis.add_collection(PatchCollection(frames, facecolor="none", edgecolor="#e11d48", linewidth=0.8))
    axis.set_xlim(-2, width - gap)
    axis.set_ylim(height - gap, -22)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([line * (TILE + 12) + TILE / 2 for line in range(len(experts))], [f"{g} {e}" for g, e in experts])
    axis.tick_params(length=0, labelsize=8)
    axis.spines[:].set_visible(False)
    figure.suptitle(f"{title}: share of the framed patch's weight (%)", fontsize=10)
    return figure


def _by_expert(rows: Iterable[Example]) -> dict[tuple[str, str, int], list[Example]]:
    table: dict[tuple[str, str, int], list[Example]] = {}
    for row in rows:
        table.setdefault((row.site, row.group, row.expert), []).append(row)
    return table


def _axes(table: Mapping[tuple[str, str, int], object]) -> tuple[list[str], list[tuple[str, int]]]:
    """Sites in order, experts in order of appearance."""
    return list(dict.fromkeys(s for s, _, _ in table)), list(dict.fromkeys((g, e) for _, g, e in table))


def _colours(kinds: Sequence[str]) -> dict[str, str]:
    names = list(dict.fromkeys(kinds))
    return {name: KIND_COLOURS[i % len(KIND_COLOURS)] for i, name in enumerate(names)}
