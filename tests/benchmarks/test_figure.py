"""The picture of score and cost: which contestant stands for a method, what is left out, and what is drawn."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from benchmarks.figure import main, profile_panels, step_panels
from hmmoe.analysis.report.tradeoff import Panel, Reading, side_by_side
from hmmoe.errors import ConfigError
from tests.analysis.report.folders import make


def step_row(name: str, ratio: float) -> dict[str, Any]:
    return {"name": name, "train": [ratio, ratio - 0.02, ratio + 0.03], "saved": 4 * 2**20 * ratio}


def profile_row(method: str, trained: int) -> dict[str, Any]:
    return {
        "method": method,
        "error": None,
        "parameters": {"trained": trained},
        "training_flops_per_sample": 1000.0 * trained,
    }


STEP = {
    "setting": {"host": "vit_b_ast_b", "batch": 2, "precision": "fp32"},
    "machine": "a machine",
    "rows": [
        step_row("series_adapter", 1.0),
        step_row("hmmoe wide", 1.1),
        step_row("hmmoe loop", 1.4),
        step_row("hmmoe wide, upper half", 0.7),
        step_row("lora on all linears", 1.7),
    ],
}
PROFILE = {"rows": [profile_row("hmmoe", 8_000_000), profile_row("series_adapter", 2_000_000)]}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for seed in (1, 2, 3):
        for peft, score in (("series_adapter", 0.6), ("hmmoe", 0.7), ("moka", 0.65)):
            make(tmp_path / "sweep" / f"{peft}{seed}", score=score + 0.01 * seed, seed=seed, peft=peft)
    for name, content in (("step", STEP), ("profile", PROFILE)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = {"--scores": "sweep", "--step": "step.json", "--profile": "profile.json", "--out": "figures/tradeoff.png"}
    return [word for key, name in found.items() for word in (key, str(tmp_path / name))]


def test_a_method_is_its_first_contestant() -> None:
    time, memory = step_panels(STEP)
    assert time.readings["hmmoe"] == pytest.approx((1.1, 1.08, 1.13)) and time.readings["lora"].value == 1.7
    assert memory.readings["hmmoe"].value == pytest.approx(2.2), "MiB of one of two samples"


def test_a_profile_with_a_method_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds a method twice"):
        profile_panels({"rows": [profile_row("lora peft.rank=8", 1), profile_row("lora peft.rank=16", 2)]})


def test_the_command_draws_and_tells(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    assert main([*files, "--markdown", str(page)]) == 0
    told, text = capsys.readouterr().out, page.read_text()
    assert "left out, no cost: moka" in told and "moka" not in text and "lora" not in text
    assert text.index("| hmmoe | 0.720 | 8.00 | 1.10 | 2 | 8 |") < text.index("| series_adapter | 0.620 |")
    path = tmp_path / "figures" / "tradeoff.png"
    assert path.stat().st_size < 200_000
    with Image.open(path) as picture:
        assert picture.width > 800


def test_no_runs_are_a_message(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main([*files, "--scores", str(tmp_path / "empty")]) == 2
    assert "error: " in capsys.readouterr().err


def test_no_label_or_number_lies_on_another() -> None:
    methods = [f"method_{i}" for i in range(12)]
    panels = [
        Panel(f"a number\nof unit {i}", {m: Reading(10.0**i * (n + 1)) for n, m in enumerate(methods)}, line=1.0)
        for i in range(5)
    ]
    figure = side_by_side(methods, panels, marked=["method_3"], title="title")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text for axis in figure.axes for text in (*axis.texts, axis.title)]
    texts += [label for label in figure.axes[0].get_yticklabels() if label.get_text()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert len(boxes) > 60
    for i, one in enumerate(boxes):
        assert one.x0 >= 0 and one.x1 <= figure.bbox.width, texts[i]
        assert not any(one.overlaps(other) for other in boxes[i + 1 :]), texts[i]
