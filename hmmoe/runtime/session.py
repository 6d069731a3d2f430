"""A run's folder from the first second to the last: who it is, how it stands, what came out."""

import json
import logging
import os
import sys
import time
import traceback
import warnings
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hmmoe.errors import ConfigError, UserError
from hmmoe.model import AdaptedModel
from hmmoe.runtime import restore, sweep
from hmmoe.runtime.command import Interrupted
from hmmoe.runtime.mishaps import mishap
from hmmoe.runtime.result import export, measure, show
from hmmoe.runtime.stamp import stamp
from hmmoe.runtime.warm_start import identity

log = logging.getLogger(__name__)

NOISE = (
    r".*does not have many workers.*",
    r".*LeafSpec.*",
    r".*sync_dist=True.*",  # scores are computed by metrics that have synchronised themselves
    r".*number of training batches.*smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*in eval mode at the start of training.*",
)


def is_main() -> bool:
    """Whether this is the process that writes: rank 0 whoever launched it, before any process group exists."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


class Session:
    """Seeds, writes ``run.json``, ``config.yaml``, ``status.json`` and ``result.json``; only rank 0 writes.

    Args:
        cfg: as composed.
        settings: the same, resolved and checked.
        job: "train" or "eval".
    """

    def __init__(self, cfg: DictConfig, settings: dict[str, Any], *, job: str = "train") -> None:
        self.cfg, self.settings, self.job = cfg, settings, job
        self.folder = Path(settings["paths"]["run_dir"])
        self.main = is_main()
        self.budget: dict[str, Any] | None = None
        self._started = time.time()

    def __enter__(self) -> "Session":
        for key in ("merge", "intervene", "importance"):
            if self.job == "train" and self.settings[key]:
                raise ConfigError(f"{key} is for a trained model: python eval.py ckpt_path=<checkpoint> {key}=...")
        quiet(self.main)
        L.seed_everything(self.cfg.seed, workers=True, verbose=False)
        if self.main:
            self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        known = mishap(error, self.settings)
        if self.main:
            self._close(known or error)
        elif error is not None:
            self._close_from_another_rank(known or error)
        if loaded := sys.modules.get("hmmoe.callbacks.wandb_run"):
            loaded.finish(self.folder, failed=error is not None)
        if known is not None:
            raise known from error

    def _close_from_another_rank(self, error: BaseException) -> None:
        """Rank 0 will be killed, or lose its connection, and could not say why."""
        status = read_json(self.folder / "status.json")
        if status.get("status") == "running" and not isinstance(error, Interrupted | KeyboardInterrupt):
            reason = f"{type(error).__name__}: {error}"
            trace = "".join(traceback.format_exception(error))
            status = {"status": "failed", "by_rank": os.environ.get("RANK", os.environ.get("LOCAL_RANK"))}
            self._write("status.json", {**status, "reason": reason, "traceback": trace, "until": now_text()})

    def _open(self) -> None:
        known = read_json(self.folder / "run.json")
        now = {"time": now_text(), "overrides": list(HydraConfig.get().overrides.task), **stamp()}
        if known and not self._continues():
            raise ConfigError(f"{self.folder} holds a run already: continue it with ckpt_path=, or choose a new folder")
        if known:
            known.setdefault("resumed", []).append(now)
            self._record = known
        else:
            facts = {key: self.settings[key] for key in ("name", "scale", "seed", "tags")}
            origin = {"sweep": sweep.membership(), "wandb_id": None, "init_from": None}
            self._record = {"job": self.job, **facts, **now, **origin}
        self._write("run.json", self._record)
        self._write("status.json", {"status": "running", "since": now_text(), "pid": os.getpid()})
        self._save_settings()

    def _save_settings(self) -> None:
        (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(self.settings)))

    def _continues(self) -> bool:
        if f"ckpt_path={restore.AUTO}" in HydraConfig.get().overrides.task:
            return self.job == "train"
        path = self.settings["ckpt_path"]
        return self.job == "train" and path is not None and Path(path).resolve().is_relative_to(self.folder.resolve())

    def _close(self, error: BaseException | None) -> None:
        status: dict[str, Any] = {"status": "completed"}
        if isinstance(error, Interrupted | KeyboardInterrupt):
            status = {"status": "interrupted", "reason": getattr(error, "signal", "SIGINT")}
        elif error is not None:
            status = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
            if not isinstance(error, UserError):
                status["traceback"] = "".join(traceback.format_exception(error))
            earlier = read_json(self.folder / "status.json")
            status = earlier if "by_rank" in earlier else status  # what failed first, not what followed from it
        self._write("status.json", {**status, "until": now_text(), "seconds": round(time.time() - self._started, 1)})
        last = self.folder / "checkpoints" / "last.ckpt"
        if error is not None and last.is_file():
            log.info("%s. Go on with: python train.py ckpt_path=%s", status["status"], shown(last))
        elif status["status"] == "interrupted":
            log.info("interrupted by %s before anything was saved in %s", status["reason"], shown(self.folder))

    def describe(self, model: AdaptedModel, data: L.LightningDataModule) -> None:
        """Note what the run is made of, once it is built."""
        if self.main:
            self._note(data=data.manifest(), fingerprint=model.fingerprint)
            if self.settings["init_from"] is not None:
                self._note(init_from=identity(Path(self.settings["init_from"])))

    def resize(self, budget: dict[str, Any]) -> None:
        """A budget has set the size of the method: the settings say so from now on."""
        self.budget = budget
        self.settings = OmegaConf.to_container(self.cfg, resolve=True, enum_to_str=True)
        if self.main:
            self._note(budget=budget)
            self._save_settings()

    def adopt(self, loggers: list[Any]) -> None:
        """Note the W&B id before the first step: after a crash it would be lost."""
        ids = [logger.version for logger in loggers if type(logger).__name__ == "WandbLogger"]
        if self.main and ids:
            self._note(wandb_id=ids[0])

    def card(self) -> dict[str, Any]:
        """What every checkpoint carries beside weights and optimizer, in plain containers."""
        return {"settings": restore.savable(self.cfg), "stamp": stamp()}

    def best(self, trainer: L.Trainer, cfg: DictConfig) -> str | None:
        """The file to test: this run's best, else the one that was given; None for the weights at hand."""
        if trainer.fast_dev_run:
            return None
        best = self.folder / "checkpoints" / "best.ckpt"
        return str(best) if cfg.train and best.is_file() else cfg.ckpt_path

    def conclude(self, trainer: L.Trainer, task: L.LightningModule, data: L.LightningDataModule) -> float | None:
        """Write the result, show it, and return the monitored score of the weights that were kept."""
        result = measure(self.cfg, self.job, trainer, task, data)
        if trainer.is_global_zero:
            result["budget"] = self.budget
            best = self.folder / "checkpoints" / "best.ckpt"
            if best.is_file() and self.job == "train":
                adapter = self.folder / "adapter.safetensors"
                export(best, adapter)
                result["cost"] |= {"checkpoint_bytes": best.stat().st_size, "adapter_bytes": adapter.stat().st_size}
            result["seconds"] = round(time.time() - self._started, 1)
            self._write("result.json", result)
            show(result, shown(self.folder), shown(best) if best.is_file() and self.job == "train" else None)
        return result["selected"]["score"]

    def _note(self, **facts: Any) -> None:
        self._record |= facts
        self._write("run.json", self._record)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f".{name}.new"
        text = json.dumps(content, indent=2, default=str) + "\n"
        try:
            fresh.write_text(text)
            os.replace(fresh, self.folder / name)
        except OSError as error:
            log.error("%s could not be written (%s)", self.folder / name, error)
            fresh.unlink(missing_ok=True)
            if name != "status.json":
                raise
            (self.folder / name).write_text(text)  # on a full disk the blocks of the old file are still ours


def quiet(main: bool) -> None:
    """Leave on the console what a person wants to read."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logger = logging.getLogger(name)
        logger.handlers.clear()  # Lightning's own handler would print every line a second time
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    warnings.formatwarning = lambda message, category, *place: f"{category.__name__}: {message}"
    logging.captureWarnings(True)
    if not main:
        logging.getLogger().setLevel(logging.ERROR)


def read_json(path: Path) -> dict[str, Any]:
    """The file's content, empty where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {}


def now_text() -> str:
    """Local time with its offset, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def shown(path: Path) -> str:
    """As short as it can be typed from here."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
