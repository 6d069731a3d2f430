"""Reference lines of sentences judged true or false."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Judged(NamedTuple):
    """One example's part in the official scores."""

    group: str
    label: int


def majority_lines(train: Iterable[Judged], split: Iterable[Judged]) -> dict[str, float]:
    """What always answering with train's more frequent label scores: share of examples, and of whole groups."""
    answer = int(np.mean([example.label for example in train]) >= 0.5)
    right, examples = {}, list(split)
    for example in examples:
        right[example.group] = right.get(example.group, True) and example.label == answer
    return {
        "majority": float(np.mean([example.label == answer for example in examples])),
        "majority_consistency": float(np.mean(list(right.values()))),
    }
