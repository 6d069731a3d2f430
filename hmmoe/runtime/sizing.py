"""``peft.budget`` and ``peft.budget_params``: the size of a method from what it may train."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from hmmoe.backbones.base import Backbone
from hmmoe.budget import candidates, solve, trained
from hmmoe.errors import ConfigError
from hmmoe.peft.base import Peft
from hmmoe.types import Site

log = logging.getLogger(__name__)

BUDGET = ("budget", "budget_params")
"""Keys of ``peft`` that are the run's, not the method's."""

Make = Callable[[dict[str, Any]], Callable[[Sequence[Site]], Peft]]


def method_node(peft: DictConfig) -> dict[str, Any]:
    """``peft`` without the keys that the method does not know."""
    node = OmegaConf.to_container(peft, resolve=True)
    return {key: value for key, value in node.items() if key not in BUDGET}


def fit(peft: DictConfig, backbone: Backbone, make: Make) -> dict[str, Any] | None:
    """Put the size that meets the budget into ``peft``, and take the budget out: whoever reads it again has the size.

    Args:
        peft: the method's node; changed in place.
        backbone: before any method; its parameters are the denominator of ``peft.budget``.
        make: a node to what builds the method.

    Returns:
        What was asked, chosen and reached; None where nothing was asked.

    Raises:
        ConfigError: the method has no size, or the budget cannot be met.
    """
    asked = {key: peft.get(key) for key in BUDGET if peft.get(key) is not None}
    if not asked:
        return None
    total = sum(parameter.numel() for parameter in backbone.parameters())
    target = float(asked["budget"] * total if "budget" in asked else asked["budget_params"])
    key, divides = size_key(peft)
    node = OmegaConf.create(method_node(peft))

    def count(size: int) -> int:
        OmegaConf.update(node, key, size)
        return trained(backbone, make(OmegaConf.to_container(node)))

    said = next(iter(asked))
    try:
        found = solve(count, candidates(backbone.sites, divides=divides), target, total=total)
    except ConfigError as error:
        raise ConfigError(f"peft.{said}={asked[said]:g} by peft.{key}: {error}") from error
    OmegaConf.update(peft, key, found.value)
    for name in asked:
        peft[name] = None
    fact = {**asked, "key": f"peft.{key}", **found._asdict(), "backbone": total}
    log.info(
        "peft.%s=%g: peft.%s=%d trains %s parameters beside the head, %.3f %% of the backbone's %s",
        *(said, asked[said], key, found.value, f"{found.parameters:,}", 100 * found.share, f"{total:,}"),
    )
    return fact


def size_key(peft: DictConfig) -> tuple[str, bool]:
    """Dotted key below ``peft`` that sets the method's size, and whether it must divide the widths.

    Raises:
        ConfigError: the method has none.
    """
    kind = get_class(peft["_target_"])
    for size in kind.sizes:
        if OmegaConf.select(peft, size.key) is not None:
            return size.key, size.divides
    raise ConfigError(
        f"{kind.__name__} has no size that a budget could set: leave peft.budget and peft.budget_params null, or take "
        "a method with a rank, such as peft=hmmoe, lora, series_adapter or avmoe"
    )
