"""The benchmark measures what it says: pairs, order, saved bytes; its contestants are sound before they are timed."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import growth
from benchmarks.contestants import REFERENCE, Sizes, contestants, draw, field
from benchmarks.report import write_section
from benchmarks.step import Contest, check, main
from benchmarks.timing import Clock, Spread, ratios, rounds, saved_bytes

TINY = Sizes(rank=4, tiny=True)


def test_ratios_are_taken_inside_a_round() -> None:
    times = {"a": [Clock(1.0, 2.0), Clock(10.0, 20.0)], "b": [Clock(2.0, 2.0), Clock(20.0, 60.0)]}
    assert ratios(times, "a")["b"] == Spread(2.0, 2.0, 2.0)
    assert ratios(times, "a", clock="wall")["b"] == Spread(2.0, 1.5, 2.5)


def test_every_round_starts_with_another_contestant() -> None:
    calls: list[tuple[str, int]] = []
    names = ("a", "b", "c")
    times = rounds({name: lambda number, name=name: calls.append((name, number)) for name in names}, count=2)
    assert "".join(name for name, _ in calls) == "abcbcacab"
    assert {name: len(clocks) for name, clocks in times.items()} == dict.fromkeys(names, 2)


def test_saved_bytes_count_activations_once_and_no_parameters() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(2, 4)
    # The input of the first layer, and the ReLU's output, which the second layer reads too; float32.
    assert saved_bytes(model, lambda: model(x).sum()) == 4 * (2 * 4 + 2 * 8)


def test_contestants_are_alive_and_executors_agree() -> None:
    contests = {
        name: Contest(model, [draw(TINY, 0)], bf16=False, device="cpu")
        for name, model in contestants(TINY, field(TINY)).items()
    }
    check(contests)
    with torch.no_grad():
        contests["hmmoe loop"].model.peft._executor = lambda tokens: lambda *given: {}
    with pytest.raises(AssertionError):
        check(contests)


def test_the_command_writes_table_and_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, numbers = tmp_path / "performance.md", tmp_path / "bench.json"
    page.write_text("# Title\n\nText.\n")
    given = ["--tiny", "--rank", "4", "--rounds", "2", "--only", "hmmoe wide"]
    main([*given, "--json", str(numbers), "--markdown", str(page)])
    rows = {row["name"]: row for row in json.loads(numbers.read_text())["rows"]}
    assert set(rows) == {REFERENCE, "hmmoe wide"}
    assert rows[REFERENCE]["train"] == [1.0, 1.0, 1.0]
    assert rows["hmmoe wide"]["saved"] > rows[REFERENCE]["saved"] > 0
    assert page.read_text().startswith("# Title\n\nText.\n\n<!-- step vit_b_ast_b fp32 batch 2 -->")
    assert "| hmmoe wide |" in capsys.readouterr().out


def test_a_section_is_replaced_in_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in ("old", "new"):
        write_section(page, "a", text)
        write_section(page, "b", "other")
    assert page.read_text() == "<!-- a -->\nnew\n<!-- end a -->\n\n<!-- b -->\nother\n<!-- end b -->\n"


def test_an_unknown_contestant_is_named() -> None:
    with pytest.raises(SystemExit, match="choose from: linear_probe"):
        main(["--tiny", "--rank", "4", "--only", "hmmoe fast"])


def test_growth_is_measured_from_the_first_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "growth.json"
    growth.main(["--tiny", "--rank", "4", "--rounds", "2", "--values", "2", "6", "--json", str(numbers)])
    first, last = json.loads(numbers.read_text())["rows"]
    assert first["train"] == [1.0, 1.0, 1.0] and last["trained"] > first["trained"]
    assert "| experts 6, auto |" in capsys.readouterr().out
