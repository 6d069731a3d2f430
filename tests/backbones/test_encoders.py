"""Every family is its library's own forward, bit for bit, and refuses what does not fit."""

import pytest
import torch
from safetensors.torch import save_file

from hmmoe.backbones.bert import Bert
from hmmoe.backbones.timm_vit import TimmViT
from hmmoe.errors import ConfigError, WeightsMissing
from tests import small
from tests.small import perturb

KEEP = torch.arange(8) < torch.tensor([8, 5])[:, None]
FAMILIES = {
    "vit": (
        lambda: small.vit(drop_path_rate=0.3, proj_drop_rate=0.1),
        lambda: torch.randn(2, 3, 32, 32),
        lambda m, x: m.forward_features(x),
    ),
    "swin": (
        lambda: small.swin(drop_path_rate=0.3, proj_drop_rate=0.1),
        lambda: torch.randn(2, 3, 32, 32),
        lambda m, x: m.forward_features(x).flatten(1, 2),
    ),
    "ast": (
        lambda: small.ast(hidden_dropout_prob=0.1),
        lambda: torch.randn(2, 1, 32, 48),
        lambda m, x: m(x.squeeze(1).transpose(1, 2)).last_hidden_state,
    ),
    "bert": (
        small.bert,
        lambda: torch.randint(1, 50, (2, 8)),
        lambda m, x: m(x, attention_mask=KEEP.long()).last_hidden_state,
    ),
}


def run(encoder, x, keep):
    x, ctx = encoder.embed(x, keep)
    for k in range(len(encoder.widths)):
        x = encoder.merge(k, encoder.half(k, x, ctx), ctx)
    return encoder.finish(x, ctx)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", ["eval", "bf16", "train"])
def test_tower_is_the_librarys_forward(family, mode):
    build, make, forward = FAMILIES[family]
    encoder, x = build(), make()
    perturb(encoder)
    encoder.train(mode == "train")
    keep = KEEP if family == "bert" else None
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
        torch.manual_seed(3)
        ours = run(encoder, x, keep)
        torch.manual_seed(3)
        theirs = forward(encoder.library, x)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ["q", "k", "v", "o", "fc1", "fc2"])
def test_linears_exist_for_every_role(family, role):
    encoder = FAMILIES[family][0]()
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


def test_local_timm_weights_load_and_wrong_ones_are_named(tmp_path):
    source = small.vit()
    perturb(source)
    state = {k: v.half() for k, v in source.library.state_dict().items()}
    save_file(state, tmp_path / "vit.safetensors")
    loaded = small.vit(weights=str(tmp_path / "vit.safetensors"))
    for name, tensor in loaded.library.state_dict().items():
        torch.testing.assert_close(tensor, state[name].float())
    del state["norm.weight"]
    save_file(state, tmp_path / "partial.safetensors")
    with pytest.raises(ConfigError, match=r"1 missing: norm\.weight"):
        small.vit(weights=str(tmp_path / "partial.safetensors"))
    with pytest.raises(WeightsMissing, match="no weights at"):
        small.vit(weights=str(tmp_path / "absent.safetensors"))
    with pytest.raises(ConfigError, match=r"timm has no model 'vit_tinny'"):
        TimmViT("vit_tinny")


def test_ast_of_a_shorter_clip_keeps_its_positions(tmp_path):
    source = small.ast()
    perturb(source, scale=1.0)
    source.library.save_pretrained(tmp_path)
    short = type(source)(weights=str(tmp_path), max_length=32)
    stored, sized = source.library.embeddings.position_embeddings, short.library.embeddings.position_embeddings
    assert sized.shape[1] == 2 + 2 * 2
    torch.testing.assert_close(sized[:, :2], stored[:, :2])
    grid = stored[:, 2:].unflatten(1, (2, 3))
    expected = torch.stack(
        (0.75 * grid[:, :, 0] + 0.25 * grid[:, :, 1], 0.25 * grid[:, :, 1] + 0.75 * grid[:, :, 2]), 2
    )
    torch.testing.assert_close(sized[:, 2:].unflatten(1, (2, 2)), expected)


def test_bert_from_a_folder_and_from_a_wrong_one(tmp_path):
    source = small.bert()
    perturb(source)
    source.library.save_pretrained(tmp_path / "bert")
    loaded = Bert(weights=str(tmp_path / "bert"))
    torch.testing.assert_close(loaded.library.state_dict(), source.library.state_dict())
    small.ast().library.save_pretrained(tmp_path / "ast")
    with pytest.raises((ConfigError, ValueError), match=r"missing|model_type|audio"):
        Bert(weights=str(tmp_path / "ast"))
    with pytest.raises(WeightsMissing, match=r"no config\.json"):
        Bert(weights=str(tmp_path / "nothing"))
