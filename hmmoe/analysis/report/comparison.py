"""A row against the baseline: on matched seeds, and example by example."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hmmoe.analysis.report.rows import ABSENT, Row, facts
from hmmoe.analysis.report.runs import Run
from hmmoe.analysis.report.samples import both, sample_scores
from hmmoe.analysis.report.statistics import (
    Bootstrap,
    McNemar,
    Paired,
    bootstrap,
    detectable,
    holm,
    mcnemar,
    paired,
)
from hmmoe.errors import ConfigError


class Comparison(NamedTuple):
    """``seeds`` are the tests over matched seeds; ``examples`` those over the predictions, None where there are none.

    ``examples`` are of the scores averaged over the matched seeds; ``mcnemar`` stands seed by seed, and only where an
    example is right or wrong. ``p_seeds`` and ``p_examples`` are adjusted for the number of rows (Holm).
    """

    baseline: str
    seeds: Paired
    examples: Bootstrap | None
    mcnemar: dict[int, McNemar]
    detectable: float | None
    p_seeds: float | None = None
    p_examples: float | None = None
    note: str = ""


def find_baseline(rows: Sequence[Row], name: str) -> list[Row]:
    """Rows of which ``name`` ("lora", "rank=8", or several by commas) is true.

    Raises:
        ConfigError: of none.
    """
    words = [word.strip().partition("=") for word in name.split(",")]

    def fits(row: Row) -> bool:
        for key, sign, value in words:
            known = {k: v for k, v in row.values.items() if not sign or k == key or k.endswith(f".{key}")}
            if (value if sign else key) not in known.values():
                return False
        return True

    found = [row for row in rows if fits(row)]
    if not found:
        choice = "; ".join(", ".join(f"{k}={v}" for k, v in row.values.items()) for row in rows)
        raise ConfigError(f"--baseline {name} names no row: found {choice or 'no columns, all runs are alike'}")
    return found


def opponents(row: Row, baselines: Sequence[Row]) -> list[Row]:
    """The baseline row that shares the most columns with ``row``; several that share as many; none for itself."""
    if row in baselines:
        return []

    def shared(other: Row) -> int:
        return sum(value == other.values[key] != ABSENT for key, value in row.values.items())

    most = max(map(shared, baselines))
    return [other for other in baselines if shared(other) == most]


def matched(row: Row, other: Row) -> list[tuple[Run, Run]]:
    """Pairs of equal seed; in rows that pool other settings, equal in these too where both have them."""
    pairs, taken = [], set()
    for run in row.runs:
        rivals = [rival for rival in other.runs if rival.seed == run.seed and rival.folder not in taken]
        if len(rivals) > 1 or len([one for one in row.runs if one.seed == run.seed]) > 1:
            varied = _varied(row, other)
            mine = facts(run)
            rivals = [r for r in rivals if all(facts(r).get(k) == mine.get(k) for k in varied)]
        if rivals:
            pairs.append((run, rivals[0]))
            taken.add(rivals[0].folder)
    return pairs


def _varied(row: Row, other: Row) -> list[str]:
    """Settings that differ inside both rows."""
    inside = []
    for runs in (row.runs, other.runs):
        told = [facts(run) for run in runs]
        inside.append({key for one in told for key in one if len({t.get(key) for t in told}) > 1})
    return sorted(inside[0] & inside[1])


def compare(rows: Sequence[Row], baseline: str, metric: str) -> tuple[dict[str, Comparison], list[str]]:
    """(Every other row against its baseline, by label, p adjusted for their number; notes on rows without a match.)

    Args:
        rows: all of a table.
        baseline: see ``find_baseline``.
        metric: <split>/<name>; the predictions of that split are compared too.

    Raises:
        ConfigError: no row is the baseline, or no row has one rather than several to be compared with.
    """
    baselines = find_baseline(rows, baseline)
    found: dict[str, Comparison] = {}
    alone = []
    best = {row.label: others for row in rows if (others := opponents(row, baselines))}
    if best and all(len(others) > 1 for others in best.values()):
        label, others = next(iter(best.items()))
        one = ",".join(f"{k}={v}" for k, v in others[0].values.items() if v != ABSENT)
        raise ConfigError(f"--baseline {baseline}: {_undecided(label, others)}. Name one, such as --baseline {one}")
    for row in rows:
        others = best.get(row.label, [])
        if len(others) > 1:
            alone.append(f"{_undecided(row.label, others)}: not compared")
        elif others:
            told = _compare(row, others[0], metric)
            if told is not None:
                found[row.label] = told
            else:
                seeds = (" ".join(str(run.seed) for run in one.runs) for one in (row, others[0]))
                alone.append(
                    "{}: not compared, no seed in common with {} ({} and {})".format(row.label, others[0].label, *seeds)
                )
    seeds = holm({name: one.seeds.p_t for name, one in found.items() if one.seeds.p_t is not None})
    examples = holm({name: one.examples.p for name, one in found.items() if one.examples is not None})
    adjusted = {n: one._replace(p_seeds=seeds.get(n), p_examples=examples.get(n)) for n, one in found.items()}
    return adjusted, alone


def _undecided(label: str, others: Sequence[Row]) -> str:
    return f"{label} is as close to {' as to '.join(other.label for other in others)}"


def _compare(row: Row, other: Row, metric: str) -> Comparison | None:
    pairs = [(a, b) for a, b in matched(row, other) if a.score(metric) is not None and b.score(metric) is not None]
    if not pairs:
        return None
    differences = paired([a.score(metric) for a, _ in pairs], [b.score(metric) for _, b in pairs])
    spread = None
    if differences.high is not None:
        scores = [a.score(metric) - b.score(metric) for a, b in pairs]
        mean = sum(scores) / len(scores)
        spread = (sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5
    examples, tables, note = _examples(pairs, metric.partition("/")[0])
    return Comparison(
        other.label, differences, examples, tables, detectable(spread, len(pairs), paired=True), note=note
    )


def _examples(pairs: Sequence[tuple[Run, Run]], split: str) -> tuple[Bootstrap | None, dict[int, McNemar], str]:
    """Scores of an example averaged over the seeds: examples are drawn, models are not."""
    sums: tuple[dict[str, float], dict[str, float]] = ({}, {})
    tables: dict[int, McNemar] = {}
    for index, (run, rival) in enumerate(pairs):
        ours, theirs = (sample_scores(one.predictions(split)) for one in (run, rival))
        if not ours or not theirs:
            return None, {}, ""
        if index and ours.keys() != sums[0].keys():
            return None, {}, f"predictions of {split} are of other examples in {run.folder.name}"
        try:
            first, second = both(ours, theirs)
        except ValueError as error:
            return None, {}, f"{run.folder.name} and {rival.folder.name}: {error}"
        for total, scores in zip(sums, (ours, theirs), strict=True):
            _add(total, scores)
        if set(first) | set(second) <= {0.0, 1.0}:
            tables[run.seed if run.seed is not None else index] = mcnemar(
                [score == 1 for score in first], [score == 1 for score in second]
            )
    first, second = both(*sums)
    count = len(pairs)
    return bootstrap([s / count for s in first], [s / count for s in second]), tables, ""


def _add(total: dict[str, float], scores: Mapping[str, float]) -> None:
    for name, score in scores.items():
        total[name] = total.get(name, 0.0) + score
