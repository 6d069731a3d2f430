"""Who computes: share of weight and of selections per site, modality, group and expert, over an epoch and all ranks.

Counted from the *returned* Routing, once per batch: a counter inside forward counts twice under activation
checkpointing and keeps what a discarded micro-batch left behind.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from hmmoe.routing.usage import Usage
from hmmoe.types import Routing

Key = tuple[str, str]
"""(site label, modality)."""


class _Layout(NamedTuple):
    """Where one (site, modality) lies in the flat state, and what it means."""

    start: int
    groups: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def parts(self) -> list[int]:
        """Lengths: tokens, weight per expert, selections per expert, tokens per group, entropies."""
        g, e = len(self.groups), max(self.sizes)
        return [1, g * e, g * e, g, 1, g]


class RoutingStats(Metric):
    """Utilisation of every expert, accumulated over ``update`` calls and summed over ranks.

    The state is one float64 vector, so an epoch costs one collective whatever the number of sites, and 2**53 tokens
    count exactly. It takes its size from the first update, which all ranks must therefore have had.

    Args:
        dead_below: an expert (or group) with choice counts as dead below this ratio.
    """

    full_state_update = False
    tally: Tensor

    def __init__(self, *, dead_below: float = 0.05) -> None:
        super().__init__()
        if not 0 <= dead_below < 1:
            raise ValueError(f"dead_below is a ratio to the fair share, 0 <= dead_below < 1, not {dead_below}")
        self.dead_below = dead_below
        self.add_state("tally", torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")
        self._layout: dict[Key, _Layout] = {}

    def update(self, routing: Mapping[Key, Routing]) -> None:
        """Count one batch. Tokens whose ``keep`` is False do not count; no host synchronisation.

        Raises:
            ValueError: a site, modality or group that the first batch did not have.
        """
        if not self._layout:
            self._lay_out(routing)
        buckets: dict[tuple, list[Key]] = defaultdict(list)
        for key, one in routing.items():
            known = self._layout.get(key)
            if known is None or (known.groups, known.sizes) != (one.groups, one.sizes):
                raise ValueError(f"routing of {key} is {one.groups} x {one.sizes}, but the first batch had {known}")
            buckets[one.expert_weights.shape, one.sizes, one.keep is None, one.probs is None].append(key)
        for keys in buckets.values():
            # Sites of one shape are counted in one go: a few dozen kernels instead of a thousand.
            sums = _count([routing[key] for key in keys])
            for key, row in zip(keys, sums.unbind(), strict=True):
                start = self._layout[key].start
                self.tally[start : start + row.numel()] += row.to(self.tally.dtype)

    def _lay_out(self, routing: Mapping[Key, Routing]) -> None:
        start = 0
        for key, one in routing.items():
            self._layout[key] = _Layout(start, one.groups, one.sizes)
            start += sum(self._layout[key].parts)
        if routing:
            device = next(iter(routing.values())).group_weights.device
            dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
            self._defaults["tally"] = torch.zeros(start, dtype=dtype)
            self.tally = torch.zeros(start, dtype=dtype, device=device)

    def compute(self) -> list[Usage]:
        """The table: per site and modality one row per group, then one per expert."""
        values = self.tally.tolist()
        depths = {site: depth for depth, site in enumerate(dict.fromkeys(site for site, _ in self._layout))}
        return [
            row
            for (site, modality), layout in self._layout.items()
            for row in self._rows(site, depths[site], modality, layout, values[layout.start :])
        ]

    def _rows(self, site: str, depth: int, modality: str, layout: _Layout, values: Sequence[float]) -> list[Usage]:
        pieces, at = [], 0
        for length in layout.parts:
            pieces.append(values[at : at + length])
            at += length
        (tokens,), weight, chosen, hits, (group_doubt,), doubts = pieces
        most = max(layout.sizes)
        weights = [weight[g * most : g * most + size] for g, size in enumerate(layout.sizes)]
        chosen = [chosen[g * most : g * most + size] for g, size in enumerate(layout.sizes)]
        choices = [_Choice("group", layout.groups, [sum(loads) for loads in weights], hits, group_doubt)]
        for group, loads, picks, doubt in zip(layout.groups, weights, chosen, doubts, strict=True):
            choices.append(_Choice("expert", (group,) * len(loads), loads, picks, doubt))
        return [
            Usage(site, depth, modality, choice.level, *row)
            for choice in choices
            for row in choice.rows(tokens, self.dead_below)
        ]


class _Choice(NamedTuple):
    """One decision's alternatives with their sums over the tokens."""

    level: Literal["group", "expert"]
    groups: tuple[str, ...]
    loads: list[float]
    picks: list[float]
    doubt: float

    def rows(self, tokens: float, dead_below: float) -> Iterator[tuple]:
        """The last nine fields of ``Usage``."""
        count = len(self.loads)
        shares, picks = _shares(self.loads), _shares(self.picks)
        entropy = _normalised(-math.fsum(s * math.log(s) for s in shares if s > 0), count, alone=1.0)
        token_entropy = _normalised(self.doubt / max(tokens, 1), count, alone=0.0)
        for index, (group, share, pick) in enumerate(zip(self.groups, shares, picks, strict=True)):
            dead = tokens > 0 and count > 1 and share * count < dead_below
            expert = index if self.level == "expert" else None
            yield group, expert, share, pick, share * count, entropy, token_entropy, round(tokens), dead


def _count(routings: Sequence[Routing]) -> Float[Tensor, "K L"]:
    """One row of sums per routing, in the order of ``_Layout.parts``; all of one shape."""
    weights = torch.stack([one.weights for one in routings])
    selected = torch.stack([one.selected for one in routings])
    local = torch.stack([one.expert_weights if one.probs is None else one.probs for one in routings])
    keep = torch.ones_like(selected[..., 0, 0])
    if routings[0].keep is not None:
        keep = torch.stack([one.keep for one in routings])
    parts = [
        keep.unsqueeze(-1),
        weights.flatten(3),
        selected.flatten(3),
        selected.any(-1),
        _entropy(weights.sum(-1)).unsqueeze(-1),
        _entropy(local),
    ]
    return torch.cat([_total(part, keep) for part in parts], -1)


def _total(x: Tensor, keep: Bool[Tensor, "K S N"]) -> Float[Tensor, "K L"]:
    """Sum over the kept tokens. Selected, not multiplied: a padded position may hold anything, NaN included."""
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    return torch.where(keep.unsqueeze(-1), x, torch.zeros((), dtype=x.dtype, device=x.device)).sum((1, 2), dtype=wide)


def _entropy(x: Float[Tensor, "*S n"]) -> Float[Tensor, "*S"]:
    """Entropy in nats of the last axis after division by its sum."""
    p = x / x.sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return torch.special.entr(p).sum(-1)


def _shares(loads: Sequence[float]) -> list[float]:
    total = sum(loads)
    return [load / total if total > 0 else 0.0 for load in loads]


def _normalised(entropy: float, choices: int, *, alone: float) -> float:
    return alone if choices == 1 else min(max(0.0, entropy) / math.log(choices), 1.0)
