"""A backbone whose weights lie in a checkpoint: what ``python -m hmmoe.export --format checkpoint`` leaves behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hmmoe.backbones.base import Backbone
from hmmoe.backbones.weights import load_strictly
from hmmoe.errors import ConfigError

KEY = "backbone"
"""Where a checkpoint holds all tensors of its backbone."""


def filled(*, kind: Callable[..., Backbone], file: str | None, **options: Any) -> Backbone:
    """Build a backbone without weights and fill it from a checkpoint that brings them along.

    Args:
        kind: builds the backbone.
        file: the checkpoint.
        options: further keywords of ``kind``.

    Raises:
        ConfigError: no file, one without a backbone, or one that does not fit.
    """
    if file is None or not Path(file).is_file():
        raise ConfigError(f"this backbone's weights lie in a merged checkpoint: name the file, ckpt_path=, not {file}")
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True).get(KEY)
    if state is None:
        raise ConfigError(f"ckpt_path={file} brings no backbone along: name a file of hmmoe.export --format checkpoint")
    backbone = kind(**options)
    load_strictly(backbone, state, source=file)
    return backbone
