"""Methods of HF peft, by configuration alone: DoRA, rsLoRA, PiSSA, AdaLoRA, IA3, OFT, BOFT, LoHa, LoKr, VeRA.

The library wraps linear layers and replaces their forward. It is silently dead where a tower reads ``.weight`` itself:
the fused qkv of timm's Swin-V2, BEiT and EVA, every projection of torchvision's Swin3D. ``trainable.check_live`` stops
such a run at its first step; ``hmmoe.peft.lora.LoRA`` changes the weight and lives on all of them.
"""

import inspect
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import nn

from hmmoe.errors import ConfigError
from hmmoe.marks import Inserted
from hmmoe.peft.base import Peft
from hmmoe.types import Site

log = logging.getLogger(__name__)


class HFPeft(Peft):
    """W x + b of every target becomes what the library's layer makes of it.

    A fused layer that plays several roles is adapted as a whole. What the library saves with a method (A and B of
    VeRA, the ranks of AdaLoRA) is saved with the run. PiSSA puts a part of each weight into its A and B; the rest is
    found again by the same singular value decomposition when a checkpoint is loaded.

    AdaLoRA is its parametrisation P diag(E) Q only: the library moves the rank budget and adds the orthogonality price
    inside its own training loop, neither of which runs here, so the rank stays ``init_r``.

    Args:
        sites: where the backbone stands open (these methods change its layers instead).
        config: builds the library's configuration, without ``target_modules``, which follow from ``targets``.
        targets: roles of linear layers: q, k, v, o, fc1, fc2.
        only: regular expression that the layers' names must contain, such as ``towers\\.vision``; None takes all.

    Raises:
        ConfigError: no or unknown targets, a pattern that hits nothing, a size that the library refuses.
    """

    advice = (
        "HF peft replaces a layer's forward, and this tower reads the layer's weight itself: leave those layers out "
        "with peft.targets=[fc1,fc2], or take peft=lora, which changes the weight and lives everywhere"
    )

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        config: Callable[..., Any],
        targets: Sequence[str] = ("fc1", "fc2"),
        only: str | None = None,
    ) -> None:
        super().__init__(sites)
        if not targets:
            raise ConfigError("peft.targets is empty: name a role (q, k, v, o, fc1, fc2)")
        self.config, self.targets, self.only = config, tuple(targets), only

    def prepare(self, backbone: nn.Module) -> None:
        """Wrap the targets, mark what was inserted, log the attachment table."""
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
        from peft.tuners.tuners_utils import BaseTunerLayer

        roles = self._roles(backbone)
        try:
            config = self._configured(roles)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                # The tuner itself: inject_adapter_in_model refuses those whose layers share tensors (VeRA).
                PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](backbone, config, adapter_name="default")
        except (ValueError, TypeError, AssertionError) as error:
            raise ConfigError(f"peft.config: {error}") from error
        for message in dict.fromkeys(str(warning.message) for warning in said):
            log.warning("HF peft: %s", message)
        wrapped = {name: m for name, m in backbone.named_modules() if isinstance(m, BaseTunerLayer)}
        if wrapped.keys() != roles.keys():
            raise ConfigError(
                f"peft.targets={list(self.targets)}: HF peft took {len(wrapped)} of {len(roles)} layers; "
                f"not {sorted(roles.keys() ^ wrapped.keys())[:4]}"
            )
        for layer in wrapped.values():
            for name, part in layer.named_children():
                if name != "base_layer":
                    _insert(part)
        backbone.train()  # what the library made starts in training mode; only the inserted parts may be in it
        log.info("%s attached to %d layers:\n%s", type(config).__name__, len(roles), _table(backbone, roles))

    def _configured(self, roles: dict[str, list[str]]) -> Any:
        """The library's configuration for these layers."""
        own: dict[str, Any] = {"target_modules": list(roles)}
        if "feedforward_modules" in inspect.signature(self.config).parameters:
            # IA3 scales the input of the second FFN layer and the output of everything else.
            own["feedforward_modules"] = [name for name, plays in roles.items() if "fc2" in plays]
        return self.config(**own)

    def _roles(self, backbone: nn.Module) -> dict[str, list[str]]:
        """Name of every target -> roles that it plays."""
        every: dict[str, list[str]] = defaultdict(list)
        for role in self.targets:
            for part in backbone.linears(role):
                if role not in every[part.name]:
                    every[part.name].append(role)
        found = {name: plays for name, plays in every.items() if self.only is None or re.search(self.only, name)}
        if not found:
            raise ConfigError(
                f"peft.only={self.only!r} matches none of the {len(every)} layers that play {', '.join(self.targets)}, "
                f"such as {', '.join(list(every)[:2])}"
            )
        return found


@cache
def _inserted(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Inserted{kind.__name__}", (Inserted, kind), {})


def _insert(module: nn.Module) -> None:
    """Mark as trainable part: same object, a class that is ``Inserted`` too, as torch's parametrisations do it.

    Its tensors become float32: the library follows the dtype of the frozen weight.
    """
    if not isinstance(module, Inserted):
        module.__class__ = _inserted(type(module))
    module.float()


def _table(backbone: nn.Module, roles: dict[str, list[str]]) -> str:
    """Per place in a block: how many layers were hit, the roles they play, parameters that train."""
    rows: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, plays in roles.items():
        row = rows[f"{re.sub(r'[.][0-9]+[.]', '.*.', name)} ({', '.join(plays)})"]
        row[0] += 1
        row[1] += sum(p.numel() for p in backbone.get_submodule(name).parameters() if p.requires_grad)
    return "\n".join(f"  {count:4d} x {place}: {size:,} parameters" for place, (count, size) in rows.items())
