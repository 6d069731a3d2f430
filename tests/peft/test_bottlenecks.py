"""Placements of series adapters, and Compacter, against the papers' formulas written out."""

import pytest
import torch
from torch.nn import functional as F

from hmmoe.errors import ConfigError
from hmmoe.peft.base import Peft
from hmmoe.peft.compacter import KroneckerLinear
from hmmoe.trainable import check_live, counts
from tests import small
from tests.peft.methods import factory

MODALITIES = ("vision", "audio", "text")
R = 8


def attentions(model) -> dict[str, torch.nn.Linear]:
    """Output projections of all attentions, by name."""
    names = {part.name for part in model.backbone.linears("o")}
    return {name: model.backbone.get_submodule(name) for name in sorted(names)}


def test_houlsby_counts_are_the_closed_formula():
    model = small.model(*MODALITIES, peft=factory("houlsby_adapter"))
    at_sites = [d for site in model.backbone.sites for d in site.widths.values()]
    behind = [layer.weight.shape[0] for layer in attentions(model).values()]
    assert len(behind) == 3 + 4 + 2, "every block of every tower"
    assert counts(model)["adapters"] == sum(2 * d * R + R + d for d in (*at_sites, *behind))
    assert counts(model)["backbone"] == 0


@pytest.mark.parametrize(("placement", "places"), [("houlsby", 2), ("pfeiffer", 1)])
def test_compacter_counts_are_the_closed_formula(placement, places):
    n, q = 4, 2
    model = small.model(*MODALITIES, peft=factory("compacter", terms=n, factor_rank=q, placement=placement))
    widths = [d for site in model.backbone.sites for d in site.widths.values()]
    widths += [layer.weight.shape[0] for layer in attentions(model).values()] * (places - 1)
    assert counts(model)["adapters"] == n**3 + sum(2 * q * (d + R) + R + d for d in widths)


def test_behind_attention_the_adapter_reads_what_the_projection_wrote():
    """h + up(act(down h)), before the block's norm and residual."""
    model = small.model("vision", peft=factory("houlsby_adapter", scale=0.5)).eval()
    small.move(model, 0.3)
    name, layer = next(iter(attentions(model).items()))
    seen = {}
    layer.register_forward_pre_hook(lambda module, inputs: seen.update(x=inputs[0]))
    follower = model.backbone.get_submodule(name.rpartition(".")[0] + ".proj_drop")
    follower.register_forward_pre_hook(lambda module, inputs: seen.update(after=inputs[0]))
    model(small.batch("vision"))
    own = layer.behind.adapter
    h = F.linear(seen["x"], layer.weight, layer.bias)
    inner = torch.relu(torch.einsum("...d,rd->...r", h, own.down.weight) + own.down.bias)
    expected = h + 0.5 * (torch.einsum("...r,dr->...d", inner, own.up.weight) + own.up.bias)
    torch.testing.assert_close(seen["after"], expected)


def test_a_shared_tower_has_one_adapter_behind_each_attention():
    backbone = small.towers("vision", shared={"audio": "vision"})
    method: Peft = factory("houlsby_adapter")(backbone.sites)
    method.prepare(backbone)
    assert sum(hasattr(module, "behind") for module in backbone.modules()) == 3
    assert {len(adapters) for adapters in method.adapters.values()} == {2}, "at a site every modality has its own"


def test_kronecker_linear_is_the_sum_of_products():
    rule = torch.nn.Parameter(torch.randn(4, 4, 4))
    layer = KroneckerLinear(24, 8, rule=rule, factor_rank=3, zero=False)
    torch.nn.init.normal_(layer.bias)
    weight = sum(torch.kron(rule[i], layer.left[i] @ layer.right[i]) for i in range(4))
    x = torch.randn(2, 5, 24)
    torch.testing.assert_close(layer(x), torch.einsum("snd,rd->snr", x, weight) + layer.bias)


def test_all_adapters_share_one_rule_and_it_learns():
    model = small.model(*MODALITIES, peft=factory("compacter"))
    small.move(model, 0.2)
    rules = {id(m.rule) for m in model.modules() if isinstance(m, KroneckerLinear)}
    assert len(rules) == 1
    model(small.batch(*MODALITIES)).logits.square().sum().backward()
    rule = next(m.rule for m in model.modules() if isinstance(m, KroneckerLinear))
    assert rule.grad.any()


def test_parallel_adapter_is_scaled():
    """s up(act(down x)) with s = 4, from what the FFN reads."""
    site = small.towers("vision").sites[0]
    method = factory("parallel_adapter")([site])
    small.move(method, 0.3)
    stream = small.stream(2, 5, site.widths["vision"])
    own = method.adapters[site.label]["vision"]
    inner = torch.relu(stream.inp @ own.down.weight.T + own.down.bias)
    expected = 4.0 * (inner @ own.up.weight.T + own.up.bias)
    torch.testing.assert_close(method(site, {"vision": stream}).deltas["vision"], expected)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("series_adapter", {"placement": "behind"}, r"peft\.placement must be pfeiffer or houlsby"),
        ("houlsby_adapter", {"at": [0]}, r"peft\.placement=houlsby puts an adapter behind every attention"),
        ("compacter", {"terms": 3}, r"peft\.terms=3 must divide peft\.rank=8"),
        ("compacter", {"rank": 0}, r"peft\.rank=0: must be at least 1"),
        ("compacter", {"act": "tanh"}, r"peft\.act must be one of"),
    ],
)
def test_settings_that_cannot_work(name, options, words, unchecked):
    with pytest.raises(ConfigError, match=words):
        small.model("vision", peft=factory(name, **options))


def test_where_a_projection_is_read_and_not_called_the_run_says_what_to_do():
    """A hook is silent there: the liveness check that every run makes names the adapter and the way out."""
    model = small.model("vision", peft=factory("houlsby_adapter"))
    layer = next(iter(attentions(model).values()))
    layer.forward = lambda x: F.linear(x, layer.weight, layer.bias)
    layer._forward_hooks.clear()
    model(small.batch("vision")).logits.square().sum().backward()
    with pytest.raises(ConfigError, match=r"4 trainable tensors received no gradient.*peft\.placement=pfeiffer"):
        check_live(model)
