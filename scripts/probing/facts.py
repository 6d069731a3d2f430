"""What the files of the mini towers say about themselves."""

import csv
from pathlib import Path

from safetensors import safe_open

HEADER = ("Tower", "Parameters", "Bytes", "Steps", "Loss of the first 50 steps", "of the last", "Minutes", "Curve")


def facts(folder: Path) -> list[str]:
    """One line of the card: stored numbers and the training curve of the last run."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - safe_open is no mapping
    with (folder / "loss.csv").open(newline="") as file:
        steps = [(int(row["step"]), float(row["loss"]), float(row["seconds"])) for row in csv.DictReader(file)]
    (_, first, _), (last_step, last, seconds) = steps[0], steps[-1]
    size, curve = f"{path.stat().st_size:,}", f"[loss.png]({folder.name}/loss.png)"
    return [
        folder.name,
        f"{count:,}",
        size,
        str(last_step),
        f"{first:.3f}",
        f"{last:.3f}",
        f"{seconds / 60:.0f}",
        curve,
    ]
