"""Pruned is masked, only smaller; what is chosen follows the recorded use."""

from functools import partial

import pytest
import torch

from hmmoe.analysis.interventions import intervened
from hmmoe.analysis.pruning import choose, left, merged, transfer, uses
from hmmoe.errors import ConfigError
from hmmoe.experts.bank import groups_of
from hmmoe.model import AdaptedModel
from hmmoe.routing.stats import RoutingStats
from hmmoe.trainable import counts
from tests import small

ALL = ("vision", "audio", "text")
DROP = {
    "site00": {
        "single:vision": [0],
        "cross:vision+audio": [1],
        "channel:audio+text": [0, 1],
        "channel:vision+text": [0],
    },
    "site01": {"single:text": [0, 1], "cross:vision+text": [0, 1], "cross:audio+text": [0, 1]}
    | {"channel:vision+text": [0, 1], "channel:audio+text": [0, 1]},
}
"""Single experts, halves of pairs, a whole pair, and at the second site every expert that updates text."""


def built(drop=None, **options):
    torch.manual_seed(3)
    model = small.model(*ALL, peft=small.hmmoe(drop=drop, **options)).eval()
    return model


def mask(model, drop):
    """The same experts, taken away by routers."""
    items = []
    for site, slots in drop.items():
        bank = model.peft.banks[site]
        for m in bank.targets:
            for group in groups_of(m, bank.whole):
                for e in slots.get(bank.whole[group.slot].name, ()):
                    items.append({"site": site, "modality": m, "group": group.name, "expert": e})
    return {"mask": items}


@pytest.mark.parametrize("executor", ["wide", "loop", "grouped"])
@pytest.mark.parametrize(
    "options", [{}, {"routing": "flat"}, {"experts_per_group": 3, "k": 2, "gate_space": "full"}], ids=str
)
def test_pruned_is_masked_and_smaller(executor, options):
    whole = built(executor=executor, **options)
    small.move(whole, 0.3)
    smaller = built(DROP, executor=executor, **options)
    transfer(whole, smaller)
    batch = small.batch(*ALL)
    with torch.no_grad():
        pruned = smaller(batch)
        with intervened(whole, mask(whole, DROP)):
            masked = whole(batch)
        assert not torch.equal(whole(batch).logits, masked.logits)
    torch.testing.assert_close(pruned.logits, masked.logits, rtol=1e-5, atol=1e-5)
    assert counts(smaller)["adapters"] < counts(whole)["adapters"]
    assert ("site01", "text") not in pruned.routing or options.get("experts_per_group") == 3
    stats = RoutingStats()
    stats.update(pruned.routing)
    assert stats.compute()


def test_pruning_twice_counts_experts_as_at_first():
    whole = built(experts_per_group=3)
    small.move(whole, 0.3)
    first, then = {"site00": {"single:vision": [0]}}, {"site00": {"single:vision": [0, 2], "cross:vision+text": [1]}}
    middle, end, direct = (
        built(first, experts_per_group=3),
        built(then, experts_per_group=3),
        built(then, experts_per_group=3),
    )
    transfer(whole, middle)
    transfer(middle, end)
    transfer(whole, direct)
    assert left(end.peft, "site00", "single:vision") == [1]
    for name, tensor in end.state_dict().items():
        torch.testing.assert_close(tensor, direct.state_dict()[name], rtol=0, atol=0)


def test_the_least_used_are_chosen_and_pairs_by_their_busier_direction():
    model = built()
    small.move(model, 0.3)
    routing = {}
    with torch.no_grad():
        for key, decided in model(small.batch(*ALL)).routing.items():
            weights = torch.full_like(decided.expert_weights, 0.5)
            if key == ("site00", "vision"):
                weights[..., 0, :] = torch.tensor([0.99, 0.01])  # single
                weights[..., 1, :] = torch.tensor([0.01, 0.99])  # cross:audio, where audio <- vision is even
            even = torch.full_like(decided.group_weights, 1 / decided.group_weights.shape[-1])
            routing[key] = decided._replace(expert_weights=weights, group_weights=even)
    stats = RoutingStats()
    stats.update(routing)
    found = uses(model.peft, stats.compute())
    assert len(found) == sum(slot.experts for bank in model.peft.banks.values() for slot in bank.slots)
    (least,) = choose(found, below=0.1)
    assert (least.site, least.slot, least.expert) == ("site00", "single:vision", 1)
    assert least.ratio == pytest.approx(0.02, abs=1e-6)
    assert choose(found, keep=1 - 1 / len(found)) == [least]
    assert merged({"site00": {"single:vision": [0]}}, [least]) == {"site00": {"single:vision": [0, 1]}}
    with pytest.raises(ConfigError, match="it is of another model"):
        uses(built(experts_per_group=3).peft, stats.compute())


def test_settings_that_cannot_be():
    for options, message in [
        ({"below": None}, "either below"),
        ({"below": 0.1, "keep": 0.5}, "either below"),
        ({"below": 0.0}, "above 0"),
        ({"keep": 1.5}, "0 < keep <= 1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            choose([], **options)
    for drop, message in [
        ({"site09": {}}, r"peft\.drop names \['site09'\]"),
        ({"site00": {"single:vision": [2]}}, r"site00 holds single:vision \(0\.\.1\)"),
        ({"site00": {"dual:vision": [0]}}, r"peft\.drop\.site00\.dual:vision"),
    ]:
        with pytest.raises(ConfigError, match=message):
            AdaptedModel(small.towers("vision"), partial(small.hmmoe(drop=drop)), small.head())
