"""Experts that recorded runs hardly used, really taken out of the model.

The two directions of a pair share down-projections, so an expert of a pair goes when both directions hardly use it. A
router keeps the logits of what is gone: the weights of the others stay what they were, and tokens that had chosen a
dropped expert take the next best of its group. Masking the same experts (``interventions``) gives the same outputs.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hmmoe.errors import ConfigError
from hmmoe.experts.bank import ExpertBank, groups_of, key
from hmmoe.model import AdaptedModel
from hmmoe.peft.hmmoe import HMMoE
from hmmoe.routing.usage import Usage
from hmmoe.trainable import load_own_state, own_state

Drop = dict[str, dict[str, list[int]]]
"""Site label -> slot -> experts, counted as in the model before any pruning (``peft.drop``)."""


class Use(NamedTuple):
    """One expert. ``ratio`` is its share of a stream's delta over the fair share, the larger one of its directions."""

    site: str
    slot: str
    expert: int
    ratio: float


def uses(peft: HMMoE, rows: Sequence[Usage]) -> list[Use]:
    """Every expert of the model with its recorded use.

    Raises:
        ConfigError: the table is of another model.
    """
    group = {(r.site, r.modality, r.group): r.weight_share for r in rows if r.level == "group"}
    expert = {(r.site, r.modality, r.group, r.expert): r.weight_share for r in rows if r.level == "expert"}
    found = []
    for site, bank in peft.banks.items():
        ratios: dict[tuple[str, int], float] = defaultdict(float)
        for m, groups in bank.groups.items():
            fair = 1 / max(1, sum(g.experts for g in groups))
            for g in groups:
                for e in range(g.experts):
                    try:
                        share = group[site, m, g.name] * expert[site, m, g.name, e]
                    except KeyError:
                        raise ConfigError(
                            f"the utilisation table has no {g.name}[{e}] of {m} at {site}: it is of another model"
                        ) from None
                    name = bank.slots[g.slot].name
                    ratios[name, e] = max(ratios[name, e], share / fair)
        found += [
            Use(site, name, left(peft, site, name)[e], ratio)
            for (name, e), ratio in sorted(ratios.items(), key=lambda entry: entry[0])
        ]
    return found


def left(peft: HMMoE, site: str, slot: str) -> list[int]:
    """The experts of a slot that are there, by their first numbers."""
    count = next(s.experts for s in peft.banks[site].whole if s.name == slot)
    return [e for e in range(count) if e not in peft.drop.get(site, {}).get(slot, ())]


def choose(found: Sequence[Use], *, below: float | None = None, keep: float | None = None) -> list[Use]:
    """The experts to drop: all under a ratio to the fair share, or the least used beyond a share to keep.

    Raises:
        ConfigError: neither or both given, or out of range.
    """
    if (below is None) == (keep is None):
        raise ConfigError("say either below=<ratio to the fair share> or keep=<share of the experts>")
    if keep is None:
        if below <= 0:
            raise ConfigError(f"below is a ratio to the fair share, above 0, not {below}")
        return [use for use in found if use.ratio < below]
    if not 0 < keep <= 1:
        raise ConfigError(f"keep is a share of the experts, 0 < keep <= 1, not {keep}")
    return sorted(found, key=lambda use: use.ratio)[: len(found) - max(1, round(keep * len(found)))]


def merged(drop: Mapping[str, Mapping[str, Sequence[int]]], chosen: Sequence[Use]) -> Drop:
    """``peft.drop`` with more experts in it."""
    every: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for site, slots in drop.items():
        for slot, experts in slots.items():
            every[site][slot] |= set(experts)
    for use in chosen:
        every[use.site][use.slot].add(use.expert)
    return {site: {slot: sorted(experts) for slot, experts in slots.items()} for site, slots in every.items()}


def transfer(model: AdaptedModel, smaller: AdaptedModel) -> None:
    """Fill a model that was built with more experts dropped; all else is taken over as it is."""
    state = own_state(model)
    target = own_state(smaller)
    given = {name: tensor for name, tensor in state.items() if name in target}
    for site, bank in smaller.peft.banks.items():
        old = model.peft.banks[site]
        stay = {
            slot.name: [left(model.peft, site, slot.name).index(e) for e in left(smaller.peft, site, slot.name)]
            for slot in bank.slots
        }
        given |= {f"peft.banks.{site}.{name}": tensor for name, tensor in _thinned(old, bank, stay).items()}
    load_own_state(smaller, given)


def _thinned(old: ExpertBank, new: ExpertBank, stay: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Tensors of the smaller bank out of the larger one's; ``stay`` holds positions in the larger one by slot."""
    tensors = {}
    for m in new.down:
        rows, biases, at, first = [], [], 0, 0
        for slot in (slot for slot in old.slots if m in slot.modalities):
            for e in stay.get(slot.name, ()):
                rows += range(at + e * slot.rank, at + (e + 1) * slot.rank)
                biases.append(old.hidden(m) + first + e)
            at, first = at + slot.rank * slot.experts, first + slot.experts
        tensors[f"down.{m}"], tensors[f"down_bias.{m}"] = old.down[m][rows], old.down_bias[m][rows]
        if m in new.up:
            tensors[f"up.{m}"] = old.up[m][:, torch.tensor([*rows, *biases])]
    for m in new.targets:
        for group in groups_of(m, new.slots):
            kept, name = list(stay[new.slots[group.slot].name]), key(m, group)
            for part, tensor in old.middle[name].named_parameters():
                tensors[f"middle.{name}.{part}"] = tensor[kept]
    return {name: tensor.detach() for name, tensor in tensors.items()}
