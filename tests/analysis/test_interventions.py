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
