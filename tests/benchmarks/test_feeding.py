"""Loader against step: who waits for whom is told right, and the command measures a whole experiment."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import feeding
from benchmarks.feeding import Pace, fed, main, table
from tests.runs import tiny


@pytest.mark.parametrize(("loading", "stepping"), [(0.0, 2.0), (3.0, 1.0)])
def test_waiting_is_the_loaders_share(monkeypatch: pytest.MonkeyPatch, loading: float, stepping: float) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(feeding, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def loader() -> Iterator[dict[str, list[str]]]:
        while True:
            clock.now += loading
            yield {"id": ["a", "b"]}

    def take(batch: dict[str, list[str]]) -> int:
        clock.now += stepping
        return len(batch["id"])

    rate, waits = fed(loader(), take, 10.0)
    assert (rate, waits) == pytest.approx((2 / (loading + stepping), loading / (loading + stepping)))


def test_the_verdict_names_who_waits() -> None:
    paces = [
        Pace("ave", "cache", 8, 10.0, 0, 90.0, 9.0, 0.101),
        Pace("ave", "cache", 8, 10.0, 1, 80.0, 10.0, 0.0),
        Pace("nlvr", "files", 4, 50.0, 0, 20.0, 14.0, 0.7),
    ]
    text = table(paces, ["scale=mini"], 1)
    assert "| ave | cache | 8 | 10.0 | 0 | 90.0 | 9.0 | 10 % |" in text
    assert "* 0 workers: ave, nlvr" in text and "* 1 workers: none" in text


def test_the_command_measures_an_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, page = tmp_path / "feeding.json", tmp_path / "page.md"
    given = ["--data", "nlvr", "--workers", "0", "--seconds", "0", "--json", str(numbers), "--markdown", str(page)]
    main([*given, "--set", *tiny(tmp_path / "data")[1:]])
    (row,) = json.loads(numbers.read_text())["rows"]
    assert row["data"] == "nlvr" and row["batch"] == 8 and min(row["step"], row["loader"], row["together"]) > 0
    assert 0 < row["waits"] < 1
    assert "<!-- feeding -->" in page.read_text() and "| nlvr |" in capsys.readouterr().out
