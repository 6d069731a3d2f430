"""Backbone, dataset and method files take a step on mini data, pair by pair. The lists are read from ``conf/``."""

import json
import math
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

import train as training
from hmmoe.errors import ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.runtime import build, sizing
from hmmoe.runtime.signatures import find
from hmmoe.trainable import check_live, roles
from tests.runs import composed
from tests.small import perturb

CONF = Path(__file__).parents[1] / "conf"

SMALLER = {
    "ave": ["+data.miniature.categories=[Bark, Truck]", "+data.miniature.blocks={train: 1, val: 1, test: 1}"],
    "avs_s4": ["+data.miniature.categories=[guitar, dog]", "+data.miniature.blocks={train: 1, val: 1, test: 1}"],
    "avs_ms3": ["+data.miniature.categories=[guitar, dog]", "+data.miniature.blocks={train: 1, val: 1, test: 1}"],
    "nlvr": ["+data.miniature.examples={train: 16, dev: 4, test: 4, hidden: 4}", "data.val_directories=1"],
    "vqav2": ["+data.miniature.blocks={train2014: 1, val2014: 1, test2015: 1}", "data.held_out=4"],
    "nlvr2": ["+data.miniature.sets={train: 10, dev: 2, test1: 2}"],
    "music_avqa": ["+data.miniature.blocks={train: 1, val: 1, test: 1}"],
    "msrvtt_qa": ["+data.miniature.blocks={train: 1, val: 1, test: 1}"],
    "msvd_qa": ["+data.miniature.blocks={train: 1, val: 1, test: 1}"],
    "msrvtt_retrieval": ["+data.miniature.blocks=2", "data.held_out=4"],
    "msvd_retrieval": ["+data.miniature.blocks={train: 1, val: 1, test: 1}"],
}
"""Fewer examples than the usual miniature, where that saves time."""


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def choices(experiment: str) -> dict[str, str]:
    """Group -> file that an experiment names."""
    entries = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml").defaults
    return {str(key).removeprefix("override /"): value for entry in entries for key, value in entry.items()}


def loaded(group: str, name: str) -> DictConfig:
    """A file and those of its group that it is based on."""
    own = OmegaConf.load(CONF / group / f"{name}.yaml")
    bases = [loaded(group, base) for base in own.get("defaults", []) if base != "_self_"]
    return OmegaConf.merge(*bases, own)


def inputs_of(backbone: str) -> set[str]:
    """Modalities that a backbone file reads."""
    return set(loaded("backbone", backbone).inputs)


EXPERIMENTS = {choices(name)["data"]: name for name in options("experiment")}
"""An experiment on each dataset: it knows the task."""


def modalities_of(target: str) -> set[str]:
    """The class attribute ``modalities`` of a datamodule, from its source."""
    body = find(target).node.body
    value = next(part.value for part in body if getattr(getattr(part, "targets", [None])[0], "id", "") == "modalities")
    return {element.value for element in value.elts}


def fits(backbone: str, data: str) -> bool:
    """The backbone reads the modalities of this experiment's own host, so that its task has what it asks for."""
    if "segments" in loaded("backbone", backbone).inputs.vision and "frames" not in loaded("data", data):
        return False  # takes whole clips of so many frames, and only data of clips can be told how many
    return inputs_of(backbone) == inputs_of(choices(EXPERIMENTS[data])["backbone"])


def combinations() -> list[tuple[str, str, str]]:
    """Runs in which every file takes part: all backbones on all data that fit, all methods, all data with some methods.

    All triples would be thousands; a method sees sites only, whatever the data, and meets all hosts below.
    """
    data = options("data")
    assert set(data) == set(EXPERIMENTS), f"no experiment uses data={set(data) ^ set(EXPERIMENTS)}"
    homes = {d: choices(EXPERIMENTS[d])["backbone"] for d in data}
    found = {(b, d, "hmmoe") for b, d in product(options("backbone"), data) if fits(b, d)}
    assert set(options("backbone")) == {b for b, _, _ in found}, "a backbone that no dataset has enough for"
    found |= {(homes["nlvr"], "nlvr", m) for m in options("peft")}
    found |= {(homes[d], d, m) for d, m in product(data, ["linear_probe", "full", "lora"])}
    return sorted(found)


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mini")


@pytest.mark.parametrize(("backbone", "data", "peft"), combinations())
def test_a_step(backbone, data, peft, miniatures, tmp_path):
    with composed(
        f"experiment={EXPERIMENTS[data]}",
        "scale=mini",
        f"backbone={backbone}",
        f"peft={peft}",
        "debug=fast",
        "trainer.accelerator=cpu",
        "data.batch_size=2",
        "data.num_workers=0",
        f"data.miniature.root={miniatures / data}",
        f"paths.run_dir={tmp_path}",
        *SMALLER.get(data, []),
    ) as cfg:
        training.train(cfg)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["parameters"]["trained"] > 0
    assert all(math.isfinite(score) for metrics in result["metrics"].values() for score in metrics.values())


def test_a_backbone_that_reads_more_than_the_data_have_is_refused(tmp_path):
    with (
        composed("experiment=nlvr_hmmoe", "scale=mini", "backbone=vit_b_ast_b", f"paths.run_dir={tmp_path}") as cfg,
        pytest.raises(ConfigError, match="choose another backbone= or data="),
    ):
        training.train(cfg)


class Pooled(nn.Module):
    """A head that reads every modality."""

    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__()
        self.out = nn.ModuleDict({m: nn.Linear(d, 3) for m, d in widths.items()})

    def forward(self, features):
        return sum(self.out[m](features[m].pooled.mean(1)) for m in self.out)


def sample(inputs: DictConfig) -> dict[str, Any]:
    """A batch of two with two segments per modality."""
    batch: dict[str, Any] = {"id": ["a", "b"]}
    for modality, spec in inputs.items():
        if modality == "text":
            ids = torch.randint(5, 300, (2, spec.length))
            batch[modality] = {"ids": ids, "keep": torch.arange(spec.length) < torch.tensor([[spec.length], [6]])}
        elif modality == "audio":
            batch[modality] = torch.randn(2, 2, 1, spec.mels, spec.frames)
        else:
            batch[modality] = torch.randn(2, spec.get("segments", 2), 3, spec.size, spec.size)
    return batch


@cache
def method(name: str) -> dict[str, Any]:
    with composed("experiment=nlvr_hmmoe", "scale=mini", f"peft={name}") as cfg:
        return sizing.method_node(cfg.peft)


@pytest.mark.parametrize("backbone", options("backbone"))
def test_every_method_lives_on_every_host(backbone):
    """One backward: each trained tensor has a gradient, or the host is refused.

    What wraps a layer's forward (HF peft, adapters behind attention) dies where a tower reads the weight itself.

    One file for each class of methods: their files differ in keys only.
    """
    torch.manual_seed(0)
    with composed("experiment=nlvr_hmmoe", "scale=mini", f"backbone={backbone}") as cfg:
        host, batch = build.part(cfg.backbone, "backbone"), sample(cfg.backbone.inputs)
    perturb(host)
    for name in {loaded("peft", name)._target_: name for name in reversed(options("peft"))}.values():
        try:
            model = AdaptedModel(deepcopy(host), build.factory(method(name), "peft"), Pooled)
        except ConfigError:
            continue  # says what the method can't do here; its own tests read the message
        model(batch).logits.square().sum().backward()
        try:
            check_live(model)
        except ConfigError:
            wraps = method(name)["_target_"].startswith("hmmoe.peft.hf") or method(name).get("placement") == "houlsby"
            assert wraps, f"peft={name} is dead on {backbone}"
            continue
        assert any(p.grad.abs().max() > 0 for n, p in model.named_parameters() if n in roles(model)), name
