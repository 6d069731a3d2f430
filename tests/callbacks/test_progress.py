"""One line per epoch where nobody watches a bar."""

from lightning.pytorch.callbacks import RichProgressBar

from hmmoe.callbacks.progress import EpochLine, progress, rank


def test_bar_for_a_terminal_line_for_a_file(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert isinstance(progress(), EpochLine)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert isinstance(progress(), RichProgressBar)


def test_scores_of_layers_are_left_to_the_files():
    names = ["experts/site00/vision/entropy", "dev/acc", "val/acc", "train/loss", "lr"]
    assert [name for name in sorted(names, key=rank) if rank(name) < 4] == ["train/loss", "val/acc", "dev/acc"]
