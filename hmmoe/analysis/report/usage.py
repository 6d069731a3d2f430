"""Utilisation tables of several seeds, put side by side: what the figures draw."""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from hmmoe.analysis.report.runs import Run
from hmmoe.analysis.usage_table import UsageTable, read_usage, shares_by_kind
from hmmoe.errors import DataMissing
from hmmoe.routing.usage import Usage


class Band(NamedTuple):
    """A quantity over the seeds."""

    mean: float
    low: float
    high: float


def last_tables(runs: Sequence[Run], split: str | None) -> tuple[str, list[UsageTable]]:
    """(Split, every run's last table of it). Without a split: test, else any test split, else the last of training.

    Raises:
        DataMissing: no run has a table, or one has none of this split.
    """
    known = {}
    for run in runs:
        try:
            known[run] = read_usage(run.folder / "routing")
        except FileNotFoundError as error:
            raise DataMissing(f"{run.folder.name}: {error}") from error
    names = [table.split for tables in known.values() for table in tables]
    if split is None:
        split = next((name for name in ("test", "val", "train") if name in names), names[-1])
    found = []
    for run, tables in known.items():
        mine = [table for table in tables if table.split == split]
        if not mine:
            have = ", ".join(dict.fromkeys(table.split for table in tables))
            raise DataMissing(f"{run.folder} has no routing of split {split!r}: set --split to one of {have}")
        found.append(max(mine, key=lambda table: table.epoch))
    return split, found


def kind_shares(tables: Sequence[UsageTable]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """modality -> kind -> site -> share of the delta's weight, seed by seed."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for table in tables:
        for (site, modality), kinds in shares_by_kind(table.rows).items():
            for kind, share in kinds.items():
                found.setdefault(modality, {}).setdefault(kind, {}).setdefault(site, []).append(share)
    return found


def fair_shares(rows: Sequence[Usage]) -> dict[str, dict[str, float]]:
    """modality -> kind -> its share if all groups had the same weight, at the site with the most groups."""
    groups: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        if row.level == "group":
            kinds = groups.setdefault(row.modality, {}).setdefault(row.site, {})
            kinds[row.kind] = kinds.get(row.kind, 0) + 1
    fullest = {
        modality: max(sites.values(), key=lambda kinds: sum(kinds.values())) for modality, sites in groups.items()
    }
    return {m: {kind: n / sum(kinds.values()) for kind, n in kinds.items()} for m, kinds in fullest.items()}


def mean_rows(tables: Sequence[UsageTable]) -> list[Usage]:
    """One table: shares, ratios and entropies averaged over the seeds. Dead is what is dead in every seed.

    Expert 0 of one seed has nothing to do with expert 0 of another: with several seeds the experts of a group are
    numbered by their use, 0 the busiest, or a collapse onto one expert would average out.
    """
    places: dict[tuple, list[Usage]] = {}
    for table in tables:
        for row in table.rows if len(tables) == 1 else _by_use(table.rows):
            places.setdefault((row.site, row.depth, row.modality, row.level, row.group, row.expert), []).append(row)
    averaged = ("weight_share", "selection_share", "ratio", "entropy", "token_entropy")
    return [
        rows[0]._replace(
            **{name: fmean(getattr(row, name) for row in rows) for name in averaged},
            tokens=sum(row.tokens for row in rows),
            dead=all(row.dead for row in rows),
        )
        for rows in places.values()
    ]


def _by_use(rows: Sequence[Usage]) -> list[Usage]:
    """Experts numbered inside their group by their share, the largest first."""
    groups: dict[tuple, list[Usage]] = {}
    for row in rows:
        groups.setdefault((row.site, row.modality, row.level, row.group), []).append(row)
    found = []
    for (_, _, level, _), own in groups.items():
        if level == "expert":
            own = sorted(own, key=lambda row: -row.weight_share)
            own = [row._replace(expert=number) for number, row in enumerate(own)]
        found += own
    return found


def loads(tables: Sequence[UsageTable]) -> dict[str, dict[str, list[list[float]]]]:
    """modality -> group, and expert inside its group -> per seed the ratios to the fair share, a number per site."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    for index, table in enumerate(tables):
        for row in table.rows:
            name = row.group if row.expert is None else f"{row.group} {row.expert}"
            seeds = found.setdefault(row.modality, {}).setdefault(name, [[] for _ in tables])
            seeds[index].append(row.ratio)
    return found


def band(values: Sequence[float]) -> Band:
    """Mean, lowest, highest."""
    return Band(fmean(values), min(values), max(values))
