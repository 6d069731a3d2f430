"""What is compared: a host of conf/backbone at real size with random weights, and the methods of conf/peft on it."""

import copy
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from benchmarks import public
from hmmoe.analysis.profile.batch import blank
from hmmoe.backbones.base import Backbone
from hmmoe.budget import trained
from hmmoe.errors import ConfigError
from hmmoe.heads.fusion import FusionHead
from hmmoe.model import AdaptedModel
from hmmoe.peft.base import Peft
from hmmoe.runtime import build, sizing
from hmmoe.runtime.compose import settings
from hmmoe.runtime.profiling import without_weights
from hmmoe.trainable import roles
from hmmoe.types import Batch
from hmmoe.weightless import shaped

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
EQUAL = ", equal parameters"
"""Those that also take part at the size that trains as much as ``hmmoe wide`` does."""
METHODS |= {
    name + EQUAL: [*METHODS[name], "peft.budget_params={equal}"]
    for name in (REFERENCE, "lora on all linears", "molora", "moa", "soft_moa", "moka", "avmoe", "lavish", "dg_sct")
}


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
    """The resolved backbone and method of a command line; a budget becomes a size."""
    cfg = settings(words)
    if any(cfg.peft.get(key) is not None for key in sizing.BUDGET):
        sizing.fit(cfg.peft, shaped(lambda: _towers(cfg)), lambda node: build.factory(node, "peft"))
    return {"backbone": OmegaConf.to_container(cfg.backbone, resolve=True), "peft": sizing.method_node(cfg.peft)}


@cache
def parameters(sizes: Sizes) -> int:
    """What ``hmmoe wide`` trains beside its head."""
    cfg = settings(words(sizes, METHODS[REFERENCE]))
    return trained(shaped(lambda: _towers(cfg)), method(sizes, METHODS["hmmoe wide"]))


def _towers(cfg: DictConfig) -> Backbone:
    node = OmegaConf.to_container(cfg.backbone, resolve=True)
    tiny = cfg.scale == "mini"
    return build.part(node if tiny else without_weights(node), "backbone")


def words(sizes: Sizes, method: Sequence[str]) -> tuple[str, ...]:
    """The command line of a contestant."""
    host = list(HOSTS[sizes.host])
    if sizes.tiny:
        host = [*host[:2], "scale=mini"]
    host.append(f"++backbone.store={sizes.store}")
    equal = parameters(sizes) if any("{equal}" in word for word in method) else None
    return (*host, *(word.format(equal=equal, experts=sizes.experts) for word in method))


def method(sizes: Sizes, given: Sequence[str]) -> Any:
    """A partial method from its words."""
    node = composed(words(sizes, given))["peft"]
    said = any(word.startswith(("peft.rank=", "peft.budget")) for word in given)
    if "rank" in node and not said:
        node = node | {"rank": sizes.rank}
    return build.factory(node, "peft")


def names(*, compiled: bool = False) -> list[str]:
    """Every contestant that can take part, as the table shows it."""
    return [*METHODS, *public.installed(), *((name + COMPILED for name in PLAIN) if compiled else ())]


def field(sizes: Sizes, wanted: Collection[str]) -> dict[str, Any]:
    """The partial methods of the wanted contestants, in the table's order; one that cannot be as large is named."""
    packages, made = public.installed(), {}
    for name in (name for name in names(compiled=True) if name in wanted):
        plain = name.removesuffix(COMPILED)
        try:
            made[name] = packages[name](sizes.rank) if name in packages else method(sizes, METHODS[plain])
        except ConfigError as error:
            print(f"{name} does not take part: {error}", file=sys.stderr)
    return made


def files() -> list[str]:
    """The methods of conf/peft."""
    return sorted(path.name.removesuffix(".yaml") for path in resources.files("conf").joinpath("peft").iterdir())


def every(sizes: Sizes, wanted: Collection[str]) -> dict[str, Any]:
    """The wanted files of conf/peft, by their names."""
    return {name: method(sizes, [f"peft={name}"]) for name in files() if name in wanted}


def contestants(sizes: Sizes, methods: Mapping[str, Any]) -> dict[str, AdaptedModel]:
    """One model per partial method, on equal towers; weights start away from the identity, equal for equal shapes.

    All frozen weights are the same memory. What a method changes in them it gets for itself.
    """
    backbone = _towers(settings(words(sizes, METHODS[REFERENCE])))
    head = partial(FusionHead, classes=CLASSES, hidden=16 if sizes.tiny else 512, level="sample")
    models = {}
    for name, made in methods.items():
        own = backbone if made.func.prepare is Peft.prepare else _twin(backbone)
        torch.manual_seed(1)
        models[name] = AdaptedModel(own, made, head)
        _move(models[name])
    return models


def _twin(backbone: Backbone) -> Backbone:
    """Parameters of its own, so that they can be unfrozen or parametrised, over the same numbers."""
    known: dict[int, Tensor] = {id(p): nn.Parameter(p.data, requires_grad=False) for p in backbone.parameters()}
    return copy.deepcopy(backbone, known | {id(buffer): buffer for buffer in backbone.buffers()})


def _move(model: AdaptedModel) -> None:
    """A fresh adapter multiplies by zeros, which neither tests nor times the way back."""
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(2)
    for name in roles(model):
        parameter = parameters[name]
        parameter.data = parameter.data + 0.02 * torch.randn(parameter.shape, generator=generator)


def draw(sizes: Sizes, seed: int) -> Batch:
    """A random batch, one segment of every modality, with labels."""
    inputs = composed(words(sizes, METHODS[REFERENCE]))["backbone"]["inputs"]
    torch.manual_seed(seed)
    return blank(inputs, {}, size=sizes.batch) | {"label": torch.randint(0, CLASSES, (sizes.batch,))}
