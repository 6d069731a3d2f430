"""What if: experts masked, forced or exchanged in a trained model, at any site, for a test.

A plan is plain containers, as it stands on the command line of ``eval.py``:

    mask:  [{site: 3, modality: vision, group: cross:audio, expert: 0}]
    force: [{modality: vision, group: single}, {group: cross, expert: 1}]
    swap:  [{group: single, with: cross:audio}, {group: single, experts: [0, 1]}]

A key that is left out means all; a group may be given by its kind. ``mask`` takes experts away: the best of the others
in the group is selected instead, with its own weight, and a group that is masked whole adds nothing. ``force`` moves
all weight of a stream's groups to one group, or all weight inside a group to one expert. ``swap`` exchanges the weights
of two groups, or of two experts of a group. Nothing is scaled up to make good for what is gone. Where all experts run
(``avmoe``, ``soft_moa``, ``moa``) nobody is selected in place of a masked one; an action that means nothing to a router
is in its ``undefined``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hmmoe.errors import ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.routing.steered import Steered
from hmmoe.types import Routing

Plan = Mapping[str, Sequence[Mapping[str, Any]]]
KEYS = {
    "mask": {"site", "modality", "group", "expert"},
    "force": {"site", "modality", "group", "expert"},
    "swap": {"site", "modality", "group", "with", "experts"},
}


class Place(NamedTuple):
    """A router and where it stands."""

    index: int
    site: str
    modality: str
    router: Steered


def places(model: AdaptedModel) -> list[Place]:
    """Every router, by site and modality.

    Raises:
        ConfigError: the method routes through none.
    """
    labels = {site.label: site.index for site in model.backbone.sites}
    found = [
        Place(labels[label], label, module.target, module)
        for name, module in model.peft.named_modules()
        if isinstance(module, Steered)
        for label in name.split(".")
        if label in labels
    ]
    if not found:
        raise ConfigError(
            f"{type(model.peft).__name__} has no router that can be acted upon: interventions are for peft=hmmoe and "
            "its ablations, molora, mov, moa, soft_moa and avmoe"
        )
    return found


@contextmanager
def intervened(model: AdaptedModel, plan: Plan) -> Iterator[list[str]]:
    """The model with a plan at work; gives one line for everything that is done, and takes it back at the end.

    Raises:
        ConfigError: an unknown action or key, or an item that meets nothing.
    """
    with ExitStack() as stack:
        lines = []
        for action, items in plan.items():
            if action not in KEYS:
                raise ConfigError(f"intervene.{action} is unknown: choose from {', '.join(KEYS)}")
            for item in items:
                lines += _act(stack, model, action, item)
        yield lines


def leave_one_out(model: AdaptedModel, by: str) -> Iterator[tuple[dict[str, Any], Plan]]:
    """One mask after the other: of every site, group or expert, as (what it is, plan).

    Raises:
        ConfigError: ``by`` is none of these.
    """
    if by not in ("site", "group", "expert"):
        raise ConfigError(f"importance must be site, group or expert, not {by!r}")
    seen: set[tuple[tuple[str, Any], ...]] = set()
    for place in places(model):
        for group, size in zip(place.router.groups, place.router.sizes, strict=True):
            for expert in range(size):
                item = {"site": place.site, "modality": place.modality, "group": group, "expert": expert}
                item = dict(list(item.items())[: {"site": 1, "group": 3, "expert": 4}[by]])
                if tuple(item.items()) not in seen:
                    seen.add(tuple(item.items()))
                    yield item, {"mask": [item]}


def _act(stack: ExitStack, model: AdaptedModel, action: str, item: Mapping[str, Any]) -> list[str]:
    unknown = set(item) - KEYS[action]
    if unknown:
        raise ConfigError(f"intervene.{action} knows {', '.join(sorted(KEYS[action]))}, found {sorted(unknown)}")
    lines, known = [], places(model)
    for place in known:
        if item.get("site") not in (None, place.index, place.site) or item.get("modality") not in (
            None,
            place.modality,
        ):
            continue
        groups = _matching(place.router, item.get("group"))
        if not groups:
            continue
        _do(stack, place.router, action, item, groups)
        names = ", ".join(place.router.groups[g] for g in groups)
        rest = " ".join(f"{key} {item[key]}" for key in ("expert", "with", "experts") if item.get(key) is not None)
        lines.append(f"{action} {place.site} {place.modality} {names} {rest}".strip())
    if not lines:
        groups = sorted({group for place in known for group in place.router.groups})
        raise ConfigError(
            f"intervene.{action} {dict(item)} meets nothing: there are sites 0..{known[-1].index}, modalities "
            f"{', '.join(sorted({place.modality for place in known}))}, groups {', '.join(groups)}"
        )
    return lines


def _matching(router: Steered, group: str | None) -> list[int]:
    """Indices of the groups with this name, else of this kind; all for None."""
    exact = [g for g, name in enumerate(router.groups) if name == group]
    return exact or [g for g, name in enumerate(router.groups) if group in (None, name.split(":")[0])]


def _do(stack: ExitStack, router: Steered, action: str, item: Mapping[str, Any], groups: list[int]) -> None:
    if action in router.undefined:
        raise ConfigError(f"intervene.{action} means nothing to {type(router).__name__}: {router.undefined[action]}")
    expert = item.get("expert")
    if expert is not None and not all(0 <= expert < router.sizes[g] for g in groups):
        raise ConfigError(f"intervene.{action} {dict(item)}: the group has experts 0..{router.sizes[groups[0]] - 1}")
    if action == "mask":
        _bar(stack, router, groups, expert)
        return
    if len(groups) != 1:
        raise ConfigError(f"intervene.{action} {dict(item)} acts on one group of a stream: name it in full")
    change = _forced(router, groups[0], expert) if action == "force" else _swapped(router, groups[0], item)
    stack.callback(setattr, router, "changes", router.changes)
    router.changes = (*router.changes, change)


def _bar(stack: ExitStack, router: Steered, groups: list[int], expert: int | None) -> None:
    before = router.barred
    barred = torch.zeros_like(router.real) if before is None else before.clone()
    for g in groups:
        barred[g, slice(None) if expert is None else expert] = True
    router.barred = barred
    stack.callback(setattr, router, "barred", before)


def _forced(router: Steered, g: int, expert: int | None) -> Callable[[Routing], Routing]:
    def to_group(routing: Routing) -> Routing:
        only = torch.zeros_like(router.real[:, 0]).index_fill(0, torch.tensor([g], device=router.real.device), True)
        weights, local = routing.group_weights, routing.expert_weights
        if routing.probs is not None:  # one flat choice may have selected nobody here: its opinion stands in
            own = routing.probs / routing.probs.sum(-1, keepdim=True).clamp(min=torch.finfo(local.dtype).tiny)
            local = torch.where(local.any(-1, keepdim=True), local, own)
        local = local * only.unsqueeze(-1)
        return routing._replace(
            group_weights=weights.sum(-1, keepdim=True) * only, expert_weights=local, selected=local > 0
        )

    def to_expert(routing: Routing) -> Routing:
        local = routing.expert_weights.clone()
        total = local[..., g, :].sum(-1)
        local[..., g, :] = 0
        local[..., g, expert] = total
        return routing._replace(expert_weights=local, selected=local > 0)

    return to_group if expert is None else to_expert


def _swapped(router: Steered, g: int, item: Mapping[str, Any]) -> Callable[[Routing], Routing]:
    if ("with" in item) == ("experts" in item):
        raise ConfigError(f"intervene.swap {dict(item)} needs either with: <group> or experts: [e, f]")
    if "with" in item:
        others = _matching(router, item["with"])
        if len(others) != 1:
            raise ConfigError(f"intervene.swap with={item['with']}: choose one of {', '.join(router.groups)}")
        return lambda routing: routing._replace(group_weights=_exchanged(routing.group_weights, g, others[0]))
    pair = list(item["experts"])
    if len(pair) != 2 or not all(0 <= e < router.sizes[g] for e in pair):
        raise ConfigError(f"intervene.swap experts={pair}: two of 0..{router.sizes[g] - 1}")

    def experts(routing: Routing) -> Routing:
        local, selected = routing.expert_weights.clone(), routing.selected.clone()
        local[..., g, :] = _exchanged(local[..., g, :], *pair)
        selected[..., g, :] = _exchanged(selected[..., g, :], *pair)
        return routing._replace(expert_weights=local, selected=selected)

    return experts


def _exchanged(values: Tensor, first: int, second: int) -> Tensor:
    """Two entries of the last axis change places."""
    order = torch.arange(values.shape[-1], device=values.device)
    order[first], order[second] = second, first
    return values[..., order]
