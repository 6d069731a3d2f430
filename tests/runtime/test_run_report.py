"""What a real run leaves is what the report, the figures of experts and the comparison of runs read."""

from pathlib import Path

import pytest

from hmmoe import diff, report, utilisation
from hmmoe.analysis.report.runs import Run, find
from hmmoe.analysis.report.samples import sample_scores
from hmmoe.analysis.token_files import read_examples
from tests.runs import load, run, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("run")
    made = root / "logs" / "a"
    run(made, *tiny(root / "NLVR"), "trainer.max_epochs=1", "logger=wandb")  # as a user's run: W&B keeps copies
    return made


def test_the_report_reads_it(folder, tmp_path, capsys):
    assert report.main([str(folder.parent), "--out", str(tmp_path), "--no-plots"]) == 0
    shown = capsys.readouterr().out
    assert "test/acc" in shown and "ms / step" in shown and "TOO FEW SEEDS" in shown
    assert any(folder.glob("wandb/*/files/run.json")) and [one.folder for one in find([folder.parent])] == [folder]


def test_its_predictions_give_its_score(folder):
    scores = sample_scores(Run(folder).predictions("test"))
    expected = load(folder / "result.json")["metrics"]["test"]["acc"]
    assert sum(scores.values()) / len(scores) == pytest.approx(expected)


def test_words_and_patches_of_every_expert_are_there(folder, tmp_path, capsys):
    rows, tiles = read_examples(folder / "routing", "test")
    experts = {(row.modality, row.site, row.group, row.expert) for row in rows}
    assert len(experts) == 2 * 2 * 3 * 2  # modalities, sites, groups, experts of each
    assert {row.modality for row in rows if row.tile is not None} == {"vision"} and len(tiles) > 12
    assert all(not row.token.startswith("[") for row in rows)
    assert (folder / "routing" / "tokens_val.csv").is_file()
    assert utilisation.main([str(folder), "--out", str(tmp_path)]) == 0
    assert "patches_seed1.png" in capsys.readouterr().out


def test_it_is_the_same_as_itself(folder, capsys):
    assert diff.main([str(folder), str(folder)]) == 0
    assert "val/acc" in capsys.readouterr().out
