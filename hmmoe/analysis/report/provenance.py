"""Whether runs may stand in one table: same data, same code; what else differs is said beside it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hmmoe.analysis.report.rows import Row
from hmmoe.analysis.report.runs import Run
from hmmoe.errors import ConfigError

SHOWN = 12
"""Digits of a hash."""

LACKING = ("dropped", "zeroed")
"""What a manifest says of examples whose files lack."""


def code(run: Run) -> str:
    """Commit, and what was not committed: the hash of changes in Python files, "+" where only older records say so.

    A run that went on with other code than it began with names both.
    """
    return ", then ".join(dict.fromkeys(map(version, run.gits)))


def version(git: Mapping[str, Any]) -> str:
    """One record of the code as text."""
    if not git.get("sha"):
        return "outside a checkout"
    return git["sha"][:SHOWN] + (f"+{(git.get('diff') or '')[:6]}" if _changed(git) else "")


def changed(run: Run) -> bool:
    """Whether Python files differed from the commit."""
    return any(map(_changed, run.gits))


def _changed(git: Mapping[str, Any]) -> bool:
    """Older records say only whether any file did."""
    return bool(git["diff"]) if "diff" in git else bool(git.get("dirty"))


def data(run: Run, split: str) -> str:
    """Count, how many examples were dropped or zeroed, and hash of a split's manifest."""
    told = run.splits.get(split)
    if told is None:
        return "not recorded"
    lacking = "".join(f", {told[word]} {word}" for word in LACKING if told.get(word))
    return f"{told['count']} examples{lacking}, {told['sha256'][:SHOWN]}"


def check(rows: Sequence[Row], splits: Sequence[str], *, allow: Sequence[str] = ()) -> list[str]:
    """Notes for the table; refuses what would make its numbers incomparable.

    The reported ``splits`` must be the same in all rows; the others (train, val) inside each row, and in all rows
    unless a ``data`` setting is itself a column.

    Args:
        rows: of one data set.
        splits: those whose scores are shown.
        allow: "data" and "code" may be mixed; a note says so.

    Raises:
        ConfigError: mixed, and not allowed.
    """
    notes = []
    runs = [run for row in rows for run in row.runs]
    on_purpose = any(key.startswith("data.") for row in rows for key in row.values)
    names = dict.fromkeys(name for run in runs for name in run.splits)
    faults = []
    for name in names:
        everywhere = name in splits or not on_purpose
        for part in [runs] if everywhere else [row.runs for row in rows]:
            faults += _mixed(part, lambda run, name=name: data(run, name), f"the data of split {name}")
    if faults and "data" not in allow:
        raise ConfigError(_refusal(faults, "data"))
    notes += [f"MIXED: {fault}" for fault in faults]
    mixed = _mixed(runs, code, "the code")
    if mixed and "code" not in allow:
        raise ConfigError(_refusal(mixed, "code"))
    notes += [f"MIXED: {fault}" for fault in mixed]
    return notes + _remarks(runs)


def _mixed(runs: Sequence[Run], what: Callable[[Run], str], name: str) -> list[str]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(what(run), []).append(run)
    if len(found) < 2:
        return []
    told = "; ".join(f"{value} ({len(of)} of the runs, such as {of[0].folder.name})" for value, of in found.items())
    return [f"{name} differ{'s' if name == 'the code' else ''}: {told}"]


def _refusal(faults: Sequence[str], what: str) -> str:
    lines = "\n  ".join(faults)
    return (
        f"these runs do not belong in one table:\n  {lines}\n"
        f"Expected one version; name fewer folders, run again, or allow it with --mix {what} (the table will say so). "
        "`python -m hmmoe.diff RUN_A RUN_B` shows all differences"
    )


def _remarks(runs: Sequence[Run]) -> list[str]:
    """What is worth a note and no refusal."""
    notes = []
    dirty = [run for run in runs if changed(run)]
    if dirty:
        known = {git.get("diff") for run in runs for git in run.gits}
        unknown = any(_changed(git) and not git.get("diff") for run in runs for git in run.gits)
        told = (
            "which ones was not recorded" if unknown else "the same ones in all" if len(known) == 1 else "not the same"
        )
        notes.append(f"{len(dirty)} of {len(runs)} runs had uncommitted changes in the code ({told})")
    versions = {(run.record.get("versions") or {}).get("torch") for run in runs}
    if len(versions) > 1:
        notes.append(f"torch versions: {', '.join(sorted(map(str, versions)))}")
    machines = {_machine(run) for run in runs}
    if len(machines) > 1:
        notes.append(f"machines: {'; '.join(sorted(machines))}: times and memory do not compare")
    notes += dict.fromkeys(
        f"data with holes: {facts[word]} examples of {name} {word} for want of files"
        for run in runs
        for name, facts in run.splits.items()
        for word in LACKING
        if facts.get(word)
    )
    if any(run.result.get("selected", {}).get("on_test") for run in runs):
        notes.append("SELECTED ON A TEST SPLIT: at least one run chose its weights there; its scores are too good")
    return notes


def _machine(run: Run) -> str:
    told = run.record.get("hardware") or {}
    device = ", ".join(told.get("gpus") or []) or f"{told.get('cpu')} with {told.get('threads')} threads"
    return f"{device} x {run.result.get('processes', 1)}"
