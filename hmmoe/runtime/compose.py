"""The datamodule of a configuration outside a run, for the commands that prepare, verify and measure data."""

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hmmoe.errors import ConfigError
from hmmoe.runtime import schema
from hmmoe.runtime.check import node_faults
from hmmoe.runtime.command import explain, run_stamp


def settings(overrides: Sequence[str]) -> DictConfig:
    """The configuration of a command with these words.

    Raises:
        ConfigError: an unknown option or key, in a run's own words.
    """
    schema.register()
    OmegaConf.register_new_resolver("run_stamp", run_stamp, use_cache=True, replace=True)
    try:
        with initialize_config_module("conf", version_base="1.3"):
            return compose("train", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def datamodule(name: str, overrides: Sequence[str] = (), *, root: Path | None = None) -> L.LightningDataModule:
    """What ``python train.py experiment=<name>_hmmoe <overrides>`` would read, words left out.

    Text needs no decoding, and its tokenizer may not be there yet.

    Raises:
        ConfigError: settings that do not fit.
    """
    chosen = [] if any(word.startswith("experiment=") for word in overrides) else [f"experiment={name}_hmmoe"]
    cfg = settings([*chosen, *overrides])
    if root is not None:
        cfg.data.root = str(root)
    node = OmegaConf.to_container(cfg.data, resolve=True)
    if faults := list(node_faults({"data": node})):
        raise ConfigError("\n".join(faults))
    from hmmoe.runtime.build import part  # with the trainer's callbacks behind it, seconds that a typo need not wait

    node["inputs"] = {modality: reader for modality, reader in node["inputs"].items() if modality != "text"}
    return part(node, "data")
