"""Exit codes and messages of the commands themselves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hmmoe.runtime.command import Interrupted
from tests.runs import tiny

ROOT = Path(__file__).parents[2]


def command(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("HMMOE_RUN_DIR", "HYDRA_FULL_ERROR")} | environment
    return subprocess.run(
        [sys.executable, str(ROOT / script), *words], capture_output=True, text=True, env=env, cwd=ROOT
    )


def test_help_shows_the_first_steps_and_the_choices():
    done = command("train.py", "--help")
    assert done.returncode == 0
    assert "python train.py experiment=ave_hmmoe scale=mini" in done.stdout and "full, hmmoe" in done.stdout


def test_a_typo_is_answered_without_heavy_imports():
    done = command("train.py", "experiment=nlvr_hmmoe", "peft.rnak=3", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 2 and "Did you mean peft.rank?" in done.stderr
    assert "Traceback" not in done.stderr and "| torch\n" not in done.stderr and "lightning" not in done.stderr


def test_eval_without_a_checkpoint():
    done = command("eval.py")
    assert done.returncode == 2 and "ckpt_path=<run>/checkpoints/best.ckpt" in done.stderr


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interruption_is_an_exit_code(signum, code):
    stop = Interrupted(signum)
    assert stop.code == code and stop.signal == signum.name


@pytest.mark.slow
def test_interrupted_resumed_evaluated_by_commands_alone(tmp_path):
    """SIGTERM in the middle of training; then two commands that name nothing but the checkpoint."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *tiny(tmp_path / "NLVR"), "trainer.max_epochs=500"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HMMOE_RUN_DIR": str(run)},
        cwd=ROOT,
    )
    try:
        assert any(line.startswith("epoch 2/500") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        printed = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert process.returncode == 143
    assert json.loads((run / "status.json").read_text())["status"] == "interrupted"
    assert f"python train.py ckpt_path={run / 'checkpoints' / 'last.ckpt'}" in printed

    done = command("train.py", f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}", "trainer.max_epochs=3")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "status.json").read_text())["status"] == "completed"

    done = command("eval.py", f"ckpt_path={run / 'checkpoints' / 'best.ckpt'}")
    assert done.returncode == 0, done.stderr
    (folder,) = run.glob("eval_*")
    again, first = (json.loads((place / "result.json").read_text())["metrics"] for place in (folder, run))
    assert again["hidden"] == first["hidden"]


@pytest.mark.slow
def test_two_cpu_processes_by_command(tmp_path):
    done = command("train.py", *tiny(tmp_path / "NLVR"), "trainer=ddp_sim", HMMOE_RUN_DIR=str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["processes"] == 2
    assert done.stdout.count("epoch 3/3") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["NLVR", "run"]


@pytest.mark.slow
def test_a_sweep_gives_every_job_its_folder(tmp_path):
    words = [*tiny(tmp_path / "NLVR"), "trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = command("train.py", "-m", *words, "seed=1,2")
    assert done.returncode == 0, done.stderr
    seeds = {json.loads((tmp_path / "sweep" / job / "result.json").read_text())["seed"] for job in ("0", "1")}
    assert seeds == {1, 2}
