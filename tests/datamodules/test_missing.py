"""data.missing means the same for every dataset: refuse, drop, or zeros that are not kept; and it is counted."""

import shutil
from pathlib import Path

import pytest

from datamodules.ave import AVE
from datamodules.avs import AVSBench
from datamodules.base import DataModule
from datamodules.nlvr import NLVR
from datamodules.nlvr2 import NLVR2
from datamodules.sampling import Draw
from datamodules.vqav2 import VQAv2
from hmmoe.errors import ConfigError, DataMissing
from hmmoe.runtime.result import examples as examples_of
from tests.datamodules import test_avs, test_nlvr2, test_vqav2
from tests.datamodules.conftest import AUDIO, VISION, write_nlvr

SEEN = {"vision": VISION}


def gone(data_of, root: Path, path: Path, split: str, dropped: int) -> DataModule:
    """Take a file away; the first two policies must do what they say. Returns the third one's datamodule."""
    path.unlink()
    with pytest.raises(DataMissing, match=rf"of {split} lack a file, .*{path.name}: .*data\.missing=drop.*or zero"):
        data_of(root, "refuse").examples(split)
    left = data_of(root, "drop")
    facts = left.manifest()
    assert facts["missing"] == "drop"
    assert facts["splits"][split]["dropped"] == dropped and facts["splits"][split]["zeroed"] == 0
    filled = data_of(root, "zero")
    counted = filled.manifest()["splits"][split]
    assert counted["zeroed"] == dropped and counted["dropped"] == 0
    assert counted["count"] == facts["splits"][split]["count"] + dropped
    assert examples_of(filled.manifest(), split) == f"{counted['count']:,} ({dropped} as zeros)"
    return filled


def batch(data: DataModule, split: str, *, training: bool = False) -> dict:
    examples = data.examples(split)
    return examples[[Draw(index, (0, 0) if training else None) for index in range(len(examples))]]


def test_pictures_of_nlvr2(tmp_path: Path):
    root = test_nlvr2.write_nlvr2(tmp_path / "nlvr2")
    path = root / "dev" / "dev-1-0-img1.png"
    data = gone(lambda r, p: NLVR2(r, inputs=SEEN, batch_size=4, val_directories=1, missing=p), root, path, "dev", 2)
    made = batch(data, "dev")
    kept = made["keep"]["vision"]
    assert kept.shape == made["vision"].shape[:2] and int((~kept).sum()) == 2
    assert not made["vision"][~kept].any() and made["vision"][kept].any()


def test_pictures_of_vqav2(tmp_path: Path):
    root = test_vqav2.write_vqa(tmp_path / "vqav2")
    path = root / "train2014" / "COCO_train2014_000000000002.jpg"
    usual = {"inputs": SEEN, "batch_size": 4, "held_out": 2, "answers": 3, "occurrences": 3, "area": [0.5, 1.0]}
    data = gone(lambda r, p: VQAv2(r, **usual, missing=p), root, path, "train", 2)
    made = batch(data, "train", training=True)
    assert made["keep"]["vision"].shape[1] == 1 and int((~made["keep"]["vision"]).sum()) == 2
    assert not made["vision"][~made["keep"]["vision"]].any()


def test_boxes_of_nlvr(tmp_path: Path):
    root = write_nlvr(tmp_path / "nlvr")
    path = root / "test" / "images" / "2" / "test-2-1-0.png"
    usual = {"inputs": SEEN, "batch_size": 4, "val_directories": 2, "permutations": 6}
    data = gone(lambda r, p: NLVR(r, **usual, missing=p), root, path, "test", 6)
    made = batch(data, "test")
    assert made["keep"]["vision"].shape == (72, 3) and int((~made["keep"]["vision"]).sum()) == 18
    assert not made["vision"][~made["keep"]["vision"]].any()


def test_videos_of_ave(ave_root: Path, tmp_path: Path):
    root = tmp_path / "AVE"
    shutil.copytree(ave_root, root)
    for name in ("trainSet.txt", "Annotations.txt"):
        rows = (root / name).read_text().rstrip("\n")
        (root / name).write_text(f"{rows}\nCat&gonegonegon&good&0&10\n")
    (root / "AVE" / "gonegonegon.mp4").touch()
    usual = {"inputs": {"vision": VISION, "audio": AUDIO}, "batch_size": 2}
    data = gone(lambda r, p: AVE(r, **usual, missing=p), root, root / "AVE" / "gonegonegon.mp4", "train", 1)
    made = batch(data, "train")
    for modality in ("vision", "audio"):
        assert made["keep"][modality].all(1).tolist() == [True, True, False]
        assert not made[modality][2].any() and not made["keep"][modality][2].any()


def test_a_picture_of_avs_may_be_zero_and_a_mask_may_not(tmp_path: Path):
    root = test_avs.write(tmp_path / "AVS", "ms3", "new")
    (root / "v1m" / "more").mkdir()
    sheet = root / "metadata.csv"
    sheet.write_text(sheet.read_text() + "more,more,0,0,man,test,v1m\n")
    shutil.copytree(root / "v1m" / "tttttttttt0_0", root / "v1m" / "more", dirs_exist_ok=True)
    usual = {"inputs": SEEN, "batch_size": 2, "subset": "ms3", "mask_size": 8}
    data = gone(
        lambda r, p: AVSBench(r, **usual, missing=p), root, root / "v1m" / "more" / "frames" / "3.jpg", "test", 1
    )
    made = batch(data, "test")
    assert made["keep"]["vision"].tolist() == [[True] * 5, [True, True, True, False, True]]
    assert not made["vision"][1, 3].any() and made["mask"][1, 3].any()
    (root / "v1m" / "more" / "labels_rgb" / "2.png").unlink()
    with pytest.raises(DataMissing, match=r"labels_rgb/2\.png: data\.missing=zero stands in for no target"):
        AVSBench(root, **usual, missing="zero").examples("test")


def test_a_split_of_which_nothing_is_there_is_refused_under_every_policy(tmp_path: Path):
    root = test_nlvr2.write_nlvr2(tmp_path / "nlvr2")
    shutil.rmtree(root / "dev")
    (root / "dev").mkdir()
    for policy in ("refuse", "drop", "zero"):
        with pytest.raises(DataMissing, match=r"12 of 12 examples of dev lack a file"):
            NLVR2(root, inputs=SEEN, batch_size=4, val_directories=1, missing=policy).examples("dev")


def test_an_unknown_policy_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"data\.missing=skip: expected refuse, drop or zero"):
        AVE(tmp_path, inputs=SEEN, batch_size=1, missing="skip")


def test_the_closing_table_counts():
    splits = {"test": {"count": 1390, "dropped": 12, "zeroed": 0}, "val": {"count": 4, "dropped": 0, "zeroed": 0}}
    assert examples_of({"splits": splits}, "test") == "1,390 (12 dropped)"
    assert examples_of({"splits": splits}, "val") == "4"
    assert examples_of({}, "val") == ""
