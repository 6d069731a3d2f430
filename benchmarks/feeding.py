"""Does training wait for its data? The loader's pace beside that of the training step, experiment by experiment.

    python -m benchmarks.feeding --data ave nlvr2                     # their miniatures, table on the screen
    python -m benchmarks.feeding --workers 0 1 2 --markdown docs/performance.md --json feeding.json
    python -m benchmarks.feeding --data ave --workers 4 8 --set scale=full

Every ``experiment=<data>_hmmoe`` is built as for a run, with decoded media read from the cache on disk (from the files,
where a dataset decodes anew in every epoch). Three paces, in training samples a second of wall time: the step alone on
batches that are there already, the loader alone, and both together as in training, where the time that the step waits
for its next batch is taken too.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import OmegaConf

from benchmarks.loaders import DATASETS, batches, fill, sized, timed
from benchmarks.report import machine, write_section
from hmmoe.runtime import build
from hmmoe.runtime.compose import settings
from hmmoe.runtime.profiling import without_weights
from hmmoe.types import Batch

WAITS = 0.1
"""Share of the time spent waiting from which a step is called data-bound."""
HEAD = ("data", "read from", "batch", "step alone", "workers", "loader alone", "together", "waits for data")


class Pace(NamedTuple):
    """Training samples a second, and the share of the joint time in which the step waits."""

    data: str
    source: str
    batch: int
    step: float
    workers: int
    loader: float
    together: float
    waits: float

    @property
    def bound(self) -> bool:
        """Whether data are what limits training."""
        return self.waits > WAITS


def measure(
    name: str, words: Sequence[str], *, workers: Sequence[int], seconds: float, held: int = 8
) -> Iterator[Pace]:
    """The paces of an experiment by number of workers.

    Args:
        name: of the dataset.
        words: settings as train.py takes them.
        workers: loader processes, one line each.
        seconds: of every measurement, of at least one batch.
        held: batches that the step alone takes in turn.
    """
    for mode in ("disk", "none"):
        cfg = settings([f"experiment={name}_hmmoe", *words, f"data.cache={mode}"])
        data = build.part(cfg.data, "data")
        data.write_miniature()
        data.check()
        if mode == "disk" and fill(data):
            break
    backbone = OmegaConf.to_container(cfg.backbone, resolve=True)
    cfg.backbone = backbone if cfg.scale == "mini" else without_weights(backbone)  # no pace depends on numbers
    take = stepper(build.task(cfg, data))
    data.num_workers = 0
    ready = list(islice(batches(data.train_dataloader()), held))
    take(ready[0])
    start, taken = time.perf_counter(), 0
    while taken == 0 or time.perf_counter() - start < seconds:
        taken += take(ready[taken // len(ready[0]["id"]) % len(ready)])
    step = taken / (time.perf_counter() - start)
    source = "cache" if mode == "disk" else "files"
    for count in workers:
        data.num_workers = count
        samples, spent = timed(data.train_dataloader(), seconds)
        together, waits = fed(batches(data.train_dataloader()), take, seconds)
        yield Pace(name, source, data.batch_size, step, count, samples / spent, together, waits)


def stepper(task: torch.nn.Module) -> Callable[[Batch], int]:
    """Takes one whole training step and says of how many samples."""
    optimizer = task.recipe.build(task.model, 1000)["optimizer"]
    task.train()

    def take(batch: Batch) -> int:
        optimizer.zero_grad()
        loss, _ = task.step(batch, "train")
        loss.backward()
        optimizer.step()
        return len(batch["id"])

    return take


def fed(source: Iterator[Batch], take: Callable[[Batch], int], seconds: float) -> tuple[float, float]:
    """(samples a second, share of the time spent waiting) of steps on batches as they come, after the first."""
    take(next(source))
    start, samples, waited = time.perf_counter(), 0, 0.0
    while samples == 0 or time.perf_counter() - start < seconds:
        asked = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - asked
        samples += take(batch)
    spent = time.perf_counter() - start
    return samples / spent, waited / spent


def table(paces: Sequence[Pace], words: Sequence[str], threads: int) -> str:
    """Markdown: the machine, a line per dataset and number of workers, and the verdict."""
    lines = [
        f"`{' '.join(words)}`; {machine('cpu')}, the step on {threads} thread(s); python {platform.python_version()}, "
        f"torch {torch.__version__}. Training samples a second.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---" * len(HEAD) + "|",
    ]
    for one in paces:
        cells = (one.data, one.source, one.batch, f"{one.step:.1f}", one.workers, f"{one.loader:.1f}")
        cells = (*cells, f"{one.together:.1f}", f"{100 * one.waits:.0f} %")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", f"Data-bound (the step waits for more than {100 * WAITS:.0f} % of the time):", ""]
    for count in dict.fromkeys(one.workers for one in paces):
        bound = [one.data for one in paces if one.workers == count and one.bound]
        lines.append(f"* {count} workers: {', '.join(bound) or 'none'}")
    return "\n".join(lines)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feeding", description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATASETS, default=list(DATASETS), metavar="NAME")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2], help="loader processes, one line each")
    parser.add_argument("--seconds", type=float, default=10.0, help="of every measurement")
    parser.add_argument("--threads", type=int, default=1, help="of the training step")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--markdown", type=Path, help="write the table into this file, between its markers")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="settings as train.py takes them")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    """Measure, report."""
    args = arguments(given)
    words = sized(args.overrides)
    torch.set_num_threads(args.threads)
    paces = [pace for name in args.data for pace in measure(name, words, workers=args.workers, seconds=args.seconds)]
    text = table(paces, words, args.threads)
    print(text)
    if args.json:
        record = {"setting": words, "threads": args.threads, "machine": machine("cpu"), "torch": torch.__version__}
        rows = [pace._asdict() | {"bound": pace.bound} for pace in paces]
        args.json.write_text(json.dumps(record | {"rows": rows}, indent=2) + "\n")
    if args.markdown:
        write_section(args.markdown, "feeding", text)


if __name__ == "__main__":
    main()
