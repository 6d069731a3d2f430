"""Generated datasets: real layout, same files every time, and fusion needed by construction."""

import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.ave import AVE
from datamodules.mini.ave import MiniAVE, ceiling, plan_block, single_modality
from datamodules.mini.base import STAMP
from datamodules.mini.nlvr import MiniNLVR, draw, shows, topics
from datamodules.nlvr import NLVR
from datamodules.nlvr_corpus import ORDERS
from datamodules.sampling import Draw
from hmmoe.errors import DataBroken
from tests.datamodules.conftest import AUDIO, VISION

SMALL = {"categories": ("Church bell", "Bark"), "blocks": {"train": 1, "val": 1, "test": 1}, "size": 32, "fps": 2}
FEW = {"examples": {"train": 40, "dev": 16, "test": 16, "hidden": 16}, "permutations": 6}


@pytest.fixture(scope="module")
def mini_ave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mini") / "AVE"
    MiniAVE(root, **SMALL).write()
    return root


@pytest.fixture(scope="module")
def mini_nlvr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mini") / "NLVR"
    MiniNLVR(root, **FEW).write()
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("categories, shift", [(2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3)])
def test_one_modality_can_not_tell_the_event_and_both_can(categories: int, shift: int):
    plans = plan_block(categories, shift)
    assert len(plans) == 2 * categories**2
    assert single_modality(plans) == {"vision_alone": 0.5, "audio_alone": 0.5}
    for plan in plans:
        seen, heard = plan.by_second(plan.seen), plan.by_second(plan.heard)
        assert plan.labels() == [a if a == b else None for a, b in zip(seen, heard, strict=True)]
    assert {plan.event[0] for plan in plans} == set(range(categories))


def test_the_ceiling_is_the_best_answer_to_each_cue():
    assert ceiling("aaabb", [1, 1, 2, 3, 4]) == 3 / 5
    assert ceiling("abcde", [1, 1, 2, 3, 4]) == 1.0


def test_miniature_ave_is_read_by_the_real_datamodule(mini_ave: Path):
    data = AVE(mini_ave, inputs={"vision": VISION, "audio": AUDIO}, batch_size=8)
    data.prepare_data()
    (batch,) = data.train_dataloader()
    assert batch["vision"].shape == (8, 10, 3, 16, 16)
    assert batch["keep"]["vision"].all()
    assert batch["keep"]["audio"].all()
    half = {"background": 0.5, "video_label": 0.5, "vision_alone": 0.5, "audio_alone": 0.5}
    assert data.references() == {"val": half, "test": half}
    assert (mini_ave / "Annotations.txt").read_text().startswith("Category&VideoID")


def test_writing_again_gives_the_same_files_and_another_seed_others(mini_ave: Path, tmp_path: Path):
    MiniAVE(tmp_path / "again", **SMALL).write()
    assert contents(tmp_path / "again") == contents(mini_ave)
    MiniAVE(tmp_path / "other", **SMALL, seed=1, header=False).write()
    assert not {path.name for path in mini_ave.glob("AVE/*")} & {path.name for path in tmp_path.glob("other/AVE/*")}
    assert not (tmp_path / "other" / "trainSet.txt").read_text().startswith("Category")


def test_a_miniature_is_rewritten_when_its_recipe_changes_only(tmp_path: Path):
    few = {"train": 2, "dev": 2, "test": 2, "hidden": 2}
    MiniNLVR(tmp_path / "mini", examples=few).write()
    (tmp_path / "mini" / "mark").touch()
    MiniNLVR(tmp_path / "mini", examples=few).write()
    assert (tmp_path / "mini" / "mark").exists()
    MiniNLVR(tmp_path / "mini", examples=few, seed=1).write()
    assert not (tmp_path / "mini" / "mark").exists()
    assert json.loads((tmp_path / "mini" / STAMP).read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


def test_a_folder_that_is_not_a_miniature_is_left_alone(tmp_path: Path):
    (tmp_path / "nlvr").mkdir()
    (tmp_path / "nlvr" / "thesis.tex").touch()
    with pytest.raises(DataBroken, match=r"is not a generated miniature, so it is left alone.*data\.miniature\.root"):
        MiniNLVR(tmp_path / "nlvr", **FEW).write()
    assert (tmp_path / "nlvr" / "thesis.tex").exists()


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    miniature = MiniAVE(tmp_path / "mini", **SMALL)
    monkeypatch.setattr("datamodules.mini.ave.synthesize", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        miniature.write()
    assert not list(tmp_path.iterdir())


def test_miniature_nlvr_is_read_by_the_real_datamodule(mini_nlvr: Path):
    data = NLVR(mini_nlvr, inputs={"vision": VISION}, batch_size=8, val_directories=2)
    data.prepare_data()
    counts = {name: split["count"] for name, split in data.manifest()["splits"].items()}
    assert all(lines["vision_alone"] == lines["text_alone"] == 0.5 for lines in data.references().values())
    assert counts["train"] + counts["val"] / 6 == 40
    assert [counts[name] for name in ("dev", "test", "hidden")] == [96] * 3
    examples = data.examples("dev")
    six = examples[[Draw(index, None) for index in range(6)]]["vision"].mean(dim=(-1, -2))
    for k, order in enumerate(ORDERS):
        assert np.allclose(six[k], six[0][list(order)])
    labels = [label for _, label in data.examples("train").rows()]
    assert 0 < sum(labels) < len(labels)


def test_nlvr_needs_picture_and_sentence(mini_nlvr: Path):
    """Scored on the files: half of the pictures of a sentence, and one of two sentences on a picture, are true."""
    stated = json.loads((mini_nlvr / "reference.json").read_text())
    for split in ("train", "dev", "test"):
        rows = [json.loads(line) for line in (mini_nlvr / split / f"{split}.json").read_text().splitlines()]
        labels, read = [row["label"] for row in rows], [row["sentence"] for row in rows]
        names = [f"{split}/images/{row['directory']}/{split}-{row['identifier']}-0.png" for row in rows]
        seen = [(mini_nlvr / name).read_bytes() for name in names]
        assert ceiling(seen, labels) == stated[split]["vision_alone"] == 0.5
        assert ceiling(read, labels) == stated[split]["text_alone"] == 0.5
        assert ceiling(zip(seen, read, strict=True), labels) == 1.0


def test_what_is_said_of_towers_is_what_they_show():
    rng = np.random.default_rng(0)
    for topic in topics():
        for color in topic.colors:
            found = {shows(box, topic.place) for box in draw(rng, topic, color)}
            assert color in found and found <= {color, topic.other}


def test_miniature_nlvr_has_groups_of_one_sentence(mini_nlvr: Path):
    rows = [json.loads(line) for line in (mini_nlvr / "train" / "train.json").read_text().splitlines()]
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row["identifier"].split("-")[0], set()).add(row["sentence"])
    assert all(len(sentences) == 1 for sentences in groups.values())
    assert len(rows) / len(groups) > 2
    assert "directory" not in (mini_nlvr / "hidden" / "hidden.json").read_text()
