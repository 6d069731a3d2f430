"""VQA v2 against hand-made questions in the official layout."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.sampling import Draw
from datamodules.vqav2 import VQAv2
from datamodules.vqav2_annotations import AnswerList, build_answers, read_answers, read_questions
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from hmmoe.metrics.vqa import score
from tests.datamodules.conftest import VISION

FOLDERS = {"train2014": 6, "val2014": 4, "test2015": 2}
"""Pictures in each; two questions on every picture."""


def references(image: int, place: int) -> list[str]:
    """The first question's people are unanimous, the second's are not."""
    if place == 0:
        return ["yes"] * 10 if image % 2 else ["no"] * 10
    return ["two"] * 5 + ["2"] * 2 + ["The 3.", "three", "many"]


def write_vqa(root: Path) -> Path:
    for number, (folder, count) in enumerate(FOLDERS.items()):
        (root / folder).mkdir(parents=True)
        asked: list[dict[str, Any]] = []
        answered: list[dict[str, Any]] = []
        for image in range(100 * number + 1, 100 * number + 1 + count):
            picture = Image.fromarray(np.full((20, 30, 3), 40 + 20 * (image % 10), np.uint8))
            picture = picture.convert("L") if image % 3 == 0 else picture  # COCO has grey pictures too
            picture.save(root / folder / f"COCO_{folder}_{image:012d}.jpg")
            for place in range(2):
                row = {"image_id": image, "question_id": image * 1000 + place}
                asked.append({**row, "question": ["is there a box", "there is a box"][place]})
                given = references(image, place)
                answers = [{"answer": a, "answer_id": i, "answer_confidence": "yes"} for i, a in enumerate(given, 1)]
                kinds = {"answer_type": ["yes/no", "number"][place], "question_type": ["is there a", "how many"][place]}
                most = Counter(given).most_common(1)[0][0]
                answered.append({**row, **kinds, "answers": answers, "multiple_choice_answer": most})
        text = json.dumps({"info": {}, "questions": asked})
        (root / f"v2_OpenEnded_mscoco_{folder}_questions.json").write_text(text)
        if folder == "test2015":
            (root / "v2_OpenEnded_mscoco_test-dev2015_questions.json").write_text(json.dumps({"questions": asked[:2]}))
        else:
            (root / f"v2_mscoco_{folder}_annotations.json").write_text(json.dumps({"annotations": answered[::-1]}))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_vqa(tmp_path / "vqav2")


def vqa(root: Path, **settings) -> VQAv2:
    usual = {"inputs": {"vision": VISION}, "batch_size": 4, "held_out": 2, "answers": 3, "occurrences": 3}
    return VQAv2(root, **(usual | settings))


def all_of(data: VQAv2, split: str) -> dict:
    examples = data.examples(split)
    return examples[[Draw(index, None) for index in range(len(examples))]]


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_batch_has_picture_words_soft_targets_and_official_scores(root: Path, tokenizer: str):
    data = vqa(root, inputs={"vision": VISION, "text": {"tokenizer": tokenizer, "length": 6}})
    assert data.answers().answers == ("yes", "2", "no")  # normalised, in the order of first appearance
    batch = all_of(data, "val2014")
    assert batch["id"][:3] == ["101000", "101001", "102000"]
    assert batch["kind"][:2] == ["yes/no", "number"]
    assert batch["vision"].shape == (8, 1, 3, 16, 16)
    assert batch["text"]["ids"].shape == (8, 6)
    assert batch["text"]["ids"][0].tolist()[:4] == [3, 2, 4, 5]
    torch.testing.assert_close(batch["label"][:3], torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))
    torch.testing.assert_close(batch["score"][:3], torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]))


def test_scores_equal_the_official_accuracy_of_every_answer():
    answers = AnswerList(["yes", "2", "3", "many", "", "two"])
    for given in (["two"] * 10, references(1, 1), references(1, 0), ["a", "the", "2", "two"] + ["3"] * 6):
        scores = answers.scores(given)
        for index, answer in enumerate(answers.answers):
            assert scores.get(index, 0.0) == pytest.approx(score(answer, given)), (answer, given)


def test_targets_are_normalised_even_where_the_evaluator_does_not():
    answers = AnswerList(["2", "yes"])
    assert answers.targets(["two"] * 10) == {0: 1.0}
    assert answers.scores(["two"] * 10) == {}  # officially "2" is wrong where all wrote "two"
    assert answers.targets(references(1, 1)) == {0: 1.0}
    assert answers.targets(["2"] + ["no"] * 9) == {0: pytest.approx(0.3)}


def test_the_list_of_answers_follows_the_rule(root: Path):
    questions = read_questions(
        root / "v2_OpenEnded_mscoco_train2014_questions.json", root / "v2_mscoco_train2014_annotations.json"
    )
    assert [question.number for question in questions[:3]] == [1000, 1001, 2000]  # in the order of the questions
    assert build_answers(questions, 6) == ["2"]
    assert build_answers(questions, 3) == ["yes", "2", "no"]
    articles = [question._replace(answer="the") for question in questions]
    assert build_answers(articles, 9) == [""]  # the published list holds the empty string


@pytest.mark.parametrize("content", [["2", "yes", "no"], {"yes": 1, "2": 0, "no": 2}])
def test_a_list_of_answers_can_be_loaded(root: Path, tmp_path: Path, content: Any):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(content))
    data = vqa(root, vocabulary=path)
    assert data.answers().answers == ("2", "yes", "no")
    assert all_of(data, "val2014")["label"][0].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("content", ['["a", "a"]', '{"a": 0, "b": 2}', '{"a": "x"}', '"a"', "[1]", "["])
def test_a_broken_list_of_answers_is_named(tmp_path: Path, content: str):
    (tmp_path / "answers.json").write_text(content)
    with pytest.raises(DataBroken, match=r"answers\.json.*data\.vocabulary=null builds the list"):
        read_answers(tmp_path / "answers.json")


def test_another_number_of_answers_is_refused(root: Path):
    with pytest.raises(ConfigError, match=r"data\.answers=3129, but train2014 and val2014 .* gives 3: .*=3 if"):
        vqa(root, answers=3129).examples("train")


def test_train_and_val_share_no_picture(root: Path):
    data = vqa(root)
    train, val = ({path.name for _, path in data.examples(split).questions} for split in ("train", "val"))
    assert [len(train), len(val)] == [4, 2] and not train & val
    assert {path.parent.name for _, path in data.examples("val2014").questions} == {"val2014"}
    assert (data.val_splits, data.test_splits) == (("val",), ("val2014",))


def test_vlmos_protocol_trains_on_both_and_predicts_for_the_server(root: Path):
    data = vqa(root, protocol="trainval", held_out=1)
    data.prepare_data()
    assert (data.val_splits, data.test_splits) == (("rest_val",), ("test2015",))
    sizes = {name: part["count"] for name, part in data.manifest()["splits"].items()}
    assert sizes == {"trainval": 12 + 6, "rest_val": 2, "test2015": 4}
    batch = all_of(data, "test2015")
    assert not {"label", "score", "kind"} & set(batch)
    assert set(data.references()) == {"rest_val"}
    rows = [{"id": name, "prediction": index % 3} for index, name in enumerate(batch["id"])]
    (made,) = data.submission("test2015", rows).items()
    assert made[0] == "submission.json"
    assert json.loads(made[1])[:2] == [
        {"question_id": 201000, "answer": "yes"},
        {"question_id": 201001, "answer": "2"},
    ]
    dev = vqa(root, protocol="trainval", held_out=1, server="test-dev2015")
    assert len(dev.examples("test-dev2015")) == 2
    assert list(vqa(root).submission("val2014", rows)) == ["val2014_submission.json"]


def test_references_are_official_scores(root: Path):
    lines = vqa(root).references()["val2014"]
    assert lines == pytest.approx({"majority": 0.5, "question_type": 0.5 + 0.25, "answer_list": 1.0})


def test_training_crops_and_mirrors_hang_on_the_draw_alone(root: Path):
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:, :, 0], picture[:, :, 1] = np.arange(30) * 8, np.arange(20)[:, None] * 12
    for path in (root / "train2014").iterdir():
        Image.fromarray(picture).save(path, quality=100)
    plain = vqa(root).examples("train")
    assert torch.equal(plain[[Draw(0, (1, 0))]]["vision"], plain[[Draw(0, None)]]["vision"])
    cropped = vqa(root, area=[0.4, 0.5]).examples("train")
    one, same, other = (cropped[[Draw(0, (1, epoch))]]["vision"] for epoch in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(cropped[[Draw(0, None)]]["vision"], plain[[Draw(0, None)]]["vision"])
    mirrored = vqa(root, flip=True).examples("train")
    seen = [mirrored[[Draw(0, (1, epoch))]]["vision"] for epoch in range(20)]
    whole = plain[[Draw(0, None)]]["vision"]
    assert all(torch.equal(s, whole) or torch.equal(s, whole.flip(-1)) for s in seen)
    assert 0 < sum(torch.equal(s, whole) for s in seen) < 20
    evaluated = vqa(root, area=[0.4, 0.5]).examples("val")
    assert evaluated.area is None


def test_a_missing_picture_is_refused_or_dropped(root: Path):
    (root / "val2014" / "COCO_val2014_000000000102.jpg").unlink()
    with pytest.raises(DataMissing, match=r"2 of 8 examples of val2014 .*000000000102\.jpg.*data\.missing=drop"):
        vqa(root).examples("val2014")
    data = vqa(root, missing="drop")
    assert len(data.examples("val2014")) == 6
    assert data.manifest()["splits"]["val2014"]["dropped"] == 2


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "questions",
            lambda c: c["questions"][3].pop("question"),
            r"questions\[3\]: expected whole numbers question_id",
        ),
        ("questions", lambda c: c["questions"].append(c["questions"][0]), r"questions\[8\]: question_id 101000 twice"),
        ("questions", lambda c: c.pop("questions"), r"expected JSON with a list of 'questions'"),
        (
            "annotations",
            lambda c: c["annotations"][1].update(answer_type="maybe"),
            r"annotations\[1\].*answer_type 'maybe'",
        ),
        ("annotations", lambda c: c["annotations"][1]["answers"].pop(), r"annotations\[1\].* 9 answers"),
        ("annotations", lambda c: c["annotations"][1].update(question_id=5), r"annotations\[1\].*KeyError\(5\)"),
        ("annotations", lambda c: c["annotations"].append(c["annotations"][0]), r"question_id 104001 twice"),
        ("annotations", lambda c: c["annotations"].pop(), r"answers 7 of 8 questions of .*, not 101000"),
    ],
)
def test_a_broken_row_is_named(root: Path, name: str, change, message: str):
    prefix = "v2_OpenEnded_mscoco" if name == "questions" else "v2_mscoco"
    edit(root / f"{prefix}_val2014_{name}.json", change)
    with pytest.raises(DataBroken, match=rf"val2014_(questions|annotations)\.json.*{message}|{message}"):
        vqa(root).examples("val2014")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "test"}, r"data\.protocol=test, .*expected train_val or trainval"),
        ({"missing": "ignore"}, r"data\.missing=ignore: expected refuse, drop or zero"),
        ({"held_out": 6}, r"data\.held_out=6: expected 1 to 5 of the 6 pictures of train2014"),
        ({"area": [0.5, 2.0]}, r"data\.area=\[0\.5, 2\.0\]: expected two shares"),
        ({"parts": {"smell": ["smell"]}}, r"data\.parts names smell; the kinds are yes/no"),
    ],
)
def test_settings_that_cannot_work(root: Path, settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        vqa(root, **settings).examples("train")


def test_absent_files_are_listed_by_protocol(root: Path):
    (root / "v2_OpenEnded_mscoco_test2015_questions.json").unlink()
    assert vqa(root).absent() == []
    with pytest.raises(DataMissing, match=r"mscoco_test2015_questions\.json[\s\S]*visualqa\.org"):
        vqa(root, protocol="trainval").check()
