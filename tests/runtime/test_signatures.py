"""Signatures read from source equal those of the imported classes."""

import ast
import inspect
import subprocess
import sys

import lightning
import pytest
import torch

from hmmoe.peft.hmmoe import HMMoE
from hmmoe.runtime.annotations import fits, wording
from hmmoe.runtime.signatures import find, module, signature
from tasks.event_localization import EventLocalization

HERE = module("hmmoe.peft.hmmoe")


@pytest.mark.parametrize(
    ("dotted", "imported"),
    [
        ("hmmoe.peft.hmmoe.HMMoE", HMMoE),
        ("lightning.Trainer", lightning.Trainer),
        ("torch.optim.AdamW", torch.optim.AdamW),
        ("lightning.pytorch.callbacks.EarlyStopping", lightning.pytorch.callbacks.EarlyStopping),
    ],
)
def test_same_keywords_as_the_imported_class(dotted, imported):
    expected = inspect.signature(imported).parameters
    found = signature(dotted)
    assert list(found.parameters) == list(expected)
    assert {n for n, p in found.parameters.items() if p.required} == {
        n for n, p in expected.items() if p.default is p.empty
    }
    assert not found.open


def test_keywords_passed_on_to_the_base_are_known():
    found = signature("tasks.event_localization.EventLocalization")
    assert {"classes", "loss", "model", "recipe", "single_modality"} <= set(found.parameters)
    assert not found.open and EventLocalization.__init__.__kwdefaults__["loss"] in ("cross_entropy", "bce_softmax")


def test_what_a_class_gives_its_base_is_no_setting():
    assert set(signature("hmmoe.peft.molora.MoV").parameters) == {"sites", "experts", "k", "at", "balance_weight"}
    parallel = signature("hmmoe.peft.bottleneck.ParallelAdapter")
    assert set(parallel.parameters) == {"sites", "rank", "act", "scale", "at", "freeze_down"} and not parallel.open


def test_a_name_that_leads_nowhere():
    assert find("hmmoe.peft.hmmoe.HMMo") is None
    assert signature("hmmoe.nowhere.Thing") is None


def test_nothing_heavy_is_imported():
    code = "import sys; from hmmoe.runtime.signatures import signature; signature('lightning.Trainer')\n"
    code += "signature('hmmoe.peft.hmmoe.HMMoE'); print(sorted({'torch', 'lightning'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        ("int", [3], ["3", 3.5, True, None]),
        ("float", [3, 3.5], ["3.5", True]),
        ("bool", [True], [1, "yes"]),
        ("str | None", ["a", None], [1]),
        ("Literal['a', 1]", ["a", 1], ["b", True]),
        ("Sequence[int]", [[1, 2], []], ["12", [1, "a"], 3]),
        ("Mapping[str, Mapping[str, int] | None]", [{"a": None, "b": {"c": 1}}], [{"a": {"b": "c"}}, [1]]),
        ("Optional[Union[int, str]]", [None, 1, "a"], [1.5]),
        ("Callable[..., Any]", [1, "whatever"], []),
        ("Granularity", ["token", "sample"], ["tokens", 1]),
        ("tuple[int, float]", [[1, 2.5]], ["12"]),
    ],
)
def test_values_against_annotations(annotation, right, wrong):
    expression = ast.parse(annotation, mode="eval").body
    assert all(fits(value, expression, HERE) for value in right)
    assert not any(fits(value, expression, HERE) for value in wrong)


def test_a_nested_node_is_left_to_its_own_check():
    assert fits({"_target_": "x.Y"}, ast.parse("int", mode="eval").body, HERE)


def test_literals_are_spelled_out():
    assert wording(ast.parse("Granularity", mode="eval").body, HERE) == "one of token, segment, sample"
    assert wording(ast.parse("int | None", mode="eval").body, HERE) == "int | None"
