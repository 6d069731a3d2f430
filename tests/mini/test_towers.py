"""The mini towers that come with the package: they fit their classes, stay small, and read any word."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datamodules.media.text import Text
from hmmoe.assets import locate
from hmmoe.backbones.bert_cross import BertCross
from hmmoe.backbones.weights import read_state
from hmmoe.runtime.build import part
from scripts.pretrain_mini import STEPS
from scripts.pretraining.vlmo import joint_pass
from scripts.probing.towers import WHERE, build, pooled
from tests.runs import composed

MINI = Path(locate("mini:"))
MEGABYTE = 10**6
INPUT = {
    "vit": {"vision": (2, 1, 3, 96, 96)},
    "swinv2": {"vision": (2, 1, 3, 96, 96), "audio": (2, 1, 1, 96, 96)},
    "ast": {"audio": (2, 1, 1, 64, 96)},
    "valor_audio": {"audio": (2, 1, 1, 64, 96)},
    "swin3d": {"vision": (2, 1, 3, 48, 48)},
}


def test_every_tower_is_there_and_all_are_small():
    files = sorted(MINI.rglob("*.safetensors"))
    assert {path.parent.name for path in files} == set(STEPS) == {*WHERE, "vlmo"}
    assert sum(path.stat().st_size for path in files) < 14 * MEGABYTE


@pytest.mark.parametrize("name", WHERE)
def test_a_tower_holds_exactly_the_stored_weights(name: str):
    """Strictly both ways: nothing missing, nothing left over, every value as stored, in float32."""
    encoder = build(name).trained
    stored, own = read_state(f"mini:{name}/model.safetensors"), encoder.library.state_dict()
    assert stored.keys() == own.keys()
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    for key, tensor in own.items():
        assert tensor.dtype != torch.float16
        assert torch.equal(tensor, stored[key].to(tensor.dtype)), key


@pytest.mark.parametrize("name", INPUT)
def test_a_tower_reads_what_its_configuration_says(name: str):
    tower = build(name)
    for modality, shape in INPUT[name].items():
        spec, value = tower.inputs[modality], torch.randn(shape)
        assert shape[-1] == (spec["size"] if modality == "vision" else spec["frames"])
        assert modality == "vision" or shape[-2] == spec["mels"]
        trained, fresh = (pooled(encoder, modality, value) for encoder in (tower.trained, tower.fresh))
        assert trained.shape == fresh.shape == (2, tower.trained.widths[-1])
        assert trained.isfinite().all() and not torch.allclose(trained, fresh)


def test_the_joint_pass_is_that_of_the_backbone():
    """What VLMo was pretrained as is what a run computes; and the stored weights are in it."""
    with composed("experiment=vqav2_hmmoe", "scale=mini") as cfg:
        backbone = part(cfg.backbone, "backbone")
    stored = read_state("mini:vlmo/model.safetensors")
    assert stored.keys() == backbone.model.state_dict().keys()
    ids, keep = Text(**backbone.inputs["text"]).encode(["there is a yellow block", "there is a black item"])
    pictures = torch.randn(2, 1, 3, 96, 96)
    state = backbone.embed({"vision": pictures, "text": {"ids": ids, "keep": keep}})
    for site in backbone.sites:
        state, _ = backbone.open(site, state)
        state = backbone.close(site, state, {})
    tokens = joint_pass(backbone.model, pictures[:, 0], ids)
    for modality, features in backbone.finish(state).items():
        torch.testing.assert_close(features.tokens[:, 0], tokens[modality])


def test_valors_text_starts_as_the_plain_bert():
    """All but the attention to a clip, and the type of prompts, which is that of the first sentence."""
    plain, valor = read_state("mini:bert/model.safetensors"), BertCross(weights="mini:bert", answer=(2, 4))
    own = valor.library.state_dict()
    types = "embeddings.token_type_embeddings.weight"
    assert {key for key in own if "crossattention" not in key} == set(plain)
    assert all(torch.equal(own[key], plain[key].float()) for key in plain if key != types)
    assert torch.equal(own[types], plain[types][[0, 1, 0]].float())
    silent = BertCross(weights="mini:bert", cross=False).library.state_dict()
    assert silent.keys() == plain.keys()


def test_the_text_tower_reads_sentences_and_ignores_padding():
    encoder, _, inputs = build("bert")
    ids, keep = Text(**inputs["text"]).encode(["there is a yellow block", "there is a black item touching the wall."])
    assert ids.shape == (2, inputs["text"]["length"])
    whole = pooled(encoder, "text", {"ids": ids, "keep": keep})
    cut = pooled(encoder, "text", {"ids": ids[:, :16], "keep": keep[:, :16]})
    torch.testing.assert_close(whole, cut)


def test_no_word_is_unknown_to_the_tokenizer():
    tokenizer = Text(tokenizer="mini:bert", length=64).tokenizer
    words = tokenizer.tokenize("There are Zyxqw-thingummies (7%) & a_violin, isn't it? #@~`|{}")
    assert "[UNK]" not in words and {"there", "are", "z", "##y", "##x", "7", "%"} <= set(words)
    ascii_letters = "".join(chr(code) for code in range(33, 127))
    assert tokenizer.unk_token_id not in tokenizer(ascii_letters)["input_ids"]
    assert tokenizer.tokenize("touching the wall") == ["touching", "the", "wall"]


def test_the_random_twin_hangs_on_its_seed():
    def digest(seed: int) -> str:
        weights = build("ast", seed=seed).fresh.state_dict().values()
        return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights)).hexdigest()

    assert digest(0) == digest(0) != digest(1)


def test_stored_weights_are_finite():
    for path in MINI.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path
