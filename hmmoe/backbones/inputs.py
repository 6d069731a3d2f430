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
        spec: ``inputs.<modality>`` of the backbone (size, mels, frames, length).

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
        expected, found = (spec.get("length"),), (value["ids"].shape[-1],)
    elif modality == "audio":
        expected, found = (spec.get("mels"), spec.get("frames")), tuple(value.shape[-2:])
    else:
        expected, found = (spec.get("size"), spec.get("size")), tuple(value.shape[-2:])
    if any(want is not None and want != have for want, have in zip(expected, found, strict=True)):
        raise ConfigError(
            f"backbone.inputs.{modality} asks for {dict(spec)}, but the batch holds {found}: let the data read its "
            "sizes from the backbone (data.inputs: ${backbone.inputs})"
        )
    return value
