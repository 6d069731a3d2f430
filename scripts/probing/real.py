"""Digits that people wrote and spoke: far from everything that the towers were trained on."""

import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.media.audio import read_sound
from datamodules.media.logmel import LogMel
from scripts.probing.questions import Material, of_pictures, of_sounds

TAKES = 5
"""The Free Spoken Digit Dataset tests on takes 0 to 4."""


def folder() -> Path:
    """$HMMOE_REAL_DATA, or shared/realdata beside the checkout.

    Raises:
        SystemExit: neither is there.
    """
    root = Path(os.environ.get("HMMOE_REAL_DATA", Path(__file__).parents[3] / "shared" / "realdata"))
    if not (root / "mnist").is_dir() or not (root / "fsdd").is_dir():
        raise SystemExit(f"--real needs the folders mnist and fsdd in {root}: set HMMOE_REAL_DATA, or leave it out")
    return root


def real(tower: str, inputs: dict[str, Any], train: int, test: int) -> Iterator[Material]:
    """What this tower can read of the two."""
    if tower in ("vit", "swinv2"):
        yield mnist(inputs["vision"], train, test)
    if tower in ("ast", "swinv2"):
        yield fsdd(inputs["audio"])


def mnist(spec: dict[str, Any], train: int, test: int) -> Material:
    """The first so many of a random 10,000 training digits, and of the 10,000 test digits in a seeded order."""
    parts = []
    for split, count in (("train", train), ("test", test)):
        with np.load(folder() / "mnist" / f"mnist_{split}_10000.npz") as file:
            chosen = np.random.default_rng(0).permutation(len(file["labels"]))[:count]
            parts.append((file["images"][chosen], file["labels"][chosen]))
    pictures, digits = (np.concatenate(part) for part in zip(*parts, strict=True))
    grey = np.repeat(pictures[..., None], 3, axis=-1)
    return of_pictures(grey, {"MNIST digit": [str(digit) for digit in digits]}, len(parts[0][1]), spec)


def fsdd(spec: dict[str, Any]) -> Material:
    """Spoken digits: takes from 5 on to fit, the official takes 0 to 4 to test; cut or padded to one second."""
    mel = LogMel(**spec)
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(folder() / "fsdd" / "recordings_0_19.zip") as archive:
            archive.extractall(temporary)
        takes = [(path, *path.stem.split("_")) for path in sorted(Path(temporary).rglob("*.wav"))]
        takes.sort(key=lambda take: int(take[3]) < TAKES)
        pictures = torch.cat([mel(_second(path, spec["sample_rate"])) for path, *_ in takes])
    train = sum(int(take[3]) >= TAKES for take in takes)
    return of_sounds(pictures, {"FSDD spoken digit": [take[1] for take in takes]}, train)


def _second(path: Path, rate: int) -> torch.Tensor:
    sound = read_sound(path, rate)[:rate]
    return torch.from_numpy(np.pad(sound, (0, rate - len(sound))))[None]
