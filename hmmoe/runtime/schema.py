"""Types of the top-level settings. Named first in the defaults lists, so Hydra refuses keys that do not stand here.

Settings inside a group are typed by the signature of the class that they name (``check.py``): one place for each.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


class Mode(Enum):
    """Is a larger or a smaller monitored value better?"""

    max = "max"
    min = "min"


@dataclass
class Paths:
    """Where things are read and written; relative ones start at the caller's directory."""

    log_dir: str = MISSING
    weights: str = MISSING
    run_dir: str = MISSING


@dataclass
class RunConfig:
    """``conf/train.yaml`` says what each of them means."""

    name: str = MISSING
    scale: str = MISSING
    seed: int = MISSING
    precision: str = MISSING
    tags: list[str] = MISSING
    train: bool = MISSING
    test: bool = MISSING
    ckpt_path: str | None = None
    init_from: str | None = None
    monitor: str = MISSING
    mode: Mode = MISSING
    allow_test_selection: bool = MISSING
    checkpointing: bool = MISSING
    compile: Any = False
    merge: bool = False
    intervene: Any = None
    importance: str | None = None
    backbone: Any = MISSING
    data: Any = MISSING
    peft: Any = MISSING
    task: Any = MISSING
    optim: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = field(default_factory=dict)
    logger: Any = field(default_factory=dict)
    paths: Paths = field(default_factory=Paths)


def register() -> None:
    """Make the schema known to Hydra as ``run_schema``."""
    ConfigStore.instance().store(name="run_schema", node=RunConfig, provider="hmmoe")
