"""transformers models from a local folder (or the hub when asked), with what did not fit turned into an error."""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as verbosity

from hmmoe.assets import locate
from hmmoe.backbones.weights import read_state, resize_grid
from hmmoe.errors import ConfigError, WeightsMissing

log = logging.getLogger(__name__)

HUB = "hub:"


def folder_of(weights: str) -> str:
    """The folder that ``weights`` names: a path, "mini:bert" in the package, "hub:owner/name" fetched or in the cache.

    Raises:
        WeightsMissing: no such folder, or one without config.json.
    """
    weights = locate(weights)
    if weights.startswith(HUB):
        from huggingface_hub import snapshot_download

        return snapshot_download(weights.removeprefix(HUB), allow_patterns=["*.json", "*.safetensors", "*.txt"])
    if not (Path(weights) / "config.json").is_file():
        raise WeightsMissing(
            f"no config.json in {weights}: the backbone's `weights` must name a folder in transformers' layout "
            "(config.json, model.safetensors), hub:<owner>/<name>, or null for random weights"
        )
    return weights


def create(
    kind: type[PreTrainedModel],
    config: type[PretrainedConfig],
    weights: str | None,
    options: dict[str, Any],
    *,
    unread: tuple[str, ...] = (),
    **build: Any,
) -> tuple[nn.Module, list[str]]:
    """A transformers model in fp32, and the names whose stored shape did not fit (left for the family to resize).

    Args:
        kind: model class.
        config: its config class.
        weights: None leaves it random, else see ``folder_of``.
        options: config keys that override the stored ones.
        unread: prefixes of tensors that the tower never reads, which may be missing.
        build: further keywords of the model's constructor.

    Raises:
        ConfigError: the checkpoint lacks weights of this model, or its config is another kind's.
        WeightsMissing: no such folder.
    """
    if weights is None:
        return kind(config(**options), **build), []
    folder = folder_of(weights)
    _check_kind(folder, config)
    with _without_bar():
        model, info = kind.from_pretrained(
            folder,
            config=config.from_pretrained(folder, **options),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=True,
            **build,
        )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(unread))
    if missing:
        raise ConfigError(
            f"{weights} does not hold a {kind.__name__}: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(info['unexpected_keys'])} unexpected ({', '.join(sorted(info['unexpected_keys'])[:3])}); "
            "correct the backbone's `weights`"
        )
    return model, sorted(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])


@contextmanager
def _without_bar() -> Iterator[None]:
    """A bar over tensors that are read in a second is noise, in a log file above all."""
    shown = verbosity.is_progress_bar_enabled()
    verbosity.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            verbosity.enable_progress_bar()


def _check_kind(folder: str, config: type[PretrainedConfig]) -> None:
    """transformers only warns when it reads one kind of model into another, and BERT fills a RoBERTa without a gap."""
    stored = json.loads((Path(folder) / "config.json").read_text())
    found = stored.get("model_type", config.model_type)
    if found != config.model_type and config.base_config_key not in stored:
        raise ConfigError(
            f"{folder}/config.json says model_type {found!r}, this tower is a {config.model_type!r}: correct the "
            "backbone's `weights`, or take the family of that model (docs/backbones.md)"
        )


def refuse_other_sizes(weights: str | None, unfit: list[str]) -> None:
    """Names whose stored shape differs are an error where nothing can be interpolated.

    Raises:
        ConfigError: names them.
    """
    if unfit:
        raise ConfigError(
            f"{weights} and the requested sizes differ in {len(unfit)} tensors ({', '.join(unfit[:3])}): correct the "
            "backbone's options"
        )


def resize_positions(
    library: nn.Module,
    weights: str | None,
    unfit: list[str],
    *,
    key: str,
    prefix: int,
    mode: str,
    grid: tuple[int, int] | None = None,
) -> None:
    """Interpolate stored position embeddings where only they did not fit, and say so.

    Args:
        library: the model, whose tensor ``key`` is still to be filled.
        weights, unfit: as given to and got from ``create``.
        key: name of the position embeddings, (N, D) or (1, N, D), in the model and at the end of the stored name.
        prefix: rows of tokens that are no patches.
        mode: "bicubic" or "bilinear", see ``resize_grid``.
        grid: rows and columns of the new grid; None for a square one. The stored grid has as many rows, or is square.

    Raises:
        ConfigError: other tensors differ too.
    """
    refuse_other_sizes(weights, [name for name in unfit if not name.endswith(key)])
    if not unfit:
        return
    stored = stored_tensor(weights, unfit[0])
    own = library.get_parameter(key)
    stored, count = stored.reshape(-1, stored.shape[-1]), own.shape[-2] - prefix
    new = grid or (math.isqrt(count), math.isqrt(count))
    patches = len(stored) - prefix
    old = (new[0], patches // new[0]) if grid else (math.isqrt(patches), math.isqrt(patches))
    with torch.no_grad():
        own.copy_(resize_grid(stored, prefix, old, new, mode=mode).view_as(own))
    log.info("%s: position embeddings resized from %d x %d to %d x %d", weights, *old, *new)


def stored_tensor(weights: str, name: str) -> Tensor:
    """One tensor of a folder by the model's own name; stored, it may carry the prefix of a whole (vision_model.)."""
    folder = Path(folder_of(weights))
    file = next((f for f in (folder / "model.safetensors", folder / "pytorch_model.bin") if f.is_file()), folder)
    state = read_state(file)
    found = [key for key in state if key == name or key.endswith(f".{name}")]
    if len(found) != 1:
        raise ConfigError(f"{file} holds {name} {len(found)} times ({', '.join(found)}): expected one")
    return state[found[0]]
