"""The fallback for encoders that no family knows."""

import pytest
import torch
from torch import nn

from hmmoe.backbones.blocks import Blocks
from hmmoe.backbones.towers import Towers
from hmmoe.errors import ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.trainable import check_live
from tests import small
from tests.backbones.families import run


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(width, 2, batch_first=True)
        self.out = nn.Linear(width, width)

    def forward(self, x, pad=None):
        return x + self.out(self.mix(x, x, x, key_padding_mask=None if pad is None else ~pad)[0])


class Own(nn.Module):
    """Somebody's text encoder."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(50, width)
        self.body = nn.Module()
        self.body.layers = nn.ModuleList(Block(width) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids, pad=None):
        x = self.words(ids)
        for layer in self.body.layers:
            x = layer(x, pad=pad)
        return self.norm(x)


def own(**change) -> Blocks:
    settings = {"blocks": "body.layers", "before": ["words"], "after": ["norm"], "widths": 12}
    return Blocks(Own(), **(settings | {"mask": "pad", "masked": ["body.layers"]} | change))


def test_it_is_the_models_own_forward():
    encoder = own().eval()
    batch = small.batch("text")["text"]
    ours = run(encoder, batch["ids"], batch["keep"])
    torch.testing.assert_close(ours, encoder.library(batch["ids"], pad=batch["keep"]), rtol=0, atol=0)


def test_it_learns_beside_a_family():
    model = AdaptedModel(Towers({"vision": small.vit(), "text": own()}), small.hmmoe(), small.head())
    small.move(model)
    model(small.batch("vision", "text")).logits.square().sum().backward()
    check_live(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": "body.blocks"}, r"Own has no 'body\.blocks': Module holds layers"),
        ({"after": ["head"]}, r"Own has no 'head': Own holds words, body, norm"),
        ({"widths": [12, 12]}, r"widths has 2 numbers, body\.layers has 3 blocks"),
    ],
)
def test_wrong_paths_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        own(**change)


def test_weights_come_from_a_file(tmp_path):
    source = Own()
    torch.save(source.state_dict(), tmp_path / "own.pt")
    torch.testing.assert_close(own(weights=str(tmp_path / "own.pt")).library.state_dict(), source.state_dict())
