"""What two runs do not have in common: settings, code, data, versions, hardware, and what came out."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hmmoe.analysis.report.provenance import version
from hmmoe.analysis.report.runs import Run, leaves

PLACES = ("paths", "default_root_dir", "folder")
"""Settings that say where a run lies; every run has its own."""
NONE = "-"


class Difference(NamedTuple):
    """One thing that is not the same; a dash where one of the two lacks it."""

    part: str
    name: str
    first: str
    second: str


def differences(first: Run, second: Run) -> list[Difference]:
    """All of them, by part. Scores, times and places are no part: they differ because of the rest, or by chance."""
    parts = {
        "config": (_settings(first), _settings(second)),
        "code": (_code(first), _code(second)),
        "data": (_data(first), _data(second)),
        "start": (_start(first), _start(second)),
        "versions": (first.record.get("versions") or {}, second.record.get("versions") or {}),
        "hardware": (_hardware(first), _hardware(second)),
    }
    return [one for part, (ours, theirs) in parts.items() for one in _compare(part, ours, theirs)]


def outcomes(first: Run, second: Run) -> list[Difference]:
    """Status and scores of both, equal or not."""
    names = dict.fromkeys(
        f"{s}/{m}" for r in (first, second) for s, ms in r.result.get("metrics", {}).items() for m in ms
    )
    told = [Difference("status", "", first.status, second.status)]
    scores = ((name, first.score(name), second.score(name)) for name in names)
    return told + [Difference("score", name, _number(a), _number(b)) for name, a, b in scores]


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _settings(run: Run) -> dict[str, Any]:
    return {
        key: value
        for key, value in run.settings.items()
        if not key.startswith("paths.") and key.rpartition(".")[2] not in PLACES
    }


def _code(run: Run) -> dict[str, Any]:
    git = run.git
    told = {"commit": git.get("sha"), "uncommitted changes": git.get("dirty")}
    later = [code for code in dict.fromkeys(map(version, run.gits)) if code != version(git)]
    if later:
        told["went on with other code"] = ", ".join(later)
    if git.get("dirty") and not git.get("diff"):
        return told
    return told | {"hash of changes in Python files": git.get("diff")}


def _data(run: Run) -> dict[str, Any]:
    return dict(leaves({name: facts for name, facts in run.splits.items()}))


def _start(run: Run) -> dict[str, Any]:
    return {"backbone fingerprint": run.record.get("fingerprint"), "init_from": run.record.get("init_from")}


def _hardware(run: Run) -> dict[str, Any]:
    told = dict(run.record.get("hardware") or {})
    if run.result:
        told |= {"processes": run.result.get("processes"), "precision": run.result.get("precision")}
    return told


def _compare(part: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(part, name, _text(ours, name), _text(theirs, name))
        for name in dict.fromkeys((*ours, *theirs))
        if _text(ours, name) != _text(theirs, name)
    ]


def _text(facts: Mapping[str, Any], name: str) -> str:
    return str(facts[name]) if name in facts else NONE
