"""Rows with their numbers, and the report's tables as text cells."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hmmoe.analysis.report.comparison import Comparison
from hmmoe.analysis.report.flags import MEANING, flags
from hmmoe.analysis.report.rows import Row, pooled
from hmmoe.analysis.report.runs import Run
from hmmoe.analysis.report.statistics import ALPHA, CONFIDENCE, FEW, POWER, Summary, detectable, summarise

NONE = "-"


class Entry(NamedTuple):
    """A row of the report. ``scores`` are by metric, the first one is what is tested."""

    row: Row
    scores: dict[str, Summary]
    costs: dict[str, float]
    comparison: Comparison | None
    flags: dict[str, int]
    mixes: list[str]

    @property
    def primary(self) -> Summary:
        return next(iter(self.scores.values()))


class Cost(NamedTuple):
    """A column of the cost table: how a run tells it and how it is shown."""

    title: str
    of: Callable[[Run], float | None]
    show: Callable[[float], str]


def _file(run: Run, name: str) -> float | None:
    path = run.folder / name
    return float(path.stat().st_size) if path.is_file() else None


def _cost(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.result.get("cost", {}).get(name)


def _size(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.result.get("parameters", {}).get(name)


COSTS = {
    "trained_parameters": Cost("trained", _size("trained"), lambda x: f"{x / 1e6:.3f} M"),
    "trained_percent": Cost("trained %", _size("trained_percent"), lambda x: f"{x:.2f}"),
    "adapter_parameters": Cost("adapters", _size("adapters"), lambda x: f"{x / 1e6:.3f} M"),
    "router_parameters": Cost("routers", _size("router"), lambda x: f"{x / 1e6:.3f} M"),
    "head_parameters": Cost("head", _size("head"), lambda x: f"{x / 1e6:.3f} M"),
    "flops_per_sample": Cost("GFLOP / sample", _cost("flops_per_sample"), lambda x: f"{x / 1e9:.3g}"),
    "latency_ms_per_sample": Cost("ms / sample", _cost("latency_ms_per_sample"), lambda x: f"{x:.3g}"),
    "step_ms": Cost("ms / step", _cost("step_ms"), lambda x: f"{x:.0f}"),
    "peak_memory_mib": Cost("memory MiB", lambda run: run.result.get("peak_memory_mib"), lambda x: f"{x:.0f}"),
    "seconds": Cost("wall s", lambda run: run.result.get("seconds"), lambda x: f"{x:.0f}"),
    "checkpoint_bytes": Cost(
        "checkpoint MB", lambda run: _file(run, "checkpoints/best.ckpt"), lambda x: f"{x / 1e6:.2f}"
    ),
    "adapter_bytes": Cost("adapter MB", lambda run: _file(run, "adapter.safetensors"), lambda x: f"{x / 1e6:.2f}"),
}


def entry(row: Row, metrics: Sequence[str], comparison: Comparison | None, ignore: Iterable[str] = ()) -> Entry:
    """The numbers of a row; costs are means over its runs."""
    scores = {}
    for metric in metrics:
        values = [score for run in row.runs if (score := run.score(metric)) is not None]
        if values:
            scores[metric] = summarise(values)
    costs = {}
    for name, cost in COSTS.items():
        told = [value for run in row.runs if (value := cost.of(run)) is not None]
        if told:
            costs[name] = sum(told) / len(told)
    counts: dict[str, int] = {}
    for flag in (flag for run in row.runs for flag in flags(run)):
        counts[flag] = counts.get(flag, 0) + 1
    return Entry(row, scores, costs, comparison, counts, pooled(row, ignore))


class Table(NamedTuple):
    """Text cells; the first column names the row."""

    title: str
    columns: list[str]
    lines: list[list[str]]

    def without_empty(self) -> "Table":
        """Without the columns that hold nothing."""
        kept = [
            i for i, _ in enumerate(self.columns) if i == 0 or any(line[i] not in (NONE, "") for line in self.lines)
        ]
        return Table(self.title, [self.columns[i] for i in kept], [[line[i] for i in kept] for line in self.lines])


def number(value: float | None, digits: int = 4) -> str:
    """Fixed digits, a dash for none."""
    return NONE if value is None else f"{value:.{digits}f}"


def counted(runs: int) -> str:
    """1 run, 3 runs."""
    return f"{runs} run{'s' if runs != 1 else ''}"


def p_value(p: float | None) -> str:
    """Three digits, never 0."""
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def spread(one: Summary | None) -> str:
    """mean ± standard deviation."""
    return NONE if one is None else number(one.mean) + ("" if one.std is None else f" ± {one.std:.4f}")


def interval(low: float | None, high: float | None) -> str:
    """[low, high]."""
    return NONE if low is None or high is None else f"[{low:.4f}, {high:.4f}]"


def score_table(entries: Sequence[Entry], title: str) -> Table:
    """Means, spread and intervals of the scores, with the flags."""
    metrics = list(dict.fromkeys(metric for one in entries for metric in one.scores))
    head, *others = metrics
    columns = ["row", "n", head, f"{CONFIDENCE:.0%} interval", *others, "detectable", "flags"]
    lines = []
    for one in entries:
        first = one.scores.get(head)
        lines.append(
            [
                one.row.label,
                str(len(one.row.runs)) + ("" if len(one.row.runs) >= FEW else " (few)"),
                spread(first),
                interval(first and first.low, first and first.high),
                *(spread(one.scores.get(metric)) for metric in others),
                number(detectable(first.std, first.n, paired=False) if first else None),
                ", ".join(f"{flag} {count}/{len(one.row.runs)}" for flag, count in one.flags.items()) or NONE,
            ]
        )
    return Table(title, columns, lines).without_empty()


def difference_table(entries: Sequence[Entry], metric: str) -> Table | None:
    """The differences to the baseline; None where nothing was compared."""
    compared = [(one, one.comparison) for one in entries if one.comparison is not None]
    if not compared:
        return None
    columns = ["row", "against", "pairs", "difference", f"{CONFIDENCE:.0%} interval", "p (t)", "p (t, Holm)"]
    columns += ["p (Wilcoxon)", "detectable", "examples", "their interval", "p (examples, Holm)", "McNemar"]
    lines = []
    for one, told in compared:
        seeds, examples = told.seeds, told.examples
        lines.append(
            [
                one.row.label,
                told.baseline,
                str(seeds.n),
                f"{seeds.mean:+.4f}",
                interval(seeds.low, seeds.high),
                p_value(seeds.p_t),
                p_value(told.p_seeds),
                p_value(seeds.p_wilcoxon),
                number(told.detectable),
                NONE if examples is None else str(examples.n),
                NONE if examples is None else interval(examples.low, examples.high),
                p_value(told.p_examples),
                _mcnemar(told),
            ]
        )
    return Table(f"Differences in {metric}", columns, lines).without_empty()


def _mcnemar(told: Comparison) -> str:
    tables = list(told.mcnemar.values())
    if not tables:
        return NONE
    if len(tables) == 1:
        return f"{tables[0].ours} : {tables[0].theirs}, p {p_value(tables[0].p)}"
    better = sum(table.p < ALPHA and table.ours > table.theirs for table in tables)
    worse = sum(table.p < ALPHA and table.ours < table.theirs for table in tables)
    return f"better in {better}, worse in {worse} of {len(tables)} seeds"


def cost_table(entries: Sequence[Entry]) -> Table:
    """What a row costs, means over its runs."""
    shown = ["trained_parameters", "trained_percent", *list(COSTS)[5:]]
    lines = [
        [one.row.label, *(COSTS[name].show(one.costs[name]) if name in one.costs else NONE for name in shown)]
        for one in entries
    ]
    return Table("Cost", ["row", *(COSTS[name].title for name in shown)], lines).without_empty()


def notes(entries: Sequence[Entry], metric: str) -> list[str]:
    """What a reader must know to believe the table, and no more."""
    found = []
    few = sorted({len(one.row.runs) for one in entries if len(one.row.runs) < FEW})
    if few:
        told = counted(few[0]) if len(few) == 1 else f"{few[0]} to {few[-1]} runs"
        found.append(
            f"TOO FEW SEEDS: rows with {told}, {FEW} are wanted: `seed={','.join(map(str, range(1, FEW + 1)))}`"
        )
    for one in entries:
        if one.mixes:
            found.append(f"{one.row.label}: pools runs that differ in {', '.join(one.mixes)}; n counts runs, not seeds")
    compared = [one.comparison for one in entries if one.comparison is not None]
    if any(one.primary.std is not None for one in entries):
        pairs = "; under `Differences` on these pairs" if compared else ""
        found.append(
            f"detectable: smallest true difference that a t test (level {ALPHA:.2g}, power {POWER}) would find, "
            f"between two methods with as many seeds{pairs}"
        )
    if compared:
        found.append(
            f"{len(compared)} comparison{'s' if len(compared) > 1 else ''} in {metric}: p marked Holm are adjusted for "
            "their number. p (t) and Wilcoxon: would other seeds say so? Examples (bootstrap, McNemar): would other "
            "examples, with these very models?"
        )
        if any(1 < told.seeds.n < 6 for told in compared):
            found.append("Wilcoxon cannot fall below 2 / 2^pairs: 0.25 with three pairs, 0.0625 with five")
        found += dict.fromkeys(told.note for told in compared if told.note)
    found += _alike(entries, metric)
    raised = dict.fromkeys(flag for one in entries for flag in one.flags)
    return found + [f"{flag}: {MEANING[flag]}" for flag in raised]


def _alike(entries: Sequence[Entry], metric: str) -> list[str]:
    """Rows with one score per seed and the very same ones: nothing was told apart."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for one in entries:
        scores = tuple(sorted((str(run.seed), run.score(metric)) for run in one.row.runs))
        groups.setdefault(scores, []).append(one.row.label)
    return [
        f"{'; '.join(labels)}: the same {metric} in every seed, so training was too short or the examples are too few "
        "to tell them apart, or the setting has no effect"
        for scores, labels in groups.items()
        if len(labels) > 1 and len(scores) > 1
    ]


def flat(one: Entry) -> dict[str, Any]:
    """A row of the CSV: every number in full precision."""
    line: dict[str, Any] = {"row": one.row.label, **one.row.values, "runs": len(one.row.runs)}
    line["seeds"] = " ".join(str(run.seed) for run in one.row.runs)
    line["few_seeds"] = len(one.row.runs) < FEW
    for metric, told in one.scores.items():
        line |= {f"{metric} {name}": value for name, value in told._asdict().items()}
    first = one.primary
    line["detectable_unpaired"] = detectable(first.std, first.n, paired=False)
    if one.comparison is not None:
        line |= _flat(one.comparison)
    line |= one.costs
    return line | {"flags": "; ".join(f"{flag} {count}" for flag, count in one.flags.items())}


def _flat(told: Comparison) -> dict[str, Any]:
    line: dict[str, Any] = {"baseline": told.baseline}
    line |= {f"difference {name}": value for name, value in told.seeds._asdict().items()}
    line |= {"difference p_t_holm": told.p_seeds, "difference detectable": told.detectable}
    if told.examples is not None:
        line |= {f"examples {name}": value for name, value in told.examples._asdict().items()}
        line["examples p_holm"] = told.p_examples
    tables: Mapping[int, Any] = told.mcnemar
    line["mcnemar"] = " ".join(f"{seed}:{one.ours}/{one.theirs}/p={one.p:.4g}" for seed, one in tables.items())
    return line
