"""Everything that can be wrong in a configuration and shows without loading anything, reported at once."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hmmoe.assets import locate
from hmmoe.errors import ConfigError
from hmmoe.runtime.annotations import fits, wording
from hmmoe.runtime.signatures import Signature, signature

Settings = dict[str, Any]

GIVEN = {"task": {"model", "recipe", "val_splits", "test_splits"}}
"""Arguments that the code hands over when it builds a node."""

APART = {"task": {"head"}, "peft": {"budget", "budget_params"}}
"""Keys that stand in a node and are built apart from it."""

COMPILE = {"fullgraph", "dynamic", "backend", "mode", "options"}
"""Arguments of torch.compile."""


def check(cfg: DictConfig) -> Settings:
    """The settings as plain containers, once they have passed.

    Raises:
        ConfigError: lists every fault, each with the setting to change.
    """
    if bare := [group for group in ("backbone", "data", "task") if OmegaConf.is_missing(cfg, group)]:
        raise ConfigError(f"nothing chosen for {', '.join(bare)}: say experiment=<name>; --help lists what there is")
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError("these settings have no value yet:\n" + "\n".join(f"  {key}=..." for key in missing))
    try:
        settings = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    faults = [*node_faults(settings), *method_faults(settings), *budget_faults(settings["peft"]), *run_faults(settings)]
    if faults:
        count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise ConfigError(f"{count} in the configuration:\n" + "\n".join(f"  {fault}" for fault in faults))
    return settings


def nodes(settings: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node that names a class, with its path."""
    if isinstance(settings, Mapping):
        if "_target_" in settings:
            yield path, settings
        for key, value in settings.items():
            yield from nodes(value, f"{path}.{key}".lstrip("."))
    elif isinstance(settings, list):
        for index, value in enumerate(settings):
            yield from nodes(value, f"{path}[{index}]")


def node_faults(settings: Settings) -> Iterator[str]:
    """Keys and values that the named class does not take."""
    for path, node in nodes(settings):
        takes = signature(node["_target_"])
        if takes is not None:
            yield from _against(path, node, takes)
        elif str(node["_target_"]).split(".")[0] in ("hmmoe", "tasks", "datamodules"):
            yield f"{path}._target_: there is no {node['_target_']}"


def _against(path: str, node: Mapping[str, Any], takes: Signature) -> Iterator[str]:
    name = node["_target_"].rpartition(".")[2]
    for key, value in node.items():
        if key.startswith("_") or key in APART.get(path, ()):
            continue
        parameter = takes.parameters.get(key)
        if parameter is None:
            if not takes.open:
                close = get_close_matches(key, takes.parameters, n=1)
                hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(takes.parameters) or 'none'}"
                yield f"{path}.{key}: {name} has no such setting; {hint}"
        elif parameter.annotation is not None and not fits(value, parameter.annotation, parameter.module):
            yield f"{path}.{key}: expected {wording(parameter.annotation, parameter.module)}, found {value!r}"
    if not node.get("_partial_", False):
        for key, parameter in takes.parameters.items():
            if parameter.required and key not in node and key not in GIVEN.get(path, ()):
                yield f"{path}.{key}: {name} needs it"


def method_faults(settings: Settings) -> Iterator[str]:
    """Sizes of the method that cannot learn."""
    peft = settings["peft"]
    groups = {name: group or {} for name, group in (peft.get("groups") or {}).items()}
    for path, own in [("peft", peft), *((f"peft.groups.{name}", group) for name, group in groups.items())]:
        for key in ("rank", "experts_per_group", "experts", "k"):
            value = own.get(key)
            if isinstance(value, int) and value < 1:
                yield f"{path}.{key}={value}: must be 1 or more"
        k = own.get("k", peft.get("k"))
        experts = own.get("experts", peft.get("experts_per_group"))
        if isinstance(k, int) and isinstance(experts, int) and k > experts >= 1 and ("k" in own or "experts" in own):
            yield f"{path}.k={k}: a group has only {experts} experts; lower k or raise peft.experts_per_group"
        if k == 1 and peft.get("renormalize") is True and ("k" in own or path == "peft"):
            yield (
                f"{path}.k=1 with peft.renormalize=true makes the kept weight a constant 1, so the router gets no "
                "gradient: set peft.renormalize=false or k=2"
            )


def budget_faults(peft: Settings) -> Iterator[str]:
    """Budgets that are none, or two at once."""
    share, count = peft.get("budget"), peft.get("budget_params")
    if share is not None and (isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1):
        yield f"peft.budget={share}: must be a share of the backbone's parameters, such as 0.06, or null"
    if count is not None and (isinstance(count, bool) or not isinstance(count, int | float) or count < 1):
        yield f"peft.budget_params={count}: must be a number of parameters, such as 5e6, or null"
    if share is not None and count is not None:
        yield "peft.budget and peft.budget_params are both set: set one of them to null"


def weight_faults(cfg: DictConfig) -> Iterator[str]:
    """Local weight files that are not there."""
    for path, node in nodes(OmegaConf.to_container(cfg.backbone, resolve=True), "backbone"):
        weights = node.get("weights")
        if isinstance(weights, str) and not weights.startswith("hub") and not Path(locate(weights)).exists():
            yield (
                f"no weights at {path}.weights={weights}. Put them there (docs/backbones.md names the files), or `hub` "
                "downloads them; scale=mini brings its own"
            )


def scale_faults(scale: str) -> Iterator[str]:
    """Parts that have no sizes of this scale: their full ones would be taken without a word."""
    if scale == "full" or not (HydraConfig.initialized() and GlobalHydra.instance().is_initialized()):
        return
    for group in ("backbone", "data"):
        chosen = HydraConfig.get().runtime.choices.get(group)
        sized = GlobalHydra.instance().config_loader().get_group_options(f"scale/{scale}/{group}")
        if chosen not in (*sized, "checkpoint"):
            yield f"scale={scale}: {group}={chosen} has no {scale} sizes; those that have: {', '.join(sized) or 'none'}"


def run_faults(settings: Settings) -> Iterator[str]:
    """Settings of the run that contradict each other."""
    if settings["monitor"].count("/") != 1:
        yield f"monitor={settings['monitor']}: must be <split>/<metric>, such as val/acc"
    split = settings["monitor"].partition("/")[0]
    if split == "test" and not settings["allow_test_selection"]:
        yield (
            f"monitor={settings['monitor']} chooses the model on the test split: monitor a validation split, or say "
            "allow_test_selection=true, which is stamped on the result"
        )
    start = settings["init_from"]
    if start is not None and not Path(start).exists():
        yield (
            f"init_from={start}: no such file; it must be the adapter.safetensors or a checkpoint of another run, or a "
            "folder in HF peft's format"
        )
    asked = settings["compile"]
    if not isinstance(asked, bool) and not (isinstance(asked, Mapping) and set(asked) <= COMPILE):
        yield (
            f"compile={asked}: must be true, false or arguments of torch.compile ({', '.join(sorted(COMPILE))}), "
            "such as 'compile={mode: max-autotune}'"
        )
    if settings["importance"] is not None and (settings["intervene"] or settings["merge"]):
        yield "importance masks parts of the trained model one by one: set intervene=null and merge=false beside it"
    yield from scale_faults(settings["scale"])
    if HydraConfig.initialized() and HydraConfig.get().mode != RunMode.MULTIRUN:
        chosen = HydraConfig.get().runtime.choices.get("sweep")
        if chosen not in (None, "null"):
            yield f"sweep={chosen} names a sweep, this is a single run: add -m"
    elif HydraConfig.initialized():
        devices = settings["trainer"].get("devices", 1)
        launcher = HydraConfig.get().launcher._target_
        if devices not in (1, "1", [0]) and not launcher.startswith("hydra_plugins.hmmoe_"):
            yield (
                f"trainer.devices={devices} inside -m with {launcher.rpartition('.')[2]} mixes the processes of "
                "different jobs without a word: leave hydra/launcher=process (or submitit_slurm, submitit_local), "
                "which starts every job as a process of its own"
            )
