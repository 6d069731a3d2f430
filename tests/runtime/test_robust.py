"""Runs that are killed, that meet a full disk, too little memory or a loss that is no number."""

import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from hmmoe.callbacks import checkpoint
from hmmoe.errors import ConfigError, DiskFull, Diverged, OutOfMemory
from hmmoe.runtime.check import check
from hmmoe.runtime.command import Interrupted
from hmmoe.runtime.mishaps import mishap
from hmmoe.runtime.session import Session
from tests.runs import composed, load, rows, run, without_costs


@pytest.fixture(scope="module", autouse=True)
def every_epoch_is_the_best():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.RunCheckpoint, "_better", lambda self, score: True)
        yield


class At(Callback):
    """Does something in the middle of an epoch."""

    def __init__(self, epoch: int, what: str) -> None:
        self.epoch, self.what = epoch, what

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, index: int) -> None:
        if (trainer.current_epoch, index) != (self.epoch, 1):
            return
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore words")
        with torch.no_grad():
            next(p for p in pl_module.model.head.parameters() if p.requires_grad).fill_(float("nan"))


def at(epoch: int, what: str) -> str:
    return f"+callbacks.at={{_target_: tests.runtime.test_robust.At, epoch: {epoch}, what: {what}}}"


def die_at_call(number: int, function: Callable[..., Any], before: Callable[..., Any] = lambda *_: None):
    """``function``, whose process ends by SIGKILL at the given call."""
    calls = []

    def wrapped(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == number:
            before(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)

    return wrapped


def half(*args: Any) -> None:
    """The target, half written."""
    Path(args[1]).parent.mkdir(parents=True, exist_ok=True)
    Path(args[1]).write_bytes(b"half a checkpoint")


KILLS = {
    # epoch 2: call 2 of each function that runs once per epoch; os.replace runs twice, best and then last
    "while it saves": lambda: setattr(
        L.Trainer, "save_checkpoint", die_at_call(2, L.Trainer.save_checkpoint, lambda _, path: half(None, path))
    ),
    "while it copies the best": lambda: setattr(
        checkpoint.shutil, "copyfile", die_at_call(2, shutil.copyfile, lambda source, target: half(None, target))
    ),
    "between the best and the last": lambda: setattr(
        checkpoint, "os", type("Os", (), {"replace": staticmethod(die_at_call(4, os.replace))})
    ),
}


def killed(job: Callable[[], Any]) -> int:
    """The exit code of a forked process that does ``job``."""
    process = multiprocessing.get_context("fork").Process(target=job)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("moment", KILLS)
def test_killed_at_the_worst_moment_it_ends_like_the_unbroken_run(settings, whole, tmp_path, moment):
    def job():
        KILLS[moment]()
        run(tmp_path, *settings)

    assert killed(job) == -signal.SIGKILL
    assert load(tmp_path / "status.json")["status"] == "running"  # nobody could say otherwise
    torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    run(tmp_path, *settings, "ckpt_path=auto")
    assert rows(tmp_path) == rows(whole)
    assert without_costs(tmp_path) == without_costs(whole)
    for name in ("last", "best"):
        states = [torch.load(f / "checkpoints" / f"{name}.ckpt", weights_only=True) for f in (tmp_path, whole)]
        first, second = (state["state_dict"] for state in states)
        assert all(torch.equal(first[key], second[key]) for key in second)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_killed_in_the_first_epoch_it_starts_over_in_its_folder(settings, whole, tmp_path):
    assert killed(lambda: run(tmp_path, *settings, at(0, "kill"))) == -signal.SIGKILL
    with pytest.raises(ConfigError, match="holds a run already"):
        run(tmp_path, *settings)
    run(tmp_path, *settings, "ckpt_path=auto")
    assert rows(tmp_path) == rows(whole) and len(load(tmp_path / "run.json")["resumed"]) == 1


def test_a_loss_that_is_no_number(settings, tmp_path):
    with pytest.raises(Diverged, match=r"the loss is nan in epoch 2, step \d+; .*Lower optim.lr.adapters"):
        run(tmp_path, *settings, at(1, "poison"))
    assert load(tmp_path / "status.json")["reason"].startswith("Diverged: the loss is nan in epoch 2")
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_too_little_memory_names_the_settings(settings, tmp_path):
    with pytest.raises(OutOfMemory, match=r"data.batch_size=4 trainer.accumulate_grad_batches=2") as caught:
        run(tmp_path, *settings, at(0, "memory"))
    assert "at data.batch_size=8" in str(caught.value) and "Tried to allocate 2.00 GiB" in str(caught.value)
    assert "More words" not in str(caught.value) and "traceback" not in load(tmp_path / "status.json")


def test_a_full_disk(settings, tmp_path, monkeypatch):
    """Not even the status fits beside the old one; what was written before is whole."""
    whole_save, whole_write = L.Trainer.save_checkpoint, Path.write_text
    full = []

    def save(trainer: L.Trainer, path: Path) -> None:
        if trainer.current_epoch >= 2:
            full.append(True)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        whole_save(trainer, path)

    def write(path: Path, text: str) -> int:
        if full and path.name.endswith(".new"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return whole_write(path, text)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", save)
    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(DiskFull, match=r"no space left on the disk while writing .*last.new"):
        run(tmp_path, *settings)
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "failed"
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_only_known_misfortunes_are_translated():
    sizes = {"data": {"batch_size": 1}, "trainer": {}, "checkpointing": True, "precision": "bf16-mixed"}
    assert mishap(RuntimeError("shape mismatch"), sizes) is None and mishap(None, sizes) is None
    assert mishap(OSError(errno.ENOENT, "none"), sizes) is None
    assert "Use a smaller backbone" in str(mishap(RuntimeError("DefaultCPUAllocator: can't allocate memory"), sizes))
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ValueError("a library's own words") from error
    except ValueError as error:
        assert isinstance(mishap(error, sizes), DiskFull)


def test_causes_in_a_ring_end():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert mishap(first, {}) is None


def test_a_score_that_will_not_come_is_missed_before_the_first_step(settings, tmp_path):
    with pytest.raises(ConfigError, match=r"monitor=val/accuracy is never logged: choose from .*val/acc"):
        run(tmp_path, *settings, "monitor=val/accuracy", at(0, "memory"))


def test_ctrl_c_before_anything_was_saved_is_answered(settings, tmp_path, caplog):
    """Else a person sees the bar stop and no word."""
    caplog.set_level(logging.INFO)
    with (
        composed(*settings, f"paths.run_dir={tmp_path}") as cfg,
        pytest.raises(Interrupted),
        Session(cfg, check(cfg)),
    ):
        raise Interrupted(signal.SIGINT)
    assert load(tmp_path / "status.json")["reason"] == "SIGINT"
    assert f"interrupted by SIGINT before anything was saved in {tmp_path}" in caplog.text


def test_the_rank_that_failed_first_is_the_reason(settings, tmp_path, monkeypatch):
    """Rank 0 only loses its connection."""
    with composed(*settings, f"paths.run_dir={tmp_path}") as cfg:
        plain = check(cfg)
        monkeypatch.setenv("LOCAL_RANK", "1")
        other = Session(cfg, plain)
        monkeypatch.delenv("LOCAL_RANK")
        with pytest.raises(RuntimeError, match="connection closed"), Session(cfg, plain):
            other.__exit__(ValueError, ValueError("the real one"), None)
            raise RuntimeError("connection closed")
    status = load(tmp_path / "status.json")
    assert status["status"] == "failed" and status["reason"] == "ValueError: the real one"
