"""The sparse executor: an expert sees only the tokens that were routed to it.

Tokens are sorted by expert and every expert multiplies its own, so that the cost grows with k and not with the number
of experts, with one exception: the keys and values of every cross expert come from all tokens of the other stream. How
many tokens an expert gets is known only when it runs, so a GPU is waited for and torch.compile breaks the graph here.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hmmoe.experts.bank import ExpertBank, Gates, Group, Keeps, Tokens, key
from hmmoe.masked import masked_mean


def grouped(bank: ExpertBank, tokens: Tokens, gates: Gates, keeps: Keeps) -> dict[str, Float[Tensor, "S _N _D"]]:
    """Deltas of all streams that have gates; arguments as in ``wide``. A gate of zero means not selected."""
    hidden = {m: _attended(bank, m, x) for m, x in tokens.items() if m in bank.down}
    return {m: _mix(bank, m, tokens, hidden, gate, keeps) for m, gate in gates.items()}


def _attended(bank: ExpertBank, m: str, x: Float[Tensor, "S N D"]) -> dict[int, Float[Tensor, "S N E R"]]:
    """Down-projections of all tokens for the experts that attend."""
    found = {}
    for i, (down, bias) in _downs(bank, m).items():
        if bank.slots[i].kind == "cross":
            found[i] = F.linear(x, down.flatten(1).T, bias.flatten()).unflatten(-1, bias.shape)
    return found


def _downs(bank: ExpertBank, m: str) -> dict[int, tuple[Float[Tensor, "D E R"], Float[Tensor, "E R"]]]:
    down, bias = bank.split(m, bank.down[m].T), bank.split(m, bank.down_bias[m])
    return {i: (down[i], bias[i]) for i in down}


def _mix(
    bank: ExpertBank,
    m: str,
    tokens: Tokens,
    hidden: Mapping[str, Mapping[int, Tensor]],
    gate: Float[Tensor, "S N G E"],
    keeps: Keeps,
) -> Float[Tensor, "S N D"]:
    groups, flat = bank.groups[m], gate.flatten(0, 1)
    up, up_bias = bank.up[m].tensor_split([bank.hidden(m)], 1)
    ups, up_biases = bank.split(m, up), up_bias.split([group.experts for group in groups], 1)
    entries = []
    for j, group in enumerate(groups):
        share = flat[:, j, : group.experts]
        chosen = _chosen(share)
        h, late = _hidden(bank, m, group, tokens, hidden, chosen, keeps)
        weight = share[chosen.token, chosen.expert].to(h.dtype).unsqueeze(1)
        maps = torch.cat((ups[group.slot], up_biases[j].unsqueeze(2)), 2)
        out = _by_expert(torch.cat((h * weight, weight), 1), maps.permute(1, 2, 0), chosen.counts)
        entries.append((chosen.token, out if late is None else out * late))
    token, out = (torch.cat(column) for column in zip(*entries, strict=True))
    return out.new_zeros(len(flat), out.shape[1]).index_add(0, token, out).unflatten(0, gate.shape[:2])


class Chosen(NamedTuple):
    """Entries of a group: a token and one of its experts, sorted by expert."""

    expert: Int[Tensor, " P"]
    token: Int[Tensor, " P"]
    counts: list[int]


def _chosen(share: Float[Tensor, "T E"]) -> Chosen:
    expert, token = share.detach().T.nonzero(as_tuple=True)
    return Chosen(expert, token, torch.bincount(expert, minlength=share.shape[1]).tolist())


def _by_expert(x: Float[Tensor, "P A"], maps: Float[Tensor, "E A B"], counts: list[int]) -> Float[Tensor, "P B"]:
    """Every entry through the map of its expert."""
    return torch.cat([part @ one for part, one in zip(x.split(counts), maps.unbind(0), strict=True)])


def _hidden(
    bank: ExpertBank,
    m: str,
    group: Group,
    tokens: Tokens,
    hidden: Mapping[str, Mapping[int, Tensor]],
    chosen: Chosen,
    keeps: Keeps,
) -> tuple[Float[Tensor, "P R"], Float[Tensor, "P D"] | None]:
    """Hidden channels of every entry, and the factor of its output where a channel expert scales at width D."""
    middle, row = bank.middle[key(m, group)], chosen.token // tokens[m].shape[1]
    if group.slot in hidden[m]:
        z = hidden[m][group.slot].flatten(0, 1)[chosen.token, chosen.expert]
        context = hidden[group.source][group.slot]
        return middle.some(z, chosen.expert, row, context, keeps[group.source]), None
    down, bias = _downs(bank, m)[group.slot]
    z = _by_expert(tokens[m].flatten(0, 1).index_select(0, chosen.token), down.transpose(0, 1), chosen.counts)
    z = z + bias.to(z.dtype)[chosen.expert]
    if group.source is None:
        return middle.act(z), None
    down, bias = _downs(bank, group.source)[group.slot]
    pooled = masked_mean(tokens[group.source], keeps[group.source])
    pooled = F.linear(pooled, down.flatten(1).T, bias.flatten()).unflatten(-1, bias.shape)
    factor = 1 + middle.scale(pooled, keeps[group.source])[row, chosen.expert]
    return (z * factor, None) if middle.space == "rank" else (z, factor)
