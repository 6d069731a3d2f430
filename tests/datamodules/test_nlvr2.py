"""NLVR2 against hand-made pairs in the official layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.nlvr2 import NLVR2
from datamodules.nlvr2_corpus import read_examples
from datamodules.sampling import Draw
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from tests.datamodules.conftest import VISION

SETS = {"train": 8, "dev": 3, "test1": 2}


def grey(place: int, pair: int, image: int) -> int:
    """Brightness of a picture; the right one of a pair is darker."""
    return 250 - 12 * place - 4 * pair - 100 * image


def write_nlvr2(root: Path) -> Path:
    (root / "data" / "balanced").mkdir(parents=True)
    for split, sets in SETS.items():
        lines = []
        for place in range(sets):
            directory = place // 2
            home = root / "images" / "train" / str(directory) if split == "train" else root / split
            home.mkdir(parents=True, exist_ok=True)
            for pair in range(2):
                for image in range(2):
                    path = home / f"{split}-{place}-{pair}-img{image}.png"
                    colour = np.full((24, 18, 3), grey(place, pair, image), np.uint8)
                    Image.fromarray(colour).save(path, format="JPEG" if pair else "PNG")  # many are JPEG inside
                for sentence in range(2):
                    row = {
                        "sentence": f"There is a box number {sentence}",
                        "label": str(pair == 0 or sentence == 1),
                        "identifier": f"{split}-{place}-{pair}-{sentence}",
                        "left_url": "",
                        "writer": "1",
                    }
                    lines.append(json.dumps(row | ({"directory": directory} if split == "train" else {})))
        (root / "data" / f"{split}.json").write_text("\n".join(lines) + "\n")
        if split == "dev":
            (root / "data" / "balanced" / "balanced_dev.json").write_text("\n".join(lines[:4]) + "\n")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_nlvr2(tmp_path / "nlvr2")


def nlvr2(root: Path, **settings) -> NLVR2:
    return NLVR2(root, **({"inputs": {"vision": VISION}, "batch_size": 4, "val_directories": 1} | settings))


def all_of(data: NLVR2, split: str) -> dict:
    examples = data.examples(split)
    return examples[[Draw(index, None) for index in range(len(examples))]]


def test_a_batch_has_left_and_right_words_label_and_group(root: Path, tokenizer: str):
    inputs = {"vision": VISION, "text": {"tokenizer": tokenizer, "length": 8}}
    batch = all_of(nlvr2(root, inputs=inputs), "dev")
    assert batch["id"][:3] == ["dev-0-0-0", "dev-0-0-1", "dev-0-1-0"]
    assert batch["group"][:3] == ["dev-0-0", "dev-0-1", "dev-0-0"]  # same set and sentence, whichever pair
    assert batch["label"].tolist() == [1, 1, 0, 1] * 3
    assert batch["vision"].shape == (12, 2, 3, 16, 16)
    assert batch["text"]["ids"][1].tolist() == [2, 3, 4, 5, 6, 8, 0, 0]
    seen = (batch["vision"].mean((2, 3, 4)) * 0.5 + 0.5) * 255
    expected = [[grey(p, pair, 0), grey(p, pair, 1)] for p in range(3) for pair in range(2) for _ in range(2)]
    assert torch.allclose(seen, torch.tensor(expected, dtype=torch.float32), atol=2)


def test_train_is_read_as_it_is_and_shares_no_directory_with_val(root: Path):
    data = nlvr2(root)
    train, val = ({e.directory for e, _ in data.examples(split).examples} for split in ("train", "val"))
    assert (train, val) == ({"1", "2", "3"}, {"0"})
    named = nlvr2(root, val_directories=[3, "1"])
    assert {e.directory for e, _ in named.examples("val").examples} == {"1", "3"}
    examples = data.examples("train")
    assert torch.equal(examples[[Draw(0, (1, 5))]]["vision"], examples[[Draw(0, None)]]["vision"])


def test_splits_and_parts_are_named(root: Path):
    data = nlvr2(root, tests=["dev", "balanced_dev", "test1"])
    data.prepare_data()
    assert data.val_splits == ("val", "dev")
    assert data.test_splits == ("dev", "balanced_dev", "test1")
    sizes = {name: part["count"] for name, part in data.manifest()["splits"].items()}
    assert sizes == {"train": 24, "val": 8, "dev": 12, "balanced_dev": 4, "test1": 8}


def test_images_may_lie_below_images_or_beside(root: Path):
    (root / "dev").rename(root / "images" / "dev")
    assert len(all_of(nlvr2(root), "dev")["id"]) == 12


def test_references_are_the_majority_of_train(root: Path):
    lines = nlvr2(root).references()
    assert lines["dev"] == {"majority": pytest.approx(3 / 4), "majority_consistency": pytest.approx(1 / 2)}


def test_the_submission_is_what_the_official_script_reads(root: Path):
    rows = [{"id": "dev-0-0-0", "prediction": 1}, {"id": "dev-0-0-1", "prediction": 0}]
    assert nlvr2(root).submission("dev", rows) == {"dev_submission.csv": "dev-0-0-0,True\ndev-0-0-1,False\n"}


def test_a_missing_picture_is_refused_or_dropped(root: Path):
    (root / "dev" / "dev-1-0-img1.png").unlink()
    with pytest.raises(DataMissing, match=r"2 of 12 examples of dev .*dev-1-0-img1\.png.*data\.missing=drop"):
        nlvr2(root).examples("dev")
    data = nlvr2(root, missing="drop")
    assert len(data.examples("dev")) == 10
    assert data.manifest()["splits"]["dev"]["dropped"] == 2


@pytest.mark.parametrize(
    "line",
    [
        '{"sentence": "a"',
        '{"sentence": "a", "identifier": "dev-1-0", "label": "True"}',
        '{"sentence": "a", "identifier": "dev-1-0-0", "label": "maybe"}',
        '{"sentence": "a", "identifier": "train-1-0-0", "label": "True"}',
        "[]",
    ],
)
def test_a_broken_line_is_named(root: Path, line: str):
    path = root / "data" / "dev.json"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataBroken, match=r"dev\.json, line 13: expected JSON with an identifier like dev-850-0-0"):
        read_examples(path)


def test_an_identifier_that_comes_twice_is_named(root: Path):
    path = root / "data" / "dev.json"
    path.write_text(path.read_text() + path.read_text().splitlines()[0])
    with pytest.raises(DataBroken, match=r"dev\.json, line 13: identifier dev-0-0-0 twice"):
        nlvr2(root).examples("dev")


def test_a_set_across_directories_is_refused(root: Path):
    path = root / "data" / "train.json"
    path.write_text(path.read_text().replace('"identifier": "train-1-1-1"', '"identifier": "train-7-9-1"'))
    with pytest.raises(DataBroken, match=r"train\.json: set 7 lies in train and val directories"):
        nlvr2(root).examples("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tests": ["dev", "test9"]}, r"data\.tests=.*expected some of dev, test1, test2, balanced_dev.*test9"),
        ({"tests": []}, r"data\.tests=\[\]"),
        ({"missing": "skip"}, r"data\.missing=skip: expected refuse, drop or zero"),
        ({"val_directories": 4}, r"data\.val_directories=4: expected 1 to 3 of 4"),
        ({"val_directories": ["9"]}, r"data\.val_directories names 9, not in train\.json"),
        ({"val_directories": ["0", "1", "2", "3"]}, r"holds out 4 of 4 directories"),
    ],
)
def test_settings_that_cannot_work(root: Path, settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        nlvr2(root, **settings).examples("train")


def test_absent_files_are_listed(root: Path):
    (root / "data" / "test1.json").unlink()
    with pytest.raises(DataMissing, match=r"test1\.json[\s\S]*unbalanced_dev|test1\.json[\s\S]*lil-lab/nlvr"):
        nlvr2(root, tests=["dev", "test1", "unbalanced_dev"]).check()
