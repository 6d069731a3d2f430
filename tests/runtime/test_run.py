"""A run from its settings to its folder: what it leaves behind, how it goes on, how it is read again."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import eval as evaluation
from hmmoe.errors import ConfigError, DataMissing, UserError, WeightsMissing
from hmmoe.runtime import restore
from tests.runs import composed, load, rows, run, without_costs

ROOT = Path(__file__).parents[2]


def test_the_folder_explains_itself(whole):
    record, status, result = (load(whole / f"{name}.json") for name in ("run", "status", "result"))
    assert status["status"] == "completed"
    assert {"command", "git", "versions", "hardware", "overrides", "seed", "data", "fingerprint", "wandb_id"} <= set(
        record
    )
    assert {"train", "val", "dev", "test", "hidden"} == set(record["data"]["splits"])
    assert set(result["metrics"]) == {"train", "val", "dev", "test", "hidden"}
    assert result["selected"]["monitor"] == "val/acc" and result["selected"]["on_test"] is False
    assert result["parameters"]["trained"] == sum(
        result["parameters"][k] for k in ("adapters", "router", "head", "backbone")
    )
    assert result["cost"]["flops_per_sample"] > 0 and result["peak_memory_mib"] > 0
    assert (whole / "config.yaml").is_file() and (whole / "predictions" / "hidden.csv").is_file()
    assert [row["epoch"] for row in rows(whole) if row["train/loss"]] == ["0", "1", "2"]


def test_predictions_give_the_reported_accuracy(whole):
    with (whole / "predictions" / "test.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    share = sum(row["prediction"] == row["label"] for row in table) / len(table)
    assert len(table) == 8 and share == pytest.approx(load(whole / "result.json")["metrics"]["test"]["acc"])


def test_checkpoint_is_small_plain_and_complete(whole):
    checkpoint = torch.load(whole / "checkpoints" / "best.ckpt", weights_only=True)
    assert all(not name.startswith("model.backbone") for name in checkpoint["state_dict"])
    trained = load(whole / "result.json")["parameters"]["trained"]
    assert sum(tensor.numel() for tensor in checkpoint["state_dict"].values()) == trained
    assert checkpoint["settings"]["peft"]["rank"] == 2 and checkpoint["settings"]["ckpt_path"] is None
    assert checkpoint["fingerprint"] == load(whole / "run.json")["fingerprint"]
    assert str(whole) not in json.dumps({k: v for k, v in checkpoint["callbacks"].items()}, default=str)


def test_exported_adapter_holds_the_best_weights(whole):
    best = torch.load(whole / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    with safe_open(whole / "adapter.safetensors", framework="pt") as file:
        assert set(file.keys()) == {name.removeprefix("model.") for name in best}
        assert all(torch.equal(file.get_tensor(name), best[f"model.{name}"]) for name in file.keys())  # noqa: SIM118
        assert json.loads(file.metadata()["settings"])["peft"]["rank"] == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_gives_the_unbroken_run(settings, whole, tmp_path, workers):
    """Stopped in the middle of the second epoch, as by a kill: the file knows the first epoch's end."""
    stop = "+callbacks.stop={_target_: tests.runs.StopAt, epoch: 1, batch: 2}"
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run(tmp_path, *settings, stop, f"data.num_workers={workers}")
    assert load(tmp_path / "status.json")["status"] == "failed"
    assert "stopped by the test" in load(tmp_path / "status.json")["reason"]

    last = tmp_path / "checkpoints" / "last.ckpt"
    run(tmp_path, *settings, f"ckpt_path={last}", f"data.num_workers={workers}")
    assert rows(tmp_path) == rows(whole)
    assert without_costs(tmp_path) == without_costs(whole)
    states = [torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for f in (tmp_path, whole)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert len(load(tmp_path / "run.json")["resumed"]) == 1


def test_eval_needs_nothing_but_the_checkpoint(whole, tmp_path):
    best = whole / "checkpoints" / "best.ckpt"
    assert restore.prepare(["eval.py", f"ckpt_path={best}"], evaluate=True) == "checkpoint"
    run(tmp_path, f"ckpt_path={best}", config="checkpoint", job=evaluation.evaluate)
    again, first = load(tmp_path / "result.json"), load(whole / "result.json")
    assert again["metrics"] == {split: first["metrics"][split] for split in ("dev", "test", "hidden")}
    assert again["selected"] == first["selected"]
    assert (tmp_path / "predictions" / "test.csv").read_text() == (whole / "predictions" / "test.csv").read_text()


def test_eval_folder_lies_below_the_run(whole):
    restore.prepare(["eval.py", f"ckpt_path={whole / 'checkpoints' / 'best.ckpt'}"], evaluate=True)
    folder = Path(restore.os.environ[restore.RUN_DIR])
    assert folder.parent == whole and folder.name.startswith("eval_")


def test_settings_out_of_a_checkpoint_take_overrides_like_any_other(whole):
    last = whole / "checkpoints" / "last.ckpt"
    assert restore.prepare(["train.py", f"ckpt_path={last}"], evaluate=False) == "checkpoint"
    assert restore.os.environ[restore.RUN_DIR] == str(whole)
    with composed("trainer=ddp_sim", "precision=bf16-mixed", "data.batch_size=4", config="checkpoint") as cfg:
        assert (cfg.trainer.devices, cfg.trainer.precision, cfg.data.batch_size) == (2, "bf16-mixed", 4)
        assert cfg.peft.rank == 2 and cfg.name == "nlvr_hmmoe"
    assert restore.prepare(["train.py", f"ckpt_path={last}", "experiment=nlvr_hmmoe"], evaluate=False) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("++backbone.towers.vision.depth=1", "another backbone: fingerprint"),
        ("peft.rank=3", "of another shape"),
        ("peft=series_adapter", "unexpected"),
    ],
)
def test_weights_of_another_model_are_refused(whole, tmp_path, override, words):
    best = whole / "checkpoints" / "best.ckpt"
    restore.prepare(["eval.py", f"ckpt_path={best}"], evaluate=True)
    with pytest.raises(UserError, match=words):
        run(tmp_path, f"ckpt_path={best}", override, config="checkpoint", job=evaluation.evaluate)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "say which weights"),
        (["ckpt_path=/nowhere/best.ckpt"], "no checkpoint at"),
        ([f"ckpt_path={__file__}"], "cannot be read as a checkpoint"),
    ],
)
def test_no_checkpoint(argv, words):
    with pytest.raises(UserError, match=words):
        restore.prepare(["eval.py", *argv], evaluate=True)


def test_missing_data_and_weights_in_one_message(settings, tmp_path):
    with pytest.raises(DataMissing) as caught:
        run(tmp_path, *settings, f"data.root={tmp_path / 'none'}", "backbone.towers.text.weights=weights/none")
    assert "scale=mini" in str(caught.value) and "backbone.towers.text.weights=weights/none" in str(caught.value)
    assert load(tmp_path / "status.json")["status"] == "failed"
    with pytest.raises(WeightsMissing, match=r"backbone\.towers\.vision\.weights=weights/none"):
        run(tmp_path / "again", *settings, "backbone.towers.vision.weights=weights/none")


def test_a_folder_holds_one_run(settings, whole):
    with pytest.raises(ConfigError, match="holds a run already"):
        run(whole, *settings)
    assert load(whole / "status.json")["status"] == "completed"


def test_a_test_split_as_monitor(settings, tmp_path):
    with pytest.raises(ConfigError, match="test split: set monitor to val/acc, or say"):
        run(tmp_path / "refused", *settings, "monitor=hidden/acc")
    with pytest.raises(ConfigError, match=r"monitor=dev/acc chooses the model on a test split: set monitor to val/acc"):
        run(tmp_path / "reported", *settings, "monitor=dev/acc")
    run(tmp_path / "said", *settings, "monitor=hidden/acc", "allow_test_selection=true", "trainer.max_epochs=1")
    assert load(tmp_path / "said" / "result.json")["selected"]["on_test"] is True
    with pytest.raises(ConfigError, match="names no split"):
        run(tmp_path / "none", *settings, "monitor=vall/acc")


def test_a_score_that_is_never_logged(settings, tmp_path):
    with pytest.raises(ConfigError, match=r"monitor=val/accuracy is never logged: choose from .*val/acc"):
        run(tmp_path, *settings, "monitor=val/accuracy", "trainer.max_epochs=1")


def test_constructors_speak_for_their_settings(settings, tmp_path):
    with pytest.raises(ConfigError, match="timm has no model 'vit_x'"):
        run(tmp_path, *settings, "backbone.towers.vision.name=vit_x")


def test_two_processes_and_bf16(settings, whole, tmp_path):
    """The same global batches, so the same scores; forked, because starting Python anew takes half a minute."""
    fork = ("trainer.devices=2", "trainer.strategy=ddp_fork", "data.batch_size=4", "task.head.dropout=0.0")
    run(tmp_path / "two", *settings, *fork, "trainer.max_epochs=2")
    run(tmp_path / "one", *settings, "task.head.dropout=0.0", "trainer.max_epochs=2")
    for two, one in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        two |= {"epoch": one["epoch"], "step": one["step"]}  # a forked trainer forgets both before the test
        assert {k: float(v) for k, v in two.items() if v} == pytest.approx(
            {k: float(v) for k, v in one.items() if v}, abs=1e-5
        )
    tables = [(tmp_path / name / "predictions" / "test.csv").read_text() for name in ("two", "one")]
    assert tables[0] == tables[1]
    run(tmp_path / "bf16", *settings, "precision=bf16-mixed", "trainer.max_epochs=1", "checkpointing=true")
    assert load(tmp_path / "bf16" / "result.json")["precision"] == "bf16-mixed"


@pytest.mark.slow
def test_a_compiled_run_gives_the_same_scores(settings, whole, tmp_path):
    """Backend aot_eager: everything but the generation of code, which needs a compiler and minutes.

    A process of its own, because the tests' shape checks are no code that can be compiled.
    """
    compiled = ("compile={backend: aot_eager, dynamic: false}", f"hydra.run.dir={tmp_path}")
    subprocess.run([sys.executable, str(ROOT / "train.py"), *settings, *compiled], check=True, cwd=tmp_path)
    ours, theirs = without_costs(tmp_path), without_costs(whole)
    assert ours["metrics"].keys() == theirs["metrics"].keys()
    for split, scores in theirs["metrics"].items():
        assert ours["metrics"][split] == pytest.approx(scores, abs=1e-4)
    flops = [load(folder / "result.json")["cost"]["flops_per_sample"] for folder in (tmp_path, whole)]
    assert flops[0] == flops[1] > 0


def test_best_is_not_last_when_the_score_says_so(settings, tmp_path):
    """Chosen by the lowest accuracy, the kept weights must score what the record says when they are read again."""
    score = run(tmp_path, *settings, "mode=min", "optim.lr.head=0.1", "trainer.max_epochs=4")
    scores = [float(row["val/acc"]) for row in rows(tmp_path) if row["val/acc"]]
    assert score == pytest.approx(min(scores)) and len(scores) == 4


def test_wandb_offline_keeps_its_id(settings, tmp_path):
    run(tmp_path, *settings, "logger=wandb", "trainer.max_epochs=1")
    assert load(tmp_path / "run.json")["wandb_id"]
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{load(tmp_path / 'run.json')['wandb_id']}"))


def test_wandb_online_is_decided_before_anything_starts(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ConfigError, match="WANDB_MODE=offline wins"):
        run(tmp_path / "a", *settings, "logger=wandb_online")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")
    with pytest.raises(ConfigError, match="needs a key for localhost"):
        run(tmp_path / "b", *settings, "logger=wandb_online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with pytest.raises(ConfigError, match="cannot reach localhost"):
        run(tmp_path / "c", *settings, "logger=wandb_online")


def test_seeds_repeat_and_differ(settings, whole, tmp_path):
    run(tmp_path / "same", *settings)
    assert rows(tmp_path / "same") == rows(whole)
    run(tmp_path / "other", *settings, "seed=2")
    assert rows(tmp_path / "other") != rows(whole)


def test_a_start_from_another_run_is_on_record(settings, whole, tmp_path):
    run(tmp_path, *settings, f"init_from={whole / 'adapter.safetensors'}", "trainer.max_epochs=1")
    assert load(tmp_path / "run.json")["init_from"]["path"].endswith("adapter.safetensors")
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["settings"]["init_from"] is None
    with pytest.raises(ConfigError, match="init_from=nowhere: no such file"):
        run(tmp_path / "none", *settings, "init_from=nowhere")


def test_testing_alone_takes_the_given_weights(settings, whole, tmp_path):
    last = whole / "checkpoints" / "last.ckpt"
    run(tmp_path, *settings, "train=false", f"ckpt_path={last}")
    epoch = torch.load(last, weights_only=True)["callbacks"]
    assert load(tmp_path / "result.json")["selected"]["epoch"] == next(iter(epoch.values()))["epoch"]
    assert not (tmp_path / "checkpoints").exists()
