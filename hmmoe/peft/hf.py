"""Methods of HF peft, by configuration alone: DoRA, rsLoRA, PiSSA, IA3, OFT, BOFT, LoHa, LoKr, VeRA.

The library wraps linear layers and replaces their forward. It is silently dead where a tower reads ``.weight`` itself:
the fused qkv of timm's Swin-V2, BEiT and EVA, every projection of torchvision's Swin3D. ``trainable.check_live`` stops
such a run at its first step; ``hmmoe.peft.lora.LoRA`` changes the weight and lives on all of them.
"""

import copy
import inspect
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from hmmoe.errors import CheckpointError, ConfigError
from hmmoe.marks import Inserted
from hmmoe.peft.base import Peft, Size
from hmmoe.peft.hf_format import Stored, find, refuse_rest, shared
from hmmoe.types import Site

log = logging.getLogger(__name__)

SCALES = ("lora_alpha", "alpha", "use_rslora", "use_dora", "init_lora_weights", "oft_block_size", "boft_block_size")
"""Keys of the library's configurations that change what the same tensors compute."""


class HFPeft(Peft):
    """W x + b of every target becomes what the library's layer makes of it.

    A fused layer that plays several roles is adapted as a whole. What the library saves with a method (A and B of
    VeRA, the ranks of AdaLoRA) is saved with the run. PiSSA puts a part of each weight into its A and B; the rest is
    found again by the same singular value decomposition when a checkpoint is loaded.

    Args:
        sites: where the backbone stands open (these methods change its layers instead).
        config: builds the library's configuration, without ``target_modules``, which follow from ``targets``.
        targets: roles of linear layers: q, k, v, o, fc1, fc2.
        only: regular expression that the layers' names must contain, such as ``towers\\.vision``; None takes all.

    Raises:
        ConfigError: no or unknown targets, a pattern that hits nothing, a size that the library refuses.
    """

    sizes = (
        Size("config.r"),
        Size("config.init_r"),
        Size("config.oft_block_size", divides=True),
        Size("config.boft_block_size", divides=True),
    )

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
                tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](backbone, config, adapter_name="default")
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
        self.applied, self.attached = config, tuple(roles)
        self._tuner = (tuner,)  # it holds the backbone: as a submodule it would list every weight twice

    @property
    def tuner(self) -> Any:
        """The library's tuner, once prepared."""
        return self._tuner[0]

    def merge(self, backbone: nn.Module) -> None:
        """The library's own merge, layer by layer; every layer becomes what it was before.

        Raises:
            ConfigError: the library cannot merge this method, or gets what is not finite.
        """
        for name in self.attached:
            layer = backbone.get_submodule(name)
            try:
                layer.merge(safe_merge=True)
            except (RuntimeError, ValueError) as error:
                raise ConfigError(f"{type(self.applied).__name__} cannot be merged: {error}") from error
            parent, _, leaf = name.rpartition(".")
            setattr(backbone.get_submodule(parent), leaf, layer.get_base_layer())

    def stored(self, backbone: nn.Module, prefix: str) -> Stored | None:
        """Configuration and tensors with the names of this library model."""
        mine = [name.removeprefix(prefix) for name in self.attached if name.startswith(prefix)]
        if not mine:
            return None
        config = copy.deepcopy(self.applied)
        config.target_modules = set(mine)
        if getattr(config, "feedforward_modules", None):
            config.feedforward_modules = {
                n.removeprefix(prefix) for n in config.feedforward_modules if n.startswith(prefix)
            }
        tensors = {own: tensor for own, _, tensor in self._tensors(backbone, prefix) if not shared(own)}
        for own, _, tensor in self._tensors(backbone, prefix):
            if shared(own):
                tensors[own] = tensor[_block(own, tensor, backbone, prefix, mine)]
        return Stored(config, tensors)

    def take(self, backbone: nn.Module, prefix: str, stored: Stored) -> None:
        """Tensors by name, once the configuration has proved to be of this kind.

        Raises:
            CheckpointError: another method, size or set of layers.
        """
        theirs, mine = stored.config, self.applied
        kinds = [str(config.peft_type.value) for config in (theirs, mine)]
        unlike = [
            f"{key}={getattr(theirs, key, None)!r} (here {getattr(mine, key, None)!r})"
            for key in SCALES
            if getattr(theirs, key, None) != getattr(mine, key, None)
        ]
        if kinds[0] != kinds[1] or unlike:
            found = f"{kinds[0]} with {', '.join(unlike)}" if kinds[0] == kinds[1] else kinds[0]
            raise CheckpointError(
                f"the folder holds {found}, this run has {kinds[1]}: set peft and peft.config to what it was made with"
            )
        used: set[str] = set()
        for own, target, tensor in self._tensors(backbone, prefix):
            value = find(stored.tensors, own, used)
            part = tuple(slice(size) for size in value.shape) if shared(own) else ...
            if tensor[part].shape != value.shape:
                raise CheckpointError(
                    f"{target} has the shape {tuple(tensor.shape)}, the folder holds {tuple(value.shape)}: set "
                    "peft.config.r (or its kin) to what it was made with"
                )
            with torch.no_grad():
                tensor[part].copy_(value)
        refuse_rest(stored, used, "peft.targets or peft.only")

    def _tensors(self, backbone: nn.Module, prefix: str) -> Iterator[tuple[str, str, Tensor]]:
        """Name in HF peft's files, name in the backbone, and the tensor, of everything that was inserted."""
        seen: set[str] = set()
        for layer in self.attached:
            if not layer.startswith(prefix):
                continue
            module = backbone.get_submodule(layer)
            for name, tensor in module.state_dict(keep_vars=True).items():
                if name.startswith("base_layer."):
                    continue
                own = _stored_name(layer.removeprefix(prefix), name)
                if own not in seen:  # what all layers share comes once
                    seen.add(own)
                    yield own, f"{layer}.{name}", tensor.data

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


def _stored_name(layer: str, name: str) -> str:
    """The library leaves its adapter's name out; DoRA's vector lost a module and VeRA's A and B their layer."""
    plain = name.replace(".default", "")
    if plain in ("vera_A", "vera_B"):
        return plain
    return f"{layer}.{plain.replace('lora_magnitude_vector.weight', 'lora_magnitude_vector')}"


def _block(name: str, tensor: Tensor, backbone: nn.Module, prefix: str, layers: Sequence[str]) -> tuple[slice, ...]:
    """The part of VeRA's A (R, in) or B (out, R) that the largest of these layers reads."""
    weights = [backbone.get_submodule(prefix + layer).get_base_layer().weight for layer in layers]
    most = tuple(max(weight.shape[axis] for weight in weights) for axis in (0, 1))
    return (slice(None), slice(most[1])) if name == "vera_A" else (slice(most[0]), slice(None))


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
