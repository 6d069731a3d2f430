"""Predictions as the official evaluators read them, from rows as the tasks write them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from datamodules.ave import AVE
from datamodules.ave_annotations import BACKGROUND, CATEGORIES, read_events
from datamodules.music_avqa import MusicAVQA
from datamodules.nlvr import NLVR
from tests.datamodules.conftest import VISION, write_nlvr
from tests.datamodules.test_cache import music_root
from tests.datamodules.test_music_avqa import ROWS
from tests.datamodules.test_video_text import msrvtt, qa  # noqa: F401 - msrvtt is a fixture

BANJO = CATEGORIES.index("Banjo")


def test_ave_writes_rows_of_annotations(ave_root: Path, tmp_path: Path):
    """Every run of seconds is a row; what is all background has one of no length, as one published video."""
    nothing = [BACKGROUND] * 10
    runs = [BANJO, BANJO, *[BACKGROUND] * 3, *[1] * 5]
    rows = [{"id": f"a&b#{BANJO}", "prediction": nothing}, {"id": "-xyz#1", "prediction": runs}]
    ((name, text),) = AVE(ave_root, inputs={"vision": VISION}, batch_size=1).submission("test", rows[1:]).items()
    assert name == "test_events.txt"
    (tmp_path / name).write_text(text)
    events = read_events(tmp_path / name)
    assert [(e.category, e.video, e.start, e.end) for e in events] == [(BANJO, "-xyz", 0, 2), (1, "-xyz", 5, 10)]
    quiet = AVE(ave_root, inputs={"vision": VISION}, batch_size=1).submission(
        "test", [{"id": "v#3", "prediction": nothing}]
    )
    assert quiet["test_events.txt"].splitlines()[1] == f"{CATEGORIES[0]}&v&predicted&0&0"


def test_music_avqa_answers_under_the_keys_of_the_file(tmp_path: Path):
    data = MusicAVQA(
        music_root(tmp_path / "m"), inputs={"vision": VISION}, batch_size=2, segments=2, every=2, answers=3
    )
    rows = [{"id": question.name, "prediction": 1} for question in data.examples("val").questions]
    ((name, text),) = data.submission("val", rows).items()
    assert name == "val_submission.json"
    assert [(row["question_id"], row["video_id"], row["anser"]) for row in json.loads(text)] == [
        (row["question_id"], row["video_id"], "no") for row in ROWS["val"]
    ]


def test_msrvtt_answers_in_words(msrvtt: Path):  # noqa: F811
    data = qa(msrvtt)
    answers = list(data.labels())
    rows = [
        {"id": question.name, "prediction": place} for place, question in enumerate(data.examples("test").questions)
    ]
    told = json.loads(data.submission("test", rows)["test_submission.json"])
    asked = json.loads((msrvtt / "test_qa.json").read_text())
    assert [row["answer"] for row in told] == answers
    assert [(row["id"], row["question"]) for row in told] == [(str(row["id"]), row["question"]) for row in asked]


def official_nlvr(predictions: str, labels: Mapping[str, str]) -> tuple[float, float]:
    """What the official script computes: precision over six pictures an example, share of sentences all right."""
    told = {line.split(",")[0].split(".")[0].partition("-")[2]: line.split(",")[1] for line in predictions.splitlines()}
    assert len(told) == 6 * len(labels)
    right = {name: [told[f"{name}-{k}"].lower() == label.lower() for k in range(6)] for name, label in labels.items()}
    groups: dict[str, list[bool]] = {}
    for name, hits in right.items():
        groups.setdefault(name.partition("-")[0], []).extend(hits)
    hits = [hit for own in right.values() for hit in own]
    return sum(hits) / len(hits), sum(map(all, groups.values())) / len(groups)


def test_nlvr_writes_what_the_official_script_reads(tmp_path: Path):
    root = write_nlvr(tmp_path / "nlvr")
    data = NLVR(root, inputs={"vision": VISION}, batch_size=4, val_directories=2, permutations=6)
    examples = data.examples("dev")
    rows = [{"id": name, "prediction": 1} for name, _ in examples.rows()]
    ((name, text),) = data.submission("dev", rows).items()
    assert name == "dev_submission.csv" and text.splitlines()[0] == "dev-0-0-0.png,true"
    labels = {
        row["identifier"]: row["label"] for row in map(json.loads, (root / "dev" / "dev.json").read_text().splitlines())
    }
    precision, consistency = official_nlvr(text, labels)
    always_true = [label for _, label in examples.rows()]
    assert precision == pytest.approx(np.mean(always_true))
    assert consistency == pytest.approx(2 / 6)  # the first two sentences are true of every picture
