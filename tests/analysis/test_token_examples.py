"""Which words and patches go to which expert: by hand on tiny routings, and out of a whole test loop."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from hmmoe.analysis.token_examples import Patches, Words, crop
from hmmoe.analysis.token_files import TILE, read_examples
from hmmoe.callbacks.token_examples import TokenExamples, shown, spread
from hmmoe.errors import ConfigError
from hmmoe.types import Routing

GROUPS = ("single", "cross:text")


def routing(weights: Tensor, keep: Tensor | None = None) -> Routing:
    """``weights`` (S, N, 2): of the two experts of "single"; "cross" has one, which gets the rest."""
    rest = 1 - weights.sum(-1, keepdim=True)
    group = torch.cat((1 - rest, rest), -1)
    inside = torch.stack((weights / (1 - rest).clamp(min=1e-9), torch.tensor([1.0, 0.0]).expand(*weights.shape)), -2)
    return Routing(group, inside, inside > 0, None, keep, GROUPS, (2, 1))


def test_words_are_ranked_by_their_mean_share():
    ids = torch.tensor([[5, 6, 7], [5, 6, 0]])
    keep = torch.tensor([[True, True, True], [True, True, False]])
    first = torch.tensor([[0.9, 0.1, 0.6], [0.7, 0.3, 0.5]])
    words = Words(10)
    words.update(routing(0.9 * torch.stack((first, 0.1 * torch.ones(2, 3)), -1), keep), ids)
    rows = words.examples("site00", "abcdefghij".__getitem__, top=2, least=1, without=[7])
    single = [row for row in rows if (row.group, row.expert) == ("single", 0)]
    assert [(row.token, row.count, round(row.share, 3)) for row in single] == [("f", 2, 0.72), ("g", 2, 0.18)]
    assert single[0].overall == pytest.approx(0.9 * (0.9 + 0.1 + 0.6 + 0.7 + 0.3) / 5)
    assert {(row.group, row.expert) for row in rows} == {("single", 0), ("single", 1), ("cross:text", 0)}
    assert not words.examples("site00", str, top=2, least=3, without=[])


def test_streams_that_are_not_the_sentence_are_left_out():
    words = Words(10)
    words.update(routing(torch.full((2, 4, 2), 0.3)), torch.ones(2, 3, dtype=torch.int64))
    assert words.examples("s", str, top=1, least=1, without=[]) == []


@pytest.mark.parametrize("meet", ["segment", "sample"])
def test_the_patch_is_found_in_its_picture(meet):
    """Two samples of two pictures, a class token and 3 x 3 patches: one patch, row 2 and column 3, goes to expert 0."""
    weights = torch.full((4, 10, 2), 0.2)
    weights[3, 1 + 1 * 3 + 2, 0] = 0.7
    weights[0, 0, 0] = 0.75  # the class token is no patch
    one = routing(weights if meet == "segment" else weights.reshape(2, 20, 2))
    vision = torch.rand(2, 2, 3, 12, 12)
    vision[1, 1, :, 4:8, 8:12] = 0.0
    patches = Patches(top=2)
    patches.update(one, vision, ["a", "b"])
    rows, tiles = patches.examples("site01", first=5)
    best = next(row for row in rows if (row.group, row.expert, row.rank) == ("single", 0, 0))
    assert (best.id, best.token, best.share) == ("b", "picture 1, row 2, column 3 of 3", pytest.approx(0.7))
    middle = tiles[best.tile - 5][TILE // 3 : 2 * TILE // 3, TILE // 3 : 2 * TILE // 3]
    assert middle.max() == 0 and len(rows) == len(tiles) == 6


def test_padded_pictures_and_odd_grids_are_left_out():
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[1] = False
    weights = torch.full((2, 9, 2), 0.2)
    weights[1, 4, 0] = 0.8
    patches = Patches(top=1)
    patches.update(routing(weights, keep), torch.rand(2, 1, 3, 12, 12), ["a", "b"])
    rows, _ = patches.examples("s", 0)
    assert {row.id for row in rows} == {"a"}
    tubes = Patches(top=1)
    tubes.update(routing(torch.full((2, 98, 2), 0.2)), torch.rand(2, 1, 3, 12, 12), ["a", "b"])  # 9 x 9 and 17 more
    assert tubes.examples("s", 0) == ([], [])


def test_a_crop_at_the_edge_is_grey_beyond_it():
    tile = crop(torch.ones(3, 12, 12), (0, 0), 3)
    assert tile.shape == (TILE, TILE, 3)
    assert tile[0, 0, 0] == 128 and tile[TILE // 2, TILE // 2, 0] == 255


def test_sites_are_spread_and_pictures_get_their_colours_back():
    keys = [(f"site{i}", m) for i in range(5) for m in ("vision", "text")]
    assert [site for site, m in spread(keys, 3) if m == "text"] == ["site0", "site2", "site4"]
    assert spread(keys, 1) == keys[:2] and spread(keys[:2], 3) == keys[:2]
    picture = torch.rand(1, 1, 3, 2, 2)
    assert torch.allclose(shown((picture - 0.5) / 0.25, {"mean": [0.5] * 3, "std": [0.25] * 3}), picture)


class Data:
    """Names its tokens by letters; 0 is padding."""

    inputs = {"vision": {}}  # noqa: RUF012

    def text(self):
        names = "abcdefghij"
        special = SimpleNamespace(all_special_ids=[0], convert_ids_to_tokens=names.__getitem__)
        return SimpleNamespace(tokenizer=type("T", (), {**vars(special), "__len__": lambda self: 10})())


def test_the_callback_leaves_what_the_figures_read(tmp_path: Path, unchecked: None):
    task = SimpleNamespace(val_splits=("val", "dev"), test_splits=("test",))
    trainer = SimpleNamespace(is_global_zero=True, sanity_checking=False, datamodule=Data(), current_epoch=3)
    callback = TokenExamples(tmp_path, top=2, sites=1, least=1)
    both = {
        ("site00", "text"): routing(torch.full((2, 3, 2), 0.3)),
        ("site00", "vision"): routing(torch.rand(2, 9, 2) / 2),
    }
    ids = torch.tensor([[1, 2, 0], [1, 3, 0]])
    batch = {"id": ["x", "y"], "vision": torch.rand(2, 1, 3, 6, 6), "text": {"ids": ids, "keep": ids > 0}}
    callback.on_test_batch_end(trainer, task, {"routing": both}, batch, 0)
    callback.on_validation_batch_end(trainer, task, {"routing": both}, batch, 0, 1)  # dev: not the first one
    callback.on_test_epoch_end(trainer, task)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["patches_test.png", "tokens_test.csv"]
    rows, tiles = read_examples(tmp_path, "test")
    assert {row.token for row in rows if row.modality == "text"} <= set("bcd")
    assert len(tiles) == 6 and all(isinstance(tile, np.ndarray) for tile in tiles)


def test_silent_without_routing_and_refused_without_sense(tmp_path: Path, unchecked: None):
    trainer = SimpleNamespace(is_global_zero=True, sanity_checking=False, datamodule=Data(), current_epoch=0)
    callback = TokenExamples(tmp_path / "routing")
    callback.on_test_batch_end(trainer, SimpleNamespace(test_splits=("test",)), {"routing": {}}, {"id": ["a"]}, 0)
    callback.on_test_epoch_end(trainer, None)
    assert not (tmp_path / "routing").exists()
    with pytest.raises(ConfigError, match=r"token_examples.top=0: expected 1 or more"):
        TokenExamples(tmp_path, top=0)
