"""Rows by step, columns as they come, one file over several processes."""

import csv

from hmmoe.callbacks.metrics_file import MetricsFile


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def test_scores_of_one_step_share_a_row(tmp_path):
    log = MetricsFile(tmp_path)
    log.log_metrics({"train/loss": 1.0, "epoch": 0}, step=4)
    log.log_metrics({"val/acc": 0.5, "epoch": 0}, step=4)
    log.log_metrics({"train/loss": 0.5, "epoch": 1}, step=9)
    log.finalize("success")
    assert rows(tmp_path) == [
        {"epoch": "0", "step": "4", "train/loss": "1.0", "val/acc": "0.5"},
        {"epoch": "1", "step": "9", "train/loss": "0.5"},
    ]


def test_a_score_logged_twice_gets_a_second_row(tmp_path):
    log = MetricsFile(tmp_path)
    for value in (1.0, 2.0):
        log.log_metrics({"a": value}, step=3)
    log.flush()
    assert [row["a"] for row in rows(tmp_path)] == ["1.0", "2.0"]


def test_a_second_process_goes_on_where_the_first_was_saved(tmp_path):
    first = MetricsFile(tmp_path)
    for step in (4, 9, 11):
        first.log_metrics({"a": float(step)}, step=step)
    first.flush()
    second = MetricsFile(tmp_path)
    second.rewind(10)
    second.log_metrics({"a": 14.0, "b": 1.0}, step=14)
    second.flush()
    assert [(row["step"], row.get("b")) for row in rows(tmp_path)] == [("4", None), ("9", None), ("14", "1.0")]


def test_a_row_that_was_cut_short_is_forgotten(tmp_path):
    """A full disk, or a kill, in the middle of a row."""
    file = MetricsFile(tmp_path)
    file.log_metrics({"loss": 1.0}, step=1)
    file.flush()
    with file.path.open("a") as text:
        text.write("2")
    again = MetricsFile(tmp_path)
    again.rewind(5)
    again.log_metrics({"loss": 3.0}, step=5)
    again.flush()
    assert [line.split(",")[0] for line in file.path.read_text().splitlines()] == ["step", "1", "5"]
