"""Weights & Biases, offline unless asked; whether it can be online is decided before anything starts."""

import json
import netrc
import os
import secrets
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd
import wandb
import yaml
from lightning.pytorch.loggers import WandbLogger

from hmmoe.errors import ConfigError

FILES = ("run.json", "result.json", "status.json", "config.yaml", "metrics.csv")
"""Of the run folder, attached to the W&B run as they are."""

UNSAID = ("experiment=", "scale=", "logger=", "paths.", "hydra.", "trainer.enable", "data.root=", "data.num_workers=")
"""Overrides that a run's name leaves out: they do not tell runs of a project apart."""

TABLE_ROWS = 10_000
"""What W&B shows of a table."""


def wandb_logger(
    run_dir: str, *, online: bool = False, project: str = "hmmoe", group: str = "", tags: Sequence[str] = ()
) -> WandbLogger:
    """A logger whose run lies in the run folder and keeps its id over resumes (``wandb_id`` in run.json).

    The run is named by experiment and overrides, has the resolved settings as its config (``choices`` holds the file
    that each group took), and the jobs of a sweep are a group of their own, in place of ``group``.

    Raises:
        ConfigError: online without a key or a network; W&B itself would fail late, after minutes.
    """
    if online:
        _check_online()
    folder = Path(run_dir)
    record = _json(folder / "run.json")
    sweep = (record.get("sweep") or {}).get("id")
    logger = WandbLogger(
        name=title(record) or folder.name,
        job_type=record.get("job"),
        config=settings(folder),
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


def title(record: dict[str, Any]) -> str:
    """Experiment and overrides of a run, short enough for a legend."""
    said = [word.lstrip("+") for word in record.get("overrides", []) if not word.lstrip("+").startswith(UNSAID)]
    return " ".join([record.get("name", ""), *said])[:120].strip()


def settings(folder: Path) -> dict[str, Any]:
    """The resolved settings of a run, and which file every group took: {"choices": {"peft": "hmmoe", ...}}."""
    known = _yaml(folder / "config.yaml")
    picked = _yaml(folder / ".hydra" / "hydra.yaml").get("hydra", {}).get("runtime", {}).get("choices", {})
    return known | {"choices": {group: name for group, name in picked.items() if "hydra" not in group}}


def attach(run: Any, folder: Path) -> None:
    """Everything that the run folder says beyond the curves.

    Files as they are; the closing numbers as ``result/<split>/<metric>``, ``result/<parameters or cost>``; all
    utilisation tables as one, ``experts/table`` (epoch, split, site, modality, group, expert, share, ...); the trained
    tensors as an artifact of type "adapter".
    """
    for name in FILES:
        if (folder / name).is_file():
            shutil.copy(folder / name, run.dir)
    run.summary.update({f"result/{key}": value for key, value in closing(_json(folder / "result.json")).items()})
    tables = [pd.read_csv(path) for path in sorted((folder / "routing").glob("epoch_*.csv"))]
    if tables:
        # The last epochs, where there are too many: the files hold all.
        run.log({"experts/table": wandb.Table(dataframe=pd.concat(tables).tail(TABLE_ROWS))})
    adapter = folder / "adapter.safetensors"
    if adapter.is_file():
        record = _json(folder / "run.json")
        about = {key: record.get(key) for key in ("name", "fingerprint", "seed", "git")}
        artifact = wandb.Artifact(f"adapter-{run.id}", type="adapter", metadata=about)
        artifact.add_file(str(adapter))
        run.log_artifact(artifact)


def closing(result: dict[str, Any]) -> dict[str, float]:
    """The numbers of result.json under flat names: test/acc, trained_percent, flops_per_sample, ..."""
    scores = {f"{split}/{name}": v for split, own in result.get("metrics", {}).items() for name, v in own.items()}
    costs = {**result.get("parameters", {}), **result.get("cost", {})}
    costs |= {name: result[name] for name in ("peak_memory_mib", "seconds") if name in result}
    return {name: value for name, value in (scores | costs).items() if isinstance(value, int | float)}


def finish(folder: Path, *, failed: bool) -> None:
    """Attach the record and close the run that is open, if any; a second run of the process would go on in it."""
    if wandb.run is not None:
        try:
            attach(wandb.run, folder)
        finally:
            wandb.finish(exit_code=int(failed))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) if path.is_file() else {}
