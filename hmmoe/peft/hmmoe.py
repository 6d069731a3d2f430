"""HMMoE: heterogeneous multi-modal mixture-of-experts adapters (Zhou, Huang, Xia; arXiv 2503.20633, ICME 2025).

The published text is partly unreachable; what is attested and what is chosen stands in docs/hmmoe.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from hmmoe.errors import ConfigError
from hmmoe.experts.bank import KINDS, ExpertBank, Group, Plan, groups_of
from hmmoe.experts.grouped import grouped
from hmmoe.experts.loop import loop
from hmmoe.experts.wide import wide
from hmmoe.peft.base import Peft, Size, chosen
from hmmoe.routing.inputs import Granularity
from hmmoe.routing.router import Mode, Router
from hmmoe.types import Adapted, Site, Stream

EXECUTORS: dict[str, Callable[..., Any]] = {"wide": wide, "grouped": grouped, "loop": loop}
CROSSOVER = 6
"""Experts for each kept one from which ``grouped`` overtakes ``wide`` on a CPU: docs/performance.md."""


class HMMoE(Peft):
    """delta_m = sum_g w_g sum_{e in top-k} w_ge expert_ge(x_m, x_n), added to the FFN branch before the next norm.

    Args:
        sites: where the backbone stands open.
        groups: kinds of experts (single, cross, channel); the value may override ``rank``, ``experts`` and ``k``, false
            leaves the kind out.
        rank: R.
        experts_per_group: E.
        k: experts kept per group and token.
        routing: two_level, flat, fixed, uniform or random, see ``Router``.
        granularity: one decision per token, segment or sample.
        renormalize: kept weights sum to 1 (refused at k = 1).
        placement: "ffn_out" reads what the FFN wrote, "parallel_ffn" what it read.
        reads: "ffn" takes the branch alone, "hidden" the residual stream too (out + residual, or the residual before
            the FFN's norm for parallel_ffn).
        at: all, "first-last" or a list of site indices.
        act: activation of the single experts.
        heads: attention heads of a cross expert.
        gate_space: channel experts scale at "rank" or "full" width.
        executor: "wide", "grouped" or their oracle "loop", one result; "auto" takes grouped on a CPU where at least six
            experts share the work of a kept one, else wide (one static graph, for torch.compile and GPUs).
        freeze_down: down-projections stay as drawn (LoRA-FA, Zhang et al., arXiv 2308.03303), see ``ExpertBank``.
        balance_weight: see ``Peft``.
        drop: site label -> slot (``single:vision``, ``cross:vision+text``) -> experts that are not built, as
            ``python -m hmmoe.prune`` finds them; routers keep their logits, see ``Router``.

    Raises:
        ConfigError: a setting that cannot work, with the key to change.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        groups: Mapping[str, Mapping[str, int] | Literal[False] | None],
        rank: int = 32,
        experts_per_group: int = 2,
        k: int = 1,
        routing: Mode = "two_level",
        granularity: Granularity = "token",
        renormalize: bool = False,
        placement: Literal["ffn_out", "parallel_ffn"] = "ffn_out",
        reads: Literal["ffn", "hidden"] = "ffn",
        at: str | Sequence[int] = "all",
        act: str = "relu",
        heads: int = 1,
        gate_space: Literal["rank", "full"] = "rank",
        executor: Literal["auto", "wide", "grouped", "loop"] = "auto",
        freeze_down: bool = False,
        balance_weight: float = 0.0,
        drop: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    ) -> None:
        super().__init__(sites, balance_weight=balance_weight)
        if placement not in ("ffn_out", "parallel_ffn") or reads not in ("ffn", "hidden"):
            raise ConfigError(
                f"peft.placement must be ffn_out or parallel_ffn and peft.reads ffn or hidden, not {placement}, {reads}"
            )
        if executor not in ("auto", *EXECUTORS):
            raise ConfigError(f"peft.executor must be one of auto, {', '.join(EXECUTORS)}, not {executor!r}")
        self.placement, self.reads, self.executor = placement, reads, executor
        plans, kept = _plans(groups, rank, experts_per_group, k)
        held = sum(plan.experts for plan in plans.values())
        self.sparse = routing not in ("uniform", "random") and held >= CROSSOVER * sum(kept.values())
        self.banks, self.routers = nn.ModuleDict(), nn.ModuleDict()
        self.drop = {site: dict(slots) for site, slots in (drop or {}).items()}
        dropped = dict(self.drop)
        for index in sorted(chosen(sites, at)):
            site = sites[index]
            gone = dropped.pop(site.label, {})
            sizes = {"act": act, "heads": heads, "gate_space": gate_space, "memory": site.memory}
            bank = ExpertBank(site.widths, plans, **sizes, drop=gone, freeze_down=freeze_down)
            whole = {m: groups_of(m, bank.whole) for m in bank.targets}
            _check(site, plans, bank, gone, whole)
            if not bank.slots:
                continue
            self.banks[site.label] = bank
            self.routers[site.label] = nn.ModuleDict(
                {
                    m: Router(
                        m,
                        site.widths,
                        [group.name for group in mine],
                        sizes=[group.experts for group in mine],
                        k=[kept[bank.whole[group.slot].kind] for group in mine],
                        mode=routing,
                        granularity=granularity,
                        renormalize=renormalize,
                        drop=[gone.get(bank.whole[group.slot].name, ()) for group in mine],
                    )
                    for m, mine in whole.items()
                    if bank.groups[m]
                }
            )
        if dropped:
            raise ConfigError(f"peft.drop names {sorted(dropped)}: the adapted sites are {sorted(self.banks)}")

    def forward(self, site: Site, streams: dict[str, Stream]) -> Adapted:
        """Deltas and routing of every stream that is not memory."""
        if site.label not in self.banks:
            return Adapted({}, {})
        tokens = {m: self._read(stream) for m, stream in streams.items()}
        routing = {m: self.routers[site.label][m](tokens, streams) for m in streams if m in self.routers[site.label]}
        keeps = {m: stream.keep for m, stream in streams.items()}
        gates = {m: decision.weights for m, decision in routing.items()}
        return Adapted(self._executor(tokens)(self.banks[site.label], tokens, gates, keeps), routing)

    def _executor(self, tokens: Mapping[str, Tensor]) -> Callable[..., Any]:
        if self.executor != "auto":
            return EXECUTORS[self.executor]
        on_cpu = next(iter(tokens.values())).device.type == "cpu"
        return grouped if self.sparse and on_cpu else wide

    def _read(self, stream: Stream):
        if self.placement == "ffn_out":
            return stream.out if self.reads == "ffn" else stream.residual + stream.out
        return stream.inp if self.reads == "ffn" else stream.residual


def _check(
    site: Site,
    plans: Mapping[str, Plan],
    bank: ExpertBank,
    gone: Mapping[str, Sequence[int]],
    whole: Mapping[str, Sequence[Group]],
) -> None:
    """Every stream has a group, and what is dropped exists."""
    if not all(whole.values()):
        raise ConfigError(
            f"peft.groups={sorted(plans)} leaves nothing for {sorted(site.widths)}: cross and channel experts "
            "need a second modality, so add single to peft.groups"
        )
    known = {slot.name: slot.experts for slot in bank.whole}
    for name, experts in gone.items():
        if name not in known or not set(experts) <= set(range(known[name])):
            raise ConfigError(
                f"peft.drop.{site.label}.{name}={list(experts)}: {site.label} holds "
                f"{', '.join(f'{slot} (0..{count - 1})' for slot, count in known.items())}"
            )


def _plans(
    groups: Mapping[str, Mapping[str, int] | Literal[False] | None], rank: int, experts: int, k: int
) -> tuple[dict[str, Plan], dict[str, int]]:
    """Sizes and k by kind, all faults reported at once."""
    faults, plans, kept = [], {}, {}
    for kind, given in groups.items():
        if given is False and kind in KINDS:
            continue
        own = {"rank": rank, "experts": experts, "k": k} | dict(given or {})
        if kind not in KINDS:
            faults.append(f"peft.groups.{kind} is no kind of expert: choose from {', '.join(KINDS)}")
        if set(own) != {"rank", "experts", "k"}:
            faults.append(f"peft.groups.{kind} knows rank, experts and k, found {', '.join(sorted(set(given)))}")
            continue
        if own["rank"] < 1 or own["experts"] < 1:
            faults.append(f"rank and experts of peft.groups.{kind} must be at least 1, found {own}: peft.rank=32")
        if not 1 <= own["k"] <= own["experts"]:
            faults.append(f"k of peft.groups.{kind} must lie in 1..{own['experts']} (its experts), found {own['k']}")
        plans[kind], kept[kind] = Plan(own["rank"], own["experts"]), own["k"]
    if all(given is False for given in groups.values()):
        faults.append("peft.groups is empty: name at least one of single, cross, channel")
    if faults:
        raise ConfigError("; ".join(faults))
    return plans, kept
