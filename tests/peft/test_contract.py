"""Every file of ``conf/peft`` keeps the contract of a method, on small towers of three families."""

import pytest
import torch

from hmmoe.errors import CheckpointError, ConfigError
from hmmoe.losses.balance import gate_kl, load_balance
from hmmoe.model import AdaptedModel
from hmmoe.peft.policies import LinearProbe
from hmmoe.routing.stats import RoutingStats
from hmmoe.trainable import check_live, load_own_state, own_state, roles
from hmmoe.types import Adapted
from tests import small
from tests.peft.methods import METHODS, factory, loaded

MODALITIES = ("vision", "audio", "text")
BEHIND_ATTENTION = {"houlsby_adapter", "compacter"}
ALONE_REFUSED = {"lavish", "dg_sct", "avmoe", "hmmoe_no_single", "hmmoe_cross", "hmmoe_channel"}
"""They have nothing to do where one modality stands alone, and say so."""
NEAR = {"pissa": 2e-5, "oft": 2e-5, "boft": 2e-5}
"""Identity up to rounding: a weight is taken apart and put together again."""


def built(name: str, *modalities: str, checkpointing: bool = False) -> AdaptedModel:
    torch.manual_seed(3)
    return small.model(*(modalities or MODALITIES), peft=factory(name), checkpointing=checkpointing)


@pytest.mark.parametrize("name", METHODS)
def test_identity_at_start_and_alive(name):
    batch = small.batch(*MODALITIES)
    plain = small.model(*MODALITIES, peft=LinearProbe)(batch).features
    model = built(name)
    out = model(batch)
    for m in MODALITIES:
        torch.testing.assert_close(out.features[m].tokens, plain[m].tokens, rtol=0, atol=NEAR.get(name, 0))
    out.logits.square().sum().backward()
    check_live(model)
    assert set(out.routing) == {(site.label, m) for site in model.backbone.sites for m in MODALITIES} or not out.routing


def tensors(model):
    """All parameters and buffers, a shared one once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_what_trains_and_nothing_else(name):
    model = built(name).train()
    small.move(model, 0.05)
    before = {k: v.clone() for k, v in tensors(model).items()}
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=1e3
    )  # gradients of 1e-9 move too
    model(small.batch(*MODALITIES)).logits.square().sum().backward()
    dead = [k for k, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    optimizer.step()
    moved = {k for k, v in tensors(model).items() if not torch.equal(v, before[k])}
    assert moved <= set(roles(model)), "only what trains moves, buffers included"
    assert len(moved) > 0.8 * len(roles(model)), dead  # an expert that no token chose, a ReLU that is shut


@pytest.mark.parametrize("name", METHODS)
def test_own_state_brings_the_same_numbers_back(name):
    batch = small.batch(*MODALITIES)
    model = built(name).eval()
    small.move(model, 0.05)
    state = {k: v.clone() for k, v in own_state(model).items()}
    torch.manual_seed(99)
    other = AdaptedModel(small.towers(*MODALITIES), factory(name), small.head()).eval()
    load_own_state(other, state)
    torch.testing.assert_close(other(batch).logits, model(batch).logits, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"checkpoint is of another model: 1 tensors missing"):
        load_own_state(other, {k: v for k, v in list(state.items())[1:]})


@pytest.mark.parametrize("name", METHODS)
def test_checkpointing_gives_equal_gradients(name):
    batch, grads = small.batch(*MODALITIES), []
    for flag in (False, True):
        model = built(name, checkpointing=flag).train()
        small.move(model, 0.05)
        torch.manual_seed(4)
        model(batch).logits.square().sum().backward()
        grads.append({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_bf16_autocast(name):
    batch, model = small.batch(*MODALITIES), built(name).eval()
    small.move(model, 0.02)
    exact = model(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        low = model(batch)
    low.logits.float().square().sum().backward()
    check_live(model)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert all(r.group_weights.dtype == r.expert_weights.dtype == torch.float32 for r in low.routing.values())
    assert (low.logits.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name", METHODS)
def test_one_modality_works_or_is_refused(name):
    if name in ALONE_REFUSED:
        with pytest.raises(ConfigError, match=r"choose a backbone=|add single to peft\.groups"):
            built(name, "vision")
        return
    model = built(name, "vision")
    model(small.batch("vision")).logits.square().sum().backward()
    check_live(model)


@pytest.mark.parametrize("name", METHODS)
def test_padding_and_batch_mates_change_nothing(name):
    batch, model = small.batch(*MODALITIES), built(name).eval()
    small.move(model, 0.05)
    both = model(batch).logits
    alone = model(
        {
            k: {part: t[1:, :5] for part, t in v.items()} if isinstance(v, dict) else v[1:]  # sentence 1 has five words
            for k, v in batch.items()
        }
    ).logits
    torch.testing.assert_close(alone, both[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_memory_is_read_and_never_updated(name):
    """Methods at sites build nothing for a stream that is memory there."""
    model = built(name)
    site = model.backbone.sites[0]._replace(memory=frozenset({"audio"}))
    method = factory(name)([site])
    streams = {m: small.stream(2, 6, d)._replace(memory=m in site.memory) for m, d in site.widths.items()}
    result = method(site, streams)
    assert isinstance(result, Adapted) and "audio" not in result.deltas and "audio" not in result.routing
    if result.deltas:
        sum(delta.sum() for delta in result.deltas.values()).backward()
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad), "nothing built for memory"


@pytest.mark.parametrize("name", [n for n in METHODS if "balance_weight" in loaded(n)])
def test_routing_fills_the_utilisation_table_and_the_balance_terms(name):
    model = built(name)
    small.move(model, 0.05)
    routing = model(small.batch(*MODALITIES)).routing
    stats = RoutingStats()
    stats.update(routing)
    rows = stats.compute()
    assert {(row.site, row.modality) for row in rows} == set(routing)
    for key in routing:
        shares = [r.weight_share for r in rows if (r.site, r.modality, r.level) == (*key, "group")]
        assert sum(shares) == pytest.approx(1)
    routers = [k for k, role in roles(model).items() if role == "router"]
    price = model.peft.balance(routing)
    assert torch.isfinite(price) and price.requires_grad == bool(routers)
    assert torch.equal(price, gate_kl(routing) if name == "avmoe" else load_balance(routing))
    if routers:
        price.backward()
        parameters = dict(model.named_parameters())
        assert all(parameters[k].grad is not None for k in routers)


@pytest.mark.parametrize("name", [n for n in METHODS if "at" in loaded(n)])
def test_site_ranges(name):
    sites = small.towers(*MODALITIES).sites
    placed = {"placement": "pfeiffer"} if name in BEHIND_ATTENTION else {}
    method = factory(name, at=[1], **placed)(sites)
    streams = {m: small.stream(2, 6, d) for m, d in sites[0].widths.items()}
    assert not method(sites[0], streams).deltas
    with pytest.raises(ConfigError, match=r"the backbone has sites 0\.\."):
        factory(name, at=[9], **placed)(sites)
