"""The HMMoE layer: executors agree, keys are live, routing learns, counts follow the formula."""

from itertools import pairwise

import pytest
import torch

from hmmoe.errors import ConfigError
from hmmoe.experts.bank import ExpertBank, Plan
from hmmoe.peft.hmmoe import HMMoE
from hmmoe.trainable import counts
from hmmoe.types import Site
from tests import small

UNEQUAL = {"single": {}, "cross": {"experts": 3}, "channel": {"rank": 8, "experts": 1}}
VARIANTS = [
    {},
    {"groups": UNEQUAL},
    {"groups": UNEQUAL, "routing": "flat"},
    {"groups": {"single": {}, "cross": {}}},
    {"gate_space": "full"},
    {"gate_space": "full", "groups": {"channel": {}}},
    {"heads": 2},
    {"k": 2, "renormalize": True},
    {"experts_per_group": 4, "k": 2},
    {"routing": "flat"},
    {"routing": "flat", "renormalize": True, "k": 2, "experts_per_group": 3},
    {"routing": "fixed"},
    {"routing": "uniform"},
    {"granularity": "segment"},
    {"granularity": "sample"},
    {"placement": "parallel_ffn", "reads": "hidden"},
    {"act": "gelu"},
]


def site(**widths: int) -> Site:
    return Site(0, "site00", widths)


def build(site: Site, **options) -> HMMoE:
    torch.manual_seed(0)
    method = small.hmmoe(**options)([site])
    small.move(method)
    return method


def streams(site: Site, *, masked: bool = True):
    torch.manual_seed(5)
    tokens = {"vision": 12, "audio": 6, "text": 8}
    keep = torch.arange(8) < torch.tensor([8, 5, 3, 0])[:, None] if masked else None
    return {
        m: small.stream(4, tokens[m], d, keep=keep if m == "text" else None, parts=3 if m != "text" else 1)
        for m, d in site.widths.items()
    }


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("modalities", [("vision", "text"), ("vision", "audio", "text")], ids=len)
def test_executors_are_one(options, modalities):
    where = site(**{m: d for m, d in zip(modalities, (10, 12, 16), strict=False)})
    results = []
    for executor in ("loop", "wide", "grouped"):
        method = build(where, executor=executor, **options).double()
        inputs = {
            m: s._replace(**{f: getattr(s, f).double().requires_grad_() for f in ("residual", "inp", "out")})
            for m, s in streams(where).items()
        }
        deltas, _ = method(where, inputs)
        sum((i + 1) * d.square().sum() for i, d in enumerate(deltas.values())).backward()
        wanted = [t for s in inputs.values() for t in (s.residual, s.inp, s.out)] + list(method.parameters())
        results.append(([*deltas.values()], [t.grad for t in wanted if t.grad is not None]))
    for deltas, grads in results[1:]:
        torch.testing.assert_close(deltas, results[0][0], rtol=0, atol=1e-10)
        torch.testing.assert_close(grads, results[0][1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": {"single": {}}},
        {"groups": UNEQUAL},
        {"rank": 8},
        {"experts_per_group": 3},
        {"k": 2},
        {"k": 2, "renormalize": True},
        {"routing": "flat"},
        {"routing": "fixed"},
        {"routing": "uniform"},
        {"routing": "random"},
        {"granularity": "segment"},
        {"granularity": "sample"},
        {"placement": "parallel_ffn"},
        {"reads": "hidden"},
        {"at": [1]},
        {"act": "gelu"},
        {"heads": 2},
        {"gate_space": "full"},
    ],
    ids=str,
)
def test_every_key_is_live(options):
    batch = small.batch("vision", "text")
    outputs = []
    for chosen in ({}, options, {**options, **({"k": 2} if options.get("renormalize") else {})}):
        torch.manual_seed(0)
        model = small.model("vision", "text", peft=small.hmmoe(**chosen))
        small.move(model)
        torch.manual_seed(7)
        outputs.append(model(batch).logits)
    torch.testing.assert_close(outputs[1], outputs[2])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-5


def test_renormalize_is_live_at_k_2_of_3():
    where = site(vision=10, text=16)
    outs = [
        build(where, experts_per_group=3, k=2, renormalize=flag)(where, streams(where)).deltas["vision"]
        for flag in (False, True)
    ]
    assert (outs[0] - outs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("modalities", [("vision",), ("vision", "text"), ("vision", "audio", "text")], ids=len)
def test_a_fresh_layer_is_the_identity_through_one_zero_factor(modalities):
    where = site(**{m: 8 for m in modalities})
    method = small.hmmoe()([where])
    deltas, _ = method(where, streams(where))
    assert all(not d.any() for d in deltas.values())
    sum(d.sum() for d in deltas.values()).backward()
    zero = [name for name, p in method.named_parameters() if not p.grad.any()]
    alive = [name for name, p in method.named_parameters() if p.grad.any()]
    assert all(".up." in name for name in alive) and len(alive) == len(modalities)
    with torch.no_grad():
        for name, p in method.named_parameters():
            if ".up." in name:
                p -= 0.1 * p.grad
    method.zero_grad()
    sum(d.square().sum() for d in method(where, streams(where)).deltas.values()).backward()
    grads = {name: p.grad for name, p in method.named_parameters()}
    assert all(grads[name].any() for name in zero), "one zero factor: after one step everything learns"


def test_the_router_learns_at_k_1_after_the_first_step():
    where = site(vision=10, text=16)
    method = build(where, k=1)
    target = torch.randn(4, 12, 10)
    (method(where, streams(where)).deltas["vision"] * target).sum().backward()
    router = method.routers["site00"]["vision"]
    groups = 3
    local = router.weight["vision"].grad[groups:]
    assert router.weight["vision"].grad[:groups].norm() > 1e-2 and local.norm() > 1e-2


def test_renormalized_top_1_is_refused():
    with pytest.raises(ConfigError, match=r"renormalize with k = 1.*set peft\.k=2"):
        build(site(vision=10, text=16), k=1, renormalize=True)


def test_routing_is_float32_under_autocast():
    where = site(vision=10, text=16)
    method, inputs = build(where), streams(where)
    plain = method(where, inputs).routing
    with torch.autocast("cpu", torch.bfloat16):
        low = {m: s._replace(out=s.out.bfloat16()) for m, s in inputs.items()}
        deltas, routing = method(where, low)
    assert deltas["vision"].dtype == torch.bfloat16
    for m, decision in routing.items():
        assert decision.group_weights.dtype == decision.expert_weights.dtype == torch.float32
        torch.testing.assert_close(decision.group_weights, plain[m].group_weights, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("routing", ["two_level", "flat", "fixed", "uniform", "random"])
def test_routing_masses(routing):
    where = site(vision=10, audio=12, text=16)
    decisions = build(where, routing=routing, experts_per_group=3, k=2)(where, streams(where)).routing
    for decision in decisions.values():
        assert decision.groups[0] == "single" and len(decision.groups) == 5
        assert not decision.expert_weights[~decision.selected].any()
        if routing != "flat":
            torch.testing.assert_close(decision.group_weights.sum(-1), torch.ones(decision.group_weights.shape[:2]))
        kept = decision.selected.sum((-2, -1))
        assert (kept == (15 if routing in ("uniform",) else 10)).all()


def test_padding_never_reaches_others_and_its_tokens_never_count():
    where = site(vision=10, text=16)
    method, inputs = build(where), streams(where)
    text = inputs["text"]
    noise = torch.where(text.keep[..., None], 0.0, torch.randn_like(text.out))
    changed = inputs | {"text": text._replace(out=text.out + noise)}
    before, after = method(where, inputs).deltas, method(where, changed).deltas
    torch.testing.assert_close(before["vision"], after["vision"], rtol=0, atol=0)
    torch.testing.assert_close(before["text"][text.keep], after["text"][text.keep], rtol=0, atol=0)


@pytest.mark.parametrize("granularity", ["segment", "sample"])
def test_one_decision_per_segment_or_sample(granularity):
    where = site(vision=10, audio=12)
    method = build(where, granularity=granularity)
    inputs = {m: s._replace(rows=2, parts=3) for m, s in streams(where, masked=False).items()}
    weights = method(where, inputs).routing["vision"].group_weights  # (4 rows, 12 tokens, G)
    segments = weights.unflatten(1, (3, 4))
    assert (segments == segments[:, :, :1]).all()
    samples = segments.unflatten(0, (2, 2))
    same = torch.allclose(samples, samples[:, :1, :1].expand_as(samples), atol=1e-6)
    assert same if granularity == "sample" else not same


@pytest.mark.parametrize(("widths", "rank", "experts"), [((768, 768), 32, 2), ((24, 16), 4, 3)])
def test_parameter_count_is_the_closed_formula(widths, rank, experts):
    d = sum(widths)
    bank = ExpertBank(
        dict(zip("mn", widths, strict=True)), {k: Plan(rank, experts) for k in ("single", "cross", "channel")}
    )
    per_expert = 3 * (2 * rank * d + 2 * rank + d) + 8 * rank**2 + 6 * rank
    assert sum(p.numel() for p in bank.parameters()) == experts * per_expert
    method = small.hmmoe(rank=rank, experts_per_group=experts)([Site(0, "s", dict(zip("mn", widths, strict=True)))])
    routers = 6 * (d + 1) * (1 + experts)
    assert sum(p.numel() for p in method.parameters()) == experts * per_expert + routers


def test_growth_is_linear_in_modalities_per_stream():
    names = ("a", "b", "c", "d")
    sizes = []
    for n in (1, 2, 3, 4):
        bank = ExpertBank({m: 8 for m in names[:n]}, {k: Plan(4, 2) for k in ("single", "cross", "channel")})
        sizes.append(sum(p.numel() for p in bank.parameters()) / n)
    steps = [b - a for a, b in pairwise(sizes)]
    assert steps[0] == pytest.approx(steps[1]) == pytest.approx(steps[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank and experts of peft.groups.single must be at least 1"),
        ({"k": 3}, r"k of peft.groups.single must lie in 1\.\.2"),
        ({"groups": {"singel": {}}}, "singel is no kind of expert: choose from single, cross, channel"),
        ({"groups": {"single": {"rnak": 3}}}, "knows rank, experts and k, found rnak"),
        ({"groups": {}}, "groups is empty"),
        ({"groups": {"single": False, "cross": False}}, "groups is empty"),
        ({"groups": {"single": {}, "singel": False}}, "singel is no kind of expert"),
        ({"routing": "soft"}, "routing must be two_level, flat"),
        ({"heads": 3}, "heads=3 must divide the rank 4"),
        ({"at": "2-9"}, r"at=.*the backbone has sites 0\.\.0"),
        ({"at": "first"}, 'a range like "2-5"'),
        ({"act": "tanh"}, "act must be one of relu"),
        ({"gate_space": "all"}, "gate_space must be rank or full"),
        ({"granularity": "frame"}, "granularity must be token"),
        ({"placement": "attn"}, "placement must be ffn_out"),
        ({"executor": "fast"}, "executor must be one of auto, wide, grouped, loop"),
    ],
    ids=str,
)
def test_settings_that_cannot_work(options, message, unchecked):
    with pytest.raises(ConfigError, match=message):
        small.hmmoe(**options)([site(vision=8, text=8)])


def test_a_kind_left_out_is_a_kind_not_named():
    where = site(vision=10, text=16)
    named, dropped = (
        build(where, groups=groups) for groups in ({"single": {}, "channel": {}}, small.KINDS | {"cross": False})
    )
    assert named.state_dict().keys() == dropped.state_dict().keys()
    torch.testing.assert_close(named(where, streams(where)).deltas, dropped(where, streams(where)).deltas)


def test_cross_alone_needs_a_second_modality():
    with pytest.raises(ConfigError, match="need a second modality"):
        small.hmmoe(groups={"cross": {}})([site(vision=8)])


def test_trained_share_counts_heads_and_names_its_denominator():
    model = small.model("vision", "text")
    parts = counts(model)
    assert parts["trained"] == parts["adapters"] + parts["router"] + parts["head"]
    assert parts["total"] == parts["trained"] + sum(p.numel() for p in model.backbone.parameters())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"experts_per_group": 2}, "wide"),
        ({"experts_per_group": 6}, "grouped"),
        ({"experts_per_group": 6, "k": 2}, "wide"),
        ({"experts_per_group": 6, "routing": "uniform"}, "wide"),
        ({"experts_per_group": 6, "executor": "wide"}, "wide"),
    ],
    ids=str,
)
def test_auto_computes_what_is_selected_where_that_pays(options, expected):
    method = build(site(vision=4, text=4), **options)
    assert method._executor({"vision": torch.zeros(1)}).__name__ == expected
    assert options.get("executor") or method._executor({"vision": torch.zeros(1, device="meta")}).__name__ == "wide"
