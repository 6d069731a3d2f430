"""What a backbone asks of a batch, checked before anything runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from hmmoe.errors import ConfigError
from hmmoe.types import Batch


def checked(batch: Batch, modality: str, modalities: Sequence[str], spec: Mapping[str, Any]) -> Any:
    """The batch's entry of one modality.

    Args:
        batch: what the data set delivers.
        modality: the one to take.
        modalities: all that the backbone reads, for the message.
        spec: ``inputs.<modality>`` of the backbone (size, segments, mels, frames, length).

    Raises:
        ConfigError: the entry is absent, or not of the size in ``spec``.
    """
    if modality not in batch:
        raise ConfigError(
            f"the backbone reads {tuple(modalities)}, but the batch has only {sorted(batch)}: the data set must "
            f"deliver {modality!r} (a missing one as zeros with keep False)"
        )
    value = batch[modality]
    if isinstance(value, dict):
        found = {"length": value["ids"].shape[-1]}
    elif modality == "audio":
        found = dict(zip(("mels", "frames"), value.shape[-2:], strict=True))
    else:
        found = {"segments": value.shape[1], "size": tuple(value.shape[-2:])}
    square = {"size": (spec.get("size"),) * 2}
    expected = {name: {**spec, **square}[name] for name in found if spec.get(name) is not None}
    found = {name: found[name] for name in expected}
    if expected != found:
        raise ConfigError(
            f"backbone.inputs.{modality} asks for {expected}, but the batch holds {found}: let the data read its "
            "sizes from the backbone (data.inputs: ${backbone.inputs}; for segments set data.frames, or choose data "
            "that have as many)"
        )
    return value
