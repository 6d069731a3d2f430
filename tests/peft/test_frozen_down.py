"""Down-projections that stay as drawn (LoRA-FA, arXiv 2308.03303): what trains, what is saved, what is not kept."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.memory import saved_bytes
from hmmoe.peft.bottleneck import Bottleneck
from hmmoe.runtime.sizing import fit
from hmmoe.trainable import check_live, counts, load_own_state, own_state, roles
from hmmoe.types import Site
from tests import small
from tests.peft.methods import factory, loaded, shrink

FROZEN = {
    "hmmoe": ("freeze_down", ".down."),
    "series_adapter": ("freeze_down", ".down.weight"),
    "houlsby_adapter": ("freeze_down", ".down.weight"),
    "parallel_adapter": ("freeze_down", ".down.weight"),
    "molora": ("freeze_a", ".A"),
}
"""The key by method, and what the names of the frozen tensors hold."""
EXECUTORS = ("loop", "wide", "grouped")
WIDTHS = {"vision": 10, "text": 16}
SITE = Site(0, "site00", WIDTHS)


def layer(**options):
    torch.manual_seed(0)
    method = small.hmmoe(**options)([SITE])
    small.move(method)
    return method


def streams(dtype: torch.dtype):
    """Random streams that need a gradient, text with padding."""
    torch.manual_seed(5)
    keep = torch.arange(8) < torch.tensor([8, 5, 3, 0])[:, None]
    made = {"vision": small.stream(4, 12, 10, parts=3), "text": small.stream(4, 8, 16, keep=keep)}
    return {m: s._replace(out=s.out.to(dtype).requires_grad_()) for m, s in made.items()}


def gradients(**options):
    """Deltas, gradients of the tokens and of the parameters, in float64."""
    method, inputs = layer(**options).double(), streams(torch.float64)
    deltas = method(SITE, inputs).deltas
    sum((i + 1) * d.square().sum() for i, d in enumerate(deltas.values())).backward()
    grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return deltas, {m: s.out.grad for m, s in inputs.items()}, grads


@pytest.mark.parametrize(
    "options", [{}, {"gate_space": "full"}, {"granularity": "segment"}, {"experts_per_group": 3, "k": 2}], ids=str
)
def test_all_executors_leave_out_that_gradient_and_change_no_other(options):
    deltas, tokens, grads = gradients(executor="loop", **options)
    grads = {name: grad for name, grad in grads.items() if ".down." not in name}
    for executor in EXECUTORS:
        found = gradients(executor=executor, freeze_down=True, **options)
        torch.testing.assert_close(found[0], deltas, rtol=0, atol=1e-10)
        torch.testing.assert_close(found[1:], (tokens, grads), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("options", [{"routing": "fixed"}, {"granularity": "segment"}], ids=str)
def test_tokens_that_only_the_down_projection_needed_are_not_kept(executor, options):
    """Nothing else of ``wide`` needs them in the way back; the other two copy and share more."""
    kept = []
    for freeze in (False, True):
        method, inputs = layer(executor=executor, freeze_down=freeze, **options), streams(torch.float32)
        kept.append(saved_bytes(method, lambda m=method, i=inputs: sum(d.sum() for d in m(SITE, i).deltas.values())))
    tokens = 4 * 4 * (12 * 10 + 8 * 16)
    assert kept[0] - kept[1] == tokens if executor == "wide" else kept[0] - kept[1] >= tokens


@pytest.mark.parametrize(("routing", "freed"), [("two_level", 0), ("fixed", 2 * 4 * (12 * 10 + 8 * 16))])
def test_under_autocast_router_and_down_projection_keep_one_copy_of_the_tokens(routing, freed):
    """In bfloat16, though the router computes in float32; without a router that reads, freezing frees it."""
    kept = []
    for freeze in (False, True):
        method, inputs = layer(executor="wide", freeze_down=freeze, routing=routing), streams(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            kept.append(
                saved_bytes(method, lambda m=method, i=inputs: sum(d.sum() for d in m(SITE, i).deltas.values()))
            )
    assert kept[0] - kept[1] == freed


def test_a_bottleneck_keeps_no_input():
    x = torch.randn(6, 16, requires_grad=True)
    kept = []
    for freeze in (False, True):
        adapter = Bottleneck(16, 4, "relu", freeze_down=freeze)
        kept.append(saved_bytes(adapter, lambda one=adapter: one(x * 1).sum()))
    assert kept == [4 * 6 * (16 + 4), 4 * 6 * 4]


@pytest.mark.parametrize(("rank", "experts"), [(4, 2), (8, 3)])
def test_parameter_count_is_the_closed_formula(rank, experts):
    method, d = layer(rank=rank, experts_per_group=experts, freeze_down=True), sum(WIDTHS.values())
    per_expert = 3 * (rank * d + 2 * rank + d) + 8 * rank**2 + 6 * rank
    routers = 6 * (d + 1) * (1 + experts)
    assert sum(p.numel() for p in method.parameters() if p.requires_grad) == experts * per_expert + routers
    assert sum(p.numel() for p in method.parameters() if not p.requires_grad) == experts * 3 * rank * d


def test_a_budget_counts_what_trains():
    """The same number of trained parameters buys a larger rank."""
    backbone, ranks = small.towers("vision", "text"), []
    for freeze in (False, True):
        node = OmegaConf.merge(shrink(loaded("hmmoe")), {"budget": 0.3, "budget_params": None, "freeze_down": freeze})
        fact = fit(node, backbone, lambda given: instantiate(given, _convert_="all", _partial_=True))
        found = counts(small.model("vision", "text", peft=factory("hmmoe", rank=fact["value"], freeze_down=freeze)))
        assert fact["parameters"] == found["trained"] - found["head"]
        ranks.append(fact["value"])
    assert ranks[1] > ranks[0]


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_as_drawn_saved_and_loaded(name):
    key, part = FROZEN[name]
    torch.manual_seed(3)
    model = small.model("vision", "text", peft=factory(name, **{key: True})).train()
    drawn = {k: v.clone() for k, v in own_state(model).items() if part in k}
    frozen = {k for k, p in model.named_parameters() if k in own_state(model) and not p.requires_grad}
    assert drawn and drawn.keys() == frozen and not drawn.keys() & roles(model).keys()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(small.batch("vision", "text")).logits.square().sum().backward()
        check_live(model)
        optimizer.step()
    assert all(p.grad is None for k, p in model.named_parameters() if k in frozen)
    state = {k: v.clone() for k, v in own_state(model).items()}
    assert all(torch.equal(state[k], v) for k, v in drawn.items())
    torch.manual_seed(77)
    other = small.model("vision", "text", peft=factory(name, **{key: True})).eval()
    assert not all(torch.equal(own_state(other)[k], v) for k, v in drawn.items())
    load_own_state(other, state)
    batch = small.batch("vision", "text")
    torch.testing.assert_close(other(batch).logits, model.eval()(batch).logits, rtol=0, atol=0)
