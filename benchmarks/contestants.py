"""What is compared: a host of conf/backbone at real size with random weights, and the methods of conf/peft on it."""

import copy
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from benchmarks import public
from hmmoe.analysis.profile.batch import blank
from hmmoe.heads.fusion import FusionHead
from hmmoe.model import AdaptedModel
from hmmoe.peft.base import Peft
from hmmoe.runtime import build, sizing
from hmmoe.runtime.compose import settings
from hmmoe.runtime.profiling import without_weights
from hmmoe.trainable import roles
from hmmoe.types import Batch

REFERENCE = "series_adapter"
CLASSES = 29

HOSTS: dict[str, list[str]] = {
    "vit_b_ast_b": ["experiment=ave_hmmoe", "backbone=vit_b_ast_b"],
    "vit_b_bert_b": ["experiment=nlvr_hmmoe", "backbone=vit_b_bert_b"],
    "swinv2_b": [  # one tower for frames and sound, as LAVISH has it
        "experiment=ave_hmmoe",
        "backbone=lavish_swinv2_l",
        "backbone.towers.vision.name=swinv2_base_window12_192",
    ],
}
EXECUTORS = ("hmmoe wide", "hmmoe grouped", "hmmoe loop")
"""One method, computed in three ways: their outputs are compared before they are timed."""
EVERYTHING = "peft.targets=[q,k,v,o,fc1,fc2]"
METHODS: dict[str, list[str]] = {
    "linear_probe": ["peft=linear_probe"],
    REFERENCE: ["peft=series_adapter"],
    "series_adapter, 8 x rank": ["peft=series_adapter", "peft.rank={wide}"],
    "lora on q, v": ["peft=lora", "peft.targets=[q,v]"],
    "lora on all linears": ["peft=lora", EVERYTHING],
    "lora of HF peft, fc1, fc2": ["peft=rslora"],
    "molora": ["peft=molora"],
    "moa": ["peft=moa"],
    "soft_moa": ["peft=soft_moa"],
    "moka": ["peft=moka"],
    "avmoe": ["peft=avmoe"],
    "lavish": ["peft=lavish"],
    "dg_sct": ["peft=dg_sct"],
    "full": ["peft=full"],
    **{
        name: ["peft=hmmoe", f"peft.executor={name.split()[1]}", "peft.experts_per_group={experts}"]
        for name in EXECUTORS
    },
}
"""Words of the command line; a method with a rank gets that of ``Sizes`` unless it says its own."""

PLAIN = (REFERENCE, "hmmoe wide")
"""Those that also take part with frozen down-projections, at the upper sites alone, and compiled."""
FROZEN, UPPER, COMPILED = ", freeze_down", ", upper half", ", compiled"
METHODS |= {name + FROZEN: [*METHODS[name], "peft.freeze_down=true"] for name in PLAIN}
METHODS |= {name + UPPER: [*METHODS[name], "peft.at=upper"] for name in PLAIN}


class Sizes(NamedTuple):
    """Shapes of the comparison. A picture of ViT-B gives 197 tokens, a second of AST-B 110, a sentence of BERT 40.

    ``store`` is the dtype of the frozen weights; ``tiny`` takes the mini towers, for tests.
    """

    host: str = "vit_b_ast_b"
    batch: int = 2
    rank: int = 32
    experts: int = 2
    tiny: bool = False
    store: str = "float32"


@cache
def composed(words: tuple[str, ...]) -> dict[str, Any]:
    """The resolved backbone and method of a command line."""
    cfg = settings(words)
    return {"backbone": OmegaConf.to_container(cfg.backbone, resolve=True), "peft": sizing.method_node(cfg.peft)}


def words(sizes: Sizes, method: Sequence[str]) -> tuple[str, ...]:
    """The command line of a contestant."""
    host = list(HOSTS[sizes.host])
    if sizes.tiny:
        host = [*host[:2], "scale=mini"]
    host.append(f"++backbone.store={sizes.store}")
    return (*host, *(word.format(wide=8 * sizes.rank, experts=sizes.experts) for word in method))


def method(sizes: Sizes, given: Sequence[str]) -> Any:
    """A partial method from its words."""
    node = composed(words(sizes, given))["peft"]
    said = any(word.startswith("peft.rank=") for word in given)
    if "rank" in node and not said:
        node = node | {"rank": sizes.rank}
    return build.factory(node, "peft")


def field(sizes: Sizes, *, compiled: bool = False) -> dict[str, Any]:
    """Every partial method that can take part, by the name that the table shows."""
    made = {name: method(sizes, given) for name, given in METHODS.items()} | public.installed(sizes.rank)
    return made | ({name + COMPILED: made[name] for name in PLAIN} if compiled else {})


def every(sizes: Sizes) -> dict[str, Any]:
    """Every file of conf/peft, by its name."""
    names = sorted(path.name.removesuffix(".yaml") for path in files("conf").joinpath("peft").iterdir())
    return {name: method(sizes, [f"peft={name}"]) for name in names}


def contestants(sizes: Sizes, methods: Mapping[str, Any]) -> dict[str, AdaptedModel]:
    """One model per partial method, on equal towers; weights start away from the identity, equal for equal shapes."""
    node = composed(words(sizes, METHODS[REFERENCE]))["backbone"]
    torch.manual_seed(0)
    backbone = build.part(node if sizes.tiny else without_weights(node), "backbone")
    head = partial(FusionHead, classes=CLASSES, hidden=16 if sizes.tiny else 512, level="sample")
    models = {}
    for name, made in methods.items():
        own = backbone if made.func.prepare is Peft.prepare else copy.deepcopy(backbone)
        torch.manual_seed(1)
        models[name] = AdaptedModel(own, made, head)
        _move(models[name])
    return models


def _move(model: AdaptedModel) -> None:
    """A fresh adapter multiplies by zeros, which neither tests nor times the way back."""
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in roles(model):
            parameters[name] += 0.02 * torch.randn(parameters[name].shape, generator=generator)


def draw(sizes: Sizes, seed: int) -> Batch:
    """A random batch, one segment of every modality, with labels."""
    inputs = composed(words(sizes, METHODS[REFERENCE]))["backbone"]["inputs"]
    torch.manual_seed(seed)
    return blank(inputs, {}, size=sizes.batch) | {"label": torch.randint(0, CLASSES, (sizes.batch,))}
