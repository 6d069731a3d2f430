"""Masking, forcing and exchanging experts: what routers then say, and that all is as before afterwards."""

from functools import partial

import pytest
import torch

from hmmoe.analysis.interventions import intervened, leave_one_out
from hmmoe.errors import ConfigError
from hmmoe.peft.lora import LoRA
from tests import small
from tests.peft.methods import factory

BOTH = ("vision", "audio")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    built = small.model(*BOTH).eval()
    small.move(built, 0.3)
    return built


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(4)
    return small.batch(*BOTH)


def run(model, batch, plan=None):
    with torch.no_grad():
        if plan is None:
            return model(batch)
        with intervened(model, plan):
            return model(batch)


def place(output, site="site01", modality="vision"):
    return output.routing[site, modality]


def test_a_masked_expert_gives_way_to_the_next_best(model, batch):
    before = place(run(model, batch))
    after = place(run(model, batch, {"mask": [{"site": 1, "modality": "vision", "group": "single", "expert": 0}]}))
    assert before.selected[:, :, 0, 0].any() and not after.selected[:, :, 0, 0].any()
    assert after.selected[:, :, 0, 1].all()
    torch.testing.assert_close(after.expert_weights[:, :, 0, 1], before.probs[:, :, 0, 1], msg="its own weight")
    torch.testing.assert_close(after.weights[:, :, 1:], before.weights[:, :, 1:], rtol=0, atol=0)
    torch.testing.assert_close(after.group_weights, before.group_weights, rtol=0, atol=0)


def test_all_masked_is_the_frozen_backbone(model, batch):
    plain = small.model(*BOTH, peft=factory("linear_probe")).eval()
    with torch.no_grad():
        expected = plain(batch).features
    for m, features in run(model, batch, {"mask": [{}]}).features.items():
        torch.testing.assert_close(features.tokens, expected[m].tokens, rtol=0, atol=0)


def test_a_kind_names_all_its_groups_and_other_places_stay(model, batch):
    plan = {"mask": [{"modality": "audio", "group": "cross"}]}
    with intervened(model, plan) as lines:
        assert len(lines) == len(model.backbone.sites) and all("audio cross:vision" in line for line in lines)
        with torch.no_grad():
            after = model(batch)
    assert not place(after, "site00", "audio").weights[:, :, 1].any()
    before = run(model, batch)
    torch.testing.assert_close(
        place(after, "site00").weights, place(before, "site00").weights, rtol=0, atol=0, msg="the first site of vision"
    )


def test_force_moves_all_weight(model, batch):
    before = place(run(model, batch), "site00")
    item = {"site": "site00", "modality": "vision", "group": "channel:audio"}
    after = place(run(model, batch, {"force": [item]}), "site00")
    torch.testing.assert_close(after.group_weights[..., 2], torch.ones_like(after.group_weights[..., 2]))
    assert not after.group_weights[..., :2].any()
    torch.testing.assert_close(after.expert_weights[..., 2, :], before.expert_weights[..., 2, :], rtol=0, atol=0)
    after = place(run(model, batch, {"force": [item | {"expert": 1}]}), "site00")
    torch.testing.assert_close(after.expert_weights[..., 2, 1], before.expert_weights[..., 2, :].sum(-1))
    assert not after.selected[..., 2, 0].any()


def test_swap_exchanges_groups_or_experts(model, batch):
    before = place(run(model, batch), "site00")
    item = {"site": 0, "modality": "vision", "group": "single"}
    after = place(run(model, batch, {"swap": [item | {"with": "cross"}]}), "site00")
    torch.testing.assert_close(after.group_weights, before.group_weights[..., [1, 0, 2]], rtol=0, atol=0)
    after = place(run(model, batch, {"swap": [item | {"experts": [0, 1]}]}), "site00")
    torch.testing.assert_close(
        after.expert_weights[..., 0, :], before.expert_weights[..., 0, :].flip(-1), rtol=0, atol=0
    )


def test_afterwards_all_is_as_before(model, batch):
    before = run(model, batch).logits
    plan = {
        "mask": [{"group": "single"}],
        "force": [{"group": "cross"}],
        "swap": [{"group": "single", "with": "cross"}],
    }
    assert not torch.equal(run(model, batch, plan).logits, before)
    torch.testing.assert_close(run(model, batch).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["hmmoe_flat", "hmmoe_uniform", "hmmoe_fixed", "molora"])
def test_other_routers(name, batch):
    torch.manual_seed(3)
    model = small.model(*BOTH, peft=factory(name)).eval()
    small.move(model, 0.3)
    masked = run(model, batch, {"mask": [{"group": "single", "expert": 0}]})
    forced = run(model, batch, {"force": [{"group": "single", "expert": 1}]})
    for routing in masked.routing.values():
        assert not routing.weights[:, :, 0, 0].any() and routing.weights.isfinite().all()
    for key, routing in forced.routing.items():
        assert not routing.weights[:, :, 0, 0].any(), key
    if name == "hmmoe_uniform":
        torch.testing.assert_close(
            place(masked, "site00").weights[:, :, 0, 1], place(run(model, batch), "site00").weights[:, :, 0, 1]
        )


def mixture(name, **options):
    torch.manual_seed(3)
    model = small.model(*BOTH, peft=factory(name, **options)).eval()
    small.move(model, 0.3)
    return model


MIXTURES = {"moa": {}, "soft_moa": {"slots": 2}, "avmoe": {"uni": 2}, "molora": {}, "mov": {}}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_with_all_masked_is_the_frozen_backbone_and_comes_back(name, batch):
    model, plain = mixture(name, **MIXTURES[name]), small.model(*BOTH, peft=factory("linear_probe")).eval()
    before, frozen = run(model, batch), run(plain, batch)
    after = run(model, batch, {"mask": [{}]})
    for m, features in after.features.items():
        torch.testing.assert_close(features.tokens, frozen.features[m].tokens, rtol=0, atol=0)
        assert not torch.allclose(before.features[m].tokens, features.tokens, atol=1e-2)
    assert not any(routing.weights.any() or routing.selected.any() for routing in after.routing.values())
    torch.testing.assert_close(run(model, batch).logits, before.logits, rtol=0, atol=0)


def silent(name, model):
    """The last layers of what the plan of the same name masks."""
    for part in (part for site in model.peft.parts.values() for part in site.values()):
        if name == "moa":
            yield from part.adapters["series"].up.parameters()
        elif name == "soft_moa":
            yield from (part.up.data[1], part.up_bias.data[1])
        else:
            yield from (p for experts in part.cross.values() for e in experts for p in e.adapter.up.parameters())


@pytest.mark.parametrize(
    ("name", "item"),
    [("moa", {"group": "series"}), ("soft_moa", {"group": "single", "expert": 1}), ("avmoe", {"group": "cross"})],
)
def test_a_masked_expert_adds_nothing_and_nobody_makes_good_for_it(name, item, batch):
    model = mixture(name, **MIXTURES[name])
    masked = run(model, batch, {"mask": [item]})
    with torch.no_grad():
        for tensor in silent(name, model):
            tensor.zero_()
    expected = run(model, batch)
    torch.testing.assert_close(masked.logits, expected.logits, rtol=1e-5, atol=1e-6)
    first = ("site00", "vision")
    left = masked.routing[first].weights > 0
    assert not left.all() and left.any()
    torch.testing.assert_close(masked.routing[first].weights[left], expected.routing[first].weights[left])


def test_force_and_swap_in_a_flat_mixture_of_uni_and_cross_modal_experts(batch):
    model = mixture("avmoe", uni=2)
    before = place(run(model, batch), "site00")
    after = place(run(model, batch, {"force": [{"group": "cross"}]}), "site00")
    assert not after.weights[..., 0, :].any()
    torch.testing.assert_close(after.weights[..., 1, 0], torch.ones_like(after.weights[..., 1, 0]))
    after = place(run(model, batch, {"force": [{"group": "single", "expert": 1}]}), "site00")
    torch.testing.assert_close(after.weights[..., 0, 1], before.weights[..., 0, :].sum(-1))
    after = place(run(model, batch, {"swap": [{"group": "single", "with": "cross"}]}), "site00")
    torch.testing.assert_close(after.group_weights, before.group_weights.flip(-1), rtol=0, atol=0)


def test_force_and_swap_of_slots_act_on_whole_experts(batch):
    model = mixture("soft_moa", slots=2)
    part, given = model.peft.parts["site00"]["vision"], {"vision": small.stream(2, 5, 32)}
    with torch.no_grad():
        _, combine, before = part.slots(given["vision"])
        with intervened(model, {"force": [{"site": 0, "expert": 1}]}):
            _, forced, routing = part.slots(given["vision"])
        with intervened(model, {"swap": [{"site": 0, "group": "single", "experts": [0, 1]}]}):
            _, swapped, exchanged = part.slots(given["vision"])
    assert routing.weights[..., 0, 1].allclose(torch.ones(2, 5)) and routing.weights.count_nonzero() == 10
    torch.testing.assert_close(forced[..., 2:4], combine[..., 2:4] / combine[..., 2:4].sum(-1, keepdim=True))
    assert forced.count_nonzero() == 20
    order = [1, 0, *range(2, before.sizes[0])]
    torch.testing.assert_close(exchanged.weights, before.weights[..., order])
    torch.testing.assert_close(swapped.unflatten(-1, (-1, 2)).sum(-1), before.weights[:, :, 0, order])
    torch.testing.assert_close(swapped[..., 0] / swapped[..., 1], combine[..., 0] / combine[..., 1])


def test_sigmoid_gates_can_change_places_and_not_be_forced(batch):
    model = mixture("moa", threshold=0.4)
    before = place(run(model, batch), "site00")
    after = place(run(model, batch, {"swap": [{"group": "lora", "with": "series"}]}), "site00")
    torch.testing.assert_close(after.group_weights, before.group_weights[..., [2, 1, 0]], rtol=0, atol=0)
    with (
        pytest.raises(ConfigError, match=r"force means nothing to SigmoidGates: .*mask the other adapters instead"),
        intervened(model, {"mask": [{"group": "lora"}], "force": [{"group": "series"}]}),
    ):
        pass
    gates = [part.gates for site in model.peft.parts.values() for part in site.values()]
    assert all(gate.barred is None and gate.changes == () for gate in gates)


@pytest.mark.parametrize(
    ("name", "groups", "experts"), [("moa", 3, 3), ("soft_moa", 1, 4), ("avmoe", 2, 3), ("molora", 1, 4)]
)
def test_leave_one_out_of_a_mixture(name, groups, experts, batch):
    model = mixture(name, **MIXTURES[name])
    places = 3 * 2
    assert len(list(leave_one_out(model, "group"))) == places * groups
    plans = list(leave_one_out(model, "expert"))
    assert len(plans) == places * experts
    before = run(model, batch).logits
    assert not torch.equal(run(model, batch, plans[-1][1]).logits, before)


def test_leave_one_out_names_everything_once(model):
    sites, groups, experts = (list(leave_one_out(model, by)) for by in ("site", "group", "expert"))
    assert (len(sites), len(groups), len(experts)) == (3, 3 * 2 * 3, 3 * 2 * 3 * 2)
    assert experts[0] == (
        item := {"site": "site00", "modality": "vision", "group": "single", "expert": 0},
        {"mask": [item]},
    )


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"drop": []}, r"intervene\.drop is unknown: choose from mask, force, swap"),
        ({"mask": [{"layer": 3}]}, r"intervene\.mask knows expert, group, modality, site, found \['layer'\]"),
        (
            {"mask": [{"site": 9}]},
            r"meets nothing: there are sites 0\.\.2, modalities audio, vision, groups channel:audio",
        ),
        ({"mask": [{"group": "single", "expert": 2}]}, r"the group has experts 0\.\.1"),
        ({"force": [{"modality": "vision"}]}, r"acts on one group of a stream: name it in full"),
        ({"swap": [{"group": "single"}]}, r"needs either with: <group> or experts"),
        ({"swap": [{"group": "single", "with": "dual"}]}, r"swap with=dual: choose one of single"),
        ({"swap": [{"group": "single", "experts": [0, 2]}]}, r"swap experts=\[0, 2\]: two of 0\.\.1"),
    ],
    ids=str,
)
def test_plans_that_cannot_be(model, plan, message):
    with pytest.raises(ConfigError, match=message), intervened(model, plan):
        pass
    assert all(router.barred is None for routers in model.peft.routers.values() for router in routers.values())


def test_a_method_without_routers_is_refused(model):
    with pytest.raises(ConfigError, match="LoRA has no router that can be acted upon"):
        list(leave_one_out(small.model("vision", peft=partial(LoRA, rank=2)), "group"))
    with pytest.raises(ConfigError, match="importance must be site, group or expert"):
        list(leave_one_out(model, "layer"))
