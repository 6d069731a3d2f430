"""Every dataset names file, place and remedy of what is broken in its annotations: text that is none, rows twice."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.ave import AVE
from datamodules.ave_annotations import read_events
from datamodules.avs_corpus import MS3, S4, read_clips
from datamodules.music_avqa_annotations import read_questions as read_music
from datamodules.nlvr2_corpus import read_examples as read_nlvr2
from datamodules.nlvr_corpus import read_examples as read_nlvr
from datamodules.video_text_annotations import (
    read_caption_map,
    read_corpus,
    read_ids,
    read_mapping,
    read_msrvtt,
    read_question_map,
    read_questions,
    read_raw_captions,
    read_test_list,
)
from datamodules.vqav2_annotations import read_answers
from datamodules.vqav2_annotations import read_questions as read_vqa
from hmmoe.errors import DataBroken
from tests.datamodules.conftest import VISION

READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "ave": ("trainSet.txt", read_events),
    "avs_s4": ("metadata.csv", lambda path: read_clips(path, S4.new)),
    "avs_ms3": ("Multi-sources/ms3_meta_data.csv", lambda path: read_clips(path, MS3.old)),
    "music_avqa": ("avqa-test.json", read_music),
    "msrvtt_qa": ("test_qa.json", lambda path: read_questions(path, str)),
    "msrvtt_qa of valor": ("txt_mapper_vqa.json", lambda path: read_question_map(path, ["video0"])),
    "msrvtt_retrieval": ("MSRVTT_data.json", read_msrvtt),
    "1k-A": ("MSRVTT_JSFUSION_test.csv", read_test_list),
    "valor captions": ("txt_mapper.json", read_caption_map),
    "valor lists": ("1KAsplit_test_id.json", read_ids),
    "msvd lists": ("test_list.txt", read_ids),
    "msvd numbers": ("youtube_mapping.txt", read_mapping),
    "msvd csv": ("video_corpus.csv", read_corpus),
    "msvd pickle": ("raw-captions.pkl", read_raw_captions),
    "vqav2": ("questions.json", lambda path: read_vqa(path, None)),
    "vqav2 answers": ("answers.json", read_answers),
    "nlvr2": ("dev.json", read_nlvr2),
    "nlvr": ("dev/dev.json", lambda path: read_nlvr(path.parents[1], "dev", {})),
}
REMEDY = r"(fetch|mend|extract|delete|set|data\.vocabulary)"


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"\xff\xfe\x00{", b"<html>404</html>\n"], ids=["bytes", "a page"])
def test_a_file_of_something_else_is_named(name: str, content: bytes, tmp_path: Path):
    if name == "msvd lists" and content.startswith(b"<"):
        content = b"<p> <p>"  # any words are names of clips: only those that come twice are wrong
    path = tmp_path / READERS[name][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(DataBroken, match=rf"{path.name}[\s\S]*{REMEDY}"):
        READERS[name][1](path)


def twice(row: dict[str, Any], **changes: Any) -> str:
    return json.dumps([row, row | changes])


MUSIC = {
    "video_id": "00000001",
    "question_id": 5,
    "type": '["Audio", "Counting"]',
    "question_content": "Why?",
    "templ_values": "[]",
    "anser": "yes",
}
QA = {"id": 3, "video_id": 1, "question": "who is there?", "answer": "man"}
PAIR = {"identifier": "dev-0-0-0", "sentence": "There is a dog.", "label": "True"}
BOXES = {"identifier": "4-1", "sentence": "There is a box.", "label": "true", "directory": "1"}
TWICE: dict[str, tuple[str, str]] = {
    "ave": ("Cat&abc&good&0&10\nCat&abc&good&0&9\n", r"row 2 is .*already"),
    "avs_s4": (
        "vid,uid,s_min,s_sec,a_obj,split,label\na,a_0_1,0,0,dog,train,v1s\na,a_1_2,0,0,dog,val,v1s\n",
        r"row 3 is .*already",
    ),
    "music_avqa": (twice(MUSIC), "row 1: question_id 5 stands there already"),
    "msrvtt_qa": (twice(QA, question="what?"), "row 1: expected an id that no other row has"),
    "msrvtt_retrieval": (
        json.dumps({"videos": [{"video_id": "video1"}] * 2, "sentences": []}),
        r"videos\[1\]: expected a video_id that no other one has",
    ),
    "1k-A": (
        "key,vid_key,video_id,sentence\nret0,m,video1,a box\nret1,m,video1,a dog\n",
        "line 3: expected a sentence",
    ),
    "valor lists": ('["video1", "video1"]', "entry 1: expected the name of a clip that is not listed before"),
    "msvd lists": ("abc_1_2\nabc_1_2\n", "entry 1: expected the name of a clip that is not listed before"),
    "msvd numbers": ("abc_1_2 vid7\ndef_1_2 vid7\n", "line 2: expected"),
    "vqav2": (
        json.dumps({"questions": [{"question_id": 7, "image_id": 1, "question": "what?"}] * 2}),
        r"questions\[1\]: question_id 7 twice",
    ),
    "vqav2 answers": ('["yes", "yes"]', "expected a list of different answers"),
    "nlvr2": (f"{json.dumps(PAIR)}\n" * 2, "line 2: identifier dev-0-0-0 twice"),
    "nlvr": (f"{json.dumps(BOXES)}\n" * 2, "lines 1, 2: identifier 4-1 twice"),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_row_that_comes_twice_is_named(name: str, tmp_path: Path):
    path = tmp_path / READERS[name][0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TWICE[name][0])
    with pytest.raises(DataBroken, match=rf"{path.name}.*{TWICE[name][1]}.*") as caught:
        READERS[name][1](path)
    assert any(word in str(caught.value) for word in ("fetch", "mend", "delete", "leave one", "data.vocabulary"))


def test_a_broken_dataset_shows_before_training(ave_root: Path, tmp_path: Path):
    """Annotations of all splits are read when a run starts, the test's too."""
    root = tmp_path / "AVE"
    shutil.copytree(ave_root, root)
    (root / "testSet.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataBroken, match=r"testSet\.txt is no text in UTF-8"):
        AVE(root, inputs={"vision": VISION}, batch_size=1).prepare_data()
