"""A run as one file: the method merged into the backbone, all of its weights and the head in one checkpoint.

Checkpoints leave frozen weights out. This one is read by the same code: its settings name a backbone that is built
without weights and filled from the checkpoint itself (``hmmoe.backbones.filled``), and ``linear_probe`` as the method.
"""

import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from hmmoe.backbones.base import Backbone
from hmmoe.backbones.filled import KEY, filled
from hmmoe.errors import CheckpointError, ConfigError
from hmmoe.peft.policies import LinearProbe
from hmmoe.runtime import rebuild


def export_checkpoint(cfg: DictConfig, file: Path, out: Path) -> dict[str, Path]:
    """Merge a checkpoint's method and write all that evaluation needs beside data and tokenizer.

    Args:
        cfg: the checkpoint's settings.
        file: the checkpoint.
        out: what to write; there is nothing where the file, read back, gives another model.

    Raises:
        ConfigError: ``out`` is no file name, the method cannot be merged, or the backbone cannot be built without its
            weights' files.
    """
    if out.is_dir() or out.suffix != ".ckpt":
        raise ConfigError(f"--out {out}: --format checkpoint writes one file, such as --out merged.ckpt")
    model = rebuild.fresh(cfg)
    content = rebuild.load(model, file)
    model.peft.merge(model.backbone)
    merged = settings(cfg, model.backbone, type(model.peft).__name__)
    content |= {
        "state_dict": {f"model.head.{name}": tensor for name, tensor in model.head.state_dict().items()},
        KEY: model.backbone.state_dict(),
        "fingerprint": model.backbone.fingerprint(),
        "settings": rebuild.plain(merged),
        "optimizer_states": [],
        "lr_schedulers": [],
        "schedule": {},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_suffix(".new")
    try:
        torch.save(content, new)
        rebuild.load(rebuild.fresh(rebuild.settings_of(new, ())), new)
        os.replace(new, out)
    except (CheckpointError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{type(model.backbone).__name__} cannot be built again out of one file ({error}): take --format merged, "
            "and for backbone.store=bfloat16 a method that trains no weight of the backbone itself"
        ) from error
    finally:
        new.unlink(missing_ok=True)
    return {"checkpoint": out}


def settings(cfg: DictConfig, backbone: Backbone, method: str) -> DictConfig:
    """The run's settings with a backbone that asks for no file but the checkpoint, and with nothing left to adapt."""
    merged = cfg.copy()
    node = merged.backbone
    for path, tower in backbone.encoders().items():
        own = node.towers[path.rpartition(".")[2]]
        if own.get("weights") is not None:
            for key, value in tower.shape().items():
                own.setdefault(key, value)
    _without_weights(node)
    node.kind = {"_target_": node._target_, "_partial_": True}
    node._target_, node.file = f"{filled.__module__}.{filled.__name__}", "${ckpt_path}"
    merged.peft = {"_target_": f"{LinearProbe.__module__}.{LinearProbe.__name__}", "_partial_": True}
    merged.tags = [*cfg.tags, f"{method} merged"]
    return merged


def _without_weights(node: Any) -> None:
    """Null for every ``weights`` below a node."""
    if OmegaConf.is_dict(node):
        if "weights" in node:
            node.weights = None
        for key in node:
            if not OmegaConf.is_interpolation(node, key):
                _without_weights(node[key])
