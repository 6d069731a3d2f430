"""How large a method must be to train a given number of parameters: the size that comes nearest, found by counting.

Every method names the keys that set its size (``Peft.sizes``). The method is built at one size after the other on a
weightless copy of the backbone, whether it stands at sites or changes weights, and what trains is counted: nothing
here knows a formula, and a method of one's own needs none.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from math import gcd
from typing import NamedTuple

from hmmoe.backbones.base import Backbone
from hmmoe.errors import ConfigError
from hmmoe.peft.base import Peft
from hmmoe.types import Site
from hmmoe.weightless import shaped, weightless

Count = Callable[[int], int]


class Fit(NamedTuple):
    """A size and what it comes to. ``share`` is ``parameters`` over those of the backbone."""

    value: int
    parameters: int
    share: float


def trained(backbone: Backbone, method: Callable[[Sequence[Site]], Peft]) -> int:
    """Parameters that a method trains on a backbone: adapters, routers and what it unfreezes; no head.

    Args:
        backbone: as it is before any method; left alone.
        method: builds it from the backbone's sites.
    """

    def build() -> tuple[Peft, Backbone]:
        copy = weightless(backbone)
        built = method(copy.sites)
        built.prepare(copy)
        return built, copy

    with silent():
        parts = shaped(build)
    unique = {id(p): p for p in chain(*(part.parameters() for part in parts)) if p.requires_grad}
    return sum(parameter.numel() for parameter in unique.values())


@contextmanager
def silent() -> Iterator[None]:
    """Without the attachment table of every attempt."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def candidates(sites: Sequence[Site], *, divides: bool) -> list[int]:
    """Sizes worth trying: up to the largest width, or those that divide all widths."""
    widths = [width for site in sites for width in site.widths.values()]
    common = gcd(*widths)
    return [n for n in range(1, common + 1) if common % n == 0] if divides else list(range(1, max(widths) + 1))


def solve(count: Count, sizes: Sequence[int], target: float, *, total: int) -> Fit:
    """The size whose count lies nearest to ``target``; the smaller one of two.

    Sizes are doubled until the target lies between two of them, then halved in. A size that the method refuses (a rank
    that its heads do not divide) gives way to its neighbours.

    Args:
        count: parameters that train at a size; rises with it. Raises ``ConfigError`` at a size that cannot be.
        sizes: to choose from, rising.
        target: parameters.
        total: of the backbone.

    Raises:
        ConfigError: the target lies outside what the sizes reach, or none of them can be.
    """
    known: dict[int, int | None] = {}
    refused: list[ConfigError] = []

    def probe(index: int) -> int | None:
        if index not in known:
            try:
                known[index] = count(sizes[index])
            except ConfigError as error:
                refused.append(error)
                known[index] = None
        return known[index]

    low, high = -1, len(sizes)
    for index in ladder(len(sizes)):
        found = probe(index)
        if found is not None and found >= target:
            high = index
            break
        low = low if found is None else index
    while high - low > 1:
        middle = (low + high) // 2
        near = sorted(range(low + 1, high), key=lambda index: abs(index - middle))
        index = next((index for index in near if probe(index) is not None), None)
        if index is None:
            break
        low, high = (index, high) if probe(index) < target else (low, index)
    if all(found is None or found > target for found in known.values()):
        next((index for index in reversed(range(len(sizes))) if probe(index) is not None), None)  # how far it reaches
    counts = {sizes[index]: found for index, found in sorted(known.items()) if found is not None}
    if not counts:
        raise refused[-1]
    least, most = min(counts.values()), max(counts.values())
    if not least <= target <= most:
        raise ConfigError(_unreachable(target, total, min(counts), least, max(counts), most))
    value = min(counts, key=lambda size: (abs(counts[size] - target), size))
    return Fit(value, counts[value], counts[value] / total)


def ladder(length: int) -> list[int]:
    """Indices of the 1st, 2nd, 4th, 8th, ... and the last entry."""
    return sorted({*(2**power - 1 for power in range(length.bit_length())), length - 1})


def _unreachable(target: float, total: int, low: int, least: int, high: int, most: int) -> str:
    return (
        f"{target:,.0f} parameters ({target / total:.4%} of the backbone) cannot be reached: sizes {low} to {high} "
        f"train {least:,} to {most:,}, peft.budget={least / total:.6f} to {most / total:.4f}"
    )
