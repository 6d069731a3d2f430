"""Lockstep: schedules, layouts, freezing, checkpointing, masks."""

import subprocess
import sys

import pytest
import torch

from hmmoe.backbones.towers import Towers, meeting_blocks
from hmmoe.errors import ConfigError
from hmmoe.peft.policies import LinearProbe
from tests import small
from tests.small import perturb


def test_schedule_gives_dg_scts_pairing():
    blocks = meeting_blocks({"vision": (2, 2, 18, 2), "audio": (2, 2, 6, 2)})
    assert blocks["vision"] == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 22, 23]
    assert blocks["audio"] == list(range(12))


def test_towers_of_unequal_stages_meet_over_the_whole_depth():
    assert meeting_blocks({"vision": (2, 2), "text": (2,)}) == {"vision": [1, 3], "text": [0, 1]}


@pytest.mark.parametrize("meet", ["segment", "sample"])
def test_without_adapters_every_tower_is_itself(meet):
    backbone, batch = small.towers("vision", "audio", meet=meet), small.batch("vision", "audio")
    state = backbone.embed(batch)
    for site in backbone.sites:
        state, streams = backbone.open(site, state)
        rows = 6 if meet == "segment" else 2
        assert streams["vision"].out.shape == (rows, 6 // rows * 5, 32)
        state = backbone.close(site, state, {m: s.out for m, s in streams.items()})
    features = backbone.finish(state)
    vision, audio = backbone.tower("vision").library, backbone.tower("audio").library
    expected = vision.forward_features(batch["vision"].flatten(0, 1))
    torch.testing.assert_close(features["vision"].tokens.flatten(0, 1), expected, rtol=0, atol=0)
    expected = audio(batch["audio"].flatten(0, 1).squeeze(1).transpose(1, 2)).pooler_output
    torch.testing.assert_close(features["audio"].pooled.flatten(0, 1), expected)


def test_a_shared_tower_serves_two_modalities_and_counts_once():
    backbone = Towers({"vision": small.swin()}, shared={"audio": "vision"}, meet="segment")
    perturb(backbone)
    assert backbone.modalities == ("vision", "audio")
    assert backbone.tower("audio") is backbone.tower("vision")
    assert sum(p.numel() for p in backbone.parameters()) == sum(p.numel() for p in small.swin().parameters())


def test_always_frozen_and_in_eval_mode():
    backbone = small.towers("vision", "text")
    assert not any(p.requires_grad for p in backbone.parameters())
    backbone.train()
    assert not any(module.training for module in backbone.modules())


def test_fingerprint_follows_weights_only():
    one, two = small.towers("vision"), small.towers("vision")
    assert one.fingerprint() == two.fingerprint()
    with torch.no_grad():
        two.tower("vision").library.cls_token[0, 0, 0] += 1e-3
    assert one.fingerprint() != two.fingerprint()


def test_checkpointing_leaves_gradients_equal():
    batch = small.batch("vision", "audio", "text")
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = small.model("vision", "audio", "text", checkpointing=checkpointing)
        small.move(model)
        model(batch).logits.square().sum().backward()
        grads.append([p.grad for p in model.peft.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-6)


def test_padding_and_batch_mates_change_nothing():
    torch.manual_seed(0)
    model = small.model("vision", "text").eval()
    small.move(model)
    batch = small.batch("vision", "text")
    full = model(batch).logits
    alone = {"id": ["b"], "vision": batch["vision"][1:], "text": {k: v[1:, :5] for k, v in batch["text"].items()}}
    torch.testing.assert_close(model(alone).logits[0], full[1], rtol=1e-4, atol=1e-5)


def test_a_missing_modality_is_no_crash_and_no_influence():
    model = small.model("vision", "audio", "text").eval()
    small.move(model)
    batch = small.batch("vision", "audio", "text")
    batch["keep"] = {"audio": torch.zeros(2, 3, dtype=torch.bool)}
    first = model(batch)
    assert first.logits.isfinite().all()
    batch["audio"] = torch.randn_like(batch["audio"])
    vision = [out.features["vision"].pooled for out in (first, model(batch))]
    torch.testing.assert_close(*vision, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meet": "frame"}, "meet must be segment or sample"),
        ({"shared": {"audio": "sound"}}, r"shared names \['sound'\]"),
        ({"schedule": {"vision": [0, 1], "text": [0]}}, "one list of equal length"),
        ({"schedule": {"vision": [0, 7], "text": [0, 1]}}, r"vision must rise within 0\.\.2"),
    ],
)
def test_wrong_settings_are_named(change, message, unchecked):
    with pytest.raises(ConfigError, match=message):
        small.towers("vision", "text", **change)


def test_a_batch_of_the_wrong_size_or_without_a_modality_is_named():
    backbone = small.towers("vision", "text", inputs={"vision": {"size": 48}})
    with pytest.raises(ConfigError, match=r"inputs\.vision asks for .*48.*\(32, 32\)"):
        backbone.embed(small.batch("vision", "text"))
    with pytest.raises(ConfigError, match="must deliver 'text'"):
        small.towers("vision", "text").embed(small.batch("vision"))
    mixed = small.batch("vision", segments=3) | small.batch("audio", segments=2)
    with pytest.raises(ConfigError, match="equal numbers of segments"):
        small.towers("vision", "audio", meet="segment").embed(mixed)


COMPILE = """
import sys
import torch
from hmmoe.backbones.towers import Towers
from hmmoe.model import AdaptedModel
from tests import small
torch.set_num_threads(1)
names = sys.argv[1].split(",")
if names == ["shared"]:
    names = ["vision", "audio"]
    backbone = Towers({"vision": small.swin()}, shared={"audio": "vision"}, meet="segment")
    small.perturb(backbone)
    model = AdaptedModel(backbone, small.hmmoe(), small.head()).eval()
    batch = small.batch("vision") | {"audio": torch.randn(2, 3, 1, 32, 32)}
else:
    model, batch = small.model(*names).eval(), small.batch(*names)
small.move(model)
del batch["id"]
compiled = torch.compile(lambda b: model(b).logits, backend="aot_eager", fullgraph=True)
torch.testing.assert_close(compiled(batch), model(batch).logits)
"""


@pytest.mark.slow
@pytest.mark.parametrize("host", ["vision,text", "vision,audio", "vision,audio,text", "shared"])
def test_compiles_into_one_graph(host):
    """In a process of its own: the shape checks of the tests are what dynamo can't trace."""
    done = subprocess.run([sys.executable, "-c", COMPILE, host], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_probe_leaves_no_graph_in_the_backbone():
    model = small.model("vision", "text", peft=LinearProbe)
    out = model(small.batch("vision", "text"))
    assert not out.features["vision"].tokens.requires_grad
