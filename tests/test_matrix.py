"""Every backbone x dataset x method file takes a step on mini data. The lists are read from ``conf/``."""

import json
import math
from itertools import product
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

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
}
"""Fewer examples than the usual miniature, where that saves time."""


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def experiment_of(data: str) -> str:
    """An experiment on this dataset: it knows the task."""
    for name in options("experiment"):
        with composed(f"experiment={name}"):
            if HydraConfig.get().runtime.choices["data"] == data:
                return name
    raise AssertionError(f"no experiment in conf/experiment uses data={data}")


def modalities_of(target: str) -> set[str]:
    """The class attribute ``modalities`` of a datamodule, from its source."""
    body = find(target).node.body
    value = next(part.value for part in body if getattr(getattr(part, "targets", [None])[0], "id", "") == "modalities")
    return {element.value for element in value.elts}


@pytest.fixture(scope="module")
def miniatures(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mini")


@pytest.mark.parametrize(
    ("backbone", "data", "peft"), list(product(options("backbone"), options("data"), options("peft")))
)
def test_a_step(backbone, data, peft, miniatures, tmp_path):
    with composed(
        f"experiment={experiment_of(data)}",
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
