"""NLVR against hand-made pictures of which every box has a colour of its own."""

import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.nlvr import NLVR
from datamodules.nlvr_corpus import ORDERS, read_boxes
from datamodules.sampling import Draw
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from tests.datamodules.conftest import VISION, write_nlvr


def nlvr(root: Path, **settings) -> NLVR:
    return NLVR(root, **{"inputs": {"vision": VISION}, "batch_size": 4, "val_directories": 2} | settings)


def all_of(data: NLVR, split: str) -> dict:
    examples = data.examples(split)
    return examples[[Draw(index, None) for index in range(len(examples))]]


def colours(vision: torch.Tensor) -> torch.Tensor:
    """(N, 3, 3, S, S) -> (N, 3, 3): mean colour of every box."""
    return vision.mean(dim=(-1, -2))


def test_a_batch_has_boxes_words_label_and_group(nlvr_root: Path, tokenizer: str):
    inputs = {"vision": VISION, "text": {"tokenizer": tokenizer, "length": 8}}
    batch = all_of(nlvr(nlvr_root, inputs=inputs), "dev")
    assert batch["id"][:3] == ["dev-0-0-0", "dev-0-1-0", "dev-1-0-0"]
    assert batch["group"][:3] == ["dev-0", "dev-0", "dev-1"]
    assert batch["vision"].shape == (12, 3, 3, 16, 16)
    assert batch["text"]["ids"][2].tolist() == [2, 3, 4, 5, 6, 8, 0, 0]
    assert batch["text"]["keep"][2].tolist() == [True] * 6 + [False] * 2
    assert batch["label"].tolist() == [1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0]


def test_the_scene_is_never_an_input(nlvr_root: Path):
    assert set(all_of(nlvr(nlvr_root), "test")) == {"id", "group", "label", "vision"}


def test_train_and_val_share_no_directory(nlvr_root: Path):
    data = nlvr(nlvr_root)
    train, val = (
        {picture.example.directory for picture in data.examples(split).pictures} for split in ("train", "val")
    )
    assert val == {"0", "3"}  # two of six, spread evenly
    assert train == {"1", "2", "4", "5"}
    named = nlvr(nlvr_root, val_directories=[5, "1"])
    assert {picture.example.directory for picture in named.examples("val").pictures} == {"1", "5"}


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"val_directories": ["1"], "train_directories": ["1", "2"]},
            r"directories 1 are in data\.train_directories and",
        ),
        ({"val_directories": ["77"]}, r"data\.val_directories names 77, not in train\.json"),
        ({"val_directories": 6}, r"data\.val_directories=6: expected 1 to 5 of 6"),
        ({"val_directories": 0}, r"data\.val_directories=0: expected 1 to 5 of 6"),
        ({"train_directories": []}, r"data\.train_directories leaves no directory"),
    ],
)
def test_a_division_that_leaks_or_is_empty_is_refused(nlvr_root: Path, settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        nlvr(nlvr_root, **settings).examples("train")


def test_a_sentence_group_across_directories_is_refused(tmp_path: Path):
    root = write_nlvr(tmp_path / "nlvr")
    path = root / "train" / "train.json"
    path.write_text(
        path.read_text().replace('"identifier": "3-1", "directory": "3"', '"identifier": "3-1", "directory": "4"')
    )
    with pytest.raises(DataBroken, match=r"sentence group 3 lies in train and val"):
        nlvr(root).examples("train")


def test_split_names_and_roles(nlvr_root: Path):
    data = nlvr(nlvr_root)
    assert data.val_splits == ("val", "dev")
    assert data.test_splits == ("dev", "test", "hidden")
    assert [len(list(loader)) for loader in data.test_dataloader()] == [3, 3, 3]


def test_random_box_orders_are_the_six_official_ones(nlvr_root: Path):
    examples = nlvr(nlvr_root).examples("train")
    plain = colours(examples[[Draw(0, None)]]["vision"])[0]
    seen = set()
    for epoch in range(60):
        moved = colours(examples[[Draw(0, (1, epoch))]]["vision"])[0]
        seen.add(tuple((moved[:, None] == plain).all(dim=-1).int().argmax(dim=1).tolist()))
    assert seen == set(permutations(range(3)))
    unmoved = nlvr(nlvr_root, permute_boxes=False).examples("train")[[Draw(0, (1, 0))]]["vision"]
    assert torch.equal(colours(unmoved)[0], plain)


def test_flipping_reverses_boxes_and_pixels(nlvr_root: Path):
    examples = nlvr(nlvr_root, permute_boxes=False, flip=True).examples("train")
    boxes = torch.arange(3 * 3 * 16 * 16).view(3, 3, 16, 16)
    outcomes = [examples._augment(boxes, np.random.default_rng(seed)) for seed in range(20)]
    assert any(torch.equal(outcome, boxes) for outcome in outcomes)
    assert all(torch.equal(o, boxes) or torch.equal(o, boxes.flip(0, -1)) for o in outcomes)
    assert any(torch.equal(outcome, boxes.flip(0, -1)) for outcome in outcomes)


def test_rebuilt_permutations_equal_those_on_disk(nlvr_root: Path, nlvr_root_six: Path):
    rebuilt, on_disk = (all_of(nlvr(root, permutations=6), "dev") for root in (nlvr_root, nlvr_root_six))
    assert rebuilt["id"] == on_disk["id"]
    assert rebuilt["id"][:7] == [*(f"dev-0-0-{k}" for k in range(6)), "dev-0-1-0"]
    assert torch.equal(rebuilt["vision"], on_disk["vision"])
    boxes = colours(rebuilt["vision"])[:6]
    for k, order in enumerate(ORDERS):
        assert torch.equal(boxes[k], boxes[0][list(order)])


@pytest.mark.parametrize("setting, counts", [("auto", (12, 72)), (1, (12, 12)), (6, (72, 72))])
def test_how_many_permutations_are_counted(nlvr_root: Path, nlvr_root_six: Path, setting: str | int, counts: tuple):
    found = tuple(len(nlvr(root, permutations=setting).examples("hidden")) for root in (nlvr_root, nlvr_root_six))
    assert found == counts
    assert len(nlvr(nlvr_root_six, permutations=setting).examples("train")) == 8  # training takes the first one


def test_half_present_permutations_are_refused(nlvr_root_six: Path, tmp_path: Path):
    shutil.copytree(nlvr_root_six, tmp_path / "copy")
    (tmp_path / "copy" / "dev" / "images" / "0" / "dev-0-0-4.png").unlink()
    with pytest.raises(DataBroken, match=r"dev has 59 of 60 permuted pictures.*data\.permutations=1"):
        nlvr(tmp_path / "copy").examples("dev")


def test_references_are_the_majority_of_train(nlvr_root: Path):
    lines = nlvr(nlvr_root).references()
    assert set(lines) == {"val", "dev", "test", "hidden"}
    assert lines["dev"] == {"majority": pytest.approx(8 / 12), "majority_consistency": pytest.approx(2 / 6)}


@pytest.mark.parametrize("line", ['{"sentence": "a"', '{"sentence": "a", "identifier": "1-0", "label": "True"}', "[]"])
def test_a_broken_line_is_named(nlvr_root: Path, tmp_path: Path, line: str):
    shutil.copytree(nlvr_root, tmp_path / "copy")
    path = tmp_path / "copy" / "test" / "test.json"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataBroken, match=r"test\.json, line 13: expected JSON"):
        nlvr(tmp_path / "copy").examples("test")


def test_a_missing_picture_and_a_wrong_size_are_named(nlvr_root: Path, tmp_path: Path):
    shutil.copytree(nlvr_root, tmp_path / "copy")
    (tmp_path / "copy" / "hidden" / "images" / "2" / "hidden-2-1-0.png").unlink()
    with pytest.raises(DataMissing, match=r"1 of 12 examples .*hidden-2-1-0\.png"):
        nlvr(tmp_path / "copy").examples("hidden")
    Image.new("RGB", (40, 10)).save(tmp_path / "small.png")
    with pytest.raises(DataBroken, match=r"small\.png is 40x10 pixels, expected 400x100"):
        read_boxes(tmp_path / "small.png")
