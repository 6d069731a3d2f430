"""Short words of a sweep's command, and the files of ``conf/sweep``."""

import itertools
import json
import os
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from hmmoe.errors import ConfigError
from hmmoe.runtime import sweep
from hmmoe.runtime.check import check
from hydra_plugins.hmmoe_launcher import _drop
from tests.runs import composed

CONF = Path(__file__).parents[2] / "conf"
GRIDS = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml") if "expert_mix" not in path.stem)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What ``expand`` puts there is gone after each test."""
    for name in (sweep.FOLDER, sweep.JOB, sweep.DROP):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def jobs(file: str, *words: str) -> list[list[str]]:
    """The jobs that ``-m sweep=<file>`` starts."""
    params = OmegaConf.load(CONF / "sweep" / f"{file}.yaml").hydra.sweeper.params
    words = (*(f"{key}={value}" for key, value in params.items()), *words)
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    (batch,) = BasicSweeper.split_arguments(OverridesParser.create(loader).parse_overrides(list(words)), None)
    return batch


@pytest.mark.parametrize("file", GRIDS)
def test_sweep_files_hold_nothing_that_a_job_would_miss(file):
    """The launcher leaves ``sweep=`` out of the jobs: all that varies stands in the sweeper's parameters."""
    content = OmegaConf.to_container(OmegaConf.load(CONF / "sweep" / f"{file}.yaml"))
    assert content.keys() == {"hydra"} and content["hydra"].keys() == {"sweeper"}
    assert (CONF / "sweep" / f"{file}.yaml").read_text().startswith("# @package _global_\n# ")


@pytest.mark.parametrize("file", GRIDS)
def test_jobs_of_every_sweep_compose_and_pass(file):
    batch = jobs(file)
    assert 2 <= len(batch) == len({tuple(job) for job in batch}) <= 40
    for job in (batch[0], batch[-1]):
        with composed("experiment=nlvr_hmmoe", "scale=mini", *job, "paths.run_dir=run") as cfg:
            check(cfg)


def test_all_methods_are_the_files_of_conf_peft():
    assert {job[0] for job in jobs("all_methods")} == {f"peft={path.stem}" for path in (CONF / "peft").glob("*.yaml")}


def test_sweeps_cover_the_first_experiments():
    assert [job[0] for job in jobs("rank")] == [f"peft.rank={rank}" for rank in (8, 16, 32, 64, 128)]
    grid = itertools.product((8, 16, 32, 64, 128), (1, 2, 3, 4))
    assert jobs("rank_x_experts") == [[f"peft.rank={r}", f"peft.experts_per_group={e}"] for r, e in grid]
    chosen = set()
    for job in jobs("expert_kinds"):
        with composed("experiment=nlvr_hmmoe", *job) as cfg:
            chosen.add(frozenset(name for name, group in cfg.peft.groups.items() if group is not False))
    subsets = {frozenset(s) for n in (1, 2, 3) for s in itertools.combinations(("single", "cross", "channel"), n)}
    assert chosen == subsets
    routings = set()
    for job in jobs("routing"):
        with composed("experiment=nlvr_hmmoe", *job) as cfg:
            routings.add(cfg.peft.routing)
    assert routings == {"two_level", "flat", "fixed", "uniform", "random"}


def test_the_command_line_wins_over_the_file():
    assert jobs("rank", "peft.rank=4", "seed=1,2") == [["peft.rank=4", "seed=1"], ["peft.rank=4", "seed=2"]]


def test_a_sweep_without_m_is_refused():
    with (
        composed("experiment=nlvr_hmmoe", "scale=mini", "sweep=rank", "paths.run_dir=run") as cfg,
        pytest.raises(ConfigError, match="sweep=rank names a sweep, this is a single run: add -m"),
    ):
        check(cfg)


def test_seeds_in_one_word():
    assert sweep.expand(["train.py", "-m", "seeds=3", "x=1"]) == ["train.py", "-m", "seed=1,2,3", "x=1"]
    assert sweep.expand(["train.py", "seed=3"]) == ["train.py", "seed=3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "seeds=0"], "seeds=0: must be a number of repetitions"),
        (["-m", "seeds=1,2"], "seed=3,7,11 names the seeds"),
        (["seeds=3"], "repeats a run in a sweep: add -m"),
        (["-m", "sweep.resume=nowhere"], "no sweep.json there"),
        (["-m", "sweep.drop=3"], "sweep.drop=3: of which sweep"),
    ],
)
def test_words_that_cannot_be(words, message):
    with pytest.raises(ConfigError, match=message):
        sweep.expand(["train.py", *words])


@pytest.fixture
def begun(tmp_path) -> Path:
    """The folder of a sweep."""
    (tmp_path / "sweep.json").write_text(json.dumps({"words": ["-m", "experiment=x", "seed=1,2"]}))
    return tmp_path


def test_resume_needs_no_more_than_the_folder(begun):
    known = ["train.py", "-m", "experiment=x", "seed=1,2"]
    assert sweep.expand(["train.py", f"sweep.resume={begun}"]) == known
    assert os.environ[sweep.FOLDER] == str(begun)
    own = "hydra.launcher.parallel=2"
    assert sweep.expand(["train.py", "-m", own, f"sweep.resume={begun}"]) == [*known, own]


def test_resume_with_other_words_changes_the_command_that_began(begun):
    """Not a sweep over the seeds of no experiment."""
    words = ["train.py", f"sweep.resume={begun}", "seeds=3", "peft.rank=4"]
    assert sweep.expand(words) == ["train.py", "-m", "experiment=x", "seed=1,2,3", "peft.rank=4"]


def test_what_to_drop_goes_to_the_launcher(begun):
    words = ["train.py", f"sweep.resume={begun}", "sweep.drop=[3, 4]"]
    assert sweep.expand(words) == ["train.py", "-m", "experiment=x", "seed=1,2"]
    assert os.environ[sweep.DROP] == "3,4" == os.environ[_drop.DROP]


def test_resume_with_a_command_of_its_own_adds_to_the_folder(begun):
    words = ["train.py", "-m", "experiment=x", "seeds=3", f"sweep.resume={begun}"]
    assert sweep.expand(words) == ["train.py", "-m", "experiment=x", "seed=1,2,3"]


@pytest.mark.parametrize(
    ("choice", "name"), [(None, "now"), ("null", "now"), ("rank", "now_rank"), (["rank", "seeds"], "now_rank_seeds")]
)
def test_a_sweep_is_named_by_its_files(choice, name):
    assert sweep.stamp("now", choice) == name


def test_a_job_knows_its_sweep(monkeypatch):
    assert sweep.membership() is None
    monkeypatch.setenv(sweep.FOLDER, "logs/x/sweeps/now_rank")
    assert sweep.membership() is None
    monkeypatch.setenv(sweep.JOB, "3")
    assert sweep.membership() == {"id": "now_rank", "folder": "logs/x/sweeps/now_rank", "job": 3}
