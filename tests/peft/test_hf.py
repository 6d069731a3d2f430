"""Methods of HF peft: what they attach to, counts, death on fused qkv, and the policies that unfreeze."""

import logging
import re
from functools import partial

import peft
import pytest
import torch

from hmmoe.backbones.towers import Towers
from hmmoe.errors import ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.peft.hf import HFPeft
from hmmoe.peft.policies import BitFit, NormTuning
from hmmoe.trainable import check_live, counts, own_state, roles
from tests import small
from tests.peft.methods import factory

R = 4
SHAPES = [(128, 32)] * 3 + [(48, 24)] * 4 + [(32, 16)] * 2
"""(out, in) of fc1 of every block of the small towers; fc2 has them swapped."""


def both() -> list[tuple[int, int]]:
    return SHAPES + [(i, o) for o, i in SHAPES]


FORMULAS = {
    "dora": lambda o, i: R * (o + i) + o,
    "rslora": lambda o, i: R * (o + i),
    "pissa": lambda o, i: R * (o + i),
    "adalora": lambda o, i: R * (o + i) + R,
    "loha": lambda o, i: 2 * R * (o + i),
    "vera": lambda o, i: R + o,
    "oft": lambda o, i: i // 4 * (4 * 3 // 2),
    "boft": lambda o, i: i // 4 * 16 + o,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_counts_are_the_closed_formulas(name):
    model = small.model("vision", "audio", "text", peft=factory(name))
    assert counts(model)["adapters"] == sum(FORMULAS[name](*shape) for shape in both())
    assert counts(model)["backbone"] == 0


def test_ia3_scales_what_enters_fc2():
    model = small.model("vision", "audio", "text", peft=factory("ia3"))
    assert counts(model)["adapters"] == sum(o for o, _ in SHAPES)
    keys = small.model("vision", peft=factory("ia3", targets=["o", "fc2"]))
    assert counts(keys)["adapters"] == 3 * (32 + 128), "output of o, input of fc2"


def test_the_table_says_what_was_hit(caplog):
    with caplog.at_level(logging.INFO, "hmmoe.peft.hf"):
        small.model("vision", "text", peft=factory("dora", targets=["q", "v", "fc1"]))
    table = caplog.text
    assert "LoraConfig attached to 12 layers" in table
    assert re.search(r"3 x towers\.vision\.library\.blocks\.\*\.attn\.qkv \(q, v\): ", table), "fused: once, as a whole"
    assert re.search(r"2 x towers\.text\..*query \(q\)", table)


def test_a_pattern_narrows_and_one_that_hits_nothing_is_refused():
    model = small.model("vision", "text", peft=factory("rslora", only=r"towers\.text"))
    assert all("towers.text" in name for name, role in roles(model).items() if role == "adapters")
    with pytest.raises(ConfigError, match=r"peft\.only='smell' matches none of the 10 layers"):
        small.model("vision", "text", peft=factory("rslora", only="smell"))


def test_dead_layers_stop_the_run_with_what_to_do_instead():
    backbone = Towers({"vision": small.swin()})
    small.perturb(backbone)
    model = AdaptedModel(backbone, factory("dora", targets=["q", "v", "fc1"]), small.head())
    model(small.batch("vision")).logits.sum().backward()
    with pytest.raises(ConfigError, match=r"received no gradient.*qkv.*peft\.targets=\[fc1,fc2\], or take peft=lora"):
        check_live(model)


def test_a_reloaded_run_needs_nothing_of_the_library_again():
    """Frozen parts that belong to the method are saved, those of the backbone are not."""
    state = own_state(small.model("vision", peft=factory("vera")))
    assert sum("vera_A" in name or "vera_B" in name for name in state) == 2
    state = own_state(small.model("vision", peft=factory("adalora")))
    assert sum("ranknum" in name for name in state) == 6
    assert not any("base_layer" in name for name in state)


def test_adapters_are_float32_beside_stored_bfloat16():
    model = small.model("vision", peft=factory("dora"), store="bfloat16").train()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        model(small.batch("vision")).logits.float().square().sum().backward()
    check_live(model)


def test_dropout_inside_a_layer_follows_the_mode():
    config = partial(peft.LoraConfig, r=R, lora_dropout=0.5)
    model = small.model("vision", peft=partial(HFPeft, config=config)).train()
    small.move(model, 0.3)
    batch = small.batch("vision")
    assert not torch.equal(model(batch).logits, model(batch).logits)
    model.eval()
    torch.testing.assert_close(model(batch).logits, model(batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": []}, r"peft\.targets is empty"),
        ({"targets": ["query"]}, r"role 'query' is unknown"),
        ({"config": partial(peft.LoraConfig, r=0)}, r"peft\.config: "),
        ({"config": partial(peft.LoraConfig, rank=4)}, r"peft\.config: .*rank"),
        ({"config": partial(peft.BOFTConfig, boft_block_size=5)}, r"peft\.config: "),
    ],
    ids=str,
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        small.model("vision", peft=partial(HFPeft, **({"config": partial(peft.LoraConfig, r=R)} | options)))


def test_bitfit_trains_all_biases_and_norm_tuning_all_norms():
    biases = {n for n in roles(small.model("vision", peft=BitFit)) if n.startswith("backbone.")}
    assert biases and all(n.endswith("bias") for n in biases)
    assert sum("blocks.1." in n for n in biases) == 6, "two norms, qkv, proj, fc1, fc2"
    norms = {n for n in roles(small.model("vision", peft=NormTuning)) if n.startswith("backbone.")}
    assert sum("blocks.1." in n for n in norms) == 4
    model = small.model("vision", "audio", "text", peft=NormTuning)
    # two norms a block, the last one of ViT and AST, one behind BERT's embeddings
    assert counts(model)["backbone"] == 2 * (32 * (2 * 3 + 1) + 24 * (2 * 4 + 1) + 16 * (2 * 2 + 1))


@pytest.mark.parametrize("method", [BitFit, NormTuning])
def test_a_backbone_without_any_is_refused(method):
    with pytest.raises(ConfigError, match="the backbone has no"):
        method([]).prepare(torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)))
