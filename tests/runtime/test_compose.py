"""Every file below ``conf/`` composes, and every class that it names takes what it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hmmoe.errors import ConfigError
from hmmoe.runtime.check import check
from tests.runs import composed

CONF = Path(__file__).parents[2] / "conf"


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("scale", ["full", "mini"])
@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiments_compose_and_pass(experiment, scale):
    with composed(f"experiment={experiment}", f"scale={scale}", "paths.run_dir=run") as cfg:
        settings = check(cfg)
        assert settings["name"] == experiment and settings["scale"] == scale


@pytest.mark.parametrize(
    ("group", "option"),
    [(g, o) for g in ("peft", "optim", "trainer", "logger", "callbacks", "debug") for o in options(g)],
)
def test_every_option_passes(group, option):
    with composed("experiment=nlvr_hmmoe", "scale=mini", f"{group}={option}", "paths.run_dir=run") as cfg:
        check(cfg)


@pytest.mark.parametrize("backbone", options("backbone"))
def test_mini_changes_sizes_never_code(backbone):
    """The small tree has every key of the full one and names the same classes."""
    common = ("data=nlvr", "task=visual_reasoning", f"backbone={backbone}")
    with composed(*common) as cfg:
        full = dict(_leaves({"backbone": cfg.backbone, "data": cfg.data}))
    with composed(*common, "scale=mini") as cfg:
        mini = dict(_leaves({"backbone": cfg.backbone, "data": cfg.data}))
    assert full.keys() - {".data.miniature"} <= mini.keys()
    classes = {key: value for key, value in full.items() if key.endswith("_target_")}
    assert classes.items() <= mini.items()


def test_scale_without_sizes_names_those_that_have_them():
    with composed("experiment=nlvr_hmmoe", "scale=mini", "paths.run_dir=run") as cfg:
        cfg.scale = "midi"
        with pytest.raises(ConfigError, match="scale=midi: backbone=vit_b_bert_b has no midi sizes"):
            check(cfg)


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    node = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    for key, value in node.items():
        if OmegaConf.is_config(value) or isinstance(value, dict):
            yield from _leaves(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value


def test_group_files_hold_no_machine_paths():
    for path in CONF.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            assert ": /" not in line.partition("#")[0], f"{path}: {line}"
