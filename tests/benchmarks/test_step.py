"""The benchmark measures what it says: pairs, order, saved bytes; its contestants are sound before they are timed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import growth
from benchmarks.contestants import EQUAL, METHODS, REFERENCE, UPPER, Sizes, contestants, draw, field, method, names
from benchmarks.memory import kept, saved_bytes
from benchmarks.report import write_section
from benchmarks.step import Contest, check, frozen_bytes, main, middle
from benchmarks.timing import Clock, Spread, ratios, rounds
from hmmoe.trainable import counts

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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_below_the_first_adapter_nothing_is_kept(precision: str) -> None:
    names = (REFERENCE, "hmmoe wide")
    models = contestants(
        TINY, {name: method(TINY, METHODS[name]) for plain in names for name in (plain, plain + UPPER)}
    )
    for name, model in models.items():
        contest = Contest(model, [draw(TINY, 0)], bf16=precision == "bf16", device="cpu")
        found = kept(model, lambda contest=contest: contest.loss(0))
        sites = len(model.backbone.sites)
        assert len(found.by_site) == sites + 1 and sites > 1
        assert sum(found.by_site) == saved_bytes(model, lambda contest=contest: contest.loss(0))
        below, above = found.below(middle(model)), sum(found.by_site[middle(model) + 1 :])
        assert above > 0 and (below == 0) == name.endswith(UPPER)
        batch = contest.batches[0]
        state, tokens = model.backbone.embed(batch), 0
        for site in model.backbone.sites:
            state, streams = model.backbone.open(site, state)
            tokens += sum(stream.out.shape[0] * stream.out.shape[1] for stream in streams.values())
            state = model.backbone.close(site, state, {m: stream.out for m, stream in streams.items()})
        assert found.tokens == tokens


def test_an_adapter_below_the_upper_half_fails_the_check() -> None:
    models = contestants(TINY, {REFERENCE + UPPER: method(TINY, METHODS[REFERENCE])})
    contests = {name: Contest(m, [draw(TINY, 0)], bf16=False, device="cpu") for name, m in models.items()}
    with pytest.raises(AssertionError, match="kept below the first adapter"):
        check(contests)


def test_frozen_weights_are_one_memory_and_nobody_trains_anothers() -> None:
    models = contestants(TINY, field(TINY, (REFERENCE, "lora on q, v", "full")))
    weight = "towers.vision.library.blocks.0.mlp.fc2.weight"
    plain, lora, full = (model.backbone.get_parameter(weight) for model in models.values())
    assert plain.data_ptr() == lora.data_ptr() != full.data_ptr()
    assert not plain.requires_grad and full.requires_grad and not torch.equal(plain, full)


def test_equal_contestants_train_what_hmmoe_trains(capsys: pytest.CaptureFixture[str]) -> None:
    """The router of avmoe alone is larger than HMMoE on the mini towers."""
    wanted = ("hmmoe wide", *(name for name in names() if name.endswith(EQUAL)))
    trained = {name: counts(model)["trained"] for name, model in contestants(TINY, field(TINY, wanted)).items()}
    assert len(trained) == 9 and "avmoe, equal parameters does not take part" in capsys.readouterr().err
    assert all(0.9 < one / trained["hmmoe wide"] < 1.1 for one in trained.values()), trained


def test_stored_weights_take_half_the_memory() -> None:
    sizes = [
        frozen_bytes(contestants(one, {REFERENCE: method(one, METHODS[REFERENCE])})[REFERENCE])
        for one in (TINY, TINY._replace(store="bfloat16"))
    ]
    assert sizes[0] == 2 * sizes[1]


def test_contestants_are_alive_and_executors_agree() -> None:
    contests = {
        name: Contest(model, [draw(TINY, 0)], bf16=False, device="cpu")
        for name, model in contestants(TINY, field(TINY, names())).items()
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
    assert rows["hmmoe wide"]["saved_per_token"] > rows[REFERENCE]["saved_per_token"] > 0
    assert 0 < rows[REFERENCE]["saved_below"] < rows[REFERENCE]["saved"]
    assert page.read_text().startswith("# Title\n\nText.\n\n<!-- step vit_b_ast_b fp32 tiny batch 2 -->")
    assert "| hmmoe wide |" in capsys.readouterr().out


@pytest.mark.slow
def test_compiled_contestants_are_compared_with_their_eager_twins(tmp_path: Path) -> None:
    """In a process of its own: the shape checks of the tests are what dynamo can't trace."""
    numbers, page, only = tmp_path / "bench.json", tmp_path / "page.md", "series_adapter, compiled"
    words = ["--tiny", "--rank", "4", "--rounds", "2", "--compile", "--backend", "aot_eager", "--only", only]
    words += ["--precision", "bf16", "--store", "bfloat16", "--json", str(numbers), "--markdown", str(page)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(numbers.read_text())
    assert set(record["compiled"]) == {only} and min(record["compiled"][only]["train"]) > 0
    assert {row["name"]: row["saved_below"] is None for row in record["rows"]} == {REFERENCE: False, only: True}
    assert "<!-- step vit_b_ast_b bf16 stored compiled tiny batch 2 -->" in page.read_text()
    assert f"* {only}: " in done.stdout


def test_stored_weights_need_autocast() -> None:
    with pytest.raises(SystemExit, match="add --precision bf16"):
        main(["--tiny", "--store", "bfloat16"])


def test_a_section_is_replaced_in_its_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in ("old", "new"):
        write_section(page, "a", text)
        write_section(page, "b", "other")
    assert page.read_text() == "<!-- a -->\nnew\n<!-- end a -->\n\n<!-- b -->\nother\n<!-- end b -->\n"


def test_every_method_can_take_part(tmp_path: Path) -> None:
    main(["--tiny", "--every", "--only", "ia3 + hmmoe_flat", "--rounds", "1", "--json", str(tmp_path / "every.json")])
    rows = json.loads((tmp_path / "every.json").read_text())["rows"]
    assert {row["name"] for row in rows} == {REFERENCE, "ia3", "hmmoe_flat"}
    with pytest.raises(SystemExit, match=r"choose from: adalora \+ avmoe"):
        main(["--tiny", "--every", "--only", "hmmoe wide"])


def test_an_unknown_contestant_is_named() -> None:
    with pytest.raises(SystemExit, match="choose from: linear_probe"):
        main(["--tiny", "--rank", "4", "--only", "hmmoe fast"])


def test_growth_is_measured_from_the_first_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "growth.json"
    growth.main(["--tiny", "--rank", "4", "--rounds", "2", "--values", "2", "6", "--json", str(numbers)])
    first, last = json.loads(numbers.read_text())["rows"]
    assert first["train"] == [1.0, 1.0, 1.0] and last["trained"] > first["trained"]
    assert "| experts 6, auto |" in capsys.readouterr().out
