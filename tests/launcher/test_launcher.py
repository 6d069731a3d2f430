"""What becomes of the jobs of a sweep: good, failed, killed, late, interrupted; side by side; a second time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from hmmoe.errors import ConfigError, JobsFailed, UserError
from hydra_plugins.hmmoe_launcher import _drop
from hydra_plugins.hmmoe_launcher import launcher as room
from hydra_plugins.hmmoe_launcher._pool import Pool
from hydra_plugins.hmmoe_launcher.launcher import ProcessLauncher
from tests.launcher import job as script

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    """Jobs are the stand-in; nothing of a GPU or of this process' own settings shows."""
    monkeypatch.setattr(room, "program", lambda: [sys.executable, "-S", script.__file__])
    monkeypatch.setattr(room, "POLL", 0.01)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def sweep(folder: Path, *jobs: str, trainer: dict | None = None, hydra: tuple[str, ...] = (), **options):
    """Launch jobs, given as their overrides in one string."""
    launcher = ProcessLauncher(**{"grace": 5, **options})
    config = {
        "monitor": "val/acc",
        "trainer": trainer or {"accelerator": "cpu", "devices": 1},
        "hydra": {
            "sweep": {"dir": str(folder)},
            "sweeper": {"_target_": "some.BasicSweeper"},
            "overrides": {"hydra": list(hydra)},
        },
    }
    loader = SimpleNamespace(load_sweep_config=lambda master, words: master)
    context = SimpleNamespace(config_loader=loader)
    launcher.setup(hydra_context=context, task_function=None, config=OmegaConf.create(config))
    return launcher.launch([job.split() for job in jobs], 0)


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def starts(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]


def states(folder: Path) -> dict[str, str]:
    return {job["folder"]: job["status"] for job in load(folder / "sweep.json")["jobs"]}


def test_every_job_has_a_folder_of_its_own_and_answers_with_its_score(tmp_path, capsys):
    answers = sweep(tmp_path, "peft.rank=8 seed=1 x=5", "peft.rank=16 seed=1 x=5", hydra=("hydra.verbose=true",))
    assert [answer.return_value for answer in answers] == [0.08, 0.16]
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        "0_rank-8",
        "1_rank-16",
        "sweep.json",
    ]
    assert starts(tmp_path / "0_rank-8")[0]["words"] == ["peft.rank=8", "seed=1", "x=5", "hydra.verbose=true"]
    assert load(tmp_path / "sweep.json")["status"] == "completed"
    shown = capsys.readouterr().out
    assert "2 jobs, 1 at a time" in shown and "done    1_rank-16  val/acc 0.1600" in shown
    assert "python -m hmmoe.report" in shown


def test_settings_of_the_sweep_stay_out_of_its_jobs(tmp_path):
    sweep(
        tmp_path, "peft.rank=8 sweep=rank", hydra=("hydra.launcher.parallel=2", "hydra.sweep.dir=x", "hydra/sweeper=y")
    )
    (start,) = starts(tmp_path / "0_rank-8")
    assert start["words"] == ["peft.rank=8"]


def test_a_failed_job_is_named_and_stops_nobody(tmp_path, capsys):
    answers = sweep(tmp_path, "peft.rank=1 what=good", "peft.rank=2 what=fail", "peft.rank=3 what=typo")
    assert [answer.status for answer in answers] == [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.FAILED]
    with pytest.raises(JobsFailed, match=r"2 of 3 jobs have no result") as caught:
        _ = answers[1].return_value
    message = str(caught.value)
    assert "1_rank-2_what-fail  failed: ValueError: rank is no number\n" in message
    typo = "failed: ended with exit code 1: one fault in the configuration: peft.rnak: did you mean rank?"
    assert f"{typo}\n" in message and "2_rank-3_what-typo/output.log" in message
    assert "rank-1" not in message
    assert load(tmp_path / "sweep.json")["status"] == "failed"
    shown = capsys.readouterr()
    assert "sweep.resume=" in shown.out
    assert shown.err == ""  # Hydra's "Error executing job with overrides" would name whichever job is asked first


def test_a_killed_job_does_not_stay_running(tmp_path):
    sweep(tmp_path, "peft.rank=1 what=die")
    (folder,) = tmp_path.glob("0_*")
    status = load(folder / "status.json")
    assert status["status"] == "failed" and status["exit_code"] == -9
    assert status["reason"] == "killed by signal 9: torch.OutOfMemoryError: CUDA out of memory"


def test_an_exit_code_of_zero_proves_nothing(tmp_path):
    sweep(tmp_path, "peft.rank=1 what=lazy")
    assert list(states(tmp_path).values()) == ["failed"]


def test_what_a_job_leaves_behind_is_cleared_away(tmp_path):
    sweep(tmp_path, "peft.rank=1 what=orphan")
    (child,) = tmp_path.glob("0_*/child")
    deadline = time.monotonic() + 5
    while _alive(int(child.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(int(child.read_text()))


def _alive(pid: int) -> bool:
    path = Path(f"/proc/{pid}/stat")
    return path.is_file() and path.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_a_second_call_runs_what_is_missing(tmp_path, capsys):
    mended = tmp_path / "mended"
    jobs = ("peft.rank=1", "peft.rank=2 what=stop", f"peft.rank=3 what=fail mended={mended}")
    sweep(tmp_path / "s", *jobs)
    assert list(states(tmp_path / "s").values()) == ["completed", "interrupted", "failed"]
    mended.touch()
    capsys.readouterr()
    answers = sweep(tmp_path / "s", *jobs, "peft.rank=4")
    assert [answer.return_value for answer in answers] == [0.01, 0.02, 0.03, 0.04]
    shown = capsys.readouterr().out
    assert "4 jobs, 1 done before" in shown and "goes on 1_" in shown and "start   2_" in shown
    first, second, third, fourth = (tmp_path / "s" / name for name in states(tmp_path / "s"))
    assert len(starts(first)) == 1 and fourth.name.startswith("3_")
    assert starts(second)[1]["words"][-1] == "ckpt_path=auto"  # interrupted: goes on in its folder
    assert [start["words"][-1] for start in starts(third)] == [f"mended={mended}"]  # failed: starts over
    assert load(tmp_path / "s" / ".attempts" / f"{third.name}_1" / "status.json")["status"] == "failed"
    assert [job["attempts"] for job in load(tmp_path / "s" / "sweep.json")["jobs"]] == [1, 2, 2, 1]


def test_the_command_that_began_stays_and_added_jobs_are_found(tmp_path, monkeypatch, capsys):
    """``sweep.resume=<folder>`` alone brings the first command, and everything in the folder gets done."""
    first = ["-m", "experiment=x", "peft.rank=1,2"]
    monkeypatch.setattr(sys, "argv", ["train.py", *first])
    sweep(tmp_path, "peft.rank=1", "peft.rank=2")
    later = ["-m", "experiment=x", "peft.rank=3,4"]
    monkeypatch.setattr(sys, "argv", ["train.py", *later])
    sweep(tmp_path, "peft.rank=3 what=stop", "peft.rank=4")
    record = load(tmp_path / "sweep.json")
    assert record["words"] == first and record["later"] == [later]
    assert record["jobs"][3]["folder"].startswith("3_rank-4")
    monkeypatch.setattr(sys, "argv", ["train.py", *first])
    capsys.readouterr()
    answers = sweep(tmp_path, "peft.rank=1", "peft.rank=2")
    assert [answer.return_value for answer in answers] == [0.01, 0.02, 0.03]
    record = load(tmp_path / "sweep.json")
    assert record["status"] == "completed" and record["later"] == [later]
    assert [job["attempts"] for job in record["jobs"]] == [1, 1, 2, 1]
    assert "1 left over from another command" in capsys.readouterr().out


def test_an_added_job_that_fails_again_counts(tmp_path):
    sweep(tmp_path, "peft.rank=1")
    sweep(tmp_path, "peft.rank=2 what=fail")
    answers = sweep(tmp_path, "peft.rank=1")
    with pytest.raises(JobsFailed, match=r"1 of 2 jobs have no result:\n  1_rank-2"):
        [answer.return_value for answer in answers]


@pytest.fixture
def mistaken(tmp_path, monkeypatch) -> Path:
    """A sweep over ranks 1 and 2, to which two jobs were added: 2 was stopped, 3 has failed."""
    monkeypatch.setenv(_drop.DROP, "")
    monkeypatch.delenv(_drop.DROP)
    sweep(tmp_path, "peft.rank=1", "peft.rank=2")
    sweep(tmp_path, "peft.rank=300 what=stop", "peft.rank=400 what=fail")
    return tmp_path


def test_jobs_added_by_mistake_can_be_dropped(mistaken, monkeypatch, capsys):
    first, second, third, fourth = states(mistaken)
    monkeypatch.setenv(_drop.DROP, "all")
    answers = sweep(mistaken, "peft.rank=1", "peft.rank=2")
    assert [answer.return_value for answer in answers] == [0.01, 0.02]
    assert states(mistaken) == {first: "completed", second: "completed", third: "dropped", fourth: "dropped"}
    assert load(mistaken / "sweep.json")["status"] == "completed"
    assert not (mistaken / third).exists() and (mistaken / ".attempts" / f"{third}_1" / "status.json").is_file()
    assert f"dropped {third}" in capsys.readouterr().out
    assert len(sweep(mistaken, "peft.rank=1", "peft.rank=2")) == 2  # for good


def test_a_dropped_job_comes_back_when_it_is_asked_for(mistaken, monkeypatch):
    monkeypatch.setenv(_drop.DROP, "2")
    sweep(mistaken, "peft.rank=1", "peft.rank=2")
    assert list(states(mistaken).values())[2:] == ["dropped", "failed"]
    sweep(mistaken, "peft.rank=300 what=stop")
    (job,) = [job for job in load(mistaken / "sweep.json")["jobs"] if job["number"] == 2]
    assert job["status"] == "interrupted"
    (start,) = starts(mistaken / job["folder"])
    assert "ckpt_path=auto" not in start["words"]  # afresh


@pytest.mark.parametrize("word", ["0", "1", "7"])
def test_what_has_a_result_or_is_asked_for_cannot_be_dropped(mistaken, monkeypatch, word):
    monkeypatch.setenv(_drop.DROP, word)
    with pytest.raises(ConfigError, match=rf"sweep.drop={word}: only a job without a result .* here 2_rank-300_what"):
        sweep(mistaken, "peft.rank=2")
    assert "dropped" not in states(mistaken).values()


def test_overrides_in_another_order_are_the_same_job(tmp_path):
    sweep(tmp_path, "peft.rank=1 seed=1")
    (answer,) = sweep(tmp_path, "seed=1 peft.rank=1")
    assert answer.return_value == 0.01 and len(states(tmp_path)) == 1


def test_the_same_job_twice_runs_once(tmp_path):
    answers = sweep(tmp_path, "peft.rank=1", "peft.rank=1")
    assert [answer.return_value for answer in answers] == [0.01, 0.01]
    assert len(starts(tmp_path / "0")) == 1


def test_fail_fast_stops_the_others(tmp_path):
    answers = sweep(
        tmp_path, "peft.rank=1 what=fail", "peft.rank=2 what=hang", "peft.rank=3", parallel=2, fail_fast=True
    )
    assert list(states(tmp_path).values()) == ["failed", "interrupted", "waiting"]
    assert {answer.status for answer in answers} == {JobStatus.FAILED}


def test_a_job_that_does_not_listen_is_killed(tmp_path):
    sweep(tmp_path, "peft.rank=1 what=deaf", time_limit=0.005, grace=0.2)
    (job,) = load(tmp_path / "sweep.json")["jobs"]
    assert job["status"] == "interrupted" and "time_limit" in job["reason"]


def test_gpus_are_handed_out(tmp_path):
    """The first two end only when both have begun."""
    gpu = {"accelerator": "gpu", "devices": 1}
    sweep(tmp_path, "peft.rank=1 what=meet", "peft.rank=2 what=meet", "peft.rank=3", trainer=gpu, gpus=[2, 5])
    runs = [starts(folder)[0]["env"]["CUDA_VISIBLE_DEVICES"] for folder in sorted(tmp_path.glob("[0-9]_*"))]
    assert runs[:2] == ["2", "5"] and runs[2] in runs[:2]


def test_cores_are_shared(tmp_path, monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    sweep(tmp_path / "a", "peft.rank=1", "peft.rank=2", parallel=2, cores=8)
    assert starts(tmp_path / "a" / "0_rank-1")[0]["env"] == {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "4",
        "LOCAL_RANK": None,
    }
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    sweep(tmp_path / "b", "peft.rank=1", "peft.rank=2", parallel=2, cores=8)
    assert starts(tmp_path / "b" / "0_rank-1")[0]["env"]["OMP_NUM_THREADS"] == "3"


def test_the_pool_counts():
    pool = Pool(gpus=[0, 0, 1, 1])
    assert pool.parallel == 4
    two = pool.need({"accelerator": "gpu", "devices": 2})
    one = pool.need({"accelerator": "auto", "devices": 1})
    assert pool.need({"accelerator": "gpu", "devices": -1}).gpus == 2
    first = pool.take(two)
    assert first == {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": first["OMP_NUM_THREADS"]}
    assert pool.take(one)["CUDA_VISIBLE_DEVICES"] == "0" and pool.take(two) is None
    pool.give_back(first)
    assert pool.take(two)["CUDA_VISIBLE_DEVICES"] in ("1,0", "0,1")
    assert pool.need({"accelerator": "cpu", "devices": 2}).processes == 2
    with pytest.raises(ConfigError, match=r"trainer.devices=3: the sweep has 2 GPUs"):
        pool.need({"accelerator": "gpu", "devices": 3})
    with pytest.raises(ConfigError, match="no GPU is visible"):
        Pool(gpus=[]).need({"accelerator": "gpu"})


@pytest.mark.parametrize("option", ["parallel", "cores", "time_limit"])
def test_numbers_that_make_no_sense(option):
    with pytest.raises(ConfigError, match=rf"hydra.launcher.{option}=-1"):
        ProcessLauncher(**{option: -1})


def test_one_launcher_at_a_time(tmp_path):
    sweep(tmp_path, "peft.rank=1")
    at_work = room.Record.open(tmp_path, [])
    with pytest.raises(UserError, match="another launcher is at work"):
        sweep(tmp_path, "peft.rank=1")
    del at_work
    sweep(tmp_path, "peft.rank=1")


def test_a_process_of_an_earlier_launcher_is_waited_for(tmp_path, capsys):
    """The job's lock is held by its process, so an orphan and its successor never write to one folder."""
    sweep(tmp_path, "peft.rank=1 what=hang", time_limit=0.005)
    (folder,) = tmp_path.glob("0_*")
    holder = subprocess.Popen(["flock", str(folder / ".lock"), "sleep", "0.5"])
    time.sleep(0.2)
    (answer,) = sweep(tmp_path, "peft.rank=1 what=hang")
    holder.wait()
    assert answer.return_value == 0.01
    assert "a process of an earlier launcher is at work in its folder" in capsys.readouterr().out


def _when_two_run(folder: Path, number: int) -> None:
    while len(list(folder.glob("*/status.json"))) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_consistent_folder(tmp_path, number):
    class Stopped(BaseException):
        pass

    def usual(signum, frame):
        raise Stopped

    before = signal.signal(number, usual)
    threading.Thread(target=_when_two_run, args=(tmp_path, number)).start()
    try:
        with pytest.raises(Stopped):
            sweep(tmp_path, "peft.rank=1 what=hang", "peft.rank=2 what=hang", "peft.rank=3", parallel=2)
    finally:
        signal.signal(number, before)
    record = load(tmp_path / "sweep.json")
    assert record["status"] == "interrupted"
    assert [job["status"] for job in record["jobs"]] == ["interrupted", "interrupted", "waiting"]
    assert record["jobs"][0]["reason"] == number.name
    told = load(next(tmp_path.glob("0_*")) / "status.json")  # the same story as the sweep's
    assert (told["status"], told["reason"]) == ("interrupted", number.name)
