"""A command line that names nothing but a checkpoint: settings come out of the file, overrides are merged over them.

The saved settings become Hydra options named ``checkpoint``, so ``trainer=ddp``, ``data.root=...`` and a typo behave as
they do in any other command.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from hmmoe.errors import CheckpointError

RUN_DIR, HYDRA_DIR = "HMMOE_RUN_DIR", "HMMOE_HYDRA_DIR"
"""Read by ``conf/hydra/default.yaml``, and inherited by the processes that DDP starts."""

AUTO = "auto"
"""As ``ckpt_path``: go on with what an earlier process has left in the run's folder, if it has."""

GROUPS = ("backbone", "data", "task", "peft", "optim", "trainer", "callbacks", "logger", "paths")
CHOICES = ("experiment", "backbone", "data", "task")


def prepare(argv: Sequence[str], *, evaluate: bool) -> str | None:
    """Set up Hydra for a command with ``ckpt_path``; the name of the main config to use, None for the usual one.

    Raises:
        CheckpointError: the file is missing or holds no settings, or none is named where one is needed.
    """
    given = dict(word.split("=", 1) for word in argv[1:] if "=" in word and not word.startswith("-"))
    path = given.get("ckpt_path", "").strip("'\"")
    if path in ("", "null", AUTO):
        asks = any(word.startswith("-") for word in argv[1:])  # --help, --cfg and their kin need no weights
        if evaluate and not asks:
            raise CheckpointError("say which weights: python eval.py ckpt_path=<run>/checkpoints/best.ckpt")
        return None
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at ckpt_path={path}")
    run = file.resolve().parent.parent if file.resolve().parent.name == "checkpoints" else None
    if run is not None:
        now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
        os.environ.setdefault(RUN_DIR, str(run / f"eval_{now}" if evaluate else run))
        if not evaluate:
            os.environ.setdefault(HYDRA_DIR, f".hydra/resumed_{now}")
    if not evaluate and any(choice in given for choice in CHOICES):
        return None
    _register(read_settings(file))
    return "checkpoint"


def settle(cfg: DictConfig) -> None:
    """Put a file, or none, in the place of ``ckpt_path=auto``."""
    if cfg.ckpt_path == AUTO:
        last = Path(cfg.paths.run_dir) / "checkpoints" / "last.ckpt"
        cfg.ckpt_path = str(last) if last.is_file() else None


def read_settings(file: Path) -> dict[str, Any]:
    """The settings that a run wrote into its checkpoint, interpolations kept.

    Raises:
        CheckpointError: not one of this project's checkpoints.
    """
    import torch

    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{file} cannot be read as a checkpoint ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict) or "settings" not in checkpoint:
        raise CheckpointError(f"{file} holds no settings: it was not written by train.py; give experiment=... as well")
    return checkpoint["settings"]


def savable(cfg: DictConfig) -> dict[str, Any]:
    """What ``read_settings`` returns: plain containers, which load under ``weights_only``.

    Where the weights came from is left out: whoever reads these settings has the weights in the same file.
    """
    settings = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
    return {**settings, "ckpt_path": None, "init_from": None, "merge": False, "intervene": None, "importance": None}


def _register(settings: dict[str, Any]) -> None:
    store = ConfigStore.instance()
    rest = dict(settings)
    for group in GROUPS:
        store.store(group=group, name="checkpoint", node=rest.pop(group, {}), provider="checkpoint")
    defaults = ["run_schema", {"hydra": "default"}, *({group: "checkpoint"} for group in GROUPS), "_self_"]
    store.store(name="checkpoint", node={"defaults": defaults, **rest}, provider="checkpoint")
