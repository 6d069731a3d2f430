"""The reference executor: the formulas, expert by expert. Slow, and the oracle that ``wide`` is tested against."""

from jaxtyping import Float
from torch import Tensor

from hmmoe.experts.bank import ExpertBank, Gates, Keeps, Tokens, key


def loop(bank: ExpertBank, tokens: Tokens, gates: Gates, keeps: Keeps) -> dict[str, Float[Tensor, "S _N _D"]]:
    """delta_m = sum over groups g and their experts e of gate_ge (up_e(middle_e(down_e x, down_ne y)) + bias_e)."""
    return {m: _mix(bank, m, tokens, gate, keeps) for m, gate in gates.items()}


def _mix(
    bank: ExpertBank, m: str, tokens: Tokens, gate: Float[Tensor, "S N G E"], keeps: Keeps
) -> Float[Tensor, "S N D"]:
    down, bias = bank.split(m, bank.down[m].T), bank.split(m, bank.down_bias[m])
    up = bank.split(m, bank.up[m][:, : bank.hidden(m)])
    up_bias = bank.up[m][:, bank.hidden(m) :].T
    delta, first = 0.0, 0
    for j, group in enumerate(bank.groups[m]):
        middle = bank.middle[key(m, group)]
        for e in range(group.experts):
            z = tokens[m] @ down[group.slot][:, e] + bias[group.slot][e]
            context, keep = None, None
            if group.source is not None:
                other, other_bias = bank.down[group.source].T, bank.down_bias[group.source]
                matrix = bank.split(group.source, other)[group.slot][:, e]
                context = tokens[group.source] @ matrix + bank.split(group.source, other_bias)[group.slot][e]
                keep = keeps[group.source]
            hidden, scale = middle.one(e, z, context, keep)
            out = hidden @ up[group.slot][:, e].T + up_bias[first + e]
            if scale is not None:
                out = out * (1 + scale).unsqueeze(1)
            delta = delta + gate[:, :, j, e, None].to(out.dtype) * out
        first += group.experts
    return delta
