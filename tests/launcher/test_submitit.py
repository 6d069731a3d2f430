"""Jobs through a queue: submitit's own processes of this machine stand for the nodes of a cluster."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hmmoe.errors import ConfigError, JobsFailed
from hmmoe.runtime import schema
from hydra_plugins.hmmoe_launcher import launcher as room
from hydra_plugins.hmmoe_launcher._record import lock
from hydra_plugins.hmmoe_submitit import _command
from hydra_plugins.hmmoe_submitit._command import Command
from hydra_plugins.hmmoe_submitit.launcher import SubmititLauncher
from tests.launcher import job as script

PROGRAM = [sys.executable, "-S", script.__file__]


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(room, "program", lambda: PROGRAM)
    monkeypatch.setattr(_command, "POLL", 0.01)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m"])
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def sweep(folder: Path, *jobs: str, cluster: str = "local", **options):
    launcher = SubmititLauncher(cluster, grace=10, **options)
    config = {
        "monitor": "val/acc",
        "trainer": {"accelerator": "gpu", "devices": 4},  # the queue's business
        "hydra": {
            "sweep": {"dir": str(folder)},
            "sweeper": {"_target_": "some.BasicSweeper"},
            "overrides": {"hydra": []},
        },
    }
    context = SimpleNamespace(config_loader=SimpleNamespace(load_sweep_config=lambda master, words: master))
    launcher.setup(hydra_context=context, task_function=None, config=OmegaConf.create(config))
    return launcher.launch([job.split() for job in jobs], 0)


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def test_jobs_go_through_the_queue_and_come_back_with_scores(tmp_path):
    answers = sweep(tmp_path, "peft.rank=1", "peft.rank=2 what=fail", parameters={"timeout_min": 5, "mem_gb": None})
    assert answers[0].return_value == 0.01
    with pytest.raises(
        JobsFailed, match=r"1 of 2 jobs have no result:\n  1_rank-2_what-fail  failed: ValueError: rank"
    ):
        _ = answers[1].return_value
    record = load(tmp_path / "sweep.json")
    assert [job["status"] for job in record["jobs"]] == ["completed", "failed"]
    (start,) = [json.loads(line) for line in (tmp_path / "0_rank-1" / "starts.jsonl").read_text().splitlines()]
    assert start["words"] == ["peft.rank=1", "ckpt_path=auto"]
    assert sweep(tmp_path, "peft.rank=1")[0].return_value == 0.01  # done before; the failed one starts over
    assert load(tmp_path / "sweep.json")["jobs"][1]["attempts"] == 2


def test_jobs_that_are_not_wanted_any_more_are_taken_out(tmp_path):
    answers = sweep(tmp_path, "peft.rank=1 what=fail", "peft.rank=2 what=hang", parallel=2, fail_fast=True)
    with pytest.raises(JobsFailed, match="2 of 2 jobs have no result"):
        _ = answers[0].return_value
    failed, taken_out = load(tmp_path / "sweep.json")["jobs"]
    assert (failed["status"], taken_out["status"]) == ("failed", "interrupted")
    assert taken_out["reason"] == "0_rank-1_what-fail failed (hydra.launcher.fail_fast)"


def command(folder: Path, *words: str) -> Command:
    folder.mkdir(exist_ok=True)
    return Command([*PROGRAM, *words], {"HMMOE_RUN_DIR": str(folder)}, folder, Path.cwd())


def test_a_job_that_is_pushed_aside_ends_and_comes_back(tmp_path):
    """As submitit calls it: from a signal handler, while the command runs."""
    first, comes_back = command(tmp_path / "job", "peft.rank=3", "what=hang"), []
    signal.signal(signal.SIGUSR2, lambda number, frame: comes_back.append(first.checkpoint()))

    def push_aside() -> None:
        while not (tmp_path / "job" / "status.json").is_file():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGUSR2)

    threading.Thread(target=push_aside).start()
    assert first() == 128 + signal.SIGTERM
    assert load(tmp_path / "job" / "status.json")["status"] == "interrupted"
    os.close(first._held)  # the node's process ends
    (again,) = comes_back
    assert again.function == first


def test_what_is_done_is_not_done_again_and_a_process_at_work_is_waited_for(tmp_path):
    one = command(tmp_path / "job", "peft.rank=3")
    assert one() == 0
    held = one._held
    threading.Timer(0.3, os.close, [held]).start()
    since = time.monotonic()
    assert command(tmp_path / "job", "peft.rank=3")() == 0
    assert time.monotonic() - since > 0.2
    assert len((tmp_path / "job" / "starts.jsonl").read_text().splitlines()) == 1
    assert lock(tmp_path / "job") is None


def test_a_cluster_that_is_not_there_and_settings_that_it_does_not_know(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="submitit says: Could not detect"):
        sweep(tmp_path / "a", "peft.rank=1", cluster="slurm")
    with pytest.raises(ConfigError, match=r"submitit says: .*minutes"):
        sweep(tmp_path / "b", "peft.rank=1", parameters={"minutes": 3})


@pytest.mark.parametrize(("name", "gpus"), [("submitit_slurm", 1), ("submitit_local", 0)])
def test_hydra_builds_both(name, gpus):
    schema.register()
    with initialize_config_module("conf", version_base="1.3"):
        words = ["experiment=nlvr_hmmoe", f"hydra/launcher={name}"]
        node = compose("train", words, return_hydra_config=True).hydra.launcher
    launcher = instantiate(node, _convert_="all")
    assert type(launcher).__name__ == "SubmititLauncher"  # Hydra loads plugins a second time
    assert launcher.cluster == name.removeprefix("submitit_")
    assert launcher.parameters["gpus_per_node"] == gpus and "mem_gb" not in launcher.parameters
