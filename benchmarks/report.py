"""The benchmark's table, and where it goes."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.contestants import REFERENCE
from benchmarks.timing import Spread


class Row(NamedTuple):
    """Numbers of one contestant: ratios by CPU and by wall time, CPU seconds of its fastest round.

    ``saved`` is what autograd keeps, in bytes, parameters left out: in all, for a token of a layer, and below the upper
    half of the sites (None where it was compiled, and cannot be told). ``optimizer`` is the update alone, which is part
    of the training step too.
    """

    name: str
    trained: int
    saved: int
    saved_per_token: float
    saved_below: int | None
    train: Spread
    train_wall: Spread
    infer: Spread
    infer_wall: Spread
    optimizer: Spread
    train_seconds: float
    infer_seconds: float


HEAD = (
    "method",
    "trained",
    "saved for backward",
    "bytes per token and layer",
    "lower half of the sites",
    "training step, CPU time",
    "wall",
    "inference, CPU time",
    "wall",
    "optimizer step alone",
    "fastest step",
    "fastest inference",
)


def table(rows: Sequence[Row], record: Mapping[str, Any], gains: Mapping[str, Mapping[str, Spread]]) -> str:
    """Markdown: one line on the machine, one per contestant, one on each that was compiled.

    Ratios are medians of the rounds with their quartiles. The fastest rounds, of CPU time too, are what other work on
    the machine has disturbed least.
    """
    setting = record["setting"]
    sizes = "{host}: {batch} samples, rank {rank}, {experts} experts per group".format(**setting)
    how = "{precision}, frozen weights {frozen_mib:.0f} MiB of {store}, {device}, {threads} thread(s), {rounds} rounds"
    how = how.format(**setting) + (f", compiled: mode {setting['compile']}" if setting["compile"] else "")
    versions = ", ".join(f"{name} {record[name]}" for name in ("python", "torch", "timm", "transformers"))
    lines = [
        f"{sizes}; {how}; {record['machine']}; {versions}.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
    ]
    base = next(row for row in rows if row.name == REFERENCE)
    for row in rows:
        cells = (
            row.name,
            f"{row.trained / 1e6:.2f} M",
            f"{row.saved / 2**20:.0f} MiB",
            f"{row.saved_per_token:,.0f}",
            "-" if row.saved_below is None else f"{row.saved_below / 2**20:.0f} MiB",
            str(row.train),
            f"{row.train_wall.median:.2f}",
            str(row.infer),
            f"{row.infer_wall.median:.2f}",
            str(row.optimizer),
            f"{row.train_seconds:.2f} s ({row.train_seconds / base.train_seconds:.2f})",
            f"{row.infer_seconds:.2f} s ({row.infer_seconds / base.infer_seconds:.2f})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    told = [
        f"* {name}: {one['train']} of its eager step, {one['infer']} of its eager inference"
        for name, one in gains.items()
    ]
    return "\n".join([*lines, *([""] if told else []), *told])


def machine(device: str) -> str:
    """What ran it, without names of hosts."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores"


def write_section(path: Path, name: str, text: str) -> None:
    """Put the text between the file's markers of that name; a file, or a section, that lacks them gets them."""
    first, last = f"<!-- {name} -->", f"<!-- end {name} -->"
    body = path.read_text() if path.is_file() else ""
    section = f"{first}\n{text}\n{last}"
    if first in body and last in body:
        before, rest = body.split(first, 1)
        body = before + section + rest.split(last, 1)[1]
    else:
        body = f"{body.rstrip()}\n\n{section}\n".lstrip()
    path.write_text(body)
