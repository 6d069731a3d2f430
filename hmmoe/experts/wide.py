"""The fast executor: one matmul in and one out per stream, gates folded into the rank-R activations.

Exact because the output is linear in the gated hidden channels. No loop over experts, no host synchronisation, no
data-dependent shape, no unused parameter: plain DDP and torch.compile work.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hmmoe.experts.bank import ExpertBank, Gates, Keeps, Tokens, key


def wide(bank: ExpertBank, tokens: Tokens, gates: Gates, keeps: Keeps) -> dict[str, Float[Tensor, "S _N _D"]]:
    """Deltas of all streams that have gates.

    Args:
        bank: the site's experts.
        tokens: what the adapters read, by modality.
        gates: weight of every expert (group times expert weight), by modality; groups in the bank's order.
        keeps: key masks by modality.
    """
    hidden = {
        m: bank.split(m, F.linear(x, bank.down[m], bank.down_bias[m])) for m, x in tokens.items() if m in bank.down
    }
    return {m: _mix(bank, m, hidden, gate, keeps) for m, gate in gates.items()}


def _mix(
    bank: ExpertBank, m: str, hidden: dict[str, dict[int, Tensor]], gate: Float[Tensor, "S N G E"], keeps: Keeps
) -> Float[Tensor, "S N D"]:
    columns, biases, scaled = [], [], []
    for group, share in zip(bank.groups[m], gate.unbind(2), strict=True):
        context = None if group.source is None else hidden[group.source][group.slot]
        keep = None if group.source is None else keeps[group.source]
        out, scale = bank.middle[key(m, group)](hidden[m][group.slot], context, keep)
        weight = share[..., : group.experts].to(out.dtype)
        columns.append((out * weight.unsqueeze(-1)).flatten(2))
        biases.append(weight)
        scaled.append(scale)
    if all(scale is None for scale in scaled):
        return linear(columns + biases, bank.up[m])
    return _scaled(bank, m, columns, biases, scaled)


def linear(parts: list[Tensor], weight: Float[Tensor, "D H"]) -> Float[Tensor, "S N D"]:
    """cat(parts) weight^T, H filled up to a multiple of 8: other row lengths cost a tenth on CPUs, more on GPUs."""
    short = -weight.shape[1] % 8
    if short:
        parts = [*parts, parts[0].new_zeros(()).expand(*parts[0].shape[:2], short)]
        weight = F.pad(weight, (0, short))
    return F.linear(torch.cat(parts, -1), weight)


def _scaled(
    bank: ExpertBank, m: str, columns: list[Tensor], biases: list[Tensor], scaled: list[Tensor | None]
) -> Float[Tensor, "S N D"]:
    """Channel experts that scale at width D: the scale differs by row, so it goes into the up-projection."""
    ups = bank.up[m].split([part.shape[-1] for part in columns + biases], -1)
    plain = [i for i, scale in enumerate(scaled) if scale is None]
    pick = [*plain, *(len(columns) + i for i in plain)]
    delta = 0.0
    if plain:
        every = columns + biases
        delta = F.linear(torch.cat([every[i] for i in pick], -1), torch.cat([ups[i] for i in pick], -1))
    for i, scale in enumerate(scaled):
        if scale is not None:
            factor = 1 + scale  # (S, E, D)
            up = ups[i].unflatten(-1, (scale.shape[1], -1)).permute(1, 2, 0)  # (E, R, D)
            weights = (up * factor.unsqueeze(2)).flatten(1, 2)  # (S, E*R, D)
            bias = ups[len(columns) + i].T * factor  # (S, E, D)
            delta = delta + torch.cat((columns[i], biases[i]), -1) @ torch.cat((weights, bias), 1)
    return delta
