"""Exit codes and messages of the commands themselves."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hmmoe.runtime.command import Interrupted, run_stamp
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


def test_processes_of_one_run_agree_on_its_folder(monkeypatch):
    assert run_stamp() != run_stamp()
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert "77" not in run_stamp()  # a script that starts several runs
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    assert run_stamp() == "slurm_77_3"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert run_stamp().endswith("_torchrun_mine")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert run_stamp().endswith(f"_torchrun_{os.getppid()}")


@pytest.mark.slow
def test_torchrun_gives_one_folder(tmp_path):
    words = [*tiny(tmp_path / "NLVR"), "trainer=ddp_sim", "trainer.max_epochs=1", f"paths.log_dir={tmp_path / 'logs'}"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(ROOT / "train.py"), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "logs" / "nlvr_hmmoe").iterdir()
    assert json.loads((folder / "result.json").read_text())["processes"] == 2
    assert json.loads((folder / "status.json").read_text())["status"] == "completed"


def jobs_of(sweep: Path) -> dict[str, dict]:
    return {job["folder"]: job for job in json.loads((sweep / "sweep.json").read_text())["jobs"]}


@pytest.mark.slow
def test_a_sweep_whose_launcher_is_killed_goes_on(tmp_path):
    """SIGKILL while the first job trains: the job is told by the kernel, and one word resumes all."""
    sweep = tmp_path / "sweep"
    words = [*tiny(tmp_path / "NLVR"), "trainer.max_epochs=40", "seed=1,2", f"hydra.sweep.dir={sweep}"]
    launcher = subprocess.Popen([sys.executable, str(ROOT / "train.py"), "-m", *words], cwd=ROOT)
    last = sweep / "0_seed-1" / "checkpoints" / "last.ckpt"
    while not last.is_file() and launcher.poll() is None:
        time.sleep(0.05)
    launcher.kill()
    launcher.wait()
    done = command("train.py", "-m", f"sweep.resume={sweep}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on 0_seed-1" in done.stdout and "start   1_seed-2" in done.stdout
    assert [job["attempts"] for job in jobs_of(sweep).values()] == [2, 1]
    for number, (folder, job) in enumerate(jobs_of(sweep).items()):
        record = json.loads((sweep / folder / "run.json").read_text())
        assert record["sweep"] == {"id": "sweep", "folder": str(sweep), "job": number}
        result = json.loads((sweep / folder / "result.json").read_text())
        assert result["seed"] == number + 1 and result["selected"]["score"] == job["score"]
    again = command("train.py", "-m", f"sweep.resume={sweep}")
    assert again.returncode == 0 and "2 jobs, 2 done before" in again.stdout


@pytest.mark.slow
def test_ddp_inside_a_sweep(tmp_path):
    """What plain Hydra and Lightning get wrong without a word: one folder per job, each with its own process group."""
    words = [*tiny(tmp_path / "NLVR"), "trainer=ddp_sim", "trainer.devices=1,2", "trainer.max_epochs=1"]
    done = command("train.py", "-m", *words, f"paths.log_dir={tmp_path / 'logs'}")
    assert done.returncode == 0, done.stdout + done.stderr
    (sweep,) = (tmp_path / "logs" / "nlvr_hmmoe" / "sweeps").iterdir()  # no ghost of a second rank
    assert sorted(p.name for p in sweep.iterdir() if p.is_dir()) == ["0_devices-1", "1_devices-2"]
    for count in (1, 2):
        folder = sweep / f"{count - 1}_devices-{count}"
        assert json.loads((folder / "result.json").read_text())["processes"] == count
        with (folder / "metrics.csv").open(newline="") as file:
            steps = {int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]}
        assert steps == {32 // 8 // count - 1}  # all of the data, once


@pytest.mark.slow
def test_ddp_inside_an_optuna_search(tmp_path):
    """Both processes of a trial train what was drawn once, and its score goes back to the search."""
    sweep = tmp_path / "sweep"
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.direction=maximize"]
    drawn = ["optim.lr.adapters=interval(1e-4,1e-2)", "+hydra.sweeper.sampler.seed=1", "trainer.max_epochs=1"]
    words = [*tiny(tmp_path / "NLVR"), "trainer=ddp_sim", f"hydra.sweep.dir={sweep}"]
    done = command("train.py", "-m", *words, *search, *drawn)
    assert done.returncode == 0, done.stdout + done.stderr
    rates, scores = set(), []
    for folder, job in jobs_of(sweep).items():
        result = json.loads((sweep / folder / "result.json").read_text())
        assert result["processes"] == 2 and result["selected"]["score"] == job["score"]
        rates.add(next(word for word in job["overrides"] if word.startswith("optim.lr.adapters=")))
        scores.append(job["score"])
    assert len(rates) == len(scores) == 2
    assert f"best_value: {max(scores)}" in (sweep / "optimization_results.yaml").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["NLVR", "sweep"]


@pytest.mark.slow
def test_a_rank_that_fails_takes_its_own_job_alone(tmp_path):
    fail = "+callbacks.fail={_target_: tests.runs.FailOnRank, rank: 1, seed: '${seed}', only: 1}"
    words = [*tiny(tmp_path / "NLVR"), "trainer=ddp_sim", "trainer.max_epochs=1", fail, "seed=1,2"]
    done = command("train.py", "-m", *words, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert done.returncode == 1, done.stdout + done.stderr
    first, second = jobs_of(tmp_path / "sweep").values()
    assert first["status"] == "failed" and "rank 1 was told to fail" in first["reason"]
    assert second["status"] == "completed" and second["score"] is not None
    assert "1 of 2 jobs have no result" in done.stderr and "0_seed-1  failed: RuntimeError: rank 1" in done.stderr
