"""MSR-VTT and MSVD against hand-made files: both layouts, splits, frames and sound, broken rows."""

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.answers import most_frequent
from datamodules.footage import slice_starts, spread
from datamodules.mini.clip import write_clip
from datamodules.msrvtt import MSRVTTQA, MSRVTTRetrieval
from datamodules.msvd import MSVDQA, MSVDRetrieval
from datamodules.sampling import Draw
from datamodules.video_text_annotations import read_corpus, read_raw_captions
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from hmmoe.types import OUTSIDE
from tests.datamodules.conftest import AUDIO, VISION, brightness, clip

ANSWERS = {"train": ["couch", "man", "man", "dres"], "val": ["man", "sofa"], "test": ["couch", "man"]}
"""Clip 0 has the first two questions of a split, clip 1 the others."""


def question(split: str, place: int) -> dict:
    number = ["train", "val", "test"].index(split) * 10 + place
    text = ["what is a box?", "who is there"][place % 2]
    return {"answer": ANSWERS[split][place], "id": number, "question": text, "video_id": place // 2}


def sentences(name: str) -> list[str]:
    return [f"there is a box number {name[-1]}", f"a box {name[-1]}"]


def write_msrvtt(root: Path) -> Path:
    """Six clips of ten seconds, the second without sound; questions, sentences and 1k-A's list of two test clips."""
    (root / "videos").mkdir(parents=True)
    clip(root / "videos" / "video0.mp4")
    clip(root / "videos" / "video1.mp4", sound=False)
    for number in range(2, 6):
        (root / "videos" / f"video{number}.mp4").symlink_to(root / "videos" / "video0.mp4")
    for split, answers in ANSWERS.items():
        rows = [question(split, place) for place in range(len(answers))]
        (root / f"{split}_qa.json").write_text(json.dumps(rows))
    names = [f"video{number}" for number in range(6)]
    told = [{"video_id": n, "caption": s, "sen_id": i} for n in names for i, s in enumerate(sentences(n))]
    (root / "MSRVTT_data.json").write_text(json.dumps({"videos": [{"video_id": n} for n in names], "sentences": told}))
    with (root / "MSRVTT_JSFUSION_test.csv").open("w", newline="") as file:
        rows = [
            ["key", "vid_key", "video_id", "sentence"],
            *([f"ret{n}", f"msr{n}", f"video{n}", "a box"] for n in (4, 5)),
        ]
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msrvtt(tmp_path_factory.mktemp("original") / "MSRVTT")


@pytest.fixture(scope="module")
def valor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in VALOR's layout, extracted: frames at 4 fps, no wav for any clip."""
    root = tmp_path_factory.mktemp("valor")
    names = [f"video{number}" for number in range(6)]
    for name in names:
        (root / "frames_fps4" / name).mkdir(parents=True)
        for frame in range(16):
            picture = Image.fromarray(np.full((20, 30, 3), brightness(frame // 4), np.uint8))
            picture.save(root / "frames_fps4" / name / f"img_{frame + 1:04d}.jpg", quality=95)
    (root / "audio_22050hz").mkdir()
    for kind in ("standardsplit", "1KAsplit"):
        (root / f"{kind}_train_id.json").write_text(json.dumps(names[:4]))
        (root / f"{kind}_test_id.json").write_text(json.dumps(names[4:]))
    asked = {name: [{"question": "what is a box?", "answer": "man"}] * 2 for name in names}
    (root / "txt_mapper_vqa.json").write_text(json.dumps(asked))
    (root / "txt_mapper.json").write_text(json.dumps({name: sentences(name) for name in names}))
    (root / "txt_mapper_1kAsplit_test.json").write_text(json.dumps({"video4": "a box", "video5": ["there is a box"]}))
    return root


def write_msvd(root: Path) -> Path:
    """Six silent avi clips; numbers of three splits; the same sentences as pickle and as csv."""
    (root / "YouTubeClips").mkdir(parents=True)
    names = [f"-wsuPCjDB{number}_5_15" for number in range(6)]
    pictures = np.stack([np.full((32, 48, 3), brightness(second), np.uint8) for second in range(4)])
    for name in names:
        write_clip(root / "YouTubeClips" / f"{name}.avi", pictures, None, fps=4, sample_rate=16000)
    numbers = [1, 2, 1201, 1202, 1301, 1970]
    lines = [f"{name} vid{number}" for name, number in zip(names, numbers, strict=True)]
    (root / "youtube_mapping.txt").write_text("\n".join(lines) + "\n")
    for split, own in (("train", numbers[:2]), ("val", numbers[2:5]), ("test", numbers[5:])):
        rows = [{"answer": "man", "id": n, "question": "who is there?", "video_id": n} for n in own]
        (root / f"{split}_qa.json").write_text(json.dumps(rows))
    told = {name: [sentence.split() for sentence in sentences(name)] for name in names}
    (root / "raw-captions.pkl").write_bytes(pickle.dumps(told, protocol=2))
    return root


@pytest.fixture(scope="module")
def msvd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msvd(tmp_path_factory.mktemp("original") / "MSVD")


def qa(root: Path, **settings) -> MSRVTTQA:
    usual = {"inputs": {"vision": VISION, "audio": AUDIO}, "batch_size": 2, "frames": 2, "test_frames": 4, "answers": 2}
    return MSRVTTQA(root, **(usual | settings))


def found(root: Path, kind: type = MSRVTTRetrieval, **settings):
    usual = {"inputs": {"vision": VISION}, "batch_size": 2, "frames": 2, "test_frames": 4, "held_out": 1}
    return kind(root, **(usual | settings))


def all_of(data, split: str, *, epoch: int | None = None) -> dict:
    examples = data.examples(split)
    return examples[[Draw(index, None if epoch is None else (0, epoch)) for index in range(len(examples))]]


def grey(vision: torch.Tensor) -> list[int]:
    """(T, 3, H, W) -> which second every picture shows."""
    return [round((value - 20) / 20) for value in ((vision.mean((1, 2, 3)) * 0.5 + 0.5) * 255).tolist()]


def test_questions_come_with_frames_sound_and_words(msrvtt: Path, tokenizer: str):
    data = qa(
        msrvtt, inputs={"vision": VISION, "audio": AUDIO, "text": {"tokenizer": tokenizer, "length": 6}}, slices=2
    )
    data.prepare_data()
    batch = all_of(data, "test")
    assert batch["id"] == ["20", "21"] and batch["kind"] == ["what", "who"]
    assert batch["vision"].shape == (2, 4, 3, 16, 16) and batch["audio"].shape == (2, 2, 1, 16, 96)
    assert grey(batch["vision"][0]) == [1, 3, 6, 8]  # the middles of four parts of ten seconds
    assert batch["keep"]["audio"].all() and batch["text"]["ids"].shape == (2, 6)
    assert data.labels() == {"man": 0, "couch": 1}  # by frequency, "couch" before "dres"


def test_an_answer_outside_the_list_is_asked_but_not_trained_on(msrvtt: Path):
    data = qa(msrvtt)
    assert [q.answer for q in data.examples("train").questions] == ["couch", "man", "man"]
    assert all_of(data, "val")["label"].tolist() == [0, OUTSIDE]
    assert data.references()["val"] == pytest.approx(
        {"majority": 0.5, "question_word": 0.0, "question": 0.0, "answer_list": 0.5}
    )
    assert data.references()["test"]["answer_list"] == 1.0


def test_a_clip_without_a_sound_track_is_silence_that_is_not_kept(msrvtt: Path):
    batch = all_of(qa(msrvtt), "train")
    assert batch["keep"]["audio"].squeeze(1).tolist() == [True, True, False]
    assert not batch["audio"][2].any() and batch["keep"]["vision"].all()


def test_valors_layout_is_found_and_holds_clips_out(valor: Path):
    data = qa(valor, media="extracted", answers=1, held_out=2)
    data.prepare_data()
    clips = {split: {q.clip for q in data.examples(split).questions} for split in ("train", "val", "test")}
    assert clips == {"train": {"video1", "video3"}, "val": {"video0", "video2"}, "test": {"video4", "video5"}}
    batch = all_of(data, "test")
    assert grey(batch["vision"][0]) == [0, 1, 2, 3] and not batch["keep"]["audio"].any()


def test_1ka_has_all_other_clips_for_training(msrvtt: Path, valor: Path):
    for root, settings in ((msrvtt, {}), (valor, {"media": "extracted"})):
        data = found(root, **settings)
        data.prepare_data()
        names = {split: data.examples(split).names for split in ("train", "val", "test")}
        assert names == {"train": ["video1", "video2", "video3"], "val": ["video0"], "test": ["video4", "video5"]}
        assert [len(own) for own in data.examples("train").captions.values()] == [2, 2, 2]
        assert [len(own) for own in data.examples("val").captions.values()] == [1]
        assert data.references()["test"] == {
            "clips": 2.0,
            "sentences": 2.0,
            "chance_t2v_R1": 0.5,
            "chance_t2v_R10": 1.0,
        }


def test_training_draws_a_sentence_and_evaluation_takes_all(msvd: Path, tokenizer: str):
    data = found(msvd, MSVDRetrieval, inputs={"text": {"tokenizer": tokenizer, "length": 8}})
    drawn = {name for epoch in range(24) for name in all_of(data, "train", epoch=epoch)["sentence"]}
    assert drawn == {f"-wsuPCjDB{clip}_5_15#{place}" for clip in (0, 1) for place in (0, 1)}
    batch = all_of(data, "train", epoch=0)
    assert "more" not in batch and len(batch["text"]["ids"]) == 2
    batch = all_of(data, "test")
    assert batch["sentence"] == ["-wsuPCjDB4_5_15#0", "-wsuPCjDB5_5_15#0"]
    assert batch["more"]["names"] == ["-wsuPCjDB4_5_15#1", "-wsuPCjDB5_5_15#1"]
    assert batch["more"]["clip"] == batch["id"] and batch["more"]["ids"].shape == (2, 8)


def test_msvd_is_split_in_two_ways(msvd: Path):
    retrieval, asked = found(msvd, MSVDRetrieval), MSVDQA(msvd, inputs={"vision": VISION}, batch_size=2, answers=1)
    count = {name: len(retrieval.examples(name)) for name in ("train", "val", "test")}
    assert count == {"train": 2, "val": 2, "test": 2}
    assert {name: len(asked.examples(name)) for name in ("train", "val", "test")} == {"train": 2, "val": 3, "test": 1}
    assert grey(all_of(asked, "test")["vision"][0]) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_msvds_csv_keeps_english_of_the_two_sources(tmp_path: Path):
    head = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"
    rows = [
        "ab,1,5,1,clean,3,English,A man.",
        "ab,1,5,1,unverified,3,English,A box.",
        "ab,1,5,1,clean,3,German,Ein Mann.",
    ]
    path = tmp_path / "video_corpus.csv"
    path.write_text("\n".join([head, *rows, "ab,1,5,1,spam,3,English,Buy!", "cd,2,4,1,clean,3,English,"]))
    assert read_corpus(path) == {"ab_1_5": ["A man.", "A box."]}
    path.write_text("\n".join([head, "ab,one,5,1,clean,3,English,A man."]))
    with pytest.raises(DataBroken, match=r"video_corpus\.csv, line 2: expected VideoID and whole seconds"):
        read_corpus(path)


def test_a_pickle_that_asks_for_code_is_refused(tmp_path: Path):
    path = tmp_path / "raw-captions.pkl"
    path.write_bytes(pickle.dumps({"a": Path("x")}))
    with pytest.raises(DataBroken, match=r"expected a pickle of plain lists \(it asks for pathlib"):
        read_raw_captions(path)


def test_augmented_training_is_repeatable_and_differs_by_epoch(msrvtt: Path):
    data = found(msrvtt, jitter=True, area=[0.5, 0.9], flip=True)
    one, same, other = (all_of(data, "train", epoch=epoch)["vision"] for epoch in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_frames_and_slices_are_spread_evenly():
    assert spread(4, None).tolist() == [0.125, 0.375, 0.625, 0.875]
    drawn = spread(4, np.random.default_rng(0))
    assert ((drawn * 4).astype(int) == np.arange(4)).all()
    assert slice_starts(20.0, 5.0, 2, None) == [5.0, 15.0]
    assert slice_starts(10.0, 5.0, 3, None) == [0.0, 5.0, 10.0]  # two slices and an empty place
    assert slice_starts(0.0, 5.0, 1, None) == [0.0]


def rewritten(root: Path, target: Path, name: str, content: object) -> Path:
    for path in root.iterdir():
        if path.name != name:
            (target / path.name).symlink_to(path)
    (target / name).write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "video_id": 0, "question": "what?"}, r"row 1: expected id, the video_id of a clip"),
        ({"id": 1, "video_id": "clip", "question": "what?", "answer": "man"}, r"row 1: expected id, the video_id"),
        ({"id": 1, "video_id": 0, "question": " ", "answer": "man"}, r"row 1: expected a question and an answer"),
        (
            {"id": 20, "video_id": 0, "question": "what?", "answer": "man"},
            r"row 1: expected an id that no other row has",
        ),
    ],
)
def test_a_broken_question_is_named(msrvtt: Path, tmp_path: Path, row: dict, message: str):
    root = rewritten(msrvtt, tmp_path, "test_qa.json", [question("test", 0), row])
    with pytest.raises(DataBroken, match=rf"test_qa\.json, {message}"):
        qa(root).examples("test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"videos": [{"video_id": "video0"}] * 2, "sentences": []}, r"videos\[1\]: expected a video_id that no other"),
        ({"videos": [], "sentences": [{"video_id": "video9", "caption": "a"}]}, r"sentences\[0\]: expected a caption"),
        ({"videos": {}}, r"videos: expected a list"),
        ([], r"expected an object with videos and sentences"),
        ({"videos": [{"video_id": "video0"}], "sentences": []}, r"has nothing on video4 and 1 more"),
    ],
)
def test_broken_sentences_are_named(msrvtt: Path, tmp_path: Path, content: object, message: str):
    root = rewritten(msrvtt, tmp_path, "MSRVTT_data.json", content)
    with pytest.raises(DataBroken, match=rf"MSRVTT_data\.json.*{message}"):
        found(root).examples("test")


def test_a_clip_for_training_and_test_is_refused(valor: Path, tmp_path: Path):
    root = rewritten(valor, tmp_path, "1KAsplit_train_id.json", ["video0", "video4"])
    with pytest.raises(DataBroken, match=r"1KAsplit_train_id\.json: video4 is listed for training and for the test"):
        found(root, media="extracted").examples("test")


def test_a_missing_clip_is_refused_or_dropped(msrvtt: Path, tmp_path: Path):
    root = rewritten(msrvtt, tmp_path, "test_qa.json", [question("test", 0), question("test", 1) | {"video_id": 99}])
    with pytest.raises(DataMissing, match=r"1 of 2 examples of test .*video99\.mp4.*data\.missing=drop"):
        qa(root).examples("test")
    assert len(qa(root, missing="drop").examples("test")) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answers": 42}, r"data\.answers=42, but train of .* gives 3"),
        ({"frames": 0}, r"data\.frames=0"),
        ({"slices": 0}, r"data\.slices=0: the backbone listens"),
        ({"area": [0.9, 0.5]}, r"data\.area=\[0\.9, 0\.5\]"),
        ({"release": "new"}, r"data\.release=new"),
        ({"parts": {"why": ["why"]}}, r"data\.parts names why; the kinds are what"),
    ],
)
def test_settings_that_cannot_work(msrvtt: Path, settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        qa(msrvtt, **settings).examples("train")


def test_nothing_held_out_is_refused(msrvtt: Path):
    with pytest.raises(ConfigError, match=r"data\.held_out=4: expected 1 to 3 of the 4 training clips"):
        found(msrvtt, held_out=4).examples("val")


def test_absent_files_are_listed(tmp_path: Path):
    for data, name in ((qa(tmp_path), "train_qa"), (found(tmp_path, MSVDRetrieval), "raw-captions")):
        with pytest.raises(DataMissing, match=rf"{name}[\s\S]*videos|YouTubeClips[\s\S]*scale=mini"):
            data.check()


def test_of_equally_frequent_answers_the_first_to_appear_is_listed():
    assert most_frequent(["b", "a", "a", "c", "c"], 2, "train") == ["a", "c"]
    assert most_frequent(["b", "a", "c"], 1, "train") == ["b"]
