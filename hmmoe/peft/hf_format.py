"""An adapter in HF peft's folder, ``adapter_config.json`` and ``adapter_model.safetensors`` of one library model."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from hmmoe.errors import CheckpointError

log = logging.getLogger(__name__)

PREFIX, CONFIG, TENSORS = "base_model.model.", "adapter_config.json", "adapter_model.safetensors"


class Stored(NamedTuple):
    """What a folder holds: the library's configuration, tensors by name as seen from the adapted model."""

    config: Any
    tensors: dict[str, Tensor]


def write(folder: Path, stored: Stored) -> None:
    """Write the two files, ready for ``peft.PeftModel.from_pretrained(<library model>, folder)``."""
    folder.mkdir(parents=True, exist_ok=True)
    stored.config.inference_mode = True
    stored.config.save_pretrained(str(folder))
    named = {f"{'base_model.' if shared(name) else PREFIX}{name}": tensor for name, tensor in stored.tensors.items()}
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in named.items()}, folder / TENSORS)


def read(folder: Path) -> Stored:
    """Read the two files, whoever wrote them.

    Raises:
        CheckpointError: one of them is missing, or of an unknown method.
    """
    from peft import PeftConfig

    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise CheckpointError(f"no {name} in {folder}: expected an adapter in HF peft's format")
    kind = json.loads((folder / CONFIG).read_text()).get("peft_type")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} ({kind}) is nothing that HF peft knows: {error}") from error
    tensors = load_file(folder / TENSORS)
    return Stored(config, {n.removeprefix(PREFIX).removeprefix("base_model."): t for n, t in tensors.items()})


def shared(name: str) -> bool:
    """Whether a tensor belongs to all layers (A and B of VeRA)."""
    return "." not in name


def find(tensors: Mapping[str, Tensor], name: str, used: set[str]) -> Tensor:
    """A tensor by name; the folder may have been made on a whole of which this tower is a part (``bert.encoder...``).

    Raises:
        CheckpointError: absent, or more than one.
    """
    found = [key for key in tensors if key == name or key.endswith(f".{name}")]
    if len(found) != 1:
        raise CheckpointError(
            f"the folder holds {name} {len(found)} times, among {', '.join(sorted(tensors)[:2])}, ...: set "
            "peft.targets to the layers that it adapts, on the same backbone"
        )
    used.add(found[0])
    return tensors[found[0]]


def refuse_rest(stored: Stored, used: set[str], key: str) -> None:
    """All adapter tensors must have been used; a head that HF peft saved beside them is left out with a word.

    Raises:
        CheckpointError: names what is left.
    """
    heads = tuple(getattr(stored.config, "modules_to_save", None) or ())
    rest = sorted(stored.tensors.keys() - used)
    mine = [name for name in rest if not any(part in name.split(".") for part in heads)]
    if mine:
        raise CheckpointError(
            f"{len(mine)} tensors of the folder have no place in this model ({', '.join(mine[:2])}): widen {key}"
        )
    if rest:
        log.info("left out: %s", ", ".join(rest))
