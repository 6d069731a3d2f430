"""MUSIC-AVQA's published questions: `make test-real`, with $HMMOE_REAL_DATA or shared/realdata beside the checkout."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from datamodules.music_avqa import MusicAVQA
from datamodules.music_avqa_annotations import KINDS, Question, answers_of, read_questions
from hmmoe.metrics.grouped import GroupMean
from tests.datamodules.conftest import VISION

pytestmark = pytest.mark.real

TEST_CELLS = (1022, 601, 1199, 1228, 995, 1274, 927, 1115, 824)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published files, unpacked; the synthetic part of train stands for train, which is not at hand."""
    real = Path(os.environ.get("HMMOE_REAL_DATA", Path(__file__).parents[3] / "shared" / "realdata")) / "music_avqa"
    if not real.is_dir():
        pytest.skip(f"no real data at {real}")
    root = tmp_path_factory.mktemp("MUSIC-AVQA")
    for path in real.rglob("*.json.gz"):
        target = root / path.relative_to(real).with_name(path.name.removesuffix(".gz").replace("train_fake", "train"))
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(gzip.decompress(path.read_bytes()))
    return root


@pytest.fixture(scope="module")
def asked(root: Path) -> list[Question]:
    return read_questions(root / "json" / "avqa-test.json")


def test_published_counts(root: Path, asked: list[Question]):
    counts = {path: len(read_questions(root / path)) for path in ("json/avqa-val.json", "json/avqa-train.json")}
    assert counts == {"json/avqa-val.json": 4595, "json/avqa-train.json": 6233}
    assert len(read_questions(root / "json_update" / "avqa-val.json")) == 4568
    assert len(asked) == 9185
    assert len({question.name for question in asked}) == 9185  # numbers that stand there twice are told apart
    kinds = Counter(question.kind for question in asked)
    assert tuple(kinds[kind] for kind in KINDS) == TEST_CELLS


def test_every_template_is_filled(root: Path, asked: list[Question]):
    for question in [*asked, *read_questions(root / "json" / "avqa-train.json")]:
        assert "<" not in question.text and "_" not in question.text and question.text.endswith("?")


def test_answers_and_the_majority(asked: list[Question]):
    assert len(answers_of(asked)) == 41
    answer, count = Counter(question.answer for question in asked).most_common(1)[0]
    assert answer == "yes" and count / len(asked) == pytest.approx(0.262, abs=5e-4)


def test_cells_and_averages_as_the_official_script_counts_them(root: Path, asked: list[Question]):
    """The script's own loop, on the raw rows one by one, against metrics fed in batches of 64."""
    rows = json.loads((root / "json" / "avqa-test.json").read_text())
    right = [(7 * place + len(row["anser"])) % 3 == 0 for place, row in enumerate(rows)]
    official: dict[tuple[str, str], list[bool]] = {}
    for row, hit in zip(rows, right, strict=True):
        official.setdefault(tuple(json.loads(row["type"])), []).append(hit)
    averages = {m: [hit for key, hits in official.items() if key[0] == m for hit in hits] for m, _ in official}
    cells = {f"{modality}/{kind}": GroupMean([f"{modality}/{kind}"]) for modality, kind in official}
    means = {m: GroupMean([kind for kind in KINDS if kind.split("/")[0] == m]) for m in averages}
    for start in range(0, len(rows), 64):
        part = slice(start, start + 64)
        for metric in (*cells.values(), *means.values()):
            metric.update(torch.tensor(right[part], dtype=torch.float32), [question.kind for question in asked[part]])
    for (modality, kind), hits in official.items():
        assert cells[f"{modality}/{kind}"].compute().item() == pytest.approx(sum(hits) / len(hits), abs=1e-6)
    for modality, hits in averages.items():
        assert means[modality].compute().item() == pytest.approx(sum(hits) / len(hits), abs=1e-6)


def test_the_datamodule_reads_them(root: Path):
    """Train's synthetic part has no "eight", "four", "nine" and "seven": questions with other answers are refused."""
    data = MusicAVQA(root, inputs={"vision": VISION}, batch_size=8, answers=37)
    assert len(data.labels()) == 37
    with pytest.raises(ValueError, match=r"avqa-test\.json, row \d+: anser '\w+' is none of the 37 answers of train"):
        data.examples("test")
