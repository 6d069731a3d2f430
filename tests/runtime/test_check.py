"""Each mistake gets a message that names the setting and says what would be right."""

import pytest

from hmmoe.errors import ConfigError, UserError
from hmmoe.runtime.check import check
from hmmoe.runtime.command import explain
from tests.runs import composed

NLVR = ("experiment=nlvr_hmmoe", "scale=mini", "paths.run_dir=run")


def complaint(*overrides: str) -> str:
    """What a user would read."""
    try:
        with composed(*overrides) as cfg:
            check(cfg)
    except Exception as error:
        return explain(error)
    raise AssertionError("nothing was wrong")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seeed=3"], "there is no setting 'seeed'. Did you mean seed?"),
        (["peft.rnak=3"], "there is no setting 'peft.rnak'. Did you mean peft.rank?"),
        (["pefft=lora"], "there is no setting 'pefft'. Did you mean peft?"),
        (["peft=loar"], "there is no peft=loar. Did you mean peft=lora?"),
        (["experiment=nlvr_hmoe"], "Did you mean experiment=nlvr_hmmoe?"),
        (["trainer.max_epoch=3"], "Did you mean trainer.max_epochs?"),
        (["trainer.max_time=3"], "add it by +trainer.max_time=..."),
        (["seed=four"], "seed: Value 'four' of type 'str' could not be converted to Integer"),
        (["seed=4.5"], "seed: Value '4.5'"),
        (["zzz=1"], "there is no setting 'zzz'. Known: allow_test_selection, backbone"),
        (["mode=up"], "mode: Invalid value 'up'"),
        (["+peft.rnak=3"], "peft.rnak: HMMoE has no such setting; did you mean rank?"),
        (["peft.rank=four"], "peft.rank: expected int, found 'four'"),
        (["peft.routing=twolevel"], "peft.routing: expected one of two_level, flat, fixed, uniform, random"),
        (["peft.rank=0"], "peft.rank=0: must be 1 or more"),
        (["peft.k=0"], "peft.k=0: must be 1 or more"),
        (["peft.k=3"], "peft.k=3: a group has only 2 experts"),
        (
            ["+peft.groups.cross.experts=1", "+peft.groups.cross.k=2"],
            "peft.groups.cross.k=2: a group has only 1 experts",
        ),
        (["peft.renormalize=true"], "set peft.renormalize=false or k=2"),
        (["monitor=test/acc"], "chooses the model on the test split"),
        (["monitor=acc"], "must be <split>/<metric>"),
        (["trainer.accumulate_grad_batches=two"], "trainer.accumulate_grad_batches: expected int, found 'two'"),
        (["optim.optimizer.weight_decay=no"], "optim.optimizer.weight_decay: expected float, found 'no'"),
        (["peft.groups.cross.rank=3"], "To add it all the same: +peft.groups.cross.rank=..."),
        (["task.single_modality=3"], "task.single_modality: expected bool, found 3"),
        (["data.batch_size=many"], "data.batch_size: expected int, found 'many'"),
        (["compile=max-autotune"], "such as 'compile={mode: max-autotune}'"),
        (["compile={modus: max-autotune}"], "arguments of torch.compile (backend, dynamic, fullgraph, mode, options)"),
        (["peft._target_=hmmoe.peft.hmmoe.HMMo"], "peft._target_: there is no hmmoe.peft.hmmoe.HMMo"),
    ],
)
def test_message(overrides, words):
    assert words in complaint(*NLVR, *overrides)


def test_a_typo_in_an_experiment_names_the_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /backbone: vit_b_bert_b\n  - override /data: nlvr\n"
        "  - override /task: visual_reasoning\nsede: 3\n"
    )
    words = complaint("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert words == "there is no setting 'sede' (in conf/experiment/mine.yaml). Did you mean seed?"


def test_all_faults_at_once():
    words = complaint(*NLVR, "peft.rank=0", "peft.renormalize=true", "monitor=test/acc", "+data.rot=x")
    assert words.startswith("4 faults")
    assert all(part in words for part in ("peft.rank=0", "renormalize", "monitor", "data.rot"))


def test_nothing_chosen():
    assert "nothing chosen for backbone, data, task: say experiment=<name>" in complaint()


def test_selection_on_test_has_to_be_said():
    with composed(*NLVR, "monitor=test/acc", "allow_test_selection=true") as cfg:
        assert check(cfg)["allow_test_selection"] is True


@pytest.mark.parametrize(
    "launcher",
    [
        "hydra/launcher=basic",
        "hydra.launcher._target_=hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    ],
)
def test_several_devices_inside_a_sweep_of_another_launcher(launcher):
    with (
        composed(*NLVR, "trainer=ddp_sim", "hydra.mode=MULTIRUN", launcher) as cfg,
        pytest.raises(ConfigError, match=r"inside -m with \w+Launcher mixes"),
    ):
        check(cfg)


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError) and issubclass(ConfigError, UserError)
