"""What to try, and which of it is worth its price."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


def mixes(space: Mapping[str, Sequence[str]], count: int, seed: int) -> list[tuple[str, ...]]:
    """``count`` different combinations of one choice per axis, each as its override words; all if there are fewer."""
    total = math.prod(len(choices) for choices in space.values())
    chosen = random.Random(seed).sample(range(total), min(count, total))
    return [_words(space, index) for index in chosen]


def _words(space: Mapping[str, Sequence[str]], index: int) -> tuple[str, ...]:
    words: list[str] = []
    for choices in space.values():
        index, digit = divmod(index, len(choices))
        words += str(choices[digit]).split()
    return tuple(words)


class Tried(NamedTuple):
    """A mix with its mean score over repetitions and what it costs; None where a run has not told.

    The share is what ``peft.budget`` counts: trained parameters but those of the head, of the backbone's parameters.
    """

    words: tuple[str, ...]
    score: float
    trained: int | None
    share_percent: float | None
    flops: float | None
    folders: tuple[str, ...]


def better(first: float, second: float, mode: str) -> bool:
    """Whether the first score is the better one."""
    return first > second if mode == "max" else first < second


def pareto(tried: Sequence[Tried], mode: str) -> list[bool]:
    """For each mix: no other with no less score, no more trained parameters and FLOPs, and one of them better."""

    def beats(a: Tried, b: Tried) -> bool:
        costs = [(x, y) for x, y in ((a.trained, b.trained), (a.flops, b.flops)) if x is not None and y is not None]
        no_worse = not better(b.score, a.score, mode) and all(x <= y for x, y in costs)
        return no_worse and (better(a.score, b.score, mode) or any(x < y for x, y in costs))

    return [not any(beats(other, one) for other in tried) for one in tried]


def facts(result: Mapping[str, Any]) -> tuple[int | None, float | None, float | None]:
    """Trained parameters, the method's share of the backbone in percent, FLOPs per sample, out of ``result.json``."""
    sizes, cost = result.get("parameters") or {}, result.get("cost") or {}
    trained, head = sizes.get("trained"), sizes.get("head", 0)
    backbone = sizes.get("total", 0) - sum(sizes.get(role, 0) for role in ("adapters", "router", "head"))
    share = 100 * (trained - head) / backbone if trained is not None and backbone > 0 else None
    return trained, share, cost.get("flops_per_sample")
