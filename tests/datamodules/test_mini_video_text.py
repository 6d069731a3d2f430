"""Generated MSR-VTT and MSVD: real layouts, known answers, and one modality alone is not enough."""

from pathlib import Path

import pytest

from datamodules.mini.ave import ceiling
from datamodules.mini.msrvtt import (
    HEARD,
    MiniMSRVTT,
    MiniMSRVTTQA,
    found_alone,
    plan_block,
    scenes,
    single_modality,
)
from datamodules.mini.msvd import MiniMSVD, MiniMSVDQA
from datamodules.msrvtt import MSRVTTQA, MSRVTTRetrieval
from datamodules.msvd import MSVDQA, MSVDRetrieval
from datamodules.sampling import Draw
from tests.datamodules.conftest import AUDIO, VISION

ONE = {"train": 1, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mini")
    MiniMSRVTTQA(root / "asked", blocks=ONE, fps=2).write()
    MiniMSRVTT(root / "told", blocks=2, fps=2).write()
    MiniMSVDQA(root / "silent_asked", blocks=ONE).write()
    MiniMSVD(root / "silent_told", blocks=ONE).write()
    return root


@pytest.mark.parametrize(
    ("kind", "folder", "inputs", "listed"),
    [(MSRVTTQA, "asked", {"vision": VISION, "audio": AUDIO}, 12), (MSVDQA, "silent_asked", {"vision": VISION}, 8)],
)
def test_no_rule_with_one_modality_beats_the_stated_ceilings(
    root: Path, kind: type, folder: str, inputs: dict, listed: int
):
    data = kind(root / folder, inputs=inputs, batch_size=4, answers=listed, test_frames=2)
    data.prepare_data()
    asked, lines = data.examples("test").questions, data.references()["test"]
    answers = [question.answer for question in asked]
    assert ceiling([question.clip for question in asked], answers) == lines["vision_alone"] == 0.25
    assert ceiling([question.text for question in asked], answers) == lines["text_alone"] < 0.4
    assert ceiling([question[1:3] for question in asked], answers) == 1.0, "clip and question tell the answer"
    assert lines["answer_list"] == 1.0 and lines["question"] <= lines["text_alone"] + 1e-9
    batch = data.examples("test")[[Draw(0, None)]]
    assert batch["keep"]["vision"].all() and set(batch["keep"]) == set(inputs)


def test_clips_of_msrvtt_need_sight_sound_and_words():
    rows = [(plan, *row) for plan in plan_block() for row in plan.questions()]
    answers = [answer for _, _, answer in rows]
    assert all(len({answer for _, answer in plan.questions()}) == 4 for plan in plan_block())
    alone = single_modality(plan_block())
    assert alone["vision_alone"] == alone["audio_alone"] == 0.25 and alone["text_alone"] == pytest.approx(17 / 48)
    for cue in (lambda plan: plan[:2], lambda plan: plan.sound):
        assert ceiling([(cue(plan), text) for plan, text, _ in rows], answers) < 0.7
    assert ceiling([plan[:3] for plan, _, _ in rows], answers) == 0.25
    assert ceiling([(plan[:3], text) for plan, text, _ in rows], answers) == 1.0


def test_a_sentence_has_one_clip_and_half_of_a_clip_is_not_enough(root: Path):
    inputs = {"vision": VISION, "audio": AUDIO}
    data = MSRVTTRetrieval(root / "told", inputs=inputs, batch_size=4, held_out=36, test_frames=1)
    data.prepare_data()
    assert {name: len(data.examples(name)) for name in ("train", "val", "test")} == dict.fromkeys(ONE, 36)
    for split in ("val", "test"):
        told = [own[0] for own in data.examples(split).captions.values()]
        cues = [tuple(w for w in one.split() if w in ("yellow", "black", "blue", *HEARD)) for one in told]
        assert len(set(told)) == 36 and len(cues[0]) == 3
    assert data.references()["test"]["vision_alone_t2v_R1"] == pytest.approx(1 / 4)
    assert data.references()["test"]["audio_alone_t2v_R1"] == pytest.approx(1 / 9)
    assert found_alone([scene for scene in scenes()]) == 1.0
    batch = data.examples("test")[[Draw(0, None), Draw(1, None)]]
    assert batch["keep"]["vision"].all() and batch["keep"]["audio"].all() and "more" not in batch


def test_msvds_sentences_tell_towers_apart(root: Path):
    data = MSVDRetrieval(root / "silent_told", inputs={"vision": VISION}, batch_size=4)
    data.prepare_data()
    captions = data.examples("test").captions
    assert len(captions) == 27 and {len(own) for own in captions.values()} == {4}
    assert len({sentence for own in captions.values() for sentence in own}) == 4 * 27
    lines = data.references()["test"]
    for name in ("chance_t2v_R1", "vision_alone_t2v_R1", "text_alone_t2v_R1"):
        assert lines[name] == pytest.approx(1 / 27), "no sentence is shared, so whoever lacks a side guesses"


@pytest.mark.parametrize("writer", [MiniMSRVTT, MiniMSVD])
def test_the_same_seed_gives_the_same_files(writer: type, tmp_path: Path):
    few = {"blocks": 1} if writer is MiniMSRVTT else {"blocks": {"train": 1}}
    made = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        writer(tmp_path / name, **few, seed=seed).write()
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file() and path.name != "miniature.json")
        made[name] = {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files}
    assert made["one"] == made["same"] != made["other"]
