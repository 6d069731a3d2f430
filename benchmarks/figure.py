"""One picture of what every method reaches and costs: score, trained parameters, step time, memory, FLOPs.

    python -m benchmarks.figure --scores logs/sweeps/methods --step bench.json --profile logs/profile/vit/profile.json \
        --out docs/figures/tradeoff.png --markdown docs/performance.md

Scores come from the run folders of a sweep over ``peft`` (as ``python -m hmmoe.report`` reads them; means with their
95 % intervals), time and memory from ``python -m benchmarks.step --json``, FLOPs and parameters from ``python -m
hmmoe.analysis.profile``. A method is drawn if it has a score and a cost.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import METHODS
from benchmarks.report import write_section
from hmmoe.analysis.report.assemble import Report, reports
from hmmoe.analysis.report.tradeoff import Panel, Reading, side_by_side
from hmmoe.errors import ConfigError, answered


def score_panels(made: Sequence[Report]) -> list[Panel]:
    """One per data set: the mean over the seeds."""
    return [
        Panel(
            f"{one.metric}\n{one.name}",
            {
                entry.row.label: Reading(told.mean, told.low, told.high)
                for entry in one.entries
                for told in [entry.primary]
            },
            digits=3,
            bars=False,
        )
        for one in made
    ]


def step_panels(record: Mapping[str, Any]) -> list[Panel]:
    """Step time as a ratio to the bottleneck's, and what autograd keeps; a method is its first contestant there."""
    rows = {row["name"]: row for row in record["rows"]}
    found: dict[str, dict[str, Any]] = {}
    for name, words in METHODS.items():
        if name in rows:
            found.setdefault(words[0].removeprefix("peft="), rows[name])
    batch = record["setting"]["batch"]
    saved = {method: Reading(row["saved"] / batch / 2**20) for method, row in found.items()}
    return [
        Panel("training step\n/ bottleneck's", {m: Reading(*row["train"]) for m, row in found.items()}, line=1.0),
        Panel("kept for backward\nMiB per sample", saved, digits=0),
    ]


def profile_panels(record: Mapping[str, Any]) -> list[Panel]:
    """Trained parameters and the FLOPs of a training step, from shapes."""
    rows = {row["method"].split()[0]: row for row in record["rows"] if not row["error"]}
    if len(rows) < sum(not row["error"] for row in record["rows"]):
        raise ConfigError("--profile holds a method twice: profile one backbone and one size, such as peft=hmmoe,lora")
    trained = {method: Reading(row["parameters"]["trained"] / 1e6) for method, row in rows.items()}
    work = {method: Reading(row["training_flops_per_sample"] / 1e9) for method, row in rows.items()}
    return [Panel("trained\nmillion parameters", trained), Panel("training step\nGFLOP per sample", work, digits=0)]


def table(methods: Sequence[str], panels: Sequence[Panel]) -> str:
    """The picture's numbers as Markdown."""
    heads = [panel.title.replace("\n", ", ").replace(", / ", " / ") for panel in panels]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method in methods:
        cells = [
            f"{panel.readings[method].value:,.{panel.digits}f}" if method in panel.readings else "-" for panel in panels
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figure", description=__doc__.splitlines()[0])
    parser.add_argument("--scores", nargs="+", type=Path, required=True, metavar="FOLDER", help="of a sweep over peft")
    parser.add_argument("--step", type=Path, required=True, help="numbers of benchmarks.step --json")
    parser.add_argument("--profile", type=Path, required=True, help="profile.json of hmmoe.analysis.profile")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="SPLIT/NAME", help="without it, what was monitored"
    )
    parser.add_argument("--mix", action="append", default=[], choices=("data", "code"), help="as in hmmoe.report")
    parser.add_argument("--mark", nargs="+", default=["hmmoe"], metavar="METHOD", help="drawn in colour")
    parser.add_argument("--out", type=Path, required=True, help="the picture, PNG or SVG")
    parser.add_argument("--markdown", type=Path, help="write its numbers into this file, between their markers")
    return parser.parse_args(given)


@answered
def main(given: Sequence[str] | None = None) -> int:
    """Read, draw, say what was left out.

    Returns:
        0, or 2 with a message where something is to be set right.
    """
    args = arguments(given)
    made, missing = reports(args.scores, by=["peft"], metrics=args.metric, mix=args.mix)
    step, profile = (json.loads(path.read_text()) for path in (args.step, args.profile))
    scores, (time, memory), (trained, work) = score_panels(made), step_panels(step), profile_panels(profile)
    costs = [trained, time, memory, work]
    best = dict.fromkeys(method for panel in scores for method in panel.readings)
    order = sorted(best, key=lambda method: _rank(method, scores[0], higher=made[0].higher))
    methods = [method for method in order if any(method in panel.readings for panel in costs)]
    for method in order:
        if method not in methods:
            print(f"* left out, no cost: {method}")
    for line in (*(f"left out, {line}" for line in missing), *(note for one in made for note in one.notes)):
        print(f"* {line}")
    setting = step["setting"]
    title = (
        f"scores: {sum(len(one.runs) for one in made)} runs; costs: {setting['host']}, {setting['batch']} samples, "
        f"{setting['precision']}, {step['machine']}"
    )
    panels = [*scores, *costs]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(methods, panels, marked=args.mark, title=title).savefig(args.out, dpi=130)
    text = table(methods, panels)
    print(text)
    if args.markdown:
        write_section(args.markdown, "tradeoff", text)
    print(f"saved {args.out}")
    return 0


def _rank(method: str, panel: Panel, *, higher: bool) -> tuple[bool, float]:
    """The best first, those without a score here last."""
    told = panel.readings.get(method)
    return told is None, 0.0 if told is None else (-told.value if higher else told.value)


if __name__ == "__main__":
    sys.exit(main())
