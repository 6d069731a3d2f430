"""The files of ``conf/peft`` as factories, at sizes for small towers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hmmoe.peft.base import Peft

CONF = Path(__file__).parents[2] / "conf" / "peft"
METHODS = sorted(path.stem for path in CONF.glob("*.yaml"))
SMALLER = {"rank": 8, "r": 4, "init_r": 4, "target_r": 2, "hidden": 32, "oft_block_size": 4, "boft_block_size": 4}
"""Keys of a file, or of its ``config``, that are set where they occur."""


def loaded(name: str) -> DictConfig:
    """A file with those that it is based on."""
    own = OmegaConf.load(CONF / f"{name}.yaml")
    bases = [loaded(base) for base in own.pop("defaults", []) if base != "_self_"]
    return OmegaConf.merge(*bases, own)


def shrink(cfg: DictConfig) -> DictConfig:
    """A file's settings with small numbers."""
    for node in (cfg, cfg.get("config")):
        for key in SMALLER.keys() & (node or {}).keys():
            node[key] = SMALLER[key]
    return cfg


def factory(name: str, **options: Any) -> Callable[..., Peft]:
    """``peft=<name>`` with small numbers and ``options`` on top."""
    return instantiate(OmegaConf.merge(shrink(loaded(name)), options), _convert_="all")
