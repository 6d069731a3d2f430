"""Is a dataset whole? Annotations, counts beside the published ones, every media file.

    python -m datamodules.verify ave --root data/AVE_Dataset               # decodes every file
    python -m datamodules.verify ave --root data/AVE_Dataset --quick       # looks whether they are there

Says what is there, what is missing and what is broken, by split and file; further words are overrides as train.py takes
them. With data.cache=disk the cache is verified too, checksums included. Exit codes: 0 whole, 1 not, 2 something to set
right.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from datamodules.base import DataModule
from datamodules.media.cache import Cache, Decoder
from datamodules.mini.base import STAMP
from datamodules.prepare import arguments
from hmmoe.errors import DataError, UserError, answered

SHOWN = 20
"""Faults that are printed by name; the table counts all."""


class Found(NamedTuple):
    """One split. ``published`` is None where no size is known, or the data are a miniature."""

    split: str
    annotated: int
    published: int | None
    files: int
    missing: tuple[Path, ...]
    broken: tuple[str, ...]
    cache: str

    @property
    def whole(self) -> bool:
        """Nothing missing, nothing broken, as many as published."""
        return not self.missing and not self.broken and self.published in (None, self.annotated)


class Probes(Dataset):
    """Decoding every entry: asking for one gives the fault, empty where there is none.

    Args:
        decoder: of the entries.
        keys: theirs.
    """

    def __init__(self, decoder: Decoder, keys: Sequence[str]) -> None:
        self.decoder, self.keys = decoder, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> str:
        try:
            self.decoder.decode(self.keys[place])
        except UserError as fault:
            return str(fault)
        return ""


def verify(
    data: DataModule, *, quick: bool = False, workers: int = 0, show: Callable[..., Iterator[str]] | None = None
) -> Iterator[Found]:
    """Every split of a datamodule with data.missing=zero, which reads what is there and misses nothing.

    Args:
        data: of any cache; one on disk is checked.
        quick: look whether files are there, decode none.
        workers: processes that decode; 0 decodes in this one.
        show: wraps the faults as they come, for a progress bar: (iterator, description, total).

    Raises:
        DataError: annotations, or masks, that are missing or broken.
    """
    data.write_miniature()
    data.check()
    probed: set[tuple[str, str]] = set()
    for split in dict.fromkeys(split.name for split in data.splits):
        cache = data.examples(split).media
        missing = [path for path in _sources(cache) if not path.exists() and data.needs(path)] if cache else []
        broken = [f"{path} is empty" for path in _sources(cache) if _empty(path)] if cache and quick else []
        if cache and not quick:
            recipe = str(cache.shelf.folder)
            keys = [key for key in cache.keys if (recipe, key) not in probed]
            probed.update((recipe, key) for key in keys)
            faults = iter(DataLoader(Probes(cache.decoder, keys), batch_size=None, num_workers=workers))
            broken += [fault for fault in (show(faults, split, len(keys)) if show else faults) if fault]
        yield Found(
            split,
            data.annotated(split),
            _published(data, split),
            len(cache.keys) if cache else 0,
            tuple(missing),
            tuple(broken),
            _cached(cache, quick=quick) if cache else "",
        )


def _sources(cache: Cache) -> Iterator[Path]:
    return iter(dict.fromkeys(path for key in cache.keys for path in cache.decoder.sources(key)))


def _empty(path: Path) -> bool:
    return path.is_file() and not path.stat().st_size


def _published(data: DataModule, split: str) -> int | None:
    """The published size of a split; of two that are cut out of one, what is left for this one."""
    if (data.root / STAMP).is_file():
        return None
    for names, size in data.published().items():
        parts = names.split("+")
        if split in parts:
            return size - sum(data.annotated(other) for other in parts if other != split)
    return None


def _cached(cache: Cache, *, quick: bool) -> str:
    if cache.keep.mode != "disk":
        return ""
    missing, stale = cache.wanting()
    wrong = [] if quick else [key for key in cache.keys if key in cache.shelf.entries and not cache.shelf.whole(key)]
    faults = {"missing": missing, "older than their files": stale, "with a wrong checksum": wrong}
    told = [f"{len(keys)} {name}, such as {keys[0]}" for name, keys in faults.items() if keys]
    return "; ".join(told) or "whole"


def report(found: Sequence[Found], console: Console) -> bool:
    """Print the table and the faults; whether all is whole."""
    table = Table(title="Dataset", title_justify="left")
    for column in ("split", "annotated", "published", "media", "missing", "broken", "cache", ""):
        table.add_column(column, justify="left" if column in ("split", "cache", "") else "right", no_wrap=True)
    for row in found:
        numbers = (row.annotated, row.published, row.files, len(row.missing), len(row.broken))
        shown = ("" if number is None else f"{number:,}" for number in numbers)
        fine = row.whole and row.cache in ("", "whole")
        cache = row.cache if row.cache in ("", "whole") else "no"
        table.add_row(row.split, *shown, cache, "whole" if fine else "NOT WHOLE", style=None if fine else "red")
    console.print(table)
    for row in found:
        cache = [f"cache: {row.cache}"] * (row.cache not in ("", "whole"))
        faults = [*cache, *(f"missing: {path}" for path in row.missing), *(f"broken: {fault}" for fault in row.broken)]
        for fault in faults[:SHOWN]:
            console.print(f"{row.split}, {fault}", soft_wrap=True, highlight=False, markup=False)
        if len(faults) > SHOWN:
            console.print(f"{row.split}: and {len(faults) - SHOWN} more")
    return all(row.whole and row.cache in ("", "whole") for row in found)


@answered
def main(given: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = arguments(summary=__doc__)
    parser.add_argument("--quick", action="store_true", help="look whether files are there, decode none")
    args = parser.parse_intermixed_args(given)
    console = Console()

    def bar(faults: Iterator[str], split: str, total: int) -> Iterator[str]:
        return iter(track(faults, description=split, total=total, console=console))

    try:
        from hmmoe.runtime.compose import datamodule

        data = datamodule(args.name, [*args.overrides, "data.missing=zero"], root=args.root)
        whole = report(list(verify(data, quick=args.quick, workers=args.workers, show=bar)), console)
    except DataError as error:
        console.print(f"not whole: {error}", soft_wrap=True, highlight=False, markup=False)
        return 1
    return int(not whole)


if __name__ == "__main__":
    sys.exit(main())
