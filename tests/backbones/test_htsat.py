"""HTS-AT in timm's Swin is CLAP's audio tower of transformers; both published layouts load."""

import pytest
import torch
from transformers import ClapAudioConfig, ClapAudioModel

from hmmoe.backbones.htsat import HTSAT
from hmmoe.errors import ConfigError
from tests import small
from tests.backbones.test_encoders import run

SIZES = {"mels": 8, "size": 32, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4), "window_size": 4}


@small.seeded
def clap() -> ClapAudioModel:
    config = ClapAudioConfig(
        spec_size=32,
        num_mel_bins=8,
        patch_embeds_hidden_size=16,
        hidden_size=32,
        depths=[1, 2],
        num_attention_heads=[2, 4],
        window_size=4,
    )
    model = ClapAudioModel(config).eval()
    small.perturb(model, 0.1)
    norm = model.audio_encoder.batch_norm
    norm.running_mean.copy_(torch.linspace(-1, 1, 8))
    norm.running_var.copy_(torch.linspace(0.5, 2, 8))
    return model


@pytest.fixture
def folder(tmp_path):
    clap().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("frames", [128, 101])
def test_tower_is_claps(folder, frames):
    encoder, x = HTSAT(weights=str(folder / "model.safetensors"), **SIZES).eval(), torch.randn(2, 1, 8, frames)
    ours = run(encoder, x, None)
    theirs = clap()(x.transpose(2, 3))
    assert ours.std() > 0.1
    torch.testing.assert_close(encoder.pool(ours, None), theirs.pooler_output, rtol=0, atol=5e-6)
    maps = theirs.last_hidden_state.unflatten(3, (4, 4))  # (S, D, freq bins of a piece, pieces, time)
    torch.testing.assert_close(ours, maps.transpose(2, 3).flatten(2).transpose(1, 2), rtol=0, atol=5e-6)


def test_the_original_layout_loads(folder, tmp_path):
    source = HTSAT(weights=str(folder / "model.safetensors"), **SIZES)
    state = {}
    for name, tensor in source.state_dict().items():
        old = (
            name.removeprefix("library.")
            .replace("batch_norm.", "bn0.")
            .replace("layers.1.downsample.", "layers.0.downsample.")
        )
        state[f"sed_model.{old}"] = tensor
    state |= {
        "sed_model.tscam_conv.weight": torch.zeros(2),
        "sed_model.layers.0.blocks.0.attn.relative_position_index": torch.zeros(2),
    }
    torch.save({"state_dict": state}, tmp_path / "htsat.ckpt")
    torch.testing.assert_close(HTSAT(weights=str(tmp_path / "htsat.ckpt"), **SIZES).state_dict(), source.state_dict())


def test_what_it_publishes_it_reads_back(tmp_path):
    tower = HTSAT(**SIZES)
    small.perturb(tower, 0.1)
    tower.batch_norm.running_mean.copy_(torch.linspace(-1, 1, 8))
    again = HTSAT(weights=str(tower.publish(tmp_path)), **SIZES)
    torch.testing.assert_close(again.state_dict(), tower.state_dict(), rtol=0, atol=0)


def test_what_does_not_fit_is_named(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"1 missing: library\.norm\.bias"):
        state = clap().state_dict()
        del state["audio_encoder.norm.bias"]
        torch.save(state, tmp_path / "partial.pt")
        HTSAT(weights=str(tmp_path / "partial.pt"), **SIZES)
    with pytest.raises(ConfigError, match="at most 128 frames, found 200"):
        run(HTSAT(**SIZES), torch.randn(1, 1, 8, 200), None)
    with pytest.raises(ConfigError, match="multiple of mels=12"):
        HTSAT(**SIZES | {"mels": 12})


def test_running_statistics_stay():
    backbone = small.Towers({"audio": HTSAT(**SIZES)})
    before = backbone.tower("audio").batch_norm.running_mean.clone()
    backbone.train()
    backbone.finish(backbone.embed({"audio": 5 + torch.randn(2, 3, 1, 8, 128)}))
    torch.testing.assert_close(backbone.tower("audio").batch_norm.running_mean, before, rtol=0, atol=0)


@pytest.mark.parametrize("role", ["q", "k", "v", "o", "fc1", "fc2"])
def test_linears_exist_for_every_role(role):
    assert len(HTSAT(**SIZES).linears(role)) == 3
