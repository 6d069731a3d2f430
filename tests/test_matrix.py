"""Backbone, dataset and method files take a step on mini data, pair by pair. The lists are read from ``conf/``."""

import json
import math
from itertools import product
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import train as training
from hmmoe.errors import ConfigError
from hmmoe.runtime.signatures import find
from tests.runs import composed

CONF = Path(__file__).parents[1] / "conf"

SMALLER = {
    "ave": ["+data.miniature.categories=[Bark, Truck]", "+data.miniature.blocks={train: 1, val: 1, test: 1}"],
    "avs_s4": ["+data.miniature.categories=[guitar, dog]", "+data.miniature.blocks={train: 1, val: 1, test: 1}"],
    "avs_ms3": ["+data.miniature.categories=[guitar, dog]", "+data.miniature.blocks={train: 1, val: 1, test: 1}"],
    "nlvr": ["+data.miniature.examples={train: 16, dev: 4, test: 4, hidden: 4}", "data.val_directories=2"],
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


def combinations() -> list[tuple[str, str, str]]:
    """Every pair of files in some run: backbone and data, data and method, backbone and method.

    All triples would be thousands; a method sees sites only, whatever the data.
    """
    backbones, methods, data = options("backbone"), options("peft"), options("data")
    assert set(data) == set(EXPERIMENTS), f"no experiment uses data={set(data) ^ set(EXPERIMENTS)}"
    homes = {d: choices(EXPERIMENTS[d])["backbone"] for d in data}
    found = set(product(backbones, data, ["hmmoe"])) | {(homes[d], d, m) for d, m in product(data, methods)}
    for backbone in backbones:
        home = next((d for d in data if inputs_of(backbone) <= modalities_of(loaded("data", d)._target_)), None)
        assert home, f"no dataset has all that backbone={backbone} reads"
        found |= {(backbone, home, m) for m in methods}
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
        if set(cfg.backbone.inputs) <= modalities_of(cfg.data._target_):
            training.train(cfg)
        else:
            with pytest.raises(ConfigError, match="choose another backbone= or data="):
                training.train(cfg)
            return
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["parameters"]["trained"] > 0
    assert all(math.isfinite(score) for metrics in result["metrics"].values() for score in metrics.values())
