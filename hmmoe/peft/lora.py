"""LoRA (Hu et al., arXiv 2106.09685) on the weight itself.

W' = W + (alpha / R) B A, as a parametrisation: alive wherever the library reads ``.weight``. HF peft wraps the module's
forward instead and is silently dead on the fused qkv of timm's Swin-V2, BEiT and EVA, which call the functional form.

What the library reads is a tensor that stands for W'. In ``F.linear`` it computes W x + (alpha / R) B (A x), so no
copy of the weight is made or kept for the backward pass, the input is kept for the gradient of A only (LoRA-FA keeps
A x alone), and an update far below the resolution of a weight in bfloat16 still counts. Any other function gets the
sum W'.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from hmmoe.errors import CheckpointError, ConfigError
from hmmoe.marks import Inserted
from hmmoe.peft.base import Peft, Size
from hmmoe.peft.hf_format import Stored, find, refuse_rest
from hmmoe.types import Site

FACTS = frozenset(
    {
        Tensor.shape.__get__,
        Tensor.dtype.__get__,
        Tensor.device.__get__,
        Tensor.ndim.__get__,
        Tensor.layout.__get__,
        Tensor.is_cuda.__get__,
        Tensor.size,
        Tensor.dim,
        Tensor.numel,
        Tensor.is_floating_point,
    }
)
"""What can be asked of a weight without its values."""


class AdaptedWeight(Tensor):
    """The frozen weight, bearing its update: a plain tensor to everyone who asks, two thin products to a linear map."""

    base: Tensor
    update: "LowRank"

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Linear maps take the thin way, facts come from the frozen weight, all else sees the sum."""
        if func is F.linear:
            return _linear(*args, **(kwargs or {}))
        seen = _base if func in FACTS else _sum
        args, kwargs = tree_map(seen, (tuple(args), dict(kwargs or {})))
        return func(*args, **kwargs)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not isinstance(weight, AdaptedWeight) or isinstance(input, AdaptedWeight):
        return F.linear(_sum(input), _sum(weight), bias)
    return F.linear(input, weight.base, bias) + weight.update.of(input)


def _base(value: Any) -> Any:
    return value.base if isinstance(value, AdaptedWeight) else value


def _sum(value: Any) -> Any:
    return value.update.added(value.base) if isinstance(value, AdaptedWeight) else value


class LowRank(Inserted):
    """weight + (alpha / R) B A on the given rows; B starts at zero.

    Args:
        weight: the frozen weight (out, in).
        rank: R.
        alpha: scale; the update is multiplied by alpha / R.
        rows: index of the rows that are changed, None for all.
        freeze_a: LoRA-FA (Zhang et al., arXiv 2308.03303): A stays as drawn and is saved with the adapter.
    """

    def __init__(
        self, weight: Tensor, rank: int, *, alpha: float, rows: Tensor | None = None, freeze_a: bool = False
    ) -> None:
        super().__init__()
        self.out, inner = weight.shape
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, inner), requires_grad=not freeze_a)
        self.B = nn.Parameter(torch.zeros(self.out if rows is None else len(rows), rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, weight: Float[Tensor, "out inner"]) -> Float[Tensor, "out inner"]:
        """The adapted weight."""
        adapted = weight.detach().as_subclass(AdaptedWeight)
        adapted.base, adapted.update = weight, self
        return adapted

    def of(self, x: Float[Tensor, "*S inner"]) -> Float[Tensor, "*S out"]:
        """(alpha / R) B A x."""
        return F.linear(F.linear(x, self.A.to(x.dtype)), (self.scale * self.whole_b()).to(x.dtype))

    def added(self, weight: Float[Tensor, "out inner"]) -> Float[Tensor, "out inner"]:
        """The sum, rounded once to the weight's dtype."""
        return (weight + self.scale * (self.whole_b() @ self.A)).to(weight.dtype)

    def whole_b(self) -> Float[Tensor, "out R"]:
        """B with zeros in the rows that are not changed."""
        if self.rows is None:
            return self.B
        return self.B.new_zeros(self.out, self.B.shape[1]).index_copy(0, self.rows, self.B)


class LoRA(Peft):
    """Low-rank updates of attention and FFN weights.

    Args:
        sites: where the backbone stands open (LoRA changes weights instead).
        rank: R.
        alpha: scale of the update, alpha / R.
        targets: roles of linear layers: q, k, v, o, fc1, fc2. Roles that one fused layer plays share an A.
        freeze_a: LoRA-FA.

    Raises:
        ConfigError: rank below 1, no or unknown targets.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 32,
        alpha: float = 32.0,
        targets: Sequence[str] = ("q", "v"),
        freeze_a: bool = False,
    ) -> None:
        super().__init__(sites)
        if rank < 1 or not targets:
            raise ConfigError(
                f"peft.rank must be at least 1 and peft.targets name a role (q, k, v, o, fc1, fc2), found {rank}, "
                f"{list(targets)}"
            )
        self.rank, self.alpha, self.targets, self.freeze_a = rank, alpha, tuple(targets), freeze_a

    def prepare(self, backbone: nn.Module) -> None:
        """Parametrise the weight of every target."""
        rows: dict[str, list[tuple[int, int] | None]] = defaultdict(list)
        for role in self.targets:
            for part in backbone.linears(role):
                rows[part.name].append(part.rows)
        for name, parts in rows.items():
            linear = backbone.get_submodule(name)
            index = None
            if None not in parts:
                index = torch.cat([torch.arange(*part) for part in sorted(set(parts))])
                index = None if len(index) == linear.weight.shape[0] else index
            update = LowRank(linear.weight, self.rank, alpha=self.alpha, rows=index, freeze_a=self.freeze_a)
            parametrize.register_parametrization(linear, "weight", update)

    def merge(self, backbone: nn.Module) -> None:
        """Add the updates to the weights and take the parametrisations away."""
        for name, update in list(updates(backbone)):
            linear = backbone.get_submodule(name)
            merged = update.added(linear.parametrizations.weight.original).detach()
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=False)
            linear.weight.data.copy_(merged)

    def stored(self, backbone: nn.Module, prefix: str) -> Stored | None:
        """As HF peft's LoRA; rows of a fused layer that are not changed become zero rows of B, which is exact."""
        from peft import LoraConfig

        mine = {name.removeprefix(prefix): update for name, update in updates(backbone) if name.startswith(prefix)}
        if not mine:
            return None
        tensors = {f"{name}.lora_A.weight": update.A for name, update in mine.items()}
        tensors |= {f"{name}.lora_B.weight": update.whole_b() for name, update in mine.items()}
        return Stored(LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=list(mine)), tensors)

    def take(self, backbone: nn.Module, prefix: str, stored: Stored) -> None:
        """A and B of a LoRA that HF peft wrote; another scale goes into B.

        Raises:
            CheckpointError: another method, rank or set of layers, or rows changed that ``targets`` leave alone.
        """
        config = stored.config
        plain = getattr(config, "peft_type", None) == "LORA" and not (
            config.use_dora or config.rank_pattern or config.alpha_pattern
        )
        if not plain:
            raise CheckpointError(
                f"{type(config).__name__} of the folder is no plain LoRA of one rank: take the peft= that it was made "
                "with"
            )
        scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
        used: set[str] = set()
        for name, update in updates(backbone):
            if name.startswith(prefix):
                own = name.removeprefix(prefix)
                a, b = (find(stored.tensors, f"{own}.lora_{letter}.weight", used) for letter in "AB")
                _copy(update, a, b * (scale / update.scale), own)
        refuse_rest(stored, used, "peft.targets")


def _copy(update: LowRank, a: Float[Tensor, "R inner"], b: Float[Tensor, "out R"], name: str) -> None:
    """Fill an update, whose rows may be fewer than those of b."""
    if a.shape != update.A.shape or b.shape[0] != update.out:
        raise CheckpointError(
            f"{name} is stored with rank {a.shape[0]} for a layer ({b.shape[0]}, {a.shape[1]}), this model has rank "
            f"{update.A.shape[0]} and ({update.out}, {update.A.shape[1]}): set peft.rank, or take the same backbone"
        )
    if update.rows is not None:
        rest = torch.ones(update.out, dtype=torch.bool).index_fill(0, update.rows.cpu(), False)
        if b[rest].any():
            raise CheckpointError(
                f"{name} is stored with changes in rows that peft.targets leave alone: name all roles that this fused "
                "layer plays, such as peft.targets=[q,k,v]"
            )
        b = b[update.rows.cpu()]
    with torch.no_grad():
        update.A.copy_(a)
        update.B.copy_(b)


def updates(backbone: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """Layers with an update, by name."""
    for name, module in backbone.named_modules():
        if parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], LowRank):
            yield name, module.parametrizations.weight[0]
