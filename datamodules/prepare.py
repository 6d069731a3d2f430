"""Decode a dataset once into its cache on disk, for runs with data.cache=disk.

    python -m datamodules.prepare ave --root data/AVE_Dataset --workers 8
    python -m datamodules.prepare avs_s4 --root data/AVSBench backbone=vit_b_ast_b      # other sizes: another folder
    python train.py experiment=ave_hmmoe data.root=data/AVE_Dataset data.cache=disk

Sizes come from the configuration of experiment=<name>_hmmoe; further words are overrides as train.py takes them. After
a kill the same command goes on with what lacks. Entries whose files have changed are made anew. Exit codes: 0 all
there, 1 some files could not be decoded (each is named), 2 something to set right.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader, Dataset

from datamodules.base import DataModule
from datamodules.media.cache import Cache
from datamodules.media.disk import Entry, state_of
from hmmoe.errors import DataMissing, UserError, answered

RESERVE = 1.05
"""Of the disk that the entries take: names and headers."""


class Made(NamedTuple):
    """What became of an entry: ``fault`` says why there is none."""

    key: str
    entry: Entry | None
    fault: str = ""


class Work(Dataset):
    """Entries to make; asking for one decodes it and writes its file.

    Args:
        cache: whose they are.
        keys: of those that lack.
    """

    def __init__(self, cache: Cache, keys: Sequence[str]) -> None:
        self.cache, self.keys = cache, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> Made:
        key, decoder = self.keys[place], self.cache.decoder
        state = state_of(decoder.sources(key))
        try:
            return Made(key, self.cache.shelf.put(key, decoder.decode(key), state))
        except UserError as fault:
            return Made(key, None, str(fault))


def make(cache: Cache, *, workers: int, check: bool = False) -> Iterator[Made]:
    """Bring a cache on disk up to date; yields what was made, one by one.

    Args:
        cache: whose entries.
        workers: processes that decode; 0 decodes in this one.
        check: compare the checksums of what is there as well, and make anew what differs.

    Raises:
        DataMissing: the disk would not hold them.
    """
    cache.shelf.reload()
    missing, stale = cache.wanting()
    keys = [*missing, *stale]
    if check:
        keys += [key for key in cache.keys if key in cache.shelf.entries and not cache.shelf.whole(key)]
    keys = list(dict.fromkeys(keys))
    again = set(keys)
    cache.shelf.open({key: entry for key, entry in cache.shelf.entries.items() if key not in again})
    need = RESERVE * cache.bytes * len(keys) / max(1, len(cache.keys))
    if need > (free := disk_usage(cache.shelf.folder).free):
        raise DataMissing(
            f"{cache.keep.folder} would need {need / 1e9:.1f} GB more for {cache.name}, {free / 1e9:.1f} GB are free: "
            "set data.cache_dir to a larger disk"
        )
    for made in DataLoader(Work(cache, keys), batch_size=None, num_workers=workers):
        if made.entry is not None:
            cache.shelf.note(made.key, made.entry)
        yield made


def prepare(data: DataModule, console: Console, *, workers: int = 0, check: bool = False) -> list[str]:
    """Decode every split of a datamodule with data.cache=disk; the faults of files that could not be."""
    data.write_miniature()
    data.check()
    faults = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    for split in dict.fromkeys(split.name for split in data.splits):
        cache = data.examples(split).media
        if cache is None or cache.keep.mode != "disk":
            console.print(f"{split}: decoded anew in every epoch (data.jitter, data.area), not kept")
            continue
        cache.shelf.reload()
        before = len(cache.keys) - sum(map(len, cache.wanting()))
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(split, total=len(cache.keys), completed=before)
            for made in make(cache, workers=workers, check=check):
                progress.update(task, advance=1)
                if made.entry is None:
                    faults.append(f"{split}, {made.key}: {made.fault}")
        console.print(f"{split}: {cache.name} in {cache.shelf.folder}", soft_wrap=True)
    return faults


def arguments(given: Sequence[str] | None = None, *, summary: str = __doc__) -> argparse.ArgumentParser:
    """What ``prepare`` and ``verify`` share of the command line."""
    parser = argparse.ArgumentParser(description=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="ave, avs_s4, avs_ms3, music_avqa, msrvtt_qa, msrvtt_retrieval, ...: data=<name>")
    parser.add_argument("--root", type=Path, help="folder of the dataset; else data.root of the configuration")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode (default: this one)")
    parser.add_argument("overrides", nargs="*", help="settings as train.py takes them, such as backbone=vit_b_ast_b")
    return parser


@answered
def main(given: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = arguments()
    parser.add_argument("--check", action="store_true", help="compare checksums of what is there, too")
    args = parser.parse_intermixed_args(given)
    console = Console()
    from hmmoe.runtime.compose import datamodule

    data = datamodule(args.name, [*args.overrides, "data.cache=disk"], root=args.root)
    faults = prepare(data, console, workers=args.workers, check=args.check)
    for fault in faults:
        console.print(fault, style="red", soft_wrap=True, highlight=False, markup=False)
    if faults:
        console.print(f"{len(faults)} entries could not be made. Mend the files and run this again.")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
