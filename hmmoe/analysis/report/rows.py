"""Runs to rows: what differs between them, seeds left aside, names the row."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hmmoe.analysis.report.runs import Run
from hmmoe.errors import ConfigError

BESIDE = ("callbacks", "logger", "paths", "tags", "ckpt_path", "train", "test", "data.root", "data.num_workers")
"""Settings that say where and how a run is kept, not what it computes."""
NEVER = ("default_root_dir", "enable_model_summary", "enable_progress_bar", "log_every_n_steps", "miniature.root")
DATASET = "data._target_"
ABSENT = "-"
SWITCHES = ("True", "False", "None")


class Row(NamedTuple):
    """Runs that differ in their seed only, or in what ``by`` leaves out; ``values`` names them, column by column."""

    values: dict[str, str]
    runs: list[Run]

    @property
    def label(self) -> str:
        """Short name: "lora, rank 8"."""
        return ", ".join(spoken(key, value) for key, value in self.values.items() if value != ABSENT) or "all runs"


def spoken(key: str, value: str) -> str:
    """A column's value as part of a name: choices speak for themselves, numbers and switches need their key."""
    speaks = "." not in key and as_number(value) is None and value not in SWITCHES
    return value if speaks else f"{key.rpartition('.')[2].replace('_', ' ')} {value}"


def facts(run: Run, ignore: Iterable[str] = ()) -> dict[str, str]:
    """All that tells a run from another, as text: the leaves of its configuration without seeds and places."""
    aside = (*BESIDE, *ignore)
    return {
        key: str(value)
        for key, value in run.settings.items()
        if not any(key == one or key.startswith(f"{one}.") for one in aside)
        and not key.endswith(NEVER)
        and key.rpartition(".")[2] != "seed"
    }


def value_of(run: Run, key: str) -> str:
    """What a run has for a column: a choice, a leaf, a node as its leaves, or what the command line said."""
    if key in run.choices:
        return run.choices[key]
    if key in run.settings:
        return str(run.settings[key])
    if f"{key}._target_" in run.settings and key not in run.overrides:
        return str(run.settings[f"{key}._target_"]).rpartition(".")[2].lower()
    below = {k.removeprefix(f"{key}."): v for k, v in run.settings.items() if k.startswith(f"{key}.")}
    if below:
        return _node(below)
    return run.overrides.get(key, ABSENT)


def _node(below: Mapping[str, Any]) -> str:
    """{a: 1, b.c: 2} as text; where all leaves agree, the one value."""
    values = set(map(str, below.values()))
    if len(values) == 1:
        return values.pop()
    return " ".join(f"{key}={value}" for key, value in below.items() if not key.startswith("_"))


def split_by_dataset(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Scores of different data sets never share a table."""
    blocks: dict[str, list[Run]] = {}
    for run in runs:
        name = run.choices.get("data") or str(run.settings.get(DATASET, "data")).rpartition(".")[2].lower()
        blocks.setdefault(name, []).append(run)
    return blocks


def columns(runs: Sequence[Run], ignore: Iterable[str] = ()) -> list[str]:
    """The fewest keys that tell the runs apart as their whole configuration does: choices, then the command line.

    A choice brings dozens of leaves with it (peft=lora), so leaves count only where the choices agree.
    """
    kept = [facts(run, ignore) for run in runs]
    goal = _partition([tuple(sorted(one.items())) for one in kept])
    groups = dict.fromkeys(key for run in runs for key in run.choices)
    chosen = [key for key in groups if key not in ("logger", "callbacks", "debug", "paths") and _varies(runs, key)]
    typed = dict.fromkeys(key for run in runs for key in run.overrides if key not in groups)
    known = set().union(*kept) if kept else set()
    typed = [k for k in typed if (k in known or any(leaf.startswith(f"{k}.") for leaf in known)) and _varies(runs, k)]
    found: list[str] = []
    for key in (*chosen, *typed):
        if _finer(runs, found, key):
            found.append(key)
    for leaf in dict.fromkeys(key for one in kept for key in one):
        if _labels(runs, found) == goal:
            break
        if _finer(runs, found, leaf):
            found.append(leaf)
    return found


def _varies(runs: Sequence[Run], key: str) -> bool:
    return len({value_of(run, key) for run in runs}) > 1


def _labels(runs: Sequence[Run], keys: Sequence[str]) -> list[int]:
    return _partition([tuple(value_of(run, key) for key in keys) for run in runs])


def _finer(runs: Sequence[Run], keys: Sequence[str], key: str) -> bool:
    return len(set(_labels(runs, [*keys, key]))) > len(set(_labels(runs, keys)))


def _partition(keys: Sequence[tuple[Any, ...]]) -> list[int]:
    """Equal keys get equal numbers, counted in order of appearance."""
    numbers: dict[tuple[Any, ...], int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def resolve(runs: Sequence[Run], key: str) -> str:
    """A column as the user may shorten it: rank for peft.rank.

    Raises:
        ConfigError: nothing, or more than one setting, of that name.
    """
    known = dict.fromkeys(k for run in runs for k in (*run.choices, *run.settings, *run.overrides))
    if key in known or any(name.startswith(f"{key}.") for name in known):
        return key
    ends = [name for name in known if name.endswith(f".{key}")]
    varying = [name for name in ends if _varies(runs, name)] or ends
    if len(varying) == 1:
        return varying[0]
    found = f"found {', '.join(varying)}" if varying else "the runs have no such setting"
    raise ConfigError(f"{key!r} must name one setting, such as peft or peft.rank: {found}")


def rows(runs: Sequence[Run], by: Sequence[str] = (), ignore: Iterable[str] = ()) -> list[Row]:
    """Rows in the order of their values, numbers by size."""
    keys = [resolve(runs, key) for key in by] or columns(runs, ignore) or ["peft"]
    table: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        table.setdefault(tuple(value_of(run, key) for key in keys), []).append(run)
    ordered = sorted(table.items(), key=lambda item: tuple(map(sortable, item[0])))
    return [Row(dict(zip(keys, values, strict=True)), members) for values, members in ordered]


def sortable(text: str) -> tuple[int, float, str]:
    """Numbers before words, by size."""
    number = as_number(text)
    return (0, number, "") if number is not None else (1, 0.0, text)


def as_number(text: str) -> float | None:
    """The number that a text spells, else None."""
    try:
        return float(text)
    except ValueError:
        return None


def pooled(row: Row, ignore: Iterable[str] = ()) -> list[str]:
    """What still differs inside a row beside the seed: its runs are then no mere repetitions."""
    return columns(row.runs, ignore)


def latest(runs: Sequence[Run], ignore: Iterable[str] = ()) -> tuple[list[Run], list[Run]]:
    """(kept, set aside): of runs with equal settings and equal seed the newest; twice the same is no second sample."""
    newest: dict[tuple[Any, ...], Run] = {}
    for run in sorted(runs, key=lambda run: str(run.record.get("time", ""))):
        newest[(run.seed, *sorted(facts(run, ignore).items()))] = run
    kept = [run for run in runs if run in newest.values()]
    return kept, [run for run in runs if run not in kept]
