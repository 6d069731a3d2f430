"""How the step of HMMoE grows with experts per group and with rank, and which executor is the cheaper one where.

    python -m benchmarks.growth --over experts --values 2 4 8 16 --executors wide grouped auto
    python -m benchmarks.growth --over rank --values 8 16 32 64 --markdown docs/performance.md

Every round runs all of them once; ratios are to the first value under the first executor. ``optimizer`` is AdamW's step
alone, beside a bottleneck adapter's of equal rank.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.contestants import HOSTS, METHODS, REFERENCE, Sizes, contestants, draw, method
from benchmarks.memory import saved_bytes
from benchmarks.report import machine, write_section
from benchmarks.step import Contest
from benchmarks.timing import ratios, rounds

HEAD = ("HMMoE", "trained", "saved for backward", "training step", "inference", "optimizer step / bottleneck's")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.splitlines()[0])
    parser.add_argument("--over", choices=("experts", "rank"), default="experts")
    parser.add_argument("--values", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--executors", nargs="+", default=["auto"], choices=("auto", "wide", "grouped", "loop"))
    parser.add_argument("--host", choices=HOSTS, default=Sizes().host)
    for name in ("batch", "rank", "experts"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Sizes(), name))
    parser.add_argument("--tiny", action="store_true", help="the mini towers, to try the command itself")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--markdown", type=Path, help="write the table into this file, between its markers")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Build, measure, report."""
    args = arguments(given)
    torch.set_num_threads(1)
    sizes = Sizes(args.host, args.batch, args.rank, args.experts, args.tiny)
    key = {"experts": "peft.experts_per_group", "rank": "peft.rank"}[args.over]
    base = ["peft=hmmoe", f"peft.experts_per_group={sizes.experts}"]
    methods = {
        f"{args.over} {value}, {executor}": method(sizes, [*base, f"{key}={value}", f"peft.executor={executor}"])
        for value in args.values
        for executor in args.executors
    }
    names = list(methods)
    models = contestants(sizes, {REFERENCE: method(sizes, METHODS[REFERENCE]), **methods})
    batches = [draw(sizes, seed) for seed in range(3)]
    contests = {name: Contest(model, batches, bf16=False, device="cpu") for name, model in models.items()}
    train = rounds({name: contest.train for name, contest in contests.items()}, count=args.rounds)
    infer = rounds({name: contest.infer for name, contest in contests.items()}, count=args.rounds)
    update = rounds({name: lambda _, c=c: c.optimizer.step() for name, c in contests.items()}, count=args.rounds)
    first = names[0]
    columns = [ratios(train, first), ratios(infer, first), ratios(update, REFERENCE)]
    record = {"host": args.host, "over": args.over, "machine": machine("cpu"), "torch": torch.__version__, "rows": []}
    lines = [
        f"{args.host}, {args.batch} samples, {args.rounds} rounds, CPU time of one thread; {record['machine']}, torch "
        f"{torch.__version__}.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
    ]
    for name in names:
        contest = contests[name]
        saved = saved_bytes(contest.model.train(), lambda contest=contest: contest.loss(0))
        trained = sum(p.numel() for group in contest.optimizer.param_groups for p in group["params"])
        cells = [name, f"{trained / 1e6:.2f} M", f"{saved / 2**20:.0f} MiB", *(str(column[name]) for column in columns)]
        lines.append(f"| {' | '.join(cells)} |")
        spreads = dict(zip(("train", "infer", "optimizer"), (list(column[name]) for column in columns), strict=True))
        record["rows"].append({"name": name, "trained": trained, "saved": saved, **spreads})
    text = "\n".join(lines)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    if args.markdown:
        write_section(args.markdown, f"growth {args.over} {args.host}", text)


if __name__ == "__main__":
    main()
