"""Published formats into every tower: what fits loads, what was resized is said, what does not fit is named."""

import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from hmmoe.backbones.ast import AST
from hmmoe.backbones.bert import Bert, Roberta
from hmmoe.backbones.clip import ClipText, ClipVision
from hmmoe.backbones.hf_vit import HfViT
from hmmoe.backbones.siglip import SiglipText, SiglipVision
from hmmoe.backbones.timm_swin import TimmSwin
from hmmoe.backbones.timm_vit import TimmViT
from hmmoe.backbones.whisper import Whisper
from hmmoe.errors import ConfigError, WeightsMissing
from tests import small
from tests.backbones.families import FAMILIES, PIXELS, WORDS, run
from tests.small import perturb

WHOLE = {
    "clip": (CLIPModel, CLIPConfig, ClipVision, ClipText),
    "siglip": (SiglipModel, SiglipConfig, SiglipVision, SiglipText),
}


@pytest.mark.parametrize("family", WHOLE)
def test_two_towers_come_out_of_one_folder(family, tmp_path):
    kind, config, vision, text = WHOLE[family]
    whole = kind(config(text_config=WORDS, vision_config=PIXELS))
    perturb(whole)
    whole.save_pretrained(tmp_path)
    for tower, part in ((vision(weights=str(tmp_path)), "vision_model"), (text(weights=str(tmp_path)), "text_model")):
        torch.testing.assert_close(tower.library.state_dict(), getattr(whole, part).state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_tower_publishes_it_reads_back(family, tmp_path):
    tower = FAMILIES[family].build()
    perturb(tower, 0.1)
    again = FAMILIES[family].build(weights=str(tower.publish(tmp_path / "tower")))
    torch.testing.assert_close(again.state_dict(), tower.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("family", [f for f in FAMILIES if hasattr(FAMILIES[f].build().library, "config")])
def test_a_tower_told_its_shape_needs_no_folder(family):
    tower = FAMILIES[family].build()
    again = type(tower)(**tower.shape())
    again.load_state_dict(tower.state_dict())
    assert again.library.config.to_diff_dict() == tower.library.config.to_diff_dict()


@pytest.mark.parametrize(("vision", "prefix"), [(ClipVision, 1), (SiglipVision, 0), (HfViT, 1)])
def test_positions_of_another_picture_size_are_interpolated_and_said_so(vision, prefix, tmp_path, caplog):
    source = vision(**PIXELS)
    perturb(source, scale=1.0)
    source.library.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO):
        larger = vision(weights=str(tmp_path), image_size=64)
    assert "position embeddings resized from 2 x 2 to 4 x 4" in caplog.text
    key = next(k for k in source.library.state_dict() if "position_embedding" in k)
    stored, sized = (t.library.state_dict()[key].reshape(-1, 24) for t in (source, larger))
    torch.testing.assert_close(sized[:prefix], stored[:prefix])
    expected = torch.nn.functional.interpolate(stored[prefix:].T.view(1, 24, 2, 2), size=(4, 4), mode="bicubic")
    torch.testing.assert_close(sized[prefix:].T.view(1, 24, 4, 4), expected)
    assert run(larger.eval(), torch.randn(1, 3, 64, 64)).shape == (1, 16 + prefix, 24)


def test_ast_of_a_shorter_clip_keeps_its_positions(tmp_path):
    source = small.ast()
    perturb(source, scale=1.0)
    source.library.save_pretrained(tmp_path)
    short = AST(weights=str(tmp_path), max_length=32)
    stored, sized = source.library.embeddings.position_embeddings, short.library.embeddings.position_embeddings
    assert sized.shape[1] == 2 + 2 * 2
    torch.testing.assert_close(sized[:, :2], stored[:, :2])
    grid = stored[:, 2:].unflatten(1, (2, 3))
    expected = torch.stack(
        (0.75 * grid[:, :, 0] + 0.25 * grid[:, :, 1], 0.25 * grid[:, :, 1] + 0.75 * grid[:, :, 2]), 2
    )
    torch.testing.assert_close(sized[:, 2:].unflatten(1, (2, 2)), expected)


def test_whisper_of_a_shorter_clip_keeps_its_first_positions(tmp_path):
    from transformers import WhisperModel

    source = FAMILIES["whisper"].build()
    perturb(source)
    whole = WhisperModel(source.library.config)
    whole.encoder.load_state_dict(source.library.state_dict())
    whole.save_pretrained(tmp_path)
    torch.testing.assert_close(Whisper(weights=str(tmp_path)).library.state_dict(), source.library.state_dict())
    short = Whisper(weights=str(tmp_path), max_source_positions=5).library.embed_positions.weight
    torch.testing.assert_close(short, source.library.embed_positions.weight[:5])
    with pytest.raises(ConfigError, match=r"differ in 1 tensors .*embed_positions"):
        Whisper(weights=str(tmp_path), max_source_positions=20)


def test_timm_files_load_and_wrong_ones_are_named(tmp_path):
    source = small.vit()
    perturb(source)
    state = {k: v.half() for k, v in source.library.state_dict().items()}
    save_file(state, tmp_path / "vit.safetensors")
    torch.save({"model": state}, tmp_path / "vit.pth")
    for name in ("vit.safetensors", "vit.pth"):
        loaded = small.vit(weights=str(tmp_path / name)).library.state_dict()
        torch.testing.assert_close(loaded, {k: v.float() for k, v in state.items()})
    del state["norm.weight"]
    save_file(state, tmp_path / "partial.safetensors")
    with pytest.raises(ConfigError, match=r"1 missing: norm\.weight"):
        small.vit(weights=str(tmp_path / "partial.safetensors"))
    with pytest.raises(WeightsMissing, match="no weights at"):
        small.vit(weights=str(tmp_path / "absent.safetensors"))
    save_file(small.bert().library.state_dict(), tmp_path / "text.safetensors")
    with pytest.raises(ConfigError, match=r"text\.safetensors .*embeddings\.LayerNorm"):
        small.vit(weights=str(tmp_path / "text.safetensors"))


def test_timm_positions_of_another_size_are_resized_and_said_so(tmp_path, caplog):
    source = small.vit()
    perturb(source)
    save_file(source.library.state_dict(), tmp_path / "vit.safetensors")
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 2, "init_values": 0.1}
    with caplog.at_level(logging.INFO):
        TimmViT("vit_tiny_patch16_224", weights=str(tmp_path / "vit.safetensors"), img_size=64, **sizes)
    assert "1 tensors resized: pos_embed (1, 5, 32) -> (1, 17, 32)" in caplog.text


@pytest.mark.parametrize("tower", [ClipVision, HfViT, Roberta, AST, Whisper])
def test_another_kinds_folder_is_refused(tower, tmp_path):
    small.bert().library.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model_type 'bert', this tower is a"):
        tower(weights=str(tmp_path))


def test_a_folder_that_lacks_weights_is_refused(tmp_path):
    source = small.bert().library
    source.save_pretrained(tmp_path)
    state = {k: v for k, v in source.state_dict().items() if "layer.1.output" not in k}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"4 missing \(encoder\.layer\.1\.output"):
        Bert(weights=str(tmp_path))


def test_bert_from_a_folder_and_from_a_wrong_one(tmp_path):
    source = small.bert()
    perturb(source)
    source.library.save_pretrained(tmp_path / "bert")
    loaded = Bert(weights=str(tmp_path / "bert"))
    torch.testing.assert_close(loaded.library.state_dict(), source.library.state_dict())
    with pytest.raises(ConfigError, match=r"differ in .*word_embeddings"):
        Bert(weights=str(tmp_path / "bert"), vocab_size=60)
    with pytest.raises(WeightsMissing, match=r"no config\.json"):
        Bert(weights=str(tmp_path / "nothing"))


def test_a_family_refuses_what_it_does_not_open():
    with pytest.raises(ConfigError, match=r"timm has no model 'vit_tinny'"):
        TimmViT("vit_tinny")
    with pytest.raises(ConfigError, match=r"made a SwinTransformerV2, this family opens SwinTransformer"):
        TimmSwin("swinv2_tiny_window8_256", img_size=32, embed_dim=16, depths=(1,), num_heads=(1,))
    with pytest.raises(ConfigError, match=r"blocks of type ParallelScalingBlock.*Blocks"):
        TimmViT(
            "vit_tiny_patch16_224", img_size=32, depth=1, block_fn=timm.models.vision_transformer.ParallelScalingBlock
        )
