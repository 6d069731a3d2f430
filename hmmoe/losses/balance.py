"""Balance terms: pure functions of the returned Routing, per stream and level, never pooled over sites.

Pooling hides collapse: four sites that have collapsed onto four different experts look perfectly balanced together
(Mixtral-style code does this). Statistics are per modality for the same reason: visual tokens outnumber the rest.

Every rank returns the value of the global batch, and its gradient is scaled so that the average over ranks, which
DDP and FSDP take, is the gradient of the global batch.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, distributed

from hmmoe.errors import ConfigError
from hmmoe.types import Routing

Term = Callable[[Tensor, Tensor], Tensor]
"""(load, mean probability), each (n,) and summing to 1 -> price, a scalar."""


def load_balance(routing: Mapping[tuple[str, str], Routing]) -> Float[Tensor, ""]:
    """Switch-style load balance n sum_e f_e P_e (arXiv 2101.03961, eq. 4): 1 where balanced, n where collapsed.

    f is the load, a constant, P the mean probability, which carries the gradient. Level "expert": f is the share of
    selections inside the group, P the router's probabilities before selection. Level "group", where all groups compute:
    f and P are both the mean group weight. Mean over the groups of a stream, over its two levels, over all streams.
    """
    return _mean_price(routing, lambda load, p: p.numel() * (load.detach() * p).sum())


def gate_kl(routing: Mapping[tuple[str, str], Routing]) -> Float[Tensor, ""]:
    """KL divergence of the batch-mean gate P from uniform, log n - H(P), in nats: 0 balanced, log n collapsed.

    Levels and means as in ``load_balance``. AVMoE (NeurIPS 2024) is priced so, its authors at weight 0.01.
    """
    return _mean_price(routing, lambda load, p: (p * (p.clamp(min=1e-9) * p.numel()).log()).sum())


def _mean_price(routing: Mapping[tuple[str, str], Routing], term: Term) -> Float[Tensor, ""]:
    if not routing:
        raise ConfigError(
            "peft.balance_weight above 0 needs a method that routes: set peft.balance_weight=0 or choose peft=hmmoe"
        )
    local = [_sums(one) for one in routing.values()]
    sums = _over_ranks(torch.cat(local)).split([part.numel() for part in local])
    prices = [_stream_price(one, part, term) for one, part in zip(routing.values(), sums, strict=True)]
    present = torch.stack([part[0] > 0 for part in sums])  # a modality may be missing from a whole batch
    return torch.where(present, torch.stack(prices), 0.0).sum() / present.sum().clamp(min=1)


def _sums(one: Routing) -> Float[Tensor, " L"]:
    """Kept tokens, then sums over them: group weights (G), probabilities (G*E), selections (G*E)."""
    keep = one.group_weights.new_ones(one.group_weights.shape[:2]) if one.keep is None else one.keep
    keep = keep.to(one.group_weights.dtype)
    probs = one.expert_weights if one.probs is None else one.probs
    parts = (keep.unsqueeze(-1), one.group_weights, probs.flatten(2), one.selected.flatten(2))
    return torch.cat([torch.where(keep.unsqueeze(-1) > 0, part, 0.0).sum((0, 1)) for part in parts])


def _stream_price(one: Routing, sums: Float[Tensor, " L"], term: Term) -> Float[Tensor, ""]:
    count, most = len(one.groups), max(one.sizes)
    _, groups, probs, chosen = sums.split([1, count, count * most, count * most])
    levels = []
    if count > 1:
        gate = _share(groups)
        levels.append(term(gate, gate))
    inner = [
        term(_share(load[:size]), _share(p[:size]))
        for load, p, size in zip(chosen.view(count, most), probs.view(count, most), one.sizes, strict=True)
        if size > 1
    ]
    if inner:
        levels.append(torch.stack(inner).mean())
    # A stream without any choice costs what a balanced one does, through the term itself.
    return torch.stack(levels).mean() if levels else term(torch.ones_like(sums[:1]), torch.ones_like(sums[:1]))


def _share(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return x / x.sum().clamp(min=torch.finfo(x.dtype).tiny)


def _over_ranks(sums: Float[Tensor, " L"]) -> Float[Tensor, " L"]:
    """Sum over all ranks, one collective for all sites, none in backward.

    The price is the same function of the total S on every rank, so dL/dS is too, and no exchange of gradients is
    needed: world * (x - x.detach()) adds nothing to the value and multiplies the local gradient by the number of ranks,
    which the average over ranks divides out again: mean_r(world * dL/dS * dx_r) = dL/dS * sum_r dx_r.
    Without gradients (validation) ranks may hold different numbers of batches, so nothing is exchanged.
    """
    if not (torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized()):
        return sums
    total = sums.detach().clone()
    distributed.all_reduce(total)
    return total + distributed.get_world_size() * (sums - sums.detach())
