"""What a run must say about itself so that a stranger can repeat it."""

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("hmmoe", "torch", "torchvision", "lightning", "timm", "transformers", "torchmetrics", "hydra-core", "numpy")


@cache
def stamp() -> dict[str, Any]:
    """Code, versions, hardware and command, as plain containers."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": git(Path(__file__).parents[2]),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": hardware(),
    }


def git(folder: Path) -> dict[str, Any] | None:
    """Commit, whether files differ from it, and a hash of how its Python files do; None outside a checkout."""

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, timeout=20
        ).stdout.strip()

    try:
        change = ask("diff", "HEAD", "--", "*.py")
        return {
            "sha": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain")),
            "diff": hashlib.sha256(change.encode()).hexdigest() if change else None,
        }
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """Processors and accelerators."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
