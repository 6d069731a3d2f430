"""The fast executor: one matmul in and one out per stream, gates folded into the rank-R activations.

Exact because the output is linear in the gated hidden channels. No loop over experts, no host synchronisation, no
data-dependent shape, no unused parameter: plain DDP and torch.compile work.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from hmmoe.experts.bank import ExpertBank, Gates, Keeps, Tokens, key

LINE = 8
"""Rows of matrices are multiples of it: other row lengths cost a tenth on CPUs, more on GPUs."""


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
    outs, shares, scaled = [], [], []
    for group, share in zip(bank.groups[m], gate.unbind(2), strict=True):
        context = None if group.source is None else hidden[group.source][group.slot]
        keep = None if group.source is None else keeps[group.source]
        out, scale = bank.middle[key(m, group)](hidden[m][group.slot], context, keep)
        outs.append(out)
        shares.append(share[..., : group.experts].to(out.dtype))
        scaled.append(scale)
    if all(scale is None for scale in scaled):
        return GatedUp.apply(bank.up[m], len(outs), *outs, *shares)
    return _scaled(bank, m, outs, shares, scaled)


class GatedUp(torch.autograd.Function):
    """Gated hidden channels times the up-projection; keeps the channels and the gates, and neither their product nor
    the filled-up matrix, which the way back makes again: two copies for a tenth of what a site would keep.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, count: int, *parts: Tensor) -> Tensor:
        """sum over g, e of share[g, e] (out[g, e] up[g, e]^T + bias[g, e]).

        Args:
            ctx: torch's.
            weight: (D, H + experts), the columns of all groups and then their output biases.
            count: number of groups.
            parts: the groups' outs (S, N, E, R), then their shares (S, N, E).
        """
        ctx.count = count
        ctx.save_for_backward(weight, *parts)
        return F.linear(_rows(parts[:count], parts[count:]), _filled(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the weight, the outs and the shares."""
        weight, *parts = ctx.saved_tensors
        outs, shares = parts[: ctx.count], parts[ctx.count :]
        of_weight = None
        if ctx.needs_input_grad[0]:
            rows = _rows(outs, shares).to(grad.dtype)
            of_weight = (grad.flatten(0, -2).T @ rows.flatten(0, -2))[:, : weight.shape[1]].to(weight.dtype)
        sizes = [out.shape[2] * out.shape[3] for out in outs] + [share.shape[-1] for share in shares]
        back = (grad @ _filled(weight).to(grad.dtype))[..., : weight.shape[1]].split(sizes, -1)
        columns = [part.unflatten(-1, out.shape[2:]) for part, out in zip(back, outs, strict=False)]
        of_outs = [(part * share.unsqueeze(-1)).to(share.dtype) for part, share in zip(columns, shares, strict=True)]
        of_shares = [
            ((part * out).sum(-1) + bias).to(share.dtype) if needed else None
            for part, out, bias, share, needed in zip(
                columns, outs, back[ctx.count :], shares, ctx.needs_input_grad[2 + ctx.count :], strict=True
            )
        ]
        return of_weight, None, *of_outs, *of_shares


def _rows(outs: Sequence[Tensor], shares: Sequence[Tensor]) -> Float[Tensor, "S N H"]:
    """The gated channels and the gates themselves, which the biases are multiplied with, filled up with zeros."""
    parts = [(out * share.unsqueeze(-1)).flatten(2) for out, share in zip(outs, shares, strict=True)]
    parts += shares
    short = -sum(part.shape[-1] for part in parts) % LINE
    return torch.cat([*parts, parts[0].new_zeros(()).expand(*parts[0].shape[:2], short)], -1)


def _filled(weight: Float[Tensor, "D H"]) -> Float[Tensor, "D _H"]:
    return F.pad(weight, (0, -weight.shape[1] % LINE))


def _scaled(
    bank: ExpertBank, m: str, outs: list[Tensor], biases: list[Tensor], scaled: list[Tensor | None]
) -> Float[Tensor, "S N D"]:
    """Channel experts that scale at width D: the scale differs by row, so it goes into the up-projection."""
    columns = [(out * share.unsqueeze(-1)).flatten(2) for out, share in zip(outs, biases, strict=True)]
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
