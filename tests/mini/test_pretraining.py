"""The loop and the targets of pretraining, and the probes, on toys."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from datamodules.mini.scenes import Item
from scripts import probe_mini
from scripts.pretraining.attributes import patch_attributes, picture_attributes
from scripts.pretraining.fit import fit, save_half, shuffled
from scripts.probing.facts import facts
from scripts.probing.logistic import accuracy, majority
from scripts.probing.questions import sentences, things
from scripts.probing.towers import WHERE


def toy(folder: Path, steps: int) -> tuple[nn.Linear, list[list[str]]]:
    """A line fitted to a line."""
    torch.manual_seed(0)
    model, x = nn.Linear(1, 1), torch.linspace(-1, 1, 40)[:, None]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return (model(x) - y).square().mean()

    fit(model, shuffled((x, 3 * x - 1), 8, seed=0), loss, steps=steps, lr=0.1, folder=folder)
    return model, list(csv.reader((folder / "loss.csv").read_text().splitlines()))


def test_three_steps_leave_a_curve_and_a_picture(tmp_path: Path):
    model, rows = toy(tmp_path, 3)
    assert rows[0] == ["step", "loss", "seconds"] and [row[0] for row in rows[1:]] == ["3"]
    assert float(rows[1][1]) > 0
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.width > 100
    assert not model.training


def test_the_loop_learns_and_repeats_itself(tmp_path: Path):
    first, rows = toy(tmp_path, 120)
    again, _ = toy(tmp_path, 120)
    losses = [float(row[1]) for row in rows[1:]]
    assert [row[0] for row in rows[1:]] == ["50", "100", "120"]
    assert all(later < earlier for earlier, later in pairwise(losses)) and losses[-1] < 0.01
    assert torch.equal(first.weight, again.weight)


def test_every_row_comes_once_a_round():
    batches = shuffled((torch.arange(12), torch.arange(12) * 10), 4, seed=1)
    rounds = [[next(batches) for _ in range(3)] for _ in range(2)]
    for parts in rounds:
        assert sorted(torch.cat([x for x, _ in parts]).tolist()) == list(range(12))
        assert all(torch.equal(10 * x, y) for x, y in parts)
    assert not torch.equal(rounds[0][0][0], rounds[1][0][0])


def test_weights_are_kept_as_halves(tmp_path: Path):
    save_half({"a": torch.tensor([1.5, -2.0])}, tmp_path / "model.safetensors")
    kept = load_file(tmp_path / "model.safetensors")["a"]
    assert kept.dtype == torch.float16 and kept.tolist() == [1.5, -2.0]


def test_attributes_count_items():
    """The first eight ask for at least 1 .. 8 items; a patch knows the item whose centre it holds."""
    box = [
        Item(x_loc=0, y_loc=0, type="circle", color="Black", size=20),
        Item(x_loc=80, y_loc=80, type="square", color="Yellow", size=20),
    ]
    assert picture_attributes(box)[:8].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    patches = patch_attributes(box, 6)
    assert np.flatnonzero(patches[:, 0]).tolist() == [0, 35]
    assert patches[0, 10:14].tolist() == [1, 0, 1, 0] and patches[35, 10:14].tolist() == [0, 1, 0, 1]


def test_regression_finds_classes_that_a_line_parts_and_no_others():
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(600, 3, generator=rng)
    labels = ["left" if x < 0 else "right" for x in points[:, 0]]
    assert accuracy(100 * points - 7, labels, 400) > 0.98
    crossed = ["odd" if x * y < 0 else "even" for x, y in points[:, :2]]
    assert accuracy(points, crossed, 400) < 0.62


def test_a_class_without_training_rows_is_never_right():
    labels = ["a"] * 5 + ["b"] * 5 + ["c"] * 4
    assert accuracy(torch.randn(14, 2), labels, 10) == 0
    assert majority(["a", "a", "b", "a", "b", "b"], 3) == pytest.approx(1 / 3)


def test_questions_are_the_same_every_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scripts.probing.questions.PRETRAINED_SENTENCES", 200)
    vision = {"size": 16, "mean": [0.5] * 3, "std": [0.5] * 3}
    first, again = (things(vision, 6, 4) for _ in range(2))
    assert torch.equal(first.rows, again.rows) and first.labels == again.labels
    assert first.ready(first.rows).shape == (10, 1, 3, 16, 16)
    said = sentences({"tokenizer": "mini:bert", "length": 32}, 30, 20)
    assert len({tuple(row.tolist()) for row in said.rows}) == 50
    assert said.plain(said.rows).sum(1).tolist() == [32] * 50


def test_lines_go_between_their_marks_and_those_of_other_towers_stay():
    row = probe_mini.Row("vit", "object", 8, "2 / 1", 0.125, 0.2, 0.3, 0.98765).cells()
    assert row == ["vit", "object", "8", "2 / 1", "0.125", "0.200", "0.300", "0.988"]
    empty = "above\n<!-- probes -->\n<!-- end probes -->\nbelow\n"
    card = probe_mini.put(empty, "probes", ("a", "b"), [("vit", "1"), ("bert", "2")])
    table = "| a | b |\n| --- | --- |\n| vit | {} |\n| bert | 2 |"
    assert card == f"above\n<!-- probes -->\n{table.format(1)}\n<!-- end probes -->\nbelow\n"
    assert table.format(3) in probe_mini.put(card, "probes", ("a", "b"), [("vit", "3")])
    with pytest.raises(ValueError, match=r"must hold the lines <!-- real --> and <!-- end real -->"):
        probe_mini.put("nothing", "real", ("a", "b"), [])


def test_the_card_has_a_place_for_every_table_and_the_sizes_of_the_weights():
    card = probe_mini.CARD.read_text()
    for mark in ("facts", "probes", "real"):
        assert f"<!-- {mark} -->" in card and f"<!-- end {mark} -->" in card
    for name in WHERE:
        assert f"| {name} | {facts(probe_mini.CARD.parent / name)[1]} |" in card
