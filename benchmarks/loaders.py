"""Samples a second that every datamodule delivers: from the files and from its cache on disk, by number of workers.

    python -m benchmarks.loaders --data ave nlvr2                 # their miniatures, table on the screen
    python -m benchmarks.loaders --data ave --workers 1 2 4 8 --markdown docs/performance.md --set scale=full
    python -m benchmarks.loaders --json loaders.json

Without scale=full the generated miniatures are read, whose pictures
are small: numbers of theirs compare raw with cached, and say nothing of a full run. Training batches, read and collated
as in a run, words left out; the first batch starts the clock, so starting workers does not count.
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from benchmarks.report import machine, write_section
from datamodules.base import DataModule
from datamodules.prepare import make
from hmmoe.runtime.compose import datamodule
from hmmoe.types import Batch

DATASETS = (
    "ave",
    "avs_s4",
    "avs_ms3",
    "music_avqa",
    "msrvtt_qa",
    "msrvtt_retrieval",
    "msvd_qa",
    "msvd_retrieval",
    "vqav2",
    "nlvr2",
    "nlvr",
)


class Rate(NamedTuple):
    """Throughput of one loader."""

    data: str
    source: str
    workers: int
    batch: int
    samples: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Samples a second."""
        return self.samples / self.seconds


def batches(loader: DataLoader) -> Iterator[Batch]:
    """The batches of one epoch after another."""
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def timed(loader: DataLoader, seconds: float) -> tuple[int, float]:
    """Samples after the first batch and the seconds they took, of at least one batch."""
    found = batches(loader)
    next(found)
    start, samples = time.perf_counter(), 0
    while samples == 0 or time.perf_counter() - start < seconds:
        samples += len(next(found)["id"])
    return samples, time.perf_counter() - start


def measure(name: str, overrides: Sequence[str], *, workers: Sequence[int], seconds: float) -> Iterator[Rate]:
    """Raw, then cached, by number of workers; the cache is made first where it lacks.

    A dataset whose training decodes anew in every epoch has no cached line.
    """
    for source in ("raw", "cached"):
        mode = "data.cache=disk" if source == "cached" else "data.cache=none"
        data = datamodule(name, [*overrides, mode])
        data.write_miniature()
        data.check()
        if source == "cached" and not fill(data):
            continue
        for count in workers:
            data.num_workers = count
            samples, spent = timed(data.train_dataloader(), seconds)
            yield Rate(name, source, count, data.batch_size, samples, spent)


def fill(data: DataModule) -> bool:
    """Make the training split's cache; False where it has none."""
    (train,) = (split.name for split in data.splits if split.role == "train")
    cache = data.examples(train).media
    if cache is None or cache.keep.mode != "disk":
        return False
    for made in make(cache, workers=0):
        if made.fault:
            raise SystemExit(made.fault)
    return True


def table(rates: Sequence[Rate], words: Sequence[str]) -> str:
    """Markdown: a line on the machine, one per dataset and number of workers."""
    found = {(rate.data, rate.workers, rate.source): rate for rate in rates}
    lines = [
        f"`{' '.join(words)}`; {machine('cpu')}; python {platform.python_version()}, torch {torch.__version__}. "
        "Training samples a second.",
        "",
        "| data | workers | batch | raw | cached | cached / raw |",
        "|---|---|---|---|---|---|",
    ]
    for name, workers in dict.fromkeys((rate.data, rate.workers) for rate in rates):
        raw, cached = (found.get((name, workers, source)) for source in ("raw", "cached"))
        numbers = [f"{rate.per_second:.1f}" if rate else "-" for rate in (raw, cached)]
        ratio = f"{cached.per_second / raw.per_second:.1f}" if raw and cached else "-"
        batch = next(rate.batch for rate in (raw, cached) if rate)
        lines.append(f"| {name} | {workers} | {batch} | {' | '.join(numbers)} | {ratio} |")
    return "\n".join(lines)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loaders", description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATASETS, default=list(DATASETS), metavar="NAME")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2], help="loader processes, one run each")
    parser.add_argument("--seconds", type=float, default=10.0, help="of every measurement")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--markdown", type=Path, help="write the table into this file, between its markers")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", help="settings as train.py takes them")
    return parser.parse_args(given)


def sized(words: Sequence[str]) -> list[str]:
    """The settings; miniatures where they name no scale."""
    return list(words) if any(word.startswith("scale=") for word in words) else ["scale=mini", *words]


def main(given: Sequence[str] | None = None) -> None:
    """Measure, report."""
    args = arguments(given)
    words = sized(args.overrides)
    torch.set_num_threads(1)
    rates = [rate for name in args.data for rate in measure(name, words, workers=args.workers, seconds=args.seconds)]
    text = table(rates, words)
    print(text)
    if args.json:
        rows = [{**rate._asdict(), "per_second": rate.per_second} for rate in rates]
        record = {"setting": words, "machine": machine("cpu"), "python": platform.python_version()}
        args.json.write_text(json.dumps({**record, "torch": torch.__version__, "rows": rows}, indent=2) + "\n")
    if args.markdown:
        write_section(args.markdown, "loaders", text)


if __name__ == "__main__":
    main()
