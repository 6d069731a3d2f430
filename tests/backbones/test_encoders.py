"""Every family is its library's own forward, bit for bit, and refuses what does not fit."""

import pytest
import torch

from hmmoe.errors import ConfigError
from tests import small
from tests.backbones.families import FAMILIES, KEEP, run
from tests.small import perturb


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["eval", "bf16", "train"])
def test_tower_is_the_librarys_forward(family, mode):
    build, make, forward, masked = FAMILIES[family]
    encoder = build()
    torch.manual_seed(7)
    x = make()
    perturb(encoder)
    encoder.train(mode == "train")
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
        torch.manual_seed(3)
        ours = run(encoder, x, KEEP if masked else None)
        torch.manual_seed(3)
        theirs = forward(encoder.library, x)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


POOLED = {
    "vit": lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True),
    "siglip_timm": lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True),
    "beit": lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True),
    "eva02": lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True),
    "ast": lambda m, x: m(x.squeeze(1).transpose(1, 2)).pooler_output,
    "clip_vision": lambda m, x: m(x).pooler_output,
    "siglip_vision": lambda m, x: m(x).pooler_output,
    "siglip_text": lambda m, x: m(x).pooler_output,
}


@pytest.mark.parametrize("family", POOLED)
def test_pooling_is_the_librarys(family):
    own = {"pool": "library"} if family in ("vit", "beit", "eva02") else {}
    encoder, x = FAMILIES[family].build(**own), FAMILIES[family].make()
    perturb(encoder)
    encoder.eval()
    torch.testing.assert_close(encoder.pool(run(encoder, x), None), POOLED[family](encoder.library, x))


def test_clip_pools_the_end_of_the_text():
    encoder = FAMILIES["clip_text"].build().eval()
    ids = torch.tensor([[48, 5, 6, 49, 49, 49], [48, 5, 6, 7, 8, 49]])
    keep = torch.arange(6) < torch.tensor([4, 6])[:, None]
    theirs = encoder.library(ids, attention_mask=keep.long()).pooler_output
    torch.testing.assert_close(encoder.pool(run(encoder, ids, keep), keep), theirs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ["q", "k", "v", "o", "fc1", "fc2"])
def test_linears_exist_for_every_role(family, role):
    encoder = FAMILIES[family].build()
    parts = encoder.linears(role)
    assert len(parts) == len(encoder.widths)
    for part in parts:
        rows = part.rows or (0, encoder.get_submodule(part.name).weight.shape[0])
        assert 0 <= rows[0] < rows[1] <= encoder.get_submodule(part.name).weight.shape[0]


def test_unknown_role_lists_the_known():
    with pytest.raises(ConfigError, match=r"'key' is unknown.*\['fc1', 'fc2', 'k'"):
        small.vit().linears("key")


def test_swin_reads_one_channel_as_three():
    encoder = small.swin().eval()
    perturb(encoder)
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(run(encoder, x, None), run(encoder, x.repeat(1, 3, 1, 1), None), rtol=0, atol=0)
