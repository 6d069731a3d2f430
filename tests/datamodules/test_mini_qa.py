"""Generated question answering: real layouts, known answers, and one modality alone is not enough."""

import json
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from datamodules.mini.ave import ceiling
from datamodules.mini.music_avqa import MiniMusicAVQA, cues, plan_block, single_modality
from datamodules.mini.nlvr import shows, topics
from datamodules.mini.nlvr2 import SIDES, MiniNLVR2, draw_pair, sentences
from datamodules.mini.vqav2 import MiniVQAv2, ask, best_score, plan
from datamodules.music_avqa import MusicAVQA
from datamodules.nlvr2 import NLVR2
from datamodules.sampling import Draw
from datamodules.vqav2 import VQAv2
from hmmoe.metrics.vqa import score
from tests.datamodules.conftest import AUDIO, VISION


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mini")
    MiniVQAv2(root / "vqav2", blocks={"train2014": 2, "val2014": 1, "test2015": 1}).write()
    MiniNLVR2(root / "nlvr2", sets={"train": 18, "dev": 18, "test1": 6}).write()
    MiniMusicAVQA(root / "music", blocks={"train": 1, "val": 1, "test": 1}, size=32, fps=2).write()
    return root


def stated(root: Path) -> dict:
    return json.loads((root / "reference.json").read_text())


def test_towers_need_their_question():
    rng = np.random.default_rng(0)
    asked = [(place, question) for _ in range(3) for place, tower in enumerate(plan()) for question in ask(tower, rng)]
    references = [question.references for _, question in asked]
    seen, read = [place for place, _ in asked], [question.text for _, question in asked]
    assert best_score(seen, references) == pytest.approx(1 / 4)
    assert best_score(read, references) == pytest.approx(3 / 8)
    assert best_score(list(zip(seen, read, strict=True)), references) == pytest.approx(1.0)
    assert all(score(given[0], given) == 1.0 for given in references)
    assert {len(set(given)) > 1 for given in references} == {True, False}  # people agree in some, differ in others


def test_mini_vqa_is_read_by_the_real_datamodule_and_no_rule_beats_its_ceilings(root: Path):
    data = VQAv2(root / "vqav2", inputs={"vision": VISION}, batch_size=8, answers=8, held_out=6)
    data.prepare_data()
    assert set(data.answers().answers) == {"yellow", "black", "blue", "2", "3", "4", "yes", "no"}
    sizes = {name: part["count"] for name, part in data.manifest()["splits"].items()}
    assert sizes == {"train": 264, "val": 24, "val2014": 144}
    lines = data.references()["val2014"]
    assert lines["vision_alone"] == pytest.approx(1 / 4) and lines["text_alone"] == pytest.approx(3 / 8)
    assert lines["question_type"] <= lines["text_alone"] and lines["answer_list"] == 1.0
    questions = [question for question, _ in data.examples("val2014").questions]
    for cue, name in (("image", "vision_alone"), ("text", "text_alone")):
        gained: defaultdict = defaultdict(lambda: np.zeros(8))
        for question in questions:
            for answer, value in data.answers().scores(question.references).items():
                gained[getattr(question, cue)][answer] += value
        best = sum(values.max() for values in gained.values()) / len(questions)
        assert best == pytest.approx(stated(root / "vqav2")["val2014"][name])


def test_mini_vqa_has_the_test_set_of_the_server(root: Path):
    data = VQAv2(root / "vqav2", inputs={"vision": VISION}, batch_size=8, answers=8, held_out=6, protocol="trainval")
    data.prepare_data()
    assert "label" not in data.examples("test2015")[[Draw(0, None)]]


@pytest.mark.parametrize("sided", [True, False])
def test_of_two_sentences_one_is_true_of_a_pair(sided: bool):
    rng = np.random.default_rng(0)
    for topic in topics():
        one, other = topic.colors
        assert len(set(sentences(topic, sided))) == 2
        for which in (0, 1):
            left, right = (shows(box, topic.place) for box in draw_pair(rng, topic, sided, which))
            said = (left == one, right == one) if sided else (one in (left, right), other in (left, right))
            assert said == ((False, True) if which else (True, False))


def test_mini_nlvr2_is_read_by_the_real_datamodule_and_neither_side_tells_alone(root: Path):
    data = NLVR2(root / "nlvr2", inputs={"vision": VISION}, batch_size=8, val_directories=2)
    data.prepare_data()
    examples = [example for example, _ in data.examples("dev").examples]
    labels = [example.label for example in examples]
    pairs = [example.identifier.rpartition("-")[0] for example in examples]
    assert ceiling([example.sentence for example in examples], labels) == 0.5
    assert ceiling(pairs, labels) == 0.5
    assert ceiling([example.identifier for example in examples], labels) == 1.0
    assert data.references()["dev"]["vision_alone"] == data.references()["dev"]["text_alone"] == 0.5
    assert {side for side in SIDES for example in examples if f"on the {side}" in example.sentence} == set(SIDES)
    assert set(Counter(example.group for example in examples).values()) == {4}


def test_clips_need_all_three_modalities():
    known, answers = cues(plan_block())
    assert len(answers) == 4 * 48
    alone = single_modality(plan_block())
    assert alone["vision_alone"] == alone["audio_alone"] == 0.25 and 0.43 < alone["text_alone"] < 0.45
    for pair in combinations(range(3), 2):
        assert ceiling([tuple(cue[place] for place in pair) for cue in known], answers) < 0.8
    assert ceiling(known, answers) == 1.0


def test_answers_are_what_the_clip_shows_and_sounds():
    for clip in plan_block():
        name, yes_no, match, count = (row["anser"] for row in clip.questions())
        assert len({name, yes_no, match, count}) == 4
        assert match == ("yes" if clip.seen in clip.heard else "no")
        assert count == ("one" if clip.heard[0] == clip.heard[1] else "two")
        there = clip.heard if clip.ask_sound else (clip.seen,)
        assert yes_no == ("yes" if clip.named in there else "no")


def test_mini_music_is_read_by_the_real_datamodule(root: Path):
    inputs = {"vision": VISION, "audio": AUDIO}
    data = MusicAVQA(root / "music", inputs=inputs, batch_size=8, segments=4, every=1.0, answers=8)
    data.prepare_data()
    assert {name: part["count"] for name, part in data.manifest()["splits"].items()} == dict.fromkeys(
        ("train", "val", "test"), 192
    )
    batch = data.examples("test")[[Draw(index, None) for index in range(4)]]
    assert batch["vision"].shape == (4, 4, 3, 16, 16) and batch["audio"].shape == (4, 4, 1, 16, 96)
    assert batch["keep"]["vision"].all() and batch["keep"]["audio"].all()
    assert len(set(batch["label"].tolist())) == 4
    lines = data.references()["test"]
    assert lines["text_alone"] == stated(root / "music")["test"]["text_alone"]
    assert lines["question"] <= lines["text_alone"] + 1e-9
    labels = [question.answer for question in data.examples("test").questions]
    assert ceiling([question.text for question in data.examples("test").questions], labels) == lines["text_alone"]
    assert ceiling([question.clip for question in data.examples("test").questions], labels) == 0.25


@pytest.mark.parametrize("writer", [MiniVQAv2, MiniNLVR2])
def test_the_same_seed_gives_the_same_files(writer: type, tmp_path: Path):
    few = {"blocks": {"train2014": 1}} if writer is MiniVQAv2 else {"sets": {"train": 2}}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        writer(tmp_path / name, **few, seed=seed).write()
    made = {}
    for name in ("one", "same", "other"):
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file() and path.name != "miniature.json")
        made[name] = {path.relative_to(tmp_path / name): path.read_bytes() for path in files}
    assert made["one"] == made["same"]
    assert made["one"] != made["other"]
