"""Weights from a local file into a library model, strictly."""

import logging
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hmmoe.assets import locate
from hmmoe.errors import ConfigError, WeightsMissing

log = logging.getLogger(__name__)


def read_state(path: str | Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by name; torch files are read under ``weights_only``.

    Raises:
        WeightsMissing: no such file.
        ConfigError: the file holds no mapping of tensors, or other objects beside it.
    """
    path = Path(locate(str(path)))
    if not path.is_file():
        raise WeightsMissing(
            f"no weights at {path}: put the file there, or point the backbone's `weights` to it (null: random)"
        )
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as fault:
        raise ConfigError(
            f"{path} is no torch file, or holds more than tensors (settings of an old run): where you trust it, "
            "load it once with weights_only=False and save its state dict with safetensors"
        ) from fault
    for key in ("state_dict", "model", "module"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    tensors = {k: v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, Mapping) else {}
    if not tensors:
        raise ConfigError(f"{path} holds no tensors by name: expected a state dict")
    return tensors


def write_library(library: nn.Module, folder: Path) -> Path:
    """Write a model as its library does: transformers a folder with config.json, others one ``model.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(library, "save_pretrained"):
        library.save_pretrained(str(folder))
        return folder
    return write_state(library.state_dict(), folder / "model.safetensors")


def write_state(state: Mapping[str, Tensor], file: Path) -> Path:
    """Write tensors by name, those that share memory each for itself."""
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in state.items()}, file)
    return file


def load_strictly(
    library: nn.Module, state: Mapping[str, Tensor], *, source: str, unused: tuple[str, ...] = ()
) -> None:
    """Copy ``state`` into ``library``; every key must fit.

    Args:
        library: the model to fill.
        state: tensors by the library's own names, of any floating dtype.
        source: where they come from, for messages.
        unused: prefixes of checkpoint keys that this model has no place for (a classifier).

    Raises:
        ConfigError: missing, unexpected or differently shaped keys, the first of each named.
    """
    own = library.state_dict()
    state = {key: value for key, value in state.items() if key in own or not (unused and key.startswith(unused))}
    faults = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": sorted(
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own.keys() & state.keys()
            if own[key].shape != state[key].shape
        ),
    }
    if any(faults.values()):
        report = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in faults.items() if keys)
        raise ConfigError(
            f"{source} does not fit {type(library).__name__} ({report}): correct the backbone's `weights`"
        )
    library.load_state_dict(state)
    log.info("loaded %d tensors from %s", len(state), source)


def log_resized(source: str, stored: Mapping[str, Tensor], fitted: Mapping[str, Tensor]) -> None:
    """Say which tensors (positions, bias tables, first convolutions) were brought to another size."""
    changed = [
        f"{key} {tuple(stored[key].shape)} -> {tuple(value.shape)}"
        for key, value in fitted.items()
        if key in stored and stored[key].shape != value.shape
    ]
    if changed:
        log.info("%s: %d tensors resized: %s", source, len(changed), ", ".join(changed[:3]))


def resize_grid(
    positions: Float[Tensor, "N D"], prefix: int, old: tuple[int, int], new: tuple[int, int], *, mode: str
) -> Float[Tensor, "M D"]:
    """Interpolate a table of position embeddings from one grid of patches to another; prefix rows stay.

    Args:
        positions: prefix rows, then the grid row by row.
        prefix: rows of class and distillation tokens.
        old, new: rows and columns of the grids.
        mode: "bicubic" (ViT, CLIP, SigLIP) or "bilinear" (AST), as the authors do it.
    """
    grid = positions[prefix:].float().unflatten(0, old).permute(2, 0, 1)[None]
    grid = nn.functional.interpolate(grid, size=new, mode=mode, align_corners=False)
    return torch.cat((positions[:prefix].float(), grid[0].flatten(1).T))
