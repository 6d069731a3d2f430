"""Which mixes are drawn, which go on, which are worth their price."""

import csv
import json
import sys
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from hmmoe.errors import ConfigError
from hydra_plugins.hmmoe_halving._mixes import Tried, facts, mixes, pareto
from hydra_plugins.hmmoe_halving.sweeper import Halving

SPACE = {
    "kind": ["peft=a", "peft=b"],
    "experts": ["peft.experts=1", "peft.experts=4 peft.k=2"],
    "rank": ["peft.rank=8"],
}


def test_a_draw_is_seeded_and_without_repeats():
    first = mixes(SPACE, 3, seed=1)
    assert first == mixes(SPACE, 3, seed=1) and len(set(first)) == 3
    everything = mixes(SPACE, 100, seed=2)
    assert len(set(everything)) == 4
    assert ("peft=b", "peft.experts=4", "peft.k=2", "peft.rank=8") in everything


def tried(score: float, trained: int | None, flops: float | None = 1.0) -> Tried:
    return Tried((), score, trained, None, flops, ())


@pytest.mark.parametrize(
    ("candidates", "mode", "front"),
    [
        ([tried(0.9, 100), tried(0.8, 50), tried(0.7, 80)], "max", [True, True, False]),
        ([tried(0.9, 100), tried(0.8, 50), tried(0.7, 80)], "min", [False, True, True]),
        ([tried(0.9, 100, 2.0), tried(0.9, 100, 1.0)], "max", [False, True]),
        ([tried(0.9, 100), tried(0.9, 100)], "max", [True, True]),
        ([tried(0.9, None, None), tried(0.8, 1)], "max", [True, False]),
    ],
)
def test_the_front(candidates, mode, front):
    assert pareto(candidates, mode) == front


def test_the_share_is_the_one_that_a_budget_counts():
    """A miniature's head is larger than what the method trains, and no method is to blame for it."""
    sizes = {"adapters": 40, "router": 10, "head": 300, "backbone": 0, "trained": 350, "total": 1350}
    assert facts({"parameters": sizes, "cost": {"flops_per_sample": 7.0}}) == (350, pytest.approx(5.0), 7.0)
    assert facts({}) == (None, None, None)


class Launcher:
    """Scores jobs by their number of experts; notes what it was asked."""

    def __init__(self, folder) -> None:
        self.folder, self.batches = folder, []

    def launch(self, batch, initial_job_idx):
        self.batches.append((initial_job_idx, batch))
        return [self.run(words, initial_job_idx + index) for index, words in enumerate(batch)]

    def run(self, words, number):
        place = self.folder / str(number)
        place.mkdir()
        experts = int(next(word for word in words if word.startswith("peft.experts=")).partition("=")[2])
        result = {"parameters": {"trained": experts, "trained_percent": 1.0}, "cost": {}}
        (place / "result.json").write_text(json.dumps(result))
        done = "peft=b" not in words or "seed=1" in words
        answer = JobReturn(working_dir=str(place), status=JobStatus.COMPLETED if done else JobStatus.FAILED)
        answer.return_value = experts / 10 if done else RuntimeError("peft=b failed")
        return answer


@pytest.fixture
def search(tmp_path, monkeypatch):
    """A search over SPACE whose launcher is the stand-in."""
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def build(**options) -> Halving:
        halving = Halving(SPACE, **options)
        halving.launcher = Launcher(tmp_path)
        halving.hydra_context = SimpleNamespace(config_loader=None)
        halving.validate_batch_is_legal = lambda batch: None
        halving.config = OmegaConf.create(
            {
                "monitor": "val/acc",
                "mode": "max",
                "trainer": {"max_epochs": 9},
                "hydra": {"sweep": {"dir": str(tmp_path)}},
            }
        )
        return halving

    return build


def test_the_better_ones_train_longer(search, tmp_path):
    halving = search(trials=4, keep=2, rounds=3)
    best = halving.sweep(["seed=1", "x=1"])
    rounds = [
        (start, [word for word in batch[0] if "max_epochs" in word], len(batch))
        for start, batch in halving.launcher.batches
    ]
    assert rounds == [
        (0, ["trainer.max_epochs=2"], 4),
        (4, ["trainer.max_epochs=4"], 2),
        (6, ["trainer.max_epochs=9"], 1),
    ]
    assert all("peft.experts=4" in words for words in halving.launcher.batches[1][1])
    assert best[0].score == 0.4 and best[0].trained == 4
    with (tmp_path / "pareto.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["pareto"] == "1" and "peft.experts=4 peft.k=2" in row["mix"]


def test_the_command_line_wins_over_the_space(search):
    halving = search(trials=4, keep=2, rounds=1)
    halving.sweep(["peft=a", "seed=1", "trainer.max_epochs=5"])
    ((_, batch),) = halving.launcher.batches
    assert len(batch) == 2 and all("peft=a" in words and "peft=b" not in words for words in batch)
    assert all([word for word in words if "max_epochs" in word] == ["trainer.max_epochs=9"] for words in batch)


def test_repetitions_are_averaged_and_a_failure_is_raised_at_the_end(search, tmp_path):
    halving = search(trials=4, keep=2, rounds=2)
    with pytest.raises(RuntimeError, match="peft=b failed"):
        halving.sweep(["seed=1,2"])
    first, second = (batch for _, batch in halving.launcher.batches)
    assert len(first) == 8 and {word for words in second for word in words if word.startswith("peft=")} == {"peft=a"}
    assert (tmp_path / "pareto.csv").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"trials": 0}, "trials=0"), ({"keep": 1}, "keep=1: must be 2"), ({"rounds": 0}, "rounds=0")],
)
def test_numbers_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        Halving(SPACE, **options)
    with pytest.raises(ConfigError, match="space is empty"):
        Halving({})
