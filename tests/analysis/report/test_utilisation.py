"""Routing tables of several seeds: bands, loads, and the figures of the command."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmmoe import utilisation
from hmmoe.analysis.report import usage, usage_plots
from hmmoe.analysis.report.plots import save
from hmmoe.analysis.report.runs import find
from hmmoe.analysis.token_files import TILE, read_examples
from hmmoe.errors import DataMissing
from tests.analysis.report.folders import exemplify, make, route


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed, shift in ((1, 0.0), (2, 0.1), (3, 0.05)):
        route(make(folder / str(seed), seed=seed), shift=shift, dead=seed == 1)
    exemplify(folder / "1")
    return folder


def tables(root):
    return usage.last_tables(find([root]), None)[1]


def test_bands_go_from_the_lowest_to_the_highest_seed(root):
    shares = usage.kind_shares(tables(root))
    one = usage.band(shares["vision"]["cross"]["site01"])
    assert one == (pytest.approx(0.4), pytest.approx(0.35), pytest.approx(0.45))
    for kinds in shares.values():
        assert sum(usage.band(sites["site02"]).mean for sites in kinds.values()) == pytest.approx(1)


def test_fair_shares_count_groups(root):
    assert usage.fair_shares(tables(root)[0].rows)["text"] == dict.fromkeys(
        ("single", "cross", "channel"), pytest.approx(1 / 3)
    )


def test_mean_table_and_loads(root):
    rows = {(row.site, row.modality, row.group, row.expert): row for row in usage.mean_rows(tables(root))}
    assert rows["site00", "text", "single", 1].ratio == pytest.approx((0 + 0.8 + 0.8) / 3)
    assert not rows["site00", "text", "single", 1].dead  # in one seed only
    assert rows["site00", "text", "single", None].tokens == 3000
    assert usage.loads(tables(root))["vision"]["cross:text"][0] == pytest.approx([0.6, 1.05, 1.5, 1.95])


def test_a_collapse_does_not_average_out(root):
    """Seeds that leave all to one expert, each to another one."""
    one = tables(root)[0]
    swapped = [
        row._replace(expert=1 - row.expert) if row.level == "expert" and row.group == "single" else row
        for row in one.rows
    ]
    both = {
        (row.site, row.modality, row.group, row.expert): row
        for row in usage.mean_rows([one, one._replace(rows=swapped)])
    }
    alone = max(
        (
            row
            for row in one.rows
            if (row.site, row.modality, row.group, row.level) == ("site00", "text", "single", "expert")
        ),
        key=lambda row: row.ratio,
    )
    assert (
        both["site00", "text", "single", 0].ratio == pytest.approx(alone.ratio)
        and both["site00", "text", "single", 1].dead
    )


def test_the_figure_draws_means_and_bands(root):
    figure = usage_plots.kinds_over_depth(tables(root), "t")
    assert [axis.get_title() for axis in figure.axes] == ["vision", "text"]
    line = next(line for line in figure.axes[0].lines if line.get_label() == "cross")
    assert list(line.get_ydata()) == pytest.approx([0.25, 0.4, 0.55, 0.7])
    assert len(figure.axes[0].collections) == 3
    assert "3 seeds" in figure.get_suptitle()


def test_the_command_draws_everything_from_the_files(root, capsys):
    assert utilisation.main([str(root), "--out", str(root / "out")]) == 0
    folder = root / "out" / "utilisation" / "nlvr_hmmoe"
    names = {path.stem for path in folder.glob("*.png")}
    assert names == {"kinds_by_depth", "load", "heatmap", "words_seed1", "patches_seed1"}
    with Image.open(folder / "kinds_by_depth.png") as picture:
        assert min(picture.size) > 400
    assert "kinds_by_depth.svg" in capsys.readouterr().out


def test_some_figures_alone(root, capsys):
    out = root / "some"
    assert utilisation.main([str(root), "--out", str(out), "--only", "load,words", "--only", "heatmap"]) == 0
    assert {path.stem for path in out.rglob("*.png")} == {"load", "heatmap", "words_seed1"}
    assert utilisation.main([str(root), "--only", "heat"]) == 2
    assert "--only heat: choose from kinds_by_depth, load, heatmap, words, patches" in capsys.readouterr().err


def test_reading_tables_waits_for_no_torch():
    """Two thirds of the command's time went into importing it, for one tuple."""
    script = (
        "import sys; import hmmoe.utilisation, hmmoe.analysis.heatmap, hmmoe.analysis.token_files; "
        "from hmmoe.analysis.report import provenance, rows, runs, usage, usage_plots, plots; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3]).returncode == 0


def test_both_files_of_a_figure_show_the_same_places(root):
    """The layout is found once: the second file must not be drawn without it."""
    figure = usage_plots.kinds_over_depth(tables(root), "t")
    first, second = save(figure, root / "figure")
    places = [axis.get_position().bounds for axis in figure.axes]
    assert all(left > 0 and left + width < 0.95 for left, _, width, _ in places)  # room for the legend, so laid out
    with Image.open(first) as picture:
        told = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', second.read_text())
        assert picture.size == pytest.approx([float(size) / 72 * 140 for size in told.groups()], abs=1)


def test_a_dead_expert_shows_no_example(root):
    rows, tiles = read_examples(root / "1" / "routing", "test")
    rows = [row._replace(share=0.001) if row.group == "single" and row.expert == 1 else row for row in rows]
    words = usage_plots.word_examples([row for row in rows if row.tile is None], "t")
    assert [text.get_text() for text in words.axes[1].texts] == ["gets none"]
    assert words.axes[1].get_title() == "single 1" and len(words.axes[0].texts) == 4
    patches = usage_plots.patch_examples(rows, tiles, "t").axes[0]
    assert sum(text.get_text() == "gets none" for text in patches.texts) == 2  # at either site


def test_crops_come_back_by_their_number(root):
    rows, tiles = read_examples(root / "1" / "routing", "test")
    with Image.open(root / "1" / "routing" / "patches_test.png") as picture:
        pixels = np.asarray(picture)
    assert len(tiles) == sum(row.tile is not None for row in rows) == 48
    assert np.array_equal(tiles[17], pixels[TILE : 2 * TILE, TILE : 2 * TILE])
    assert read_examples(root / "1" / "routing", "val") == ([], [])


def test_rows_are_named_and_guarded_as_in_the_report(tmp_path, capsys):
    route(make(tmp_path / "a"))
    make(tmp_path / "b", peft="lora")
    assert utilisation.main([str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "report" / "utilisation").iterdir()] == ["nlvr_hmmoe"]
    make(tmp_path / "c", seed=2, git={"sha": "b" * 40, "dirty": False})
    assert utilisation.main([str(tmp_path)]) == 2 and "--mix code" in capsys.readouterr().err
    assert utilisation.main([str(tmp_path), "--mix", "code"]) == 0 and "* MIXED" in capsys.readouterr().out


def test_what_is_missing_is_named(root, tmp_path, capsys):
    with pytest.raises(DataMissing, match="no routing of split 'dev': set --split to one of test"):
        usage.last_tables(find([root]), "dev")
    make(tmp_path / "a")
    assert utilisation.main([str(tmp_path)]) == 2
    assert "no completed run with routing tables" in capsys.readouterr().err
