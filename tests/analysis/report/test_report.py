"""From folders to tables, files and pictures, as the commands make them."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from hmmoe import report
from hmmoe.analysis.report.assemble import reports
from hmmoe.analysis.report.render import escaped, latex
from hmmoe.analysis.report.table import Table, p_value
from hmmoe.errors import ConfigError
from tests.analysis.report.folders import make, sweep

PICTURES = {"score_against_parameters", "score_against_flops", "curve_rank", "learning_curves"}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return sweep(tmp_path_factory.mktemp("sweep"), examples=30)


@pytest.fixture(scope="module")
def out(root) -> Path:
    assert report.main([str(root), "--baseline", "lora", "--out", str(root / "out")]) == 0
    return root / "out"


def test_all_files_are_there(out):
    names = {path.name for path in out.iterdir()}
    assert names == {"report.md", "report.tex", "report.csv", "runs.csv"} | {
        f"{name}.{ending}" for name in PICTURES for ending in ("png", "svg")
    }
    for name in PICTURES:
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 400


def test_the_csv_holds_full_numbers(out, root):
    lines = {line["row"]: line for line in read(out / "report.csv")}
    runs = [line for line in read(out / "runs.csv") if line["row"] == "hmmoe, rank 16"]
    scores = [float(line["test/acc"]) for line in runs]
    line = lines["hmmoe, rank 16"]
    assert (line["runs"], line["few_seeds"], line["baseline"]) == ("3", "True", "lora, rank 16")
    assert float(line["test/acc mean"]) == pytest.approx(sum(scores) / 3)
    assert float(line["step_ms"]) == 41 and float(line["checkpoint_bytes"]) == 2000
    assert float(line["difference p_t_holm"]) >= float(line["difference p_t"])
    assert lines["lora, rank 16"]["baseline"] == ""


def test_the_document_says_what_is_missing(out):
    text = (out / "report.md").read_text()
    assert "left out, failed" in text and "a loss that is not finite" in text
    assert "TOO FEW SEEDS: rows with 3 runs, 5 are wanted" in text
    assert "| hmmoe, rank 8 | lora, rank 8 | 3 |" in text
    assert "Wilcoxon cannot fall below" in text


def test_the_terminal_shows_the_same_rows(root, capsys, tmp_path):
    assert report.main([str(root), "--no-plots", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "lora, rank 32" in shown and "Differences" not in shown and "left out, failed" in shown
    assert not list(tmp_path.glob("*.png"))


def test_a_fault_is_a_message_and_exit_code_2(root, capsys):
    assert report.main([str(root), "--baseline", "adapter"]) == 2
    assert "names no row" in capsys.readouterr().err
    assert report.main([str(root), "--metric", "test/nonsense"]) == 2
    assert "found train/acc, val/acc, test/acc, test/loss" in capsys.readouterr().err


def test_the_metric_is_the_test_splits_and_not_the_one_that_chose(root):
    (one,), missing = reports([root])
    assert one.metrics == ["test/acc", "val/acc"] and one.higher and len(missing) == 1
    (one,), _ = reports([root], metrics=["test/loss"])
    assert not one.higher
    (one,), _ = reports([root], metrics=["val/acc"])
    assert any("also chose the weights" in note for note in one.notes)


def test_two_data_sets_never_share_a_table(tmp_path):
    for index, name in enumerate(("nlvr", "ave")):
        folder = make(tmp_path / name, seed=index)
        path = folder / ".hydra" / "hydra.yaml"
        path.write_text(path.read_text().replace("data: nlvr", f"data: {name}"))
    made, _ = reports([tmp_path])
    assert [one.name for one in made] == ["ave", "nlvr"]
    make(tmp_path / "lora", seed=0, peft="lora")
    ave, nlvr = reports([tmp_path], baseline="lora")[0]
    assert any(note.startswith("no differences: --baseline lora names no row") for note in ave.notes)
    assert [table.title for table in nlvr.tables if "Diff" in table.title] == ["Differences in test/acc"]
    with pytest.raises(ConfigError, match="--baseline dora names no row"):
        reports([tmp_path], baseline="dora")


def test_rows_with_the_same_scores_in_every_seed_are_pointed_out(tmp_path):
    for seed in (1, 2):
        for rank, score in ((8, 0.7), (16, 0.7), (32, 0.71)):
            make(tmp_path / f"{rank}_{seed}", seed=seed, score=score + 0.01 * seed, settings={"peft.rank": rank})
    (one,), _ = reports([tmp_path])
    assert [note for note in one.notes if note.startswith("rank 8; rank 16: the same test/acc in every seed")]


def test_only_failed_runs_are_no_report(tmp_path):
    make(tmp_path / "a", status={"status": "interrupted", "reason": "SIGTERM"})
    make(tmp_path / "b", status={"status": "running"})
    with pytest.raises(ValueError, match=r"(?s)no completed run.*interrupted.*SIGTERM.*running"):
        reports([tmp_path])


def test_pooled_rows_say_so(root):
    (one,), _ = reports([root], by=["peft"], baseline="lora")
    assert any("hmmoe: pools runs that differ in peft.rank; n counts runs" in note for note in one.notes)
    with pytest.raises(ConfigError, match="must name one setting"):
        reports([root], by=["nonsense"])


def test_latex_prints_what_it_is_given():
    assert escaped("a_b & 5 % ± <0.001") == r"a\_b \& 5 \% $\pm$ $<$0.001"
    text = latex([Table("T", ["row", "x"], [["a", "1"]])], ["note"])
    assert r"\begin{tabular}{lr}" in text and "a & 1 \\\\" in text and "% note" in text
    assert [p_value(p) for p in (None, 0.0002, 0.0312)] == ["-", "<0.001", "0.031"]
