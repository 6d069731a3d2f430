"""A trained model out of its checkpoint, for commands that need no data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hmmoe.analysis.profile.batch import blank
from hmmoe.backbones.base import Backbone
from hmmoe.errors import CheckpointError, ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.runtime import build, sizing
from hmmoe.runtime.restore import read_settings
from hmmoe.trainable import load_own_state
from hmmoe.types import Batch


def checkpoint_of(path: Path) -> Path:
    """The file itself, or ``checkpoints/best.ckpt`` of a run's folder.

    Raises:
        CheckpointError: there is none.
    """
    file = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"no checkpoint at {file}: name a run's folder or one of its files")
    return file


def settings_of(file: Path, words: Sequence[str]) -> DictConfig:
    """A checkpoint's settings with key=value words over them.

    Raises:
        ConfigError: a word that is none.
    """
    cfg = OmegaConf.create({**read_settings(file), "ckpt_path": str(file)})
    for word in words:
        name, found, value = word.partition("=")
        if not found or OmegaConf.select(cfg, name, default=cfg) is cfg:
            raise ConfigError(f"{word!r}: expected key=value with a key of the run's settings (config.yaml)")
        OmegaConf.update(cfg, name, OmegaConf.create(f"x: {value}").x)
    return cfg


def backbone_of(cfg: DictConfig) -> Backbone:
    """The frozen backbone alone; towers without weights are drawn as the run has drawn them."""
    torch.manual_seed(cfg.seed)
    return build.part(cfg.backbone, "backbone")


def fresh(cfg: DictConfig) -> AdaptedModel:
    """Backbone, method and head as at the start of training.

    Raises:
        ConfigError: settings that refer to what only a run has.
    """
    try:
        head = build.factory(OmegaConf.to_container(cfg.task, resolve=True)["head"], "task.head")
        method = build.factory(sizing.method_node(cfg.peft), "peft")
        return AdaptedModel(backbone_of(cfg), method, head).eval()
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error


def load(model: AdaptedModel, file: Path) -> dict[str, Any]:
    """Fill a fresh model; the checkpoint's content.

    Raises:
        CheckpointError: another backbone or method.
    """
    content = torch.load(file, map_location="cpu", weights_only=True)
    if content["fingerprint"] != model.fingerprint:
        raise CheckpointError(
            f"{file} was trained on another backbone (fingerprint {content['fingerprint'][:12]}, this one has "
            f"{model.fingerprint[:12]}): give backbone...weights=<the file used in training>"
        )
    load_own_state(model, {name.removeprefix("model."): t for name, t in content["state_dict"].items()})
    return content


def any_batch(cfg: DictConfig) -> Batch:
    """Two samples of the right shapes and no content."""
    inputs = OmegaConf.to_container(cfg.backbone.inputs, resolve=True)
    segments = {m: spec["segments"] for m, spec in inputs.items() if spec.get("segments")}
    batch = blank(inputs, segments, size=2)
    for value in batch.values():
        if isinstance(value, dict):
            value["ids"] = value["ids"] % 90 + 5  # the smallest vocabulary has a few hundred words
    return batch


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Settings as a checkpoint carries them."""
    return json.loads(json.dumps({**OmegaConf.to_container(cfg, resolve=False, enum_to_str=True), "ckpt_path": None}))
