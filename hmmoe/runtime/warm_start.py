"""Adapters, routers and head of an earlier run as the start of a new one (``init_from``)."""

import json
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import safe_open

from hmmoe.analysis.adapters import import_hf
from hmmoe.errors import CheckpointError
from hmmoe.model import AdaptedModel
from hmmoe.trainable import load_own_state


def warm_start(model: AdaptedModel, path: Path) -> None:
    """Load a run's ``adapter.safetensors`` or checkpoint into a fresh model, or a folder of HF peft's adapters.

    Raises:
        CheckpointError: no checkpoint of a run, or trained on another backbone, or with another method or head.
    """
    if path.is_dir():
        import_hf(model, path)
        return
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            fingerprint = json.loads((file.metadata() or {}).get("fingerprint", "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    else:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or "state_dict" not in content:
            raise CheckpointError(
                f"init_from={path} is no checkpoint of a run (no state_dict in it): name a run's adapter.safetensors "
                "or checkpoints/best.ckpt"
            )
        fingerprint = content.get("fingerprint")
        state = {name.removeprefix("model."): tensor for name, tensor in content["state_dict"].items()}
    if fingerprint != model.fingerprint:
        raise CheckpointError(
            f"init_from={path} was trained on another backbone (fingerprint {str(fingerprint)[:12]}, this one has "
            f"{model.fingerprint[:12]}): use the same backbone weights, or init_from=null"
        )
    load_own_state(model, state)


def identity(path: Path) -> dict[str, str]:
    """What a run's record says of its start."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    digest = sha256(b"".join(file.read_bytes() for file in files))
    return {"path": str(path), "sha256": digest.hexdigest()}
