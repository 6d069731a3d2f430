"""transformers models from a local folder (or the hub when asked), with what did not fit turned into an error."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hmmoe.assets import locate
from hmmoe.errors import ConfigError, WeightsMissing

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
    **build: Any,
) -> tuple[nn.Module, list[str]]:
    """A transformers model in fp32, and the names whose stored shape did not fit (left for the family to resize).

    Args:
        kind: model class.
        config: its config class.
        weights: None leaves it random, else see ``folder_of``.
        options: config keys that override the stored ones.
        build: further keywords of the model's constructor.

    Raises:
        ConfigError: the checkpoint lacks weights of this model.
        WeightsMissing: no such folder.
    """
    if weights is None:
        return kind(config(**options), **build), []
    folder = folder_of(weights)
    model, info = kind.from_pretrained(
        folder,
        config=config.from_pretrained(folder, **options),
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        local_files_only=True,
        **build,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ConfigError(
            f"{weights} does not hold a {kind.__name__}: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(info['unexpected_keys'])} unexpected ({', '.join(sorted(info['unexpected_keys'])[:3])}); "
            "correct the backbone's `weights`"
        )
    return model, sorted(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
