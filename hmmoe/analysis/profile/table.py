"""Profiles as a table on the screen, and as JSON, CSV and Markdown in a folder."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hmmoe.analysis.profile.dry import FLOPS, MEMORY, TRAINING
from hmmoe.analysis.profile.parts import PARTS, SHARE, SHARE_OF_BACKBONE

NOTES = {
    "share": SHARE,
    "of backbone": SHARE_OF_BACKBONE,
    "GFLOP": f"forward pass of one sample; {FLOPS}",
    "train GFLOP": "forward, backward and update of one sample",
    "infer MiB, train MiB": f"{MEMORY}; training: {TRAINING}",
    "ms": "median of a forward pass of the whole batch, random weights",
    "adapter MB": "tensors that a run stores beside the backbone; a checkpoint adds two moments per trained parameter",
}
Row = dict[str, Any]


def flat(row: Row) -> dict[str, Any]:
    """One row of numbers by column name; empty after a refusal."""
    if row["error"]:
        return {"method": row["method"], "refused": row["error"]}
    sizes = row["parameters"]
    cells: dict[str, Any] = {"method": row["method"]}
    if row["budget"]:
        cells["size"] = f"{row['budget']['key'].removeprefix('peft.')}={row['budget']['value']}"
    cells |= {part: sizes[part] for part in PARTS} | {"frozen": sizes["frozen"]}
    cells |= {"share_percent": sizes["share_percent"], "of_backbone_percent": sizes["share_of_backbone_percent"]}
    cells |= {"gflop": row["flops_per_sample"] / 1e9, "train_gflop": row["training_flops_per_sample"] / 1e9}
    for size, taken in row["by_batch_size"].items():
        cells[f"infer_mib_b{size}"] = taken["peak_inference_bytes"] / 2**20
        cells[f"train_mib_b{size}"] = taken["peak_training_bytes"] / 2**20
        if "latency_ms" in taken:
            cells[f"ms_b{size}"] = taken["latency_ms"]
    cells["adapter_mb"] = row["bytes"]["adapter_bytes"] / 1e6
    cells["checkpoint_mb"] = row["bytes"]["checkpoint_bytes"] / 1e6
    return cells


def columns(rows: Sequence[Row]) -> list[str]:
    """Of all rows, without parts that nothing trains."""
    cells = [flat(row) for row in rows]
    names = dict.fromkeys(name for one in sorted(cells, key=len, reverse=True) for name in one)
    return [n for n in names if n not in PARTS or any(one.get(n) for one in cells)]


def text(name: str, value: Any) -> str:
    """A number as it is read."""
    if value is None or value == "":
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if name.endswith("percent"):
        return f"{value:.2f} %"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def markdown(rows: Sequence[Row], command: str) -> str:
    """The table with its definitions and the command that made it."""
    names = columns(rows)
    lines = [f"`{command}`", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    lines += [f"| {' | '.join(text(n, one.get(n)) for n in names)} |" for one in map(flat, rows)]
    sample = next((row["sample"] for row in rows if not row["error"]), {})
    lines += ["", f"One sample: {', '.join(f'{m} x {count}' for m, count in sample.items())}.", ""]
    return "\n".join([*lines, *(f"* {name}: {meaning}" for name, meaning in NOTES.items()), ""])


def save(rows: Sequence[Row], folder: Path, *, command: str) -> None:
    """``profile.json``, ``profile.csv``, ``profile.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "definitions": NOTES, "rows": list(rows)}
    (folder / "profile.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "profile.md").write_text(markdown(rows, command))
    with (folder / "profile.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(rows), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(flat(row) for row in rows)


def show(rows: Sequence[Row], folder: Path) -> None:
    """On the screen: one method as a list, several as a table."""
    names = columns(rows)
    console = Console(width=max(110, 14 * len(names)) if len(rows) > 1 else 110, highlight=False)
    if len(rows) == 1:
        table = Table(show_header=False)
        for name, value in flat(rows[0]).items():
            table.add_row(name.replace("_", " "), text(name, value))
    else:
        table = Table()
        for name in names:
            table.add_column(name.replace("_", " "), justify="left" if name in ("method", "refused") else "right")
        for one in map(flat, rows):
            table.add_row(*(text(name, one.get(name)) for name in names))
    console.print(table)
    for name, meaning in NOTES.items():
        console.print(f"[bold]{name}[/bold]: {meaning}")
    console.print(f"saved in {folder}", soft_wrap=True)
