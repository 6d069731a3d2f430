"""One line per epoch where nobody watches a bar."""

import io
import logging
import re
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback, RichProgressBar
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from hmmoe.callbacks.progress import Bar, EpochLine, progress, rank
from hmmoe.runtime.console import Console
from tests.callbacks.test_utilization import Toy, samples


def test_bar_for_a_terminal_line_for_a_file(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert isinstance(progress(), EpochLine)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert isinstance(progress(), RichProgressBar)


def test_scores_of_layers_are_left_to_the_files():
    names = ["experts/site00/vision/entropy", "dev/acc", "val/acc", "train/loss", "lr"]
    assert [name for name in sorted(names, key=rank) if rank(name) < 4] == ["train/loss", "val/acc", "dev/acc"]


class Says(Callback):
    """Logs a line after every epoch, as the collapse alarm does."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logging.getLogger("tests.progress").warning("a message")


@pytest.fixture
def handler():
    """The console of ``conf/hydra/job_logging``, there before the bar, as in a run."""
    file = Path(__file__).parents[2] / "conf" / "hydra" / "job_logging" / "plain.yaml"
    assert OmegaConf.load(file).handlers.console["class"] == f"{Console.__module__}.{Console.__name__}"
    made = Console()
    logging.getLogger("tests.progress").addHandler(made)
    yield made
    logging.getLogger("tests.progress").removeHandler(made)


def test_a_bar_counts_from_one_and_messages_stand_above_it(tmp_path, handler):
    screen = io.StringIO()
    bar = Bar(leave=True, console_kwargs={"file": screen, "force_terminal": True, "width": 110})
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = L.Trainer(max_epochs=2, callbacks=[bar, Says()], default_root_dir=tmp_path, **quiet)
    trainer.fit(Toy(), DataLoader(samples(4), 2), DataLoader(samples(4), 2))
    shown = screen.getvalue()
    assert "Epoch 1/2" in shown and "Epoch 2/2" in shown and "Epoch 0" not in shown
    before = [text[-20:] for text in shown.split("a message\n")[:-1]]
    assert len(before) == 2 and all(re.search(r"(\n|\x1b\[2K)$", text) for text in before)
