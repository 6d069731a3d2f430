"""LoRA (Hu et al., arXiv 2106.09685) on the weight itself.

W' = W + (alpha / R) B A, as a parametrisation: alive wherever the library reads ``.weight``. HF peft wraps the module's
forward instead and is silently dead on the fused qkv of timm's Swin-V2, BEiT and EVA, which call the functional form.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hmmoe.errors import ConfigError
from hmmoe.marks import Inserted
from hmmoe.peft.base import Peft
from hmmoe.types import Site


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
        out, inner = weight.shape
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.empty(rank, inner), requires_grad=not freeze_a)
        self.B = nn.Parameter(torch.zeros(out if rows is None else len(rows), rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, weight: Float[Tensor, "out inner"]) -> Float[Tensor, "out inner"]:
        """The adapted weight."""
        update = (self.scale * (self.B @ self.A)).to(weight.dtype)
        return weight + update if self.rows is None else weight.index_add(0, self.rows, update)


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
