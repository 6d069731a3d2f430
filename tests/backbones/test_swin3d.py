"""Video Swin is torchvision's own forward, with either temporal stride."""

import pytest
import torch

from hmmoe.backbones.swin3d import Swin3D
from hmmoe.errors import ConfigError
from tests import small
from tests.backbones.test_encoders import run


@small.seeded
def swin3d(**options) -> Swin3D:
    sizes = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": (2, 3, 3)}
    return Swin3D(**sizes, **options)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mode", ["eval", "bf16", "train"])
def test_tower_is_the_librarys_forward(stride, mode):
    encoder, x = swin3d(stride=stride, stochastic_depth_prob=0.5, dropout=0.1), torch.randn(2, 4, 3, 36, 36)
    small.perturb(encoder)
    encoder.train(mode == "train")
    library = encoder.library
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
        torch.manual_seed(3)
        ours = run(encoder, x, None)
        torch.manual_seed(3)
        clip = torch.cat((x, torch.zeros_like(x[:, :1])), 1) if stride == 1 else x
        maps = library.norm(library.features(library.pos_drop(library.patch_embed(clip.transpose(1, 2)))))
    assert maps.shape[1] == 4 // stride
    torch.testing.assert_close(ours, maps.flatten(1, 3), rtol=0, atol=0)


def test_torchvision_weights_load_and_wrong_ones_are_named(tmp_path):
    source = swin3d()
    small.perturb(source)
    state = source.library.state_dict() | {"head.weight": torch.zeros(4, 16), "head.bias": torch.zeros(4)}
    torch.save(state, tmp_path / "swin3d.pt")
    loaded = swin3d(weights=str(tmp_path / "swin3d.pt"))
    torch.testing.assert_close(loaded.library.state_dict(), source.library.state_dict())
    del state["norm.weight"]
    torch.save(state, tmp_path / "partial.pt")
    with pytest.raises(ConfigError, match=r"1 missing: norm\.weight"):
        swin3d(weights=str(tmp_path / "partial.pt"))
    with pytest.raises(ConfigError, match="no class token"):
        swin3d(pool="cls")


@pytest.mark.parametrize("role", ["q", "k", "v", "o", "fc1", "fc2"])
def test_linears_exist_for_every_role(role):
    encoder = swin3d()
    assert len(encoder.linears(role)) == 3
