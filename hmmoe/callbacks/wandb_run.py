"""Weights & Biases, offline unless asked; whether it can be online is decided before anything starts."""

import json
import netrc
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import WandbLogger

from hmmoe.errors import ConfigError


def wandb_logger(
    run_dir: str, *, online: bool = False, project: str = "hmmoe", group: str = "", tags: Sequence[str] = ()
) -> WandbLogger:
    """A logger whose run lies in the run folder and keeps its id over resumes (``wandb_id`` in run.json).

    The jobs of a sweep are a group of their own, in place of ``group``.

    Raises:
        ConfigError: online without a key or a network; W&B itself would fail late, after minutes.
    """
    if online:
        _check_online()
    folder = Path(run_dir)
    record = json.loads((folder / "run.json").read_text()) if (folder / "run.json").is_file() else {}
    sweep = (record.get("sweep") or {}).get("id")
    logger = WandbLogger(
        name=folder.name,
        save_dir=run_dir,
        offline=not online,
        id=record.get("wandb_id") or secrets.token_hex(4),
        project=project,
        group=sweep or group or None,
        tags=list(tags),
        resume="allow" if online else None,
        settings=wandb.Settings(console="off", silent=True, init_timeout=60),
    )
    # Lightning hands on an argument that wandb has withdrawn, which costs a warning in every run.
    logger._wandb_init.pop("anonymous", None)
    return logger


def _check_online() -> None:
    server = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    host = server.hostname or "api.wandb.ai"
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        raise ConfigError(f"logger=wandb_online, but WANDB_MODE={mode} wins over it: unset WANDB_MODE or logger=wandb")
    if not (os.environ.get("WANDB_API_KEY") or _netrc_has(host)):
        raise ConfigError(
            f"logger=wandb_online needs a key for {host}: run `wandb login`, or stay offline: logger=wandb"
        )
    try:
        socket.create_connection((host, server.port or 443), timeout=5).close()
    except OSError as error:
        raise ConfigError(
            f"logger=wandb_online cannot reach {host} ({error}): log offline with logger=wandb and `wandb sync` later"
        ) from error


def _netrc_has(host: str) -> bool:
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def finish(*, failed: bool) -> None:
    """Close the run that is open, if any; a second run of the process would go on in it."""
    if wandb.run is not None:
        wandb.finish(exit_code=int(failed))
