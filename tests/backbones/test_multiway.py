"""VLMo and BEiT-3: the originals' numbers, one sequence as two streams, strict loading."""

import logging
import math
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.interpolate import make_interp_spline
from torch import nn

from hmmoe.backbones.beit3 import BEiT3
from hmmoe.backbones.multiway import Multiway
from hmmoe.backbones.vlmo import VLMo, resize_bias
from hmmoe.errors import ConfigError, WeightsMissing
from hmmoe.model import AdaptedModel
from hmmoe.peft.lora import LoRA
from hmmoe.peft.policies import Full, LinearProbe
from hmmoe.trainable import check_live
from tests import small

ORIGINALS = Path(__file__).parent / "data" / "multiway.safetensors"
"""What the authors' own code gave, float32 on a CPU.

microsoft/unilm at 768a3c87 (vlmo/) and microsoft/torchscale at 4d1e0e82 (BEiT3), run outside this repository under
torch 2.15 with shims: the old rank_zero import, timm's registry, the text embedding of transformers 4.8.1 (positions
only where the configuration says absolute), fairscale. Sizes as below, weights from ``draw`` by checkpoint name,
inputs from ``batch``; VLMo's ``infer`` with image_token_type_idx 1 and 2, BEiT3's forward once per picture.
"""

SIZES = {"width": 32, "heads": 4, "size": 48, "vocabulary": 50}
MODELS = {
    "vlmo": partial(VLMo, **SIZES, depth=4, joint=2, length=8, images=2, table_length=12),
    "vlmo_plus": partial(
        VLMo,
        **SIZES,
        depth=4,
        joint=2,
        length=8,
        images=2,
        table_length=12,
        positions="absolute",
        layer_scale=None,
    ),
    "beit3": partial(BEiT3, **SIZES, depth=3, positions=20),
}


def draw(name: str, shape: torch.Size) -> torch.Tensor:
    """Weights that depend on the name alone: matrices keep the scale of their input, vectors lie near 0.1, 0.2 or 1."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(f"0:{name}".encode())))
    if len(shape) > 1:
        return noise * shape[1:].numel() ** -0.5
    return 0.1 * noise + float(name.endswith("weight")) + 0.2 * float("gamma" in name)


def filled(name: str, **options):
    model = MODELS[name](**options)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(draw(key, parameter.shape))
    return model


def batch(pictures: int = 2):
    generator = torch.Generator().manual_seed(0)
    keep = torch.arange(8) < torch.tensor([8, 5])[:, None]
    vision = torch.randn(2, pictures, 3, 48, 48, generator=generator)
    return {"vision": vision, "text": {"ids": torch.randint(1, 50, (2, 8), generator=generator) * keep, "keep": keep}}


def run(backbone, given):
    state = backbone.embed(given)
    for site in backbone.sites:
        state, _ = backbone.open(site, state)
        state = backbone.close(site, state, {})
    return backbone.finish(state)


def adapted(name, peft=None, *, head=None, reads=None, **options):
    torch.manual_seed(5)
    backbone = Multiway(filled(name), reads=reads)
    return AdaptedModel(backbone, peft or small.hmmoe(), head or small.head(), **options)


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_authors_code(name):
    expected = {k.split(".")[1]: v for k, v in load_file(ORIGINALS).items() if k.split(".")[0] == name}
    features = run(Multiway(filled(name)), batch())
    assert expected["text"].std() > 0.5
    for m in ("text", "vision"):
        torch.testing.assert_close(features[m].tokens, expected[m], rtol=0, atol=5e-6)
    pooled = features["text"].pooled if "pooled" in expected else features["vision"].pooled
    torch.testing.assert_close(pooled, expected.get("pooled", expected["vision"][:, :, 0]), rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", MODELS)
def test_autocast_stays_near(name):
    backbone = Multiway(filled(name))
    with torch.autocast("cpu", torch.bfloat16):
        low = run(backbone, batch())
    for m, features in run(backbone, batch()).items():
        assert (low[m].tokens.float() - features.tokens).abs().mean() < 0.03


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_weights_answer_like_float32_up_to_rounding_and_adapters_live(name):
    whole, half = Multiway(filled(name)), Multiway(filled(name), store="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        low = run(half, batch())
    for m, features in run(whole, batch()).items():
        assert (low[m].tokens.float() - features.tokens).abs().mean() < 0.05
    model = AdaptedModel(half, small.hmmoe(), small.head())
    small.move(model, scale=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch() | {"id": ["a", "b"]}).logits
    logits.float().square().sum().backward()
    check_live(model)


METHODS = {
    "linear_probe": LinearProbe,
    "full": Full,
    "lora": partial(LoRA, rank=2, targets=["q", "k", "v", "o", "fc1", "fc2"]),
    "hmmoe": small.hmmoe(),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_identity_at_start_and_alive(name, method):
    plain = run(Multiway(filled(name)), batch())
    model = adapted(name, METHODS[method])
    out = model(batch())
    for m in ("text", "vision"):
        torch.testing.assert_close(out.features[m].tokens, plain[m].tokens, rtol=0, atol=1e-6)
    out.logits.square().sum().backward()
    check_live(model)


@pytest.mark.parametrize("name", MODELS)
def test_padding_and_batch_mates_change_nothing(name):
    model = adapted(name).eval()
    small.move(model)
    full = model(batch())
    alone = {"vision": batch()["vision"][1:], "text": {k: v[1:, :5] for k, v in batch()["text"].items()}}
    alone = model(alone)
    torch.testing.assert_close(alone.logits[0], full.logits[1], rtol=1e-4, atol=1e-5)
    tokens = full.features["text"].tokens[1:, :, :5]
    torch.testing.assert_close(alone.features["text"].tokens, tokens, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_leaves_gradients_equal(name):
    grads = []
    for checkpointing in (False, True):
        model = adapted(name, checkpointing=checkpointing)
        small.move(model)
        model(batch()).logits.square().sum().backward()
        grads.append([p.grad for p in model.peft.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_several_pictures_are_as_many_passes(name):
    both = run(Multiway(filled(name)), batch())
    backbone = Multiway(filled(name, images=1) if name != "beit3" else filled(name))
    if name != "beit3":
        types = backbone.model.token_type_embeddings.weight
        types.copy_(draw("token_type_embeddings.weight", torch.Size((3, 32)))[:2])
    _, streams = backbone.open(backbone.sites[0], backbone.embed(batch()))
    assert {m: (s.rows, s.parts, s.out.shape) for m, s in streams.items()} == {
        "text": (2, 1, (4, 8, 32)),
        "vision": (2, 1, (4, 10, 32)),
    }
    for t in range(2):
        one = run(backbone, batch() | {"vision": batch()["vision"][:, t : t + 1]})
        same = [torch.allclose(both[m].tokens[:, t], one[m].tokens[:, 0], atol=1e-5) for m in ("text", "vision")]
        assert same == [name == "beit3" or t == 0] * 2, "a type of its own sets VLMo's second picture apart"


def test_boxes_of_one_type_may_be_any_number_and_types_must_suffice():
    assert run(Multiway(filled("vlmo", images=1)), batch(3))["text"].pooled.shape == (2, 3, 32)
    with pytest.raises(ConfigError, match=r"3 pictures, but backbone\.model\.images=2: set it to 3"):
        run(Multiway(filled("vlmo")), batch(3))


class OneModality(nn.Module):
    """Reads the pooled vectors of one modality, as the authors' VQA heads do."""

    def __init__(self, widths, modality):
        super().__init__()
        self.modality, self.out = modality, nn.Linear(widths[modality], 2)

    def forward(self, features):
        return self.out(features[self.modality].pooled)


@pytest.mark.parametrize("name", MODELS)
def test_a_head_that_reads_one_modality_leaves_nothing_dead(name):
    reads = "vision" if name == "beit3" else "text"
    for method in ("hmmoe", "lora"):
        model = adapted(name, METHODS[method], head=partial(OneModality, modality=reads), reads=[reads])
        assert [set(site.memory) for site in model.backbone.sites[-2:]] == [set(), {"text", "vision"} - {reads}]
        model(batch()).logits.square().sum().backward()
        check_live(model)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("missing", ["text", "vision"])
def test_a_missing_modality_is_no_crash_and_no_influence(name, missing):
    model = adapted(name).eval()
    small.move(model)
    given = batch()
    given["keep"] = {missing: torch.zeros(2, 2 if missing == "vision" else 1, dtype=torch.bool)}
    first = model(given)
    text = given["text"]
    changed = {"vision": torch.randn_like(given["vision"]), "text": text | {"ids": text["ids"].flip(1)}}
    given[missing] = changed[missing]
    other = "text" if missing == "vision" else "vision"
    second = model(given)
    torch.testing.assert_close(second.features[other].tokens, first.features[other].tokens, rtol=1e-5, atol=1e-6)
    keep = first.features[missing].keep
    assert first.logits.isfinite().all() and keep[..., 0].all() and not keep[..., 1:].any()


def test_a_pass_without_its_picture_does_not_count_beside_others():
    given = batch() | {"keep": {"vision": torch.tensor([[True, False], [False, False]])}}
    features = run(Multiway(filled("vlmo")), given)
    for m in ("text", "vision"):
        assert features[m].keep.any(-1).tolist() == [[True, False], [True, True]]


def test_nothing_shown_at_all_is_finite():
    given = batch() | {"keep": {"vision": torch.zeros(2, 2, dtype=torch.bool), "text": torch.zeros(2, 1).bool()}}
    features = run(Multiway(filled("vlmo")), given)
    assert features["text"].tokens.isfinite().all() and not features["text"].keep.any()


@pytest.mark.parametrize("name", MODELS)
def test_always_frozen_and_in_eval_mode(name):
    backbone = Multiway(filled(name))
    before = backbone.fingerprint()
    backbone.train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    run(backbone, batch())
    assert backbone.fingerprint() == before


@pytest.mark.parametrize("name", MODELS)
def test_linears_by_role(name):
    backbone = Multiway(filled(name))
    for role in ("q", "k", "v", "o", "fc1", "fc2"):
        parts = backbone.linears(role)
        branches = 2 * backbone.model.depth if name == "beit3" else (6 if role.startswith("fc") else 4)
        assert len(parts) == len(set(parts)) == branches
        for part in parts:
            rows = part.rows or (0, backbone.get_submodule(part.name).weight.shape[0])
            assert rows[1] - rows[0] == (128 if role == "fc1" else 32)
    with pytest.raises(ConfigError, match=r"'key' is unknown.*\['fc1', 'fc2', 'k'"):
        backbone.linears("key")


HEADS = {
    "mlm_score.bias": (50,),
    "itm_score.fc.bias": (2,),
    "itc_text_proj.fc.weight": (32, 32),
    "vqa_classifier.0.bias": (64,),
    "nlvr2_classifier.3.bias": (2,),
    "relative_position_index": (10, 10),
    "text_embeddings.position_ids": (1, 8),
    "text_embeddings.position_embeddings.weight": (12, 32),
    "transformer.blocks.2.mlp_text.fc1.weight": (128, 32),
    "transformer.blocks.3.norm2_imag.bias": (32,),
}


def vlmo_file(path: Path, *, prefix: str = "", under: str = "state_dict", drop: str = "", **options) -> dict:
    """A file as the authors write it: everything of pre-training in it, two picture-and-text types."""
    state = filled("vlmo", images=1, **options).state_dict() | {k: torch.ones(v) for k, v in HEADS.items()}
    state.pop(drop, None)
    torch.save({under: {prefix + k: v for k, v in state.items()}, "epoch": 3}, path)
    return state


@pytest.mark.parametrize(("prefix", "under"), [("", "state_dict"), ("module.", "module"), ("", "model")])
def test_a_published_vlmo_loads_key_by_key(tmp_path, caplog, prefix, under):
    state = vlmo_file(tmp_path / "vlmo.pt", prefix=prefix, under=under)
    with caplog.at_level(logging.INFO):
        loaded = MODELS["vlmo"](weights=str(tmp_path / "vlmo.pt")).state_dict()
    types = loaded.pop("token_type_embeddings.weight")
    torch.testing.assert_close(types, state["token_type_embeddings.weight"][[0, 1, 1]], rtol=0, atol=0)
    for key, value in loaded.items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    assert "3 tensors left out that the joint pass never reads" in caplog.text
    assert "token_type_embeddings.weight (2, 32) -> (3, 32)" in caplog.text


def test_vlmo_at_another_picture_size_resizes_its_table_and_says_so(tmp_path, caplog):
    state = vlmo_file(tmp_path / "vlmo.pt")
    with caplog.at_level(logging.INFO):
        loaded = MODELS["vlmo"](weights=str(tmp_path / "vlmo.pt"), size=80, length=6)
    table = state["relative_position_bias_table"]
    torch.testing.assert_close(loaded.relative_position_bias_table.data, resize_bias(table, 5, 5))
    assert "relative_position_bias_table (54, 16) -> (110, 16)" in caplog.text


def test_the_bias_table_is_a_cubic_spline_over_a_geometric_grid():
    """Against another route to the same interpolant: not-a-knot splines along one axis, then along the other."""
    side, grid = 27, 24
    table = torch.randn(side**2 + 4, 2)
    resized = resize_bias(table, side, grid)
    ratio = next(r for r in np.linspace(1.01, 1.5, 4_900_001) if (r**13 - 1) / (r - 1) >= grid - 1)
    steps = [(ratio**i - 1) / (ratio - 1) for i in range(1, 14)]
    known, wanted = np.array([-s for s in reversed(steps)] + [0] + steps), np.arange(1 - grid, grid)
    half = make_interp_spline(known, table[: side**2].reshape(side, side, 2).double().numpy(), axis=0)(wanted)
    expected = make_interp_spline(known, half, axis=1)(wanted).reshape(-1, 2)
    assert resized.shape == ((2 * grid - 1) ** 2 + 4, 2)
    np.testing.assert_allclose(resized[:-4].numpy(), expected, atol=5e-4)
    torch.testing.assert_close(resized[-4:], table[-4:], rtol=0, atol=0)
    middle = (len(resized) - 4) // 2
    torch.testing.assert_close(resized[middle], table[side**2 // 2], rtol=0, atol=1e-6)


def test_absolute_positions_are_cut_and_resized(tmp_path):
    big = filled("vlmo_plus", size=80)
    state = big.state_dict() | {"text_embeddings.position_embeddings.weight": torch.randn(12, 32)}
    save_file(state, tmp_path / "plus.safetensors")
    loaded = MODELS["vlmo_plus"](weights=str(tmp_path / "plus.safetensors")).state_dict()
    words = state["text_embeddings.position_embeddings.weight"][:8]
    torch.testing.assert_close(loaded["text_embeddings.position_embeddings.weight"], words, rtol=0, atol=0)
    stored, sized = state["transformer.pos_embed"][0], loaded["transformer.pos_embed"][0]
    torch.testing.assert_close(sized[0], stored[0], rtol=0, atol=0)
    torch.testing.assert_close(sized[5], stored[1:].unflatten(0, (5, 5))[2, 2], msg="the middle stays the middle")


def test_a_published_beit3_loads_and_its_positions_are_resized(tmp_path, caplog):
    state = filled("beit3", size=80).state_dict()
    extra = {"mlm_head.bias": torch.ones(50), "mim_head.bias": torch.ones(5), "logit_scale": torch.ones(())}
    extra["beit3.vision_embed.mask_token"] = torch.zeros(1, 1, 32)
    torch.save({"model": {f"beit3.{k}": v for k, v in state.items()} | extra}, tmp_path / "beit3.pth")
    with caplog.at_level(logging.INFO):
        loaded = MODELS["beit3"](weights=str(tmp_path / "beit3.pth")).state_dict()
    assert "left out beside beit3.: logit_scale, mim_head, mlm_head" in caplog.text
    assert "encoder.embed_positions.A.weight (28, 32) -> (12, 32)" in caplog.text
    key = "encoder.embed_positions.A.weight"
    torch.testing.assert_close(loaded[key][:3], state[key][:3], rtol=0, atol=0)
    torch.testing.assert_close(loaded[key][7], state[key][3:].unflatten(0, (5, 5))[2, 2])
    for other in loaded.keys() - {key}:
        torch.testing.assert_close(loaded[other], state[other], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drop": "transformer.norm.weight"}, r"1 missing: transformer\.norm\.weight"),
        ({"depth": 3}, r"missing: transformer\.blocks\.3"),
        ({"vocabulary": 40}, r"word_embeddings\.weight \(40, 32\) instead of \(50, 32\)"),
    ],
)
def test_a_vlmo_file_that_does_not_fit_is_named(tmp_path, options, message):
    vlmo_file(tmp_path / "vlmo.pt", **options)
    with pytest.raises(ConfigError, match=message):
        MODELS["vlmo"](weights=str(tmp_path / "vlmo.pt"))


def test_a_file_with_other_objects_in_it_is_named(tmp_path):
    torch.save({"state_dict": filled("vlmo").state_dict(), "config": Path("old")}, tmp_path / "old.ckpt")
    with pytest.raises(ConfigError, match=r"old\.ckpt is no torch file, or holds more than tensors"):
        MODELS["vlmo"](weights=str(tmp_path / "old.ckpt"))


def test_a_file_of_another_model_is_named(tmp_path):
    small.bert().library.save_pretrained(tmp_path)
    for name in ("vlmo", "beit3"):
        with pytest.raises(ConfigError, match=r"missing.*unexpected.*correct the backbone's `weights`"):
            MODELS[name](weights=str(tmp_path / "model.safetensors"))
        with pytest.raises(WeightsMissing, match="no weights at"):
            MODELS[name](weights=str(tmp_path / "absent.pt"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vlmo", {"heads": 5}, r"width=32 must be a multiple of heads=5"),
        ("vlmo", {"size": 50}, r"size=50 one of 16"),
        ("vlmo", {"joint": 9}, r"joint=9 lie in 0\.\.depth=4"),
        ("vlmo", {"length": 13}, r"length at most table_length=12"),
        ("vlmo", {"positions": "rotary"}, r"relative or absolute"),
        ("beit3", {"size": 50}, r"size=50 one of 16"),
    ],
)
def test_wrong_sizes_are_named(name, change, message, unchecked):
    with pytest.raises(ConfigError, match=message):
        MODELS[name](**change)


def test_a_wrong_batch_and_wrong_reads_are_named():
    model = filled("vlmo")
    with pytest.raises(ConfigError, match=r"reads must name some of"):
        Multiway(model, reads=["sound"])
    with pytest.raises(ConfigError, match=r"inputs\.vision asks for .*64.*\(48, 48\)"):
        Multiway(model, inputs={"vision": {"size": 64}}).embed(batch())
    with pytest.raises(ConfigError, match=r"inputs\.text asks for .*10.*: 8\}"):
        Multiway(model, inputs={"text": {"length": 10}}).embed(batch())
    with pytest.raises(ConfigError, match=r"must deliver 'text'"):
        Multiway(model).embed({"vision": batch()["vision"]})


COMPILE = """
import torch
from tests import small
from tests.backbones.test_multiway import adapted, batch
torch.set_num_threads(1)
for name in ("vlmo", "beit3"):
    model = adapted(name).eval()
    small.move(model)
    compiled = torch.compile(lambda b: model(b).logits, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch()), model(batch()).logits)
"""


@pytest.mark.slow
def test_compiles_into_one_graph():
    """In a process of its own: the shape checks of the tests are what dynamo can't trace."""
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_beit3s_sentencepiece_file_becomes_a_tokenizer_folder(tmp_path):
    """Ids as fairseq counts them: one more than the file's, after its own four special tokens."""
    from transformers.convert_slow_tokenizer import import_protobuf

    from datamodules.media.text import Text
    from scripts.beit3_tokenizer import convert

    model = import_protobuf().ModelProto()
    for piece in ("<unk>", "<s>", "</s>", "\u2581a", "\u2581red", "\u2581box", "es"):
        model.pieces.add(piece=piece, score=-math.log(len(model.pieces) + 2))
    (tmp_path / "beit3.spm").write_bytes(model.SerializeToString())
    assert len(convert(tmp_path / "beit3.spm", tmp_path / "beit3")) == 7 + 2
    ids, keep = Text(tokenizer=tmp_path / "beit3", length=8).encode(["a red boxes", "box ?"])
    assert ids[0].tolist() == [0, 4, 5, 6, 7, 2, 1, 1] and keep[0].sum() == 6
    assert ids[1, :2].tolist() == [0, 6] and 3 in ids[1].tolist()
