"""LoRA, bottleneck adapters and freezing policies on every tower."""

from functools import partial

import peft as hf
import pytest
import torch

from hmmoe.backbones.towers import Towers
from hmmoe.errors import CheckpointError, ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.peft.bottleneck import ParallelAdapter, SeriesAdapter
from hmmoe.peft.lora import LoRA
from hmmoe.peft.policies import Full, LinearProbe
from hmmoe.trainable import check_live, load_own_state, own_state, roles
from tests import small
from tests.small import perturb

METHODS = {
    "linear_probe": LinearProbe,
    "full": Full,
    "lora": partial(LoRA, rank=4),
    "lora_all": partial(LoRA, rank=4, targets=["q", "k", "v", "o", "fc1", "fc2"]),
    "lora_fa": partial(LoRA, rank=4, freeze_a=True),
    "series_adapter": partial(SeriesAdapter, rank=4),
    "parallel_adapter": partial(ParallelAdapter, rank=4),
    "hmmoe": small.hmmoe(),
}
MODALITIES = ("vision", "audio", "text")


@pytest.mark.parametrize("name", METHODS)
def test_identity_at_start_and_alive(name):
    batch = small.batch(*MODALITIES)
    plain = small.model(*MODALITIES, peft=LinearProbe)(batch).features
    model = small.model(*MODALITIES, peft=METHODS[name])
    out = model(batch)
    for m in MODALITIES:
        torch.testing.assert_close(out.features[m].tokens, plain[m].tokens, rtol=0, atol=0)
    out.logits.square().sum().backward()
    check_live(model)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_what_trains_and_nothing_else(name):
    model = small.model(*MODALITIES, peft=METHODS[name]).train()
    small.move(model, 0.05)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(small.batch(*MODALITIES)).logits.square().sum().backward()
    optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved <= set(roles(model)), "only what trains moves, buffers included"
    assert len(moved) > 0.9 * len(roles(model))


@pytest.mark.parametrize("name", METHODS)
def test_own_state_brings_the_same_numbers_back(name):
    batch = small.batch(*MODALITIES)
    model = small.model(*MODALITIES, peft=METHODS[name]).eval()
    small.move(model, 0.05)
    state = {k: v.clone() for k, v in own_state(model).items()}
    torch.manual_seed(99)
    other = AdaptedModel(small.towers(*MODALITIES), METHODS[name], small.head()).eval()
    load_own_state(other, state)
    torch.testing.assert_close(other(batch).logits, model(batch).logits, rtol=0, atol=0)
    if name != "full":
        assert not any(k.startswith("backbone.towers.vision.library.patch_embed") for k in state)
    with pytest.raises(CheckpointError, match=r"checkpoint is of another model: 1 tensors missing"):
        load_own_state(other, {k: v for k, v in list(state.items())[1:]})


def test_lora_fa_keeps_a_as_drawn_and_saves_it():
    model = small.model("vision", peft=METHODS["lora_fa"])
    frozen = [k for k in own_state(model) if k.endswith(".A")]
    assert frozen and not set(frozen) & set(roles(model))


def test_lora_equals_hf_peft_where_that_lives():
    """Split q, v of AST and BERT: same A and B, same output and gradients."""
    encoder = small.ast()
    perturb(encoder)
    backbone = Towers({"audio": encoder})
    model = AdaptedModel(backbone, partial(LoRA, rank=4, alpha=8.0), small.head())
    small.move(model, 0.2)
    theirs = small.ast()
    perturb(theirs)
    config = hf.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    library = hf.inject_adapter_in_model(config, theirs.library)
    ours = {n.removeprefix("backbone.towers.audio.library."): p for n, p in model.named_parameters()}
    for name, module in library.named_modules():
        if isinstance(module, hf.tuners.lora.Linear):
            for letter in "AB":
                weight = getattr(module, f"lora_{letter}")["default"].weight
                weight.data.copy_(ours[f"{name}.parametrizations.weight.0.{letter}"])
    x = torch.randn(2, 3, 1, 32, 48)
    mine = model({"id": ["a", "b"], "audio": x}).features["audio"].tokens.flatten(0, 1)
    reference = library(x.flatten(0, 1).squeeze(1).transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(mine, reference, rtol=1e-5, atol=5e-6)
    mine.square().sum().backward()
    reference.square().sum().backward()
    for name, module in library.named_modules():
        if isinstance(module, hf.tuners.lora.Linear):
            torch.testing.assert_close(
                ours[f"{name}.parametrizations.weight.0.B"].grad,
                module.lora_B["default"].weight.grad,
                rtol=1e-4,
                atol=1e-4,
            )


def test_lora_lives_on_the_fused_qkv_where_hf_peft_is_dead():
    theirs = small.swin()
    perturb(theirs)
    library = hf.inject_adapter_in_model(hf.LoraConfig(r=4, target_modules=["qkv"]), theirs.library)
    assert sum("lora_" in name for name, _ in library.named_parameters()) == 8
    out = library.forward_features(torch.randn(2, 3, 32, 32))
    assert not out.requires_grad, "HF peft lives here now: this project's own LoRA may be replaced"
    backbone = Towers({"vision": small.swin()})
    perturb(backbone)
    model = AdaptedModel(backbone, METHODS["lora"], small.head())
    model(small.batch("vision")).logits.square().sum().backward()
    check_live(model)


def test_lora_on_q_and_v_leaves_the_rows_of_k_alone():
    model = small.model("vision", peft=METHODS["lora"])
    original = model.backbone.tower("vision").block(0).attn.qkv.parametrizations.weight.original.clone()
    small.move(model, 0.5)
    change = model.backbone.tower("vision").block(0).attn.qkv.weight - original
    assert not change[32:64].any() and change[:32].any() and change[64:].any()


def test_a_dead_tensor_is_named():
    model = small.model("vision", peft=METHODS["lora"])
    model.head.spare = torch.nn.Linear(2, 2)
    model(small.batch("vision")).logits.sum().backward()
    with pytest.raises(ConfigError, match=r"2 trainable tensors received no gradient.*head\.spare\.weight"):
        check_live(model)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (partial(LoRA, rank=0), r"peft\.rank must be at least 1"),
        (partial(LoRA, targets=[]), r"peft\.targets name a role"),
        (partial(LoRA, targets=["query"]), r"role 'query' is unknown"),
        (partial(SeriesAdapter, rank=0), r"peft\.rank must be at least 1"),
        (partial(SeriesAdapter, act="tanh"), r"peft\.act must be one of"),
    ],
)
def test_settings_that_cannot_work(method, message):
    with pytest.raises(ConfigError, match=message):
        small.model("vision", peft=method)


def test_bottleneck_count_is_the_closed_formula():
    model = small.model("vision", "text", peft=partial(SeriesAdapter, rank=4))
    expected = sum(2 * d * 4 + 4 + d for site in model.backbone.sites for d in site.widths.values())
    assert sum(p.numel() for p in model.peft.parameters()) == expected
