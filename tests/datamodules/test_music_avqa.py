"""MUSIC-AVQA against hand-made questions and clips whose brightness and pitch tell the second."""

import json
from pathlib import Path
from typing import Any
from wave import open as open_wave

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.music_avqa import MusicAVQA
from datamodules.music_avqa_annotations import KINDS, fill, read_questions
from datamodules.sampling import Draw
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from tests.datamodules.conftest import AUDIO, RATE, VISION, brightness, clip, hertz

SOUNDING = "How many sounding <Object> in the video"


def row(number: int, video: str, answer: str, template: str = "Is there a <Object> sound?", **changes: Any) -> dict:
    values = ["acoustic_guitar"] if "<" in template else []
    usual = {
        "video_id": video,
        "question_id": number,
        "type": '["Audio", "Counting"]',
        "question_content": template,
        "templ_values": json.dumps(values),
        "question_deleted": 0,
        "anser": answer,
    }
    return usual | changes


ROWS = {
    "train": [
        row(1, "00000001", "yes"),
        row(2, "00000001", "no", "Is there a voiceover?", type='["Audio-Visual", "Existential"]'),
        row(3, "va00000002", "yes", "Is there a voiceover?", type='["Audio-Visual", "Existential"]'),
        row(4, "va00000002", "two", f"{SOUNDING}\uff1f", type='["Audio-Visual", "Counting"]'),
        row(5, "va00000002", "yes", "Is there a voiceover?", type='["Audio-Visual", "Existential"]'),
    ],
    "val": [row(6, "va00000002", "no"), row(7, "00000001", "yes"), row(7, "00000001", "no")],
    "test": [row(8, "00000003", "yes"), row(9, "00000001", "no", "What? ", type='["Visual", "Location"]')],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of ten seconds, the third silent; extracted, the second has four frames and two seconds of sound."""
    root = tmp_path_factory.mktemp("MUSIC-AVQA")
    for folder in ("json", "json_update", "video", "audio"):
        (root / folder).mkdir()
    for split, rows in ROWS.items():
        (root / "json" / f"avqa-{split}.json").write_text(json.dumps(rows))
        (root / "json_update" / f"avqa-{split}.json").write_text(json.dumps(rows[:2] if split == "val" else rows))
    for name in ("00000001", "va00000002", "00000003"):
        clip(root / "video" / f"{name}.mp4", sound=name != "00000003")
        seconds = 2 if name.startswith("va") else 10
        time = np.arange(RATE) / RATE
        sound = np.concatenate([9000 * np.sin(2 * np.pi * hertz(second) * time) for second in range(seconds)])
        with open_wave(str(root / "audio" / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, len(sound), "NONE", ""))
            file.writeframes(sound.astype(np.int16).tobytes())
        (root / "frames" / name).mkdir(parents=True)
        for frame in range(4 if name.startswith("va") else 10):
            picture = Image.fromarray(np.full((20, 30, 3), brightness(frame), np.uint8))
            picture.save(root / "frames" / name / f"{frame + 1:06d}.jpg", quality=95)
    return root


def avqa(root: Path, **settings) -> MusicAVQA:
    usual = {"inputs": {"vision": VISION, "audio": AUDIO}, "batch_size": 2, "segments": 5, "every": 2.0, "answers": 3}
    return MusicAVQA(root, **(usual | settings))


def all_of(data: MusicAVQA, split: str) -> dict:
    examples = data.examples(split)
    return examples[[Draw(index, None) for index in range(len(examples))]]


def seconds_of(vision: torch.Tensor) -> list[int]:
    """(T, 3, H, W) -> which second every picture shows."""
    return [round((value - 20) / 20) for value in ((vision.mean((1, 2, 3)) * 0.5 + 0.5) * 255).tolist()]


def test_a_batch_has_three_modalities_label_and_kind(root: Path, tokenizer: str):
    inputs = {"vision": VISION, "audio": AUDIO, "text": {"tokenizer": tokenizer, "length": 6}}
    data = avqa(root, inputs=inputs)
    batch = all_of(data, "train")
    assert batch["id"] == ["1", "2", "3", "4", "5"]
    assert batch["label"].tolist() == [0, 1, 0, 2, 0]  # yes, no, two: by first appearance in train
    assert batch["kind"][:2] == ["Audio/Counting", "Audio-Visual/Existential"]
    assert batch["vision"].shape == (5, 5, 3, 16, 16)
    assert batch["audio"].shape == (5, 5, 1, 16, 96)
    assert batch["text"]["ids"][0].tolist()[:3] == [3, 2, 4]  # is there a
    assert batch["keep"]["vision"].all() and batch["keep"]["audio"].all()


@pytest.mark.parametrize("media", ["video", "extracted"])
def test_pictures_and_sounds_are_of_the_same_seconds(root: Path, media: str):
    batch = all_of(avqa(root, media=media), "train")
    assert seconds_of(batch["vision"][0]) == [0, 2, 4, 6, 8]
    strongest = batch["audio"][0].mean((1, 3)).argmax(1)
    assert (strongest.diff() >= 0).all() and strongest.unique().numel() >= 4  # pitch rises by the second


def test_what_lies_after_the_end_is_zero_and_not_kept(root: Path):
    batch = all_of(avqa(root, media="extracted"), "train")
    assert batch["keep"]["vision"][2].tolist() == [True, True, False, False, False]
    assert batch["keep"]["audio"][2].tolist() == [True, False, False, False, False]
    assert not batch["vision"][2, 2:].any() and not batch["audio"][2, 1:].any()


def test_a_clip_without_sound_is_silence_that_is_not_kept(root: Path):
    batch = all_of(avqa(root), "test")
    assert not batch["audio"][0].any() and not batch["keep"]["audio"][0].any()
    assert batch["keep"]["vision"][0].all()


def test_lavishs_folder_names_are_known(root: Path, tmp_path: Path):
    (tmp_path / "json").symlink_to(root / "json")
    (tmp_path / "video_frames").symlink_to(root / "frames")
    (tmp_path / "raw_audio").symlink_to(root / "audio")
    data = avqa(tmp_path, media="extracted")
    data.prepare_data()
    assert seconds_of(all_of(data, "train")["vision"][0]) == [0, 2, 4, 6, 8]


def test_the_memory_cache_changes_nothing(root: Path):
    kept, plain = (avqa(root, cache=cache).examples("train") for cache in ("memory", "none"))
    draws = [Draw(0, None), Draw(3, None)]
    for _ in range(2):
        for name in ("vision", "audio"):
            assert torch.equal(kept[draws][name], plain[draws][name])


def test_templates_are_filled_in_order():
    words = fill("Is the <Object> on the <LR> louder than the <Object>?", ["tuba", "left", "piano"])
    assert words == "Is the tuba on the left louder than the piano?"
    assert fill(f"{SOUNDING}\uff1f", ["electric_bass"]) == "How many sounding electric bass in the video?"
    assert fill("What kind of instrument is it? ", []) == "What kind of instrument is it?"
    with pytest.raises(ValueError, match="1 values for"):
        fill("Is it?", ["tuba"])


def test_a_question_with_two_answers_counts_twice(root: Path):
    questions = read_questions(root / "json" / "avqa-val.json")
    assert [(q.name, q.answer) for q in questions] == [("6", "no"), ("7", "yes"), ("7#2", "no")]
    assert len(avqa(root, variant="json_update").examples("val")) == 2


def test_references_are_priors_of_train(root: Path):
    lines = avqa(root).references()
    assert lines["val"] == pytest.approx({"majority": 1 / 3, "kind": 1 / 3, "question": 1 / 3})
    assert lines["test"] == pytest.approx({"majority": 0.5, "kind": 0.5, "question": 0.5})


def copy_with(root: Path, target: Path, split: str, rows: list) -> Path:
    (target / "json").mkdir()
    (target / "video").symlink_to(root / "video")
    for name, own in (ROWS | {split: rows}).items():
        (target / "json" / f"avqa-{name}.json").write_text(json.dumps(own))
    return target


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (row(9, "1", "yes", type='["Smell", "Counting"]'), r"row 1: expected question_id.*Smell"),
        (row(9, "1", "yes", templ_values="[]"), r"row 1: .*0 values for 'Is there a <Object> sound\?'"),
        (row(9, "", "yes"), r"row 1: .*ValueError.*, video_id "),
        ({"answer": "yes"}, r"row 1: .*KeyError\('type'\)"),
        (row(8, "00000003", "yes"), r"row 1: question_id 8 stands there already"),
        (row(8, "00000001", "no"), r"row 1: question_id 8 stands there already"),
        (row(9, "00000003", "tuba"), r"row 1: anser 'tuba' is none of the 3 answers of train.*data\.variant"),
    ],
)
def test_a_broken_row_is_named(root: Path, tmp_path: Path, broken: dict, message: str):
    data = avqa(copy_with(root, tmp_path, "test", [ROWS["test"][0], broken]))
    with pytest.raises(DataBroken, match=rf"avqa-test\.json, {message}"):
        data.examples("test")


def test_a_file_that_is_no_list_is_named(root: Path, tmp_path: Path):
    copy_with(root, tmp_path, "val", [])
    (tmp_path / "json" / "avqa-val.json").write_text("{}")
    with pytest.raises(DataBroken, match=r"avqa-val\.json: expected a JSON list of questions"):
        avqa(tmp_path).examples("val")


def test_a_missing_clip_is_refused_or_dropped(root: Path, tmp_path: Path):
    copy_with(root, tmp_path, "test", [*ROWS["test"], row(10, "00000099", "yes")])
    with pytest.raises(DataMissing, match=r"1 of 3 examples of test .*00000099\.mp4.*data\.missing=drop"):
        avqa(tmp_path).examples("test")
    data = avqa(tmp_path, missing="drop")
    assert len(data.examples("test")) == 2 and data.manifest()["splits"]["test"]["dropped"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answers": 42}, r"data\.answers=42, but .*avqa-train\.json gives 3"),
        ({"variant": "json2"}, r"data\.variant=json2"),
        ({"every": 0.0}, r"data\.every=0\.0"),
        ({"parts": {"audio": ["Audio/Temporal"]}}, r"data\.parts names Audio/Temporal; the kinds are Audio/Counting"),
    ],
)
def test_settings_that_cannot_work(root: Path, settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        avqa(root, **settings).examples("train")


def test_absent_files_are_listed(tmp_path: Path):
    with pytest.raises(DataMissing, match=r"avqa-train\.json[\s\S]*frames[\s\S]*GeWu-Lab/MUSIC-AVQA[\s\S]*scale=mini"):
        avqa(tmp_path, media="extracted").check()


def test_there_are_nine_cells():
    assert len(KINDS) == 9
