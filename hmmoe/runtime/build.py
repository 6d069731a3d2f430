"""The parts of a run in the order in which they can fail cheaply: data, backbone, method and head, task, trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, OmegaConf

from hmmoe.callbacks.checkpoint import RunCheckpoint
from hmmoe.callbacks.edits import Edits
from hmmoe.callbacks.guard import Guard
from hmmoe.callbacks.metrics_file import MetricsFile
from hmmoe.callbacks.seeds import EpochSeeds
from hmmoe.callbacks.step_times import StepTimes
from hmmoe.errors import ConfigError, DataMissing, UserError, WeightsMissing
from hmmoe.model import AdaptedModel
from hmmoe.runtime import sizing
from hmmoe.runtime.check import weight_faults
from hmmoe.runtime.session import Session, is_main
from hmmoe.runtime.warm_start import warm_start


def part(node: Any, path: str, **override: Any) -> Any:
    """What a node describes; a setting that its constructor refuses becomes a message.

    Raises:
        UserError: what the constructor raised for a wrong setting.
    """
    try:
        # "all": constructors get dicts and lists, never Hydra's own types.
        return instantiate(node, _convert_="all", **override)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ValueError | TypeError | FileNotFoundError | MisconfigurationException):
            raise ConfigError(f"{path}: {cause}") from error
        raise


def factory(node: Any, path: str) -> Callable[..., Any]:
    """A node as something to call with the parts that only the code has."""
    return part(node, path, _partial_=True)


def data(cfg: DictConfig) -> L.LightningDataModule:
    """The datamodule, its files and the backbone's weights there.

    Raises:
        UserError: missing or broken files, all of them named, or a monitor that is no validation split.
    """
    module = part(cfg.data, "data")
    _check_monitor(cfg, module)
    if is_main():
        absent = list(weight_faults(cfg))
        try:
            module.prepare_data()
        except DataMissing as error:
            raise DataMissing("\n".join([str(error), *absent])) from error
        if absent:
            raise WeightsMissing("\n".join(absent))
    return module


def _check_monitor(cfg: DictConfig, module: L.LightningDataModule) -> None:
    split = cfg.monitor.partition("/")[0]
    tested = split in module.test_splits
    if tested and split not in module.val_splits and cfg.allow_test_selection:
        kind = type(module.splits[0])
        module.splits = (*module.splits, kind(split, "validation"))
    # A split that is reported may be shown after every epoch, and still must not choose.
    chooses = [name for name in module.val_splits if cfg.allow_test_selection or name not in module.test_splits]
    if cfg.train and split not in (*chooses, "train"):
        choice = ", ".join(f"{name}/{cfg.monitor.partition('/')[2]}" for name in chooses)
        raise ConfigError(
            f"monitor={cfg.monitor} "
            + ("chooses the model on a test split" if tested else "names no split of this data")
            + f": set monitor to {choice}"
            + (", or say allow_test_selection=true, which is stamped on the result" if tested else "")
        )


def task(cfg: DictConfig, module: L.LightningDataModule, session: Session | None = None) -> L.LightningModule:
    """Frozen backbone, method and head inside their task.

    A budget becomes the method's size, in ``cfg`` and in the session's record.
    """
    node = OmegaConf.to_container(cfg.task, resolve=True)
    head = factory(node.pop("head"), "task.head")
    backbone = part(cfg.backbone, "backbone")
    fitted = sizing.fit(cfg.peft, backbone, lambda node: factory(node, "peft"))
    if fitted is not None and session is not None:
        session.resize(fitted)
    method = factory(sizing.method_node(cfg.peft), "peft")
    model = AdaptedModel(backbone, method, head, checkpointing=cfg.checkpointing)
    if cfg.init_from is not None:
        warm_start(model, Path(cfg.init_from))
    if cfg.compile:
        model.compile(**({} if cfg.compile is True else cfg.compile))
    make = factory(node, "task")
    recipe = part(cfg.optim, "optim")
    return make(model=model, recipe=recipe, val_splits=module.val_splits, test_splits=module.test_splits)


def trainer(
    cfg: DictConfig, session: Session, pl_module: L.LightningModule, module: L.LightningDataModule
) -> L.Trainer:
    """The trainer with the callbacks that every run has and those of ``conf/callbacks``."""
    session.describe(pl_module.model, module)
    card = session.card()
    callbacks = [
        EpochSeeds(cfg.seed),
        Guard(session.settings),
        StepTimes(),
        *(part(node, f"callbacks.{name}") for name, node in (cfg.callbacks or {}).items()),
        *([Edits(merge=cfg.merge, plan=session.settings["intervene"])] if session.job == "eval" else []),
        RunCheckpoint(session.folder / "checkpoints", monitor=cfg.monitor, mode=cfg.mode.value, card=card),
    ]
    loggers = [MetricsFile(session.folder), *(part(node, f"logger.{n}") for n, node in (cfg.logger or {}).items())]
    session.adopt(loggers)
    bar = any(isinstance(callback, ProgressBar) for callback in callbacks)  # else Lightning adds one of its own
    try:
        return factory(cfg.trainer, "trainer")(callbacks=callbacks, logger=loggers, enable_progress_bar=bar)
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error
