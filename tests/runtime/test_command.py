"""Exit codes and messages of the commands themselves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hmmoe.runtime.command import Interrupted

ROOT = Path(__file__).parents[2]


def command(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("HMMOE_RUN_DIR", "HYDRA_FULL_ERROR")} | environment
    return subprocess.run(
        [sys.executable, str(ROOT / script), *words], capture_output=True, text=True, env=env, cwd=ROOT
    )


def test_help_shows_the_first_steps_and_the_choices():
    done = command("train.py", "--help")
    assert done.returncode == 0
    assert "python train.py experiment=ave_hmmoe scale=mini" in done.stdout and "peft: full, hmmoe" in done.stdout


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
