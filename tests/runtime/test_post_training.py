"""Commands on a finished run: export, merge, prune, intervene; each reads what the run wrote."""

import csv
import json
from pathlib import Path

import pytest
import torch

import eval as evaluation
from hmmoe.errors import ConfigError
from hmmoe.runtime import exporting, pruning, restore
from tests.runs import load, run, tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    return [*tiny(tmp_path_factory.mktemp("data") / "NLVR"), "trainer.max_epochs=1"]


def trained(settings, folder: Path, *words: str) -> Path:
    run(folder, *settings, *words)
    return folder


@pytest.fixture(scope="module")
def experts(settings, tmp_path_factory) -> Path:
    return trained(settings, tmp_path_factory.mktemp("runs") / "hmmoe")


@pytest.fixture(scope="module")
def lora(settings, tmp_path_factory) -> Path:
    return trained(settings, tmp_path_factory.mktemp("runs") / "lora", "peft=lora")


def evaluated(checkpoint: Path, folder: Path, *words: str) -> dict:
    restore.prepare(["eval.py", f"ckpt_path={checkpoint}"], evaluate=True)
    run(folder, f"ckpt_path={checkpoint}", *words, config="checkpoint", job=evaluation.evaluate)
    return load(folder / "result.json")


def test_export_in_both_formats_and_back(lora, settings, tmp_path, capsys):
    for form in ("hf", "merged"):
        assert exporting.main([str(lora), "--format", form, "--out", str(tmp_path / form)]) == 0
    assert "vision: " in capsys.readouterr().out
    assert (tmp_path / "hf" / "text" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "merged" / "text" / "config.json").is_file()
    again = trained(settings, tmp_path / "again", "peft=lora", f"init_from={tmp_path / 'hf'}", "train=false")
    record = json.loads((again / "run.json").read_text())
    assert len(record["init_from"]["sha256"]) == 64


def test_merged_weights_score_the_same(lora, tmp_path):
    best = lora / "checkpoints" / "best.ckpt"
    plain, merged = evaluated(best, tmp_path / "a"), evaluated(best, tmp_path / "b", "merge=true")
    assert merged["edits"] == ["LoRA merged into the weights"] and merged["parameters"]["adapters"] == 0
    for split, scores in plain["metrics"].items():
        assert merged["metrics"][split] == pytest.approx(scores, abs=1e-4)


def test_one_file_scores_as_the_run_does(lora, tmp_path, capsys):
    file = tmp_path / "merged.ckpt"
    assert exporting.main([str(lora), "--format", "checkpoint", "--out", str(file)]) == 0
    assert f"checkpoint: {file}" in capsys.readouterr().out and not file.with_suffix(".new").exists()
    plain = evaluated(lora / "checkpoints" / "best.ckpt", tmp_path / "a")
    alone = evaluated(file, tmp_path / "b")
    assert alone["parameters"]["adapters"] == 0 and alone["parameters"]["head"] == plain["parameters"]["head"]
    for split, scores in plain["metrics"].items():
        assert alone["metrics"][split] == pytest.approx(scores, abs=1e-5)
    record = load(tmp_path / "b" / "run.json")
    assert "LoRA merged" in record["tags"] and record["fingerprint"] != load(tmp_path / "a" / "run.json")["fingerprint"]


def test_prune_writes_what_eval_reads(experts, tmp_path, monkeypatch, capsys):
    seen = []

    def scored(checkpoint, folder, words):
        seen.append(folder.name)
        return evaluated(checkpoint, tmp_path / folder.name, *words)["metrics"]

    monkeypatch.setattr(pruning, "scored", scored)
    assert pruning.main([str(experts), "--keep", "0.5"]) == 0
    (folder,) = experts.glob("pruned_*")
    report = json.loads((folder / "report.json").read_text())
    assert seen == ["before", "after"] and set(report["scores"]["after"]) == {"dev", "test", "hidden"}
    assert report["experts"]["after"] * 2 == report["experts"]["before"] == len(report["dropped"]) * 2
    sizes = report["parameters"]
    assert sizes["after"]["adapters"] < sizes["before"]["adapters"]
    assert sizes["after"]["router"] == sizes["before"]["router"]
    after = load(tmp_path / "after" / "result.json")
    assert after["parameters"] == sizes["after"]
    assert "experts    " in capsys.readouterr().out
    content = torch.load(folder / "checkpoints" / "pruned.ckpt", weights_only=True)
    assert content["optimizer_states"] == [] and content["settings"]["peft"]["drop"]
    assert pruning.main([str(experts), "--below", "1e-9", "--no-scores"]) == 2
    assert "nothing to drop" in capsys.readouterr().err


def test_interventions_and_importance(experts, tmp_path):
    best = experts / "checkpoints" / "best.ckpt"
    plan = "intervene={mask: [{modality: vision}], force: [{modality: text, group: single}]}"
    result = evaluated(best, tmp_path / "a", plan)
    assert len(result["edits"]) == 4 and result["edits"][0].startswith("mask site00 vision single, cross:text")
    (table,) = (tmp_path / "a" / "routing").glob("epoch_*_test.csv")
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["modality"] == "text" and row["level"] == "group"]
    assert {row["group"]: float(row["weight_share"]) for row in rows}["single"] == 1
    evaluated(best, tmp_path / "b", "importance=site")
    with (tmp_path / "b" / "importance.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["site"] for row in rows] == ["site00", "site01"]
    assert all(float(row["test/acc"]) <= 1 and row["test/acc lost"] for row in rows)


def test_what_cannot_be_is_said(lora, experts, settings, tmp_path, capsys):
    assert exporting.main([str(experts), "--out", str(tmp_path)]) == 2
    assert "HF peft has no format for HMMoE" in capsys.readouterr().err
    one = ["--format", "checkpoint", "--out", str(tmp_path / "one.ckpt")]
    assert exporting.main([str(experts), *one]) == 2
    assert "HMMoE computes beside the FFN" in capsys.readouterr().err and not list(tmp_path.glob("one*"))
    assert exporting.main([str(lora), *one[:3], str(tmp_path)]) == 2
    assert "--format checkpoint writes one file, such as" in capsys.readouterr().err
    assert exporting.main([str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    assert exporting.main([str(lora), "peft.rnk=2", "--out", str(tmp_path)]) == 2
    assert "expected key=value with a key of the run's settings" in capsys.readouterr().err
    assert pruning.main([str(lora), "--below", "0.1"]) == 2
    assert "LoRA has no experts" in capsys.readouterr().err
    assert pruning.main([str(experts), "--below", "0.1", "--split", "val9"]) == 2
    assert "--split val9" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"merge is for a trained model: python eval\.py"):
        trained(settings, tmp_path / "no", "merge=true")
