"""A run as one file: backbones of every build come back out of it without any file of weights."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from hmmoe.errors import CheckpointError, ConfigError
from hmmoe.runtime import rebuild
from hmmoe.runtime.merging import export_checkpoint
from hmmoe.trainable import own_state
from tests import small
from tests.backbones import test_multiway, valor_small

HEAD = {"_target_": "hmmoe.heads.fusion.FusionHead", "_partial_": True, "classes": 5, "hidden": 16, "level": "sample"}
LORA = {"_target_": "hmmoe.peft.lora.LoRA", "_partial_": True, "rank": 4, "targets": ["q", "v", "fc1"]}
HALF = {"depth": 2, "num_heads": 2}
VIT = {"name": "vit_tiny_patch16_224", "img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 2, "init_values": 0.1}


def of_library_towers(folder) -> tuple[dict[str, Any], dict[str, Any]]:
    """The folder of a BERT says its sizes, the settings do not."""
    vit, bert = small.vit(), small.bert()
    for tower in (vit, bert):
        small.perturb(tower, 0.1)
    files = {"vision": vit.publish(folder / "vision"), "text": bert.publish(folder / "text")}
    towers = {
        "vision": {"_target_": "hmmoe.backbones.timm_vit.TimmViT", **VIT, "weights": str(files["vision"])},
        "text": {"_target_": "hmmoe.backbones.bert.Bert", "weights": str(files["text"])},
    }
    return {"_target_": "hmmoe.backbones.towers.Towers", "towers": towers}, small.batch("vision", "text")


def of_vlmo(folder) -> tuple[dict[str, Any], dict[str, Any]]:
    written = test_multiway.Multiway(test_multiway.filled("vlmo")).publish(folder)
    sizes = {**test_multiway.SIZES, "depth": 4, "joint": 2, "length": 8, "images": 2, "table_length": 12}
    model = {"_target_": "hmmoe.backbones.vlmo.VLMo", **sizes, "weights": str(written["backbone"])}
    return {"_target_": "hmmoe.backbones.multiway.Multiway", "model": model}, test_multiway.batch()


def of_valor(folder) -> tuple[dict[str, Any], dict[str, Any]]:
    backbone = valor_small.valor("large", prompts=True)
    small.perturb(backbone, 0.1)
    audio = {"mels": 32, "frames": 48, "embed_dim": 24} | HALF
    vision = {"name": "vit_large_patch14_clip_quickgelu_224", "img_size": 28, "embed_dim": 32} | HALF
    text = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    text |= {"vocab_size": 60, "max_position_embeddings": 24, "answer": [2, 4], "question_prompt": valor_small.QUESTION}
    towers = {
        "vision": {"_target_": "hmmoe.backbones.timm_vit.TimmViT", **vision},
        "audio": {"_target_": "hmmoe.backbones.valor_audio.ValorAudio", **audio},
        "text": {"_target_": "hmmoe.backbones.bert_cross.BertCross", **text},
    }
    node = {"_target_": "hmmoe.backbones.valor.Valor", "towers": towers, "contrast": 10, "frames": 6}
    batch = {key: value for key, value in valor_small.batch("large").items() if key != "answer"}
    return node | {"weights": str(backbone.publish(folder)["backbone"])}, batch


def trained(backbone: dict[str, Any], folder, peft=None):
    """A checkpoint as a run leaves it, and its model."""
    cfg = OmegaConf.create(
        {"seed": 1, "tags": ["x"], "backbone": backbone, "peft": peft or LORA, "task": {"head": HEAD}}
    )
    model = rebuild.fresh(cfg)
    small.move(model, 0.2)
    state = {f"model.{name}": tensor for name, tensor in own_state(model).items()}
    settings = OmegaConf.to_container(cfg)
    torch.save({"state_dict": state, "settings": settings, "fingerprint": model.fingerprint}, folder / "best.ckpt")
    return model, folder / "best.ckpt"


@pytest.mark.parametrize("host", [of_library_towers, of_vlmo, of_valor])
def test_nothing_but_the_file_is_needed(host, tmp_path):
    (tmp_path / "weights").mkdir()
    node, batch = host(tmp_path / "weights")
    model, file = trained(node, tmp_path)
    with torch.no_grad():
        expected = model(batch).logits
    out = tmp_path / "out" / "one.ckpt"
    assert export_checkpoint(rebuild.settings_of(file, ()), file, out) == {"checkpoint": out}
    (tmp_path / "weights").rename(tmp_path / "gone")
    cfg = rebuild.settings_of(out, ())
    again = rebuild.fresh(cfg)
    content = rebuild.load(again, out)
    with torch.no_grad():
        torch.testing.assert_close(again(batch).logits, expected, rtol=1e-4, atol=1e-5)
    assert cfg.tags == ["x", "LoRA merged"] and content["settings"]["ckpt_path"] is None
    assert set(own_state(again)) == {f"head.{name}" for name in again.head.state_dict()}
    with pytest.raises(CheckpointError, match="trained on another backbone"):
        rebuild.load(again, file)


def test_a_file_that_gives_another_model_is_not_left_behind(tmp_path):
    (tmp_path / "weights").mkdir()
    node, _ = of_library_towers(tmp_path / "weights")
    bitfit = {"_target_": "hmmoe.peft.policies.BitFit", "_partial_": True}
    _, file = trained(node | {"store": "bfloat16"}, tmp_path, bitfit)
    with pytest.raises(ConfigError, match=r"cannot be built again out of one file .*take --format merged"):
        export_checkpoint(rebuild.settings_of(file, ()), file, tmp_path / "one.ckpt")
    assert not list(tmp_path.glob("one*"))


def test_a_checkpoint_without_a_backbone_is_named(tmp_path):
    (tmp_path / "weights").mkdir()
    node, _ = of_library_towers(tmp_path / "weights")
    _, file = trained(node, tmp_path)
    out = tmp_path / "one.ckpt"
    export_checkpoint(rebuild.settings_of(file, ()), file, out)
    cfg = rebuild.settings_of(out, ())
    for path, message in ((None, "name the file, ckpt_path="), (str(file), "brings no backbone along")):
        cfg.ckpt_path = path
        with pytest.raises(ConfigError, match=message):
            rebuild.fresh(cfg)
