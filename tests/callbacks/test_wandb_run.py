"""What a run tells W&B beyond its curves, offline."""

import json

import pytest
import wandb
import yaml
from safetensors.torch import save_file
from torch import ones

from hmmoe.analysis.usage_table import UsageTable, write_usage
from hmmoe.callbacks.wandb_run import attach, closing, finish, settings, title, wandb_logger
from hmmoe.routing.stats import RoutingStats
from tests.callbacks.test_utilization import Toy, samples

RESULT = {
    "metrics": {"val": {"acc": 0.5}, "test": {"acc": 0.75}},
    "parameters": {"trained": 10, "total": 100, "trained_percent": 10.0},
    "cost": {"flops_per_sample": 5.0, "step_ms": 2.0},
    "peak_memory_mib": 7.0,
    "seconds": 3.0,
    "precision": "32-true",
}
RECORD = {
    "job": "train",
    "name": "nlvr_hmmoe",
    "seed": 1,
    "fingerprint": "f00",
    "overrides": ["experiment=nlvr_hmmoe", "scale=mini", "peft.rank=8", "+data.train_examples=4", "paths.run_dir=x"],
    "sweep": {"id": "rank-of-monday"},
}


def routed():
    """Utilisation of a small batch."""
    stats = RoutingStats()
    stats.update(Toy()._step(samples())["routing"])
    return stats.compute()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ".hydra").mkdir()
    picked = {"hydra": {"runtime": {"choices": {"peft": "hmmoe", "hydra/launcher": "basic"}}}}
    (tmp_path / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(picked))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"peft": {"rank": 8}}))
    (tmp_path / "run.json").write_text(json.dumps(RECORD))
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    write_usage(tmp_path / "routing", UsageTable(0, "train", routed()))
    write_usage(tmp_path / "routing", UsageTable(1, "train", routed()))
    save_file({"up": ones(2)}, tmp_path / "adapter.safetensors")
    return tmp_path


def test_a_name_says_experiment_and_what_was_changed():
    assert title(RECORD) == "nlvr_hmmoe peft.rank=8 data.train_examples=4"


def test_settings_are_the_resolved_ones_and_the_files_that_were_picked(folder):
    assert settings(folder) == {"peft": {"rank": 8}, "choices": {"peft": "hmmoe"}}


def test_closing_numbers_have_flat_names():
    assert closing(RESULT) == {
        "val/acc": 0.5,
        "test/acc": 0.75,
        "trained": 10,
        "total": 100,
        "trained_percent": 10.0,
        "flops_per_sample": 5.0,
        "step_ms": 2.0,
        "peak_memory_mib": 7.0,
        "seconds": 3.0,
    }


def test_an_offline_run_holds_files_numbers_table_and_adapter(folder):
    logger = wandb_logger(str(folder), project="p", group="nlvr_hmmoe")
    run = logger.experiment
    assert (run.name, run.group, run.job_type) == (title(RECORD), "rank-of-monday", "train")
    assert run.config["choices"] == {"peft": "hmmoe"} and run.config["peft"] == {"rank": 8}
    attach(run, folder)
    assert run.summary["result/test/acc"] == 0.75
    (place,) = folder.glob("wandb/offline-run-*/files")
    assert {"run.json", "result.json", "config.yaml"} <= {path.name for path in place.iterdir()}
    (table,) = place.glob("media/table/experts/table_*.json")
    content = json.loads(table.read_text())
    assert content["columns"][:3] == ["epoch", "split", "site"] and {row[0] for row in content["data"]} == {0, 1}
    finish(folder, failed=False)
    assert wandb.run is None


def test_a_run_that_died_early_is_closed_with_what_is_there(tmp_path):
    wandb_logger(str(tmp_path), project="p").experiment.log({"x": 1})
    finish(tmp_path, failed=True)
    assert wandb.run is None
