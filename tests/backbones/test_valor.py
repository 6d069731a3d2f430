"""VALOR: equal to recorded numbers of the original, who is updated where, what memory means, loading, missing sound."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from hmmoe.errors import ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.peft.bottleneck import SeriesAdapter
from hmmoe.peft.lora import LoRA
from hmmoe.peft.policies import LinearProbe
from hmmoe.trainable import check_live
from hmmoe.types import Stream
from tests import small
from tests.backbones import valor_small

RECORDED = json.loads((Path(__file__).parent / "data" / "valor.json").read_text())
"""Shapes of a small original's weights, and some of its outputs: docs/backbones_valor.md."""


def checkpoint(variant: str) -> dict[str, torch.Tensor]:
    return valor_small.complete(valor_small.drawn(RECORDED[variant]["shapes"]))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """A file in the released layout per variant."""
    folder = tmp_path_factory.mktemp("valor")
    for variant in RECORDED:
        torch.save(checkpoint(variant), folder / f"{variant}.pt")
    return {variant: str(folder / f"{variant}.pt") for variant in RECORDED}


def run(backbone, batch):
    """Features without a method, and the last streams."""
    state = backbone.embed(batch)
    for site in backbone.sites:
        state, streams = backbone.open(site, state)
        state = backbone.close(site, state, {})
    return backbone.finish(state), streams


def agrees(variant: str, part: str, ours: torch.Tensor) -> None:
    expected = torch.tensor(RECORDED[variant]["outputs"][part])
    flat = ours.flatten()
    assert expected.std() > 0.1
    torch.testing.assert_close(flat[:: max(1, len(flat) // 9)][:10], expected, rtol=0, atol=5e-6, msg=part)


def adapted(variant: str = "base", *, peft=None, checkpointing: bool = False, **options) -> AdaptedModel:
    backbone = valor_small.valor(variant, **options)
    small.perturb(backbone)
    torch.manual_seed(0)
    return AdaptedModel(backbone, peft or small.hmmoe(), small.head(), checkpointing=checkpointing)


@pytest.mark.parametrize("variant", RECORDED)
def test_question_answering_is_the_originals(variant, files):
    prompts, batch = variant == "large", valor_small.batch(variant)
    backbone = valor_small.valor(variant, weights=files[variant], words=True, prompts=prompts)
    features, streams = run(backbone, batch)
    agrees(variant, "vision", features["vision"].tokens)
    agrees(variant, "audio", features["audio"].tokens)
    agrees(variant, "vision memory", streams["vision"].out)
    agrees(variant, "audio memory", streams["audio"].out)
    agrees(variant, "answer and question", features["text"].tokens[:, 0])
    agrees(variant, "words", backbone.predict(features["text"].tokens[:, 0, : valor_small.ANSWER]))
    batch["keep"] = {"audio": torch.zeros(2, 2, dtype=torch.bool)}
    agrees(variant, "no audio", run(backbone, batch)[0]["text"].tokens[:, 0])


@pytest.mark.parametrize("variant", RECORDED)
def test_dual_encoder_is_the_originals(variant, files):
    backbone = valor_small.valor(variant, weights=files[variant], cross=False, prompts=variant == "large")
    batch = valor_small.batch(variant)
    del batch["text"]["answer"]
    features, streams = run(backbone, batch)
    assert set(streams) == {"text"}
    agrees(variant, "contrast text", features["text"].tokens[:, 0])
    agrees(variant, "contrast vision", features["vision"].pooled)
    agrees(variant, "contrast audio", features["audio"].pooled)
    torch.testing.assert_close(features["text"].pooled, features["text"].tokens[:, :, 0])


def test_sites_say_who_is_updated_where():
    backbone = valor_small.valor()
    assert [tuple(site.widths) for site in backbone.sites[:2]] == [("vision", "audio")] * 2
    assert [site.memory for site in backbone.sites[2:]] == [frozenset({"vision", "audio"})] * 2
    assert [site.index for site in backbone.sites] == list(range(4))
    assert len({site.label for site in backbone.sites}) == 4
    dual = valor_small.valor(cross=False)
    assert [set(site.widths) for site in dual.sites] == [{"vision", "audio"}] * 2 + [{"text"}] * 2
    assert not any(site.memory for site in dual.sites)
    assert dual.widths == {"vision": 10, "audio": 10, "text": 10}


@pytest.mark.parametrize("cross", [True, False])
def test_a_fresh_method_is_the_identity_and_every_tensor_lives(cross):
    model, batch = adapted(cross=cross), valor_small.batch()
    del batch["text"]["answer"]
    plain, _ = run(model.backbone, batch)
    out = model(batch)
    for modality, feature in plain.items():
        torch.testing.assert_close(out.features[modality].tokens, feature.tokens, rtol=0, atol=0)
    updated = {label for label, modality in out.routing if modality == "text"}
    assert updated == {"site02", "site03"}
    assert {m for label, m in out.routing if label in updated} == {"text"}
    small.move(model)
    model(batch).logits.square().sum().backward()
    check_live(model)
    assert all(p.grad.any() for name, p in model.peft.named_parameters() if ".up." in name or ".down." in name)


@pytest.mark.parametrize("peft", [SeriesAdapter, partial(LoRA, targets=["q", "v", "fc1"]), LinearProbe])
def test_other_methods_live(peft):
    model = adapted(peft=peft)
    model(valor_small.batch()).logits.square().sum().backward()
    check_live(model)


def test_single_experts_leave_the_memory_alone():
    model = adapted(peft=small.hmmoe(groups={"single": {}}))
    assert set(model.peft.banks["site03"].down) == {"text"}
    assert set(model.peft.banks["site00"].down) == {"vision", "audio"}
    model(valor_small.batch()).logits.sum().backward()
    check_live(model)


def test_executors_agree_with_memory():
    outs = []
    for executor in ("wide", "grouped", "loop"):
        model = adapted(peft=small.hmmoe(executor=executor)).double().eval()
        small.move(model)
        outs.append(model(small.as_dtype(valor_small.batch(), torch.float64)).logits)
    torch.testing.assert_close(outs, outs[-1:] * 3, rtol=0, atol=1e-10)


def test_memory_stays_what_it_is():
    model, batch = adapted().eval(), valor_small.batch()
    small.move(model)
    state, seen = model.backbone.embed(batch), []
    for site in model.backbone.sites:
        state, streams = model.backbone.open(site, state)
        if site.memory:
            assert all(streams[m].memory for m in site.memory) and not streams["text"].memory
            seen.append(streams["vision"].out)
            with pytest.raises(ConfigError, match=r"no method may update \['vision'\], the memory of site0"):
                model.backbone.close(site, state, {"vision": streams["vision"].out})
        deltas, _ = model.peft(site, streams)
        assert set(deltas) == set(site.widths) - site.memory
        state = model.backbone.close(site, state, {m: streams[m].out + d for m, d in deltas.items()})
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


def test_a_delta_in_the_towers_reaches_the_text():
    model, batch = adapted().eval(), valor_small.batch()
    before = model(batch).features["text"].pooled
    small.move(model.peft.banks["site00"])
    assert (model(batch).features["text"].pooled - before).abs().max() > 1e-4


def test_question_is_blind_to_the_answer_and_slots_to_later_ones():
    backbone, batch = valor_small.valor(), valor_small.batch()
    small.perturb(backbone, 0.1)
    first = run(backbone, batch)[0]["text"].tokens[:, 0]
    batch["text"]["answer"][:, 2] = 59
    second = run(backbone, batch)[0]["text"].tokens[:, 0]
    changed = (first - second).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False, False, True, True] + [False] * valor_small.LENGTH


def test_answer_slots_are_cls_and_mask_and_the_mask_is_pooled():
    backbone, batch = valor_small.valor(), valor_small.batch()
    slots = torch.tensor([[2, 4]] * 2)
    told = run(backbone, batch | {"text": batch["text"] | {"answer": slots}})[0]["text"]
    del batch["text"]["answer"]
    text = run(backbone, batch)[0]["text"]
    torch.testing.assert_close(text.tokens, told.tokens, rtol=0, atol=0)
    torch.testing.assert_close(text.pooled, text.tokens[:, :, 1], rtol=0, atol=0)


@pytest.mark.parametrize("cross", [True, False])
def test_padding_and_batch_mates_change_nothing(cross):
    model, batch = adapted(cross=cross).eval(), valor_small.batch()
    small.move(model)
    del batch["text"]["answer"]
    full = model(batch).logits
    alone = {"id": ["b"], "text": {k: v[1:, :4] for k, v in batch["text"].items()}}
    alone |= {m: batch[m][1:] for m in ("vision", "audio")}
    torch.testing.assert_close(model(alone).logits[0], full[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cross", [True, False])
def test_missing_sound_has_no_influence(cross):
    model, batch = adapted(cross=cross).eval(), valor_small.batch()
    small.move(model)
    del batch["text"]["answer"]
    batch["audio"][1] = 0
    batch["keep"] = {"audio": torch.tensor([[True, True], [False, False]])}
    first = model(batch)
    batch["audio"][1] = torch.randn_like(batch["audio"][1])
    second = model(batch)
    assert first.logits.isfinite().all()
    for m in ("vision", "text"):
        torch.testing.assert_close(first.features[m].pooled, second.features[m].pooled, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first.logits, second.logits, rtol=1e-5, atol=1e-6)


def test_everything_missing_is_no_crash():
    model, batch = adapted(), valor_small.batch()
    del batch["text"]["answer"]
    batch["keep"] = {"vision": torch.zeros(2, 3, dtype=torch.bool), "audio": torch.zeros(2, 2, dtype=torch.bool)}
    batch["keep"]["text"] = torch.zeros(2, 1, dtype=torch.bool)
    model(batch).logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_without_an_audio_tower():
    model, batch = adapted(audio=False), valor_small.batch()
    del batch["audio"]
    assert model.backbone.modalities == ("vision", "text")
    model(batch).logits.sum().backward()
    check_live(model)


def test_checkpointed_gradients_are_equal():
    batch, grads = valor_small.batch(), []
    for checkpointing in (False, True):
        model = adapted(checkpointing=checkpointing)
        small.move(model)
        model(batch).logits.square().sum().backward()
        grads.append([p.grad for p in model.peft.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-6)


def test_frozen_and_in_eval_mode_buffers_included():
    model, batch = adapted(), valor_small.batch()
    model.train()
    small.move(model)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(batch).logits.square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.backbone.state_dict(), before, rtol=0, atol=0)
    assert not any(module.training for module in model.backbone.modules())


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("store", ["float32", "bfloat16"])
def test_runs_under_bf16_autocast(cross, store):
    batch = valor_small.batch()
    del batch["text"]["answer"]
    batch["keep"] = {"audio": torch.tensor([[True, False], [False, False]])}
    exact = adapted(cross=cross).eval()
    rough = AdaptedModel(valor_small.valor(cross=cross, store=store), small.hmmoe(), small.head()).eval()
    rough.load_state_dict(exact.state_dict())
    for model in (exact, rough):
        small.move(model, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = rough(batch).logits
    torch.testing.assert_close(logits.float(), exact(batch).logits, rtol=0.1, atol=0.05)


def test_later_frames_share_the_last_trained_embedding(files):
    stored = checkpoint("base")["video_frame_embedding"]
    plain = valor_small.valor(weights=files["base"]).bridges["vision"].frame_embedding
    torch.testing.assert_close(plain, stored, rtol=0, atol=0)
    frames = (
        valor_small.valor(weights=files["base"], trained={"vision": 2, "audio": 1}).bridges["vision"].frame_embedding
    )
    torch.testing.assert_close(frames[:, :2], stored[:, :2], rtol=0, atol=0)
    torch.testing.assert_close(frames[:, 2:], stored[:, 1:2].expand(-1, 4, -1), rtol=0, atol=0)


WRONG = {
    r"1 missing: bridges\.audio\.type_embedding": lambda s: s.pop("audio_type_embeddings"),
    r"1 missing: text\.library\.encoder\.layer\.1\.crossattention\.self\.key\.bias": lambda s: s.pop(
        "multimodal_encoder.encoder.layer.1.cross_attn.cross.key.bias"
    ),
    r"1 missing: lower\.towers\.audio\.library\.blocks\.0\.attn\.qkv\.bias": lambda s: s.pop(
        "audio_encoder.layer.0.attention.linears.1.bias"
    ),
    r"1 unexpected: third_encoder\.x": lambda s: s.update({"third_encoder.x": torch.zeros(1)}),
    r"1 of another shape: bridges\.vision\.frame_embedding \(1, 8, 32\) instead of \(1, 6, 32\)": lambda s: s.update(
        {"video_frame_embedding": torch.zeros(1, 8, 32)}
    ),
    r"has a text encoder of its own": lambda s: s.update({"txt_encoder.embeddings.LayerNorm.bias": torch.zeros(32)}),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_file_is_named(message, tmp_path):
    state = checkpoint("base")
    for name in [name for name in state if name.startswith("txt_encoder.")]:
        del state[name]
    WRONG[message](state)
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "wrong.pt")
    with pytest.raises(ConfigError, match=message):
        valor_small.valor(weights=str(tmp_path / "wrong.pt"))


def test_the_other_variants_file_is_named(files):
    with pytest.raises(ConfigError, match=r"has clip_model\.visual\.\* \(expected video_encoder\.\*\).*valor_large"):
        valor_small.valor("base", weights=files["large"])
    with pytest.raises(ConfigError, match=r"has video_encoder\.\* \(expected clip_model\.visual\.\*\)"):
        valor_small.valor("large", weights=files["base"])


def test_wrong_compositions_are_named():
    with pytest.raises(ConfigError, match=r"towers of VALOR are vision, audio"):
        type(valor_small.valor())({"vision": small.vit(), "text": small.bert()})
    with pytest.raises(ConfigError, match=r"words=true needs .*cross=true"):
        valor_small.valor(words=True, cross=False)
    with pytest.raises(ConfigError, match="7 frames or slices of a sample, but VALOR has embeddings for 6"):
        run(valor_small.valor(), valor_small.batch(frames=7))


def test_inputs_are_checked():
    backbone = valor_small.valor(inputs={"text": {"length": 9}, "vision": {"size": 32}})
    with pytest.raises(ConfigError, match=r"inputs\.text asks for .*9.*: 7\}"):
        backbone.embed(valor_small.batch())


def test_granularity_counts_frames_of_the_memory():
    _, streams = run(valor_small.valor(), valor_small.batch())
    assert isinstance(streams["vision"], Stream)
    assert (streams["vision"].parts, streams["audio"].parts, streams["text"].parts) == (3, 2, 1)


COMPILE = """
import torch
from tests import small
from tests.backbones import test_valor, valor_small
torch.set_num_threads(1)
model = test_valor.adapted().eval()
small.move(model)
batch = valor_small.batch()
batch.pop("id", None)
compiled = torch.compile(lambda b: model(b).logits, backend="aot_eager", fullgraph=True)
torch.testing.assert_close(compiled(batch), model(batch).logits)
"""


@pytest.mark.slow
def test_compiles_into_one_graph():
    """In a process of its own: the shape checks of the tests are what dynamo can't trace."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
