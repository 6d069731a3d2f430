"""The sparse executor: an expert sees only the tokens that were routed to it.

Tokens are sorted by expert and every expert multiplies its own, so that the cost grows with k and not with the number
of experts, with one exception: the keys and values of every cross expert come from all tokens of the other stream. How
many tokens an expert gets is known only when it runs, so a GPU is waited for and torch.compile breaks the graph here.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hmmoe.experts.bank import ExpertBank, Gates, Group, Keeps, Tokens, key
from hmmoe.masked import masked_mean


def grouped(bank: ExpertBank, tokens: Tokens, gates: Gates, keeps: Keeps) -> dict[str, Float[Tensor, "S _N _D"]]:
    """Deltas of all streams that have gates; arguments as in ``wide``. A gate of zero means not selected."""
    downs = {m: _downs(bank, m, x) for m, x in tokens.items() if m in bank.down}
    return {m: _mix(bank, m, tokens, downs, gate, keeps) for m, gate in gates.items()}


class Down(NamedTuple):
    """Down-projections of one stream in one slot.

    Cross experts need all tokens of the stream and have them already: ``hidden`` (S, N, E, R); others have the ``maps``
    (R, D) of every expert. ``bias`` is (E, R).
    """

    bias: Tensor
    maps: Sequence[Tensor]
    hidden: Tensor | None


def _downs(bank: ExpertBank, m: str, x: Float[Tensor, "S N D"]) -> dict[int, Down]:
    """By slot. The parameter is split once and into what is multiplied with, so its gradient is put together once."""
    biases = bank.split(m, bank.down_bias[m])
    sizes = [
        [s.rank * s.experts] if s.kind == "cross" else [s.rank] * s.experts for s in map(bank.slots.__getitem__, biases)
    ]
    parts = iter(bank.down[m].split([size for own in sizes for size in own]))
    found = {}
    for (slot, bias), own in zip(biases.items(), sizes, strict=True):
        maps = [next(parts) for _ in own]
        if bank.slots[slot].kind == "cross":
            found[slot] = Down(bias, (), F.linear(x, maps[0], bias.flatten()).unflatten(-1, bias.shape))
        else:
            found[slot] = Down(bias, maps, None)
    return found


def _mix(
    bank: ExpertBank,
    m: str,
    tokens: Tokens,
    downs: Mapping[str, Mapping[int, Down]],
    gate: Float[Tensor, "S N G E"],
    keeps: Keeps,
) -> Float[Tensor, "S N D"]:
    groups, flat = bank.groups[m], gate.flatten(0, 1)
    ranks = [bank.slots[group.slot].rank for group in groups for _ in range(group.experts)]
    *maps, biases = bank.up[m].split([*ranks, len(ranks)], 1)
    ups, places, shares, dense = iter(maps), [], [], []
    for j, (group, bias) in enumerate(zip(groups, biases.split([group.experts for group in groups], 1), strict=True)):
        share = flat[:, j, : group.experts]
        chosen = _chosen(share)
        h, late = _hidden(bank, m, group, tokens, downs, chosen, keeps)
        weight = share[chosen.token, chosen.expert].to(h.dtype).unsqueeze(1)
        out = _by_expert(h * weight, [next(ups) for _ in range(group.experts)], chosen.counts)
        if late is not None:
            out = (out + weight * bias.T.to(out.dtype)[chosen.expert]) * late
        else:
            dense.append((share, bias))
        places.append(chosen.token)
        shares.append(out)
    delta = shares[0].new_zeros(len(flat), biases.shape[0]).index_add(0, torch.cat(places), torch.cat(shares))
    if dense:
        share, bias = (torch.cat(column, 1) for column in zip(*dense, strict=True))
        delta = delta + F.linear(share.to(delta.dtype), bias)
    return delta.unflatten(0, gate.shape[:2])


class Chosen(NamedTuple):
    """Entries of a group: a token and one of its experts, sorted by expert."""

    expert: Int[Tensor, " P"]
    token: Int[Tensor, " P"]
    counts: list[int]


def _chosen(share: Float[Tensor, "T E"]) -> Chosen:
    expert, token = share.detach().T.nonzero(as_tuple=True)
    return Chosen(expert, token, torch.bincount(expert, minlength=share.shape[1]).tolist())


def _by_expert(
    x: Float[Tensor, "P A"], maps: Sequence[Float[Tensor, "B A"]], counts: list[int]
) -> Float[Tensor, "P B"]:
    """Every entry through the map of its expert."""
    return torch.cat([F.linear(part, one) for part, one in zip(x.split(counts), maps, strict=True)])


def _hidden(
    bank: ExpertBank,
    m: str,
    group: Group,
    tokens: Tokens,
    downs: Mapping[str, Mapping[int, Down]],
    chosen: Chosen,
    keeps: Keeps,
) -> tuple[Float[Tensor, "P R"], Float[Tensor, "P D"] | None]:
    """Hidden channels of every entry, and the factor of its output where a channel expert scales at width D."""
    middle, row = bank.middle[key(m, group)], chosen.token // tokens[m].shape[1]
    own = downs[m][group.slot]
    if own.hidden is not None:
        z = own.hidden.flatten(0, 1)[chosen.token, chosen.expert]
        return middle.some(z, chosen.expert, row, downs[group.source][group.slot].hidden, keeps[group.source]), None
    z = _by_expert(tokens[m].flatten(0, 1).index_select(0, chosen.token), own.maps, chosen.counts)
    z = z + own.bias.to(z.dtype)[chosen.expert]
    if group.source is None:
        return middle.act(z), None
    other = downs[group.source][group.slot]
    pooled = masked_mean(tokens[group.source], keeps[group.source])
    pooled = torch.stack([F.linear(pooled, one) for one in other.maps], 1) + other.bias.to(pooled.dtype)
    factor = 1 + middle.scale(pooled, keeps[group.source])[row, chosen.expert]
    return (z * factor, None) if middle.space == "rank" else (z, factor)
