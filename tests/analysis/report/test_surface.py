"""Two numbers that vary: every cell of the map, by reading the figure's own texts."""

import pytest

from hmmoe.analysis.report.assemble import reports
from hmmoe.analysis.report.plots import COLOURS, figures, looks, shades, surface
from tests.analysis.report.folders import make


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("grid")
    for seed in (1, 2):
        for rank in (8, 16):
            for count in (1, 2):
                settings = {"peft.rank": rank, "peft.experts_per_group": count}
                make(
                    root / f"{seed}_{rank}_{count}",
                    seed=seed,
                    score=0.5 + 0.01 * rank * count + 0.01 * seed,
                    settings=settings,
                )
    (one,), _ = reports([root])
    return one


def test_cells_hold_means_over_seeds(report):
    figure = surface(report, "peft.rank", "peft.experts_per_group")
    texts = [text.get_text().splitlines()[0] for text in figure.axes[0].texts]
    assert sorted(texts) == ["0.5950", "0.6750", "0.6750", "0.8350"]
    assert all("± 0.0071" in text.get_text() and "n 2" in text.get_text() for text in figure.axes[0].texts)
    assert figure.axes[0].get_xlabel() == "peft.rank"


def test_every_picture_that_fits_is_drawn(report):
    drawn = dict(figures(report))
    assert set(drawn) == {
        "score_against_parameters",
        "score_against_flops",
        "curve_rank",
        "curve_experts_per_group",
        "heatmap_rank_experts_per_group",
        "learning_curves",
    }
    labels = [text.get_text() for text in drawn["curve_rank"].legends[0].get_texts()]
    assert labels[:2] == ["experts per group 1", "experts per group 2"]
    assert drawn["score_against_parameters"].axes[0].get_xlabel() == "trained parameters (million)"


def test_many_methods_look_different(report):
    assert len(set(looks(40))) == 40 and [look.marker for look in looks(len(COLOURS))] == ["o"] * len(COLOURS)
    assert len(set(shades(report.entries).values())) == len(report.entries) == 4


def test_epochs_count_from_one_as_in_the_log(report):
    axis = dict(figures(report))["learning_curves"].axes[0]
    assert list(axis.lines[0].get_xdata()) == [1, 2, 3, 4]
