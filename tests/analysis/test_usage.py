"""Tables survive the disk; pictures show every number where it belongs."""

import csv
import math
from pathlib import Path

import pytest
from PIL import Image

from hmmoe.analysis.heatmap import CROSS, kinds_by_depth, save_figure, usage_heatmap, usage_history
from hmmoe.analysis.usage_summary import summary
from hmmoe.analysis.usage_table import COLUMNS, UsageTable, read_usage, shares_by_kind, usage_path, write_usage
from hmmoe.routing.usage import Usage

SHARES = {"single": 0.2, "cross:audio": 0.1, "cross:text": 0.2, "channel:audio": 0.5}


def group(site: int, name: str, share: float, modality: str = "vision", count: int = 4) -> Usage:
    place, ratio = (f"site{site:02d}", site, modality, "group", name, None), share * count
    return Usage(*place, share, 0.25, ratio, 0.9, 0.8, 640, ratio < 0.05)


def expert(site: int, name: str, index: int, share: float, modality: str = "vision") -> Usage:
    place = (f"site{site:02d}", site, modality, "expert", name, index)
    return Usage(*place, share, share, 2 * share, 0.4, 0.7, 640, share < 0.025)


ROWS = [
    *(group(0, name, share) for name, share in SHARES.items()),
    expert(0, "single", 0, 1.0),
    expert(0, "single", 1, 0.0),
    group(1, "single", 1.0, count=1),
    *(group(0, name, share, "audio") for name, share in {"single": 0.25, "cross:vision": 0.75}.items()),
    expert(0, "single", 0, 0.5, "audio"),
    expert(0, "single", 1, 0.5, "audio"),
]


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_usage(tmp_path, UsageTable(3, "val", ROWS))
    write_usage(tmp_path, UsageTable(2, "train", ROWS[:2]))
    assert read_usage(tmp_path) == [UsageTable(2, "train", ROWS[:2]), UsageTable(3, "val", ROWS)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_0002_train.csv", "epoch_0003_val.csv"]
    with usage_path(tmp_path, 3, "val").open() as file:
        lines = list(csv.reader(file))
    assert tuple(lines[0]) == COLUMNS
    assert lines[1][:8] == ["3", "val", "site00", "0", "vision", "group", "single", ""]


def test_writing_an_epoch_again_replaces_it(tmp_path: Path) -> None:
    write_usage(tmp_path, UsageTable(0, "train", ROWS))
    write_usage(tmp_path, UsageTable(0, "train", ROWS[:1]))
    assert read_usage(tmp_path) == [UsageTable(0, "train", ROWS[:1])]


def test_a_folder_without_tables_says_why_that_may_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="its method does not route"):
        read_usage(tmp_path)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "epoch_0000_train.csv").write_text("epoch,split\n0,train\n")
    with pytest.raises(ValueError, match="expected"):
        read_usage(tmp_path)


def test_kinds_add_their_groups() -> None:
    shares = shares_by_kind(ROWS)
    assert shares["site00", "vision"] == pytest.approx({"single": 0.2, "cross": 0.3, "channel": 0.5})


def test_summary_keeps_the_worst_site_beside_the_mean() -> None:
    values = summary([row._replace(entropy=0.1) if row.site == "site01" else row for row in ROWS])
    assert values["experts/vision/entropy"] == pytest.approx(0.5)
    assert values["experts/vision/entropy_min"] == pytest.approx(0.1)
    assert values["experts/vision/share_cross"] == pytest.approx(0.15)
    assert values["experts/vision/max_share"] == 1.0
    assert values["experts/vision/dead"] == 1.0
    assert values["experts/audio/share_cross"] == pytest.approx(0.75)
    assert not any("site" in key for key in values)


def test_summary_in_full_names_the_sites() -> None:
    values = summary(ROWS, detail="full")
    assert values["experts/site00/vision/dead"] == 1.0
    assert values["experts/site00/vision/max_share"] == pytest.approx(0.5)
    assert values["experts/site01/vision/entropy"] == pytest.approx(0.9)


def test_the_heat_map_shows_ratios_crosses_and_entropies() -> None:
    figure = usage_heatmap(ROWS, "Expert utilisation")
    vision, audio = figure.axes[:2]
    texts = {text.get_text() for text in vision.texts}
    assert {"0.80", "0.40", "2.00", CROSS, "0.90"} <= texts
    assert [label.get_text() for label in vision.get_yticklabels()] == ["site00", "site01"]
    assert "cross:vision" in [label.get_text() for label in audio.get_xticklabels()]
    assert vision.get_title() == "vision  (640 tokens)"


def test_bars_by_depth_fill_up_to_one() -> None:
    figure = kinds_by_depth(ROWS, "Expert kinds")
    tops = [max(bar.get_y() + bar.get_height() for bar in axis.patches) for axis in figure.axes[:2]]
    assert all(math.isclose(top, 1.0) for top in tops)


def test_history_has_a_line_per_kind_over_the_epochs() -> None:
    tables = [UsageTable(epoch, "train", ROWS) for epoch in (1, 0, 2)]
    above = usage_history(tables, "Expert kinds").axes[0]
    lines = {line.get_label(): line for line in above.get_lines()}
    assert list(lines) == ["single", "cross", "channel"]
    assert list(lines["cross"].get_xdata()) == [1, 2, 3]  # a picture counts from 1, as messages do
    assert lines["cross"].get_ydata()[0] == pytest.approx(0.15)


def test_a_saved_figure_is_a_whole_png(tmp_path: Path) -> None:
    path = save_figure(kinds_by_depth(ROWS, "Expert kinds"), tmp_path / "new" / "kinds.png")
    with Image.open(path) as image:
        image.verify()
    assert [entry.name for entry in path.parent.iterdir()] == ["kinds.png"]
