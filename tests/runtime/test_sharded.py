"""``trainer=fsdp`` on two real processes: the frozen part is spread, and everything else is as with one process."""

import lightning as L
import pytest
import torch
from torch.distributed.tensor import DTensor

from hmmoe.errors import ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.runtime import build
from hmmoe.runtime.result import forward_cost, show
from hmmoe.runtime.sharded import ShardedBackbone, is_sharded
from hmmoe.trainable import counts
from tests import small
from tests.ranks import run_ranks
from tests.runs import composed, load, rows, run, tiny

TWO = (
    "trainer=fsdp",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "+trainer.strategy.start_method=fork",  # starting Python anew takes half a minute
    "data.batch_size=4",
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    return [*tiny(tmp_path_factory.mktemp("data") / "NLVR"), "task.head.dropout=0.0", "trainer.max_epochs=2"]


@pytest.mark.parametrize("method", ["hmmoe", pytest.param("lora", marks=pytest.mark.slow)])
def test_two_processes_that_share_the_backbone_train_like_one(settings, tmp_path, method):
    run(tmp_path / "one", *settings, f"peft={method}", "peft.rank=2")
    run(tmp_path / "two", *settings, f"peft={method}", "peft.rank=2", *TWO)
    for two, one in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        two |= {"epoch": one["epoch"], "step": one["step"]}  # a forked trainer forgets both before the test
        numbers = ({k: float(v) for k, v in row.items() if v} for row in (two, one))
        assert next(numbers) == pytest.approx(next(numbers), abs=1e-5)
    results = [load(tmp_path / name / "result.json") for name in ("two", "one")]
    assert results[0]["parameters"] == results[1]["parameters"]
    assert results[0]["processes"] == 2
    files = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("two", "one")
    ]
    assert files[0].keys() == files[1].keys() and not any(isinstance(t, DTensor) for t in files[0].values())
    for name, tensor in files[0].items():
        torch.testing.assert_close(tensor, files[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_or_without_the_shared_backbone(settings, tmp_path):
    """The checkpoint of the one is the checkpoint of the other."""
    whole = run(tmp_path / "whole", *settings)
    run(tmp_path / "a", *settings, *TWO, "trainer.max_epochs=1")
    last = tmp_path / "a" / "checkpoints" / "last.ckpt"
    assert run(tmp_path / "a", *settings, f"ckpt_path={last}") == pytest.approx(whole, abs=1e-5)
    run(tmp_path / "b", *settings, "trainer.max_epochs=1")
    last = tmp_path / "b" / "checkpoints" / "last.ckpt"
    assert run(tmp_path / "b", *settings, *TWO, f"ckpt_path={last}") == pytest.approx(whole, abs=1e-5)


def task_of(model: AdaptedModel) -> L.LightningModule:
    task = L.LightningModule()
    task.model = model
    return task


def test_every_process_holds_its_share():
    def one(rank: int) -> list[float]:
        strategy = ShardedBackbone(parallel_devices=[torch.device("cpu")] * 2, accelerator=None)
        task = task_of(small.model("vision", "text"))
        before = sum(p.numel() for p in task.model.backbone.parameters())
        strategy._shard(task)
        held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in task.model.backbone.parameters())
        assert is_sharded(task) and not any(isinstance(p, DTensor) for p in task.model.peft.parameters())
        assert counts(task.model)["total"] - counts(task.model)["trained"] == before
        # Alone, this process would wait for the others for ever.
        assert forward_cost(L.Trainer.__new__(L.Trainer), task, L.LightningDataModule()) == {}
        return held / before

    for share in run_ranks(one):
        assert share < 0.9  # small towers are mostly embeddings


def test_a_result_without_flops_is_shown(capsys):
    sizes = {"adapters": 1, "router": 0, "head": 0, "backbone": 0, "trained": 1, "total": 2, "trained_percent": 50.0}
    facts = {"metrics": {}, "references": {}, "data": {}, "edits": [], "parameters": sizes, "cost": {"step_ms": 3.0}}
    selected = {"monitor": "val/acc", "score": 0.5, "epoch": 1, "on_test": False}
    show({**facts, "selected": selected, "peak_memory_mib": 10.0, "seconds": 2.0}, "run", None)
    assert "cost       peak memory 10 MiB; 2 s in all" in capsys.readouterr().out


def test_a_backbone_whose_layers_have_no_names_is_refused():
    task = task_of(small.model("vision"))
    task.model.backbone.tower("vision").roles = {}
    with pytest.raises(ConfigError, match="use trainer=ddp"):
        ShardedBackbone()._shard(task)


def test_hydra_builds_the_strategy(settings):
    with composed(*settings, "trainer=fsdp", "trainer.accelerator=gpu", "paths.run_dir=run") as cfg:
        strategy = build.part(cfg.trainer.strategy, "trainer.strategy")
        assert isinstance(strategy, ShardedBackbone)
        assert (cfg.trainer.devices, cfg.trainer.accelerator, cfg.trainer.inference_mode) == (-1, "gpu", False)
