"""A batch of the right shapes and no content, from what a backbone asks for (``backbone.inputs``)."""

from collections.abc import Mapping
from typing import Any

import torch

from hmmoe.types import Batch


def blank(inputs: Mapping[str, Mapping[str, Any]], segments: Mapping[str, int], *, size: int) -> Batch:
    """Random pictures, sounds and words.

    Args:
        inputs: by modality: size, or mels and frames, or length.
        segments: T by modality; 1 where it is not named.
        size: B.
    """
    batch: Batch = {"id": [f"sample{i}" for i in range(size)]}
    for modality, spec in inputs.items():
        count = segments.get(modality, 1)
        if "length" in spec:
            ids = torch.randint(5, 100, (size, spec["length"]))  # words that the smallest vocabulary has
            batch[modality] = {"ids": ids, "keep": torch.ones_like(ids, dtype=torch.bool)}
        elif "mels" in spec:
            batch[modality] = torch.randn(size, count, 1, spec["mels"], spec["frames"])
        else:
            batch[modality] = torch.randn(size, count, 3, spec["size"], spec["size"])
    return batch


def on(batch: Any, device: str) -> Any:
    """The same batch elsewhere."""
    if isinstance(batch, dict):
        return {key: on(value, device) for key, value in batch.items()}
    return batch.to(device) if isinstance(batch, torch.Tensor) else batch
