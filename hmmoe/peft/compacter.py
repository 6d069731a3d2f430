"""Compacter: bottleneck adapters made of Kronecker products (Karimi Mahabadi et al., arXiv 2106.04647, section 3).

A linear map k -> d of the adapter is W = sum_{i=1..n} A_i kron (s_i t_i), A_i (n, n) shared by all adapters of the
model, s_i (d / n, q) and t_i (q, k / n) its own. The adapter is h -> h + up(act(down h)), with biases.

Paper: n = 4, q = 1, gelu, R = D / 32 on T5; behind attention and FFN (Compacter) or the FFN alone (Compacter++). Chosen
here: t of ``up`` starts at zero, the one zero factor; A_i is normal with variance 1 / n, so that a map starts with the
spread of an ordinary one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.errors import ConfigError
from hmmoe.experts.kinds import ACTIVATIONS
from hmmoe.peft.base import Size
from hmmoe.peft.bottleneck import Placed, Placement
from hmmoe.peft.per_stream import need_activation, need_positive
from hmmoe.types import Site


class KroneckerLinear(nn.Module):
    """x -> W x + b, in -> out: q (in + out) + out parameters beside the shared n^3.

    Args:
        width: in.
        out: out.
        rule: A (n, n, n); n divides both widths.
        factor_rank: q.
        zero: start with t = 0.
    """

    def __init__(self, width: int, out: int, *, rule: nn.Parameter, factor_rank: int, zero: bool) -> None:
        super().__init__()
        n = rule.shape[0]
        self._rule = (rule,)  # the method's own: as a parameter of every map it would be saved under every name
        self.left = nn.Parameter(torch.randn(n, out // n, factor_rank) * factor_rank**-0.5)
        right = torch.zeros if zero else torch.randn
        self.right = nn.Parameter(right(n, factor_rank, width // n) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(out))

    @property
    def rule(self) -> Float[Tensor, "n n n"]:
        """A, shared by all maps."""
        return self._rule[0]

    @property
    def weight(self) -> Float[Tensor, "out inner"]:
        """The sum of Kronecker products."""
        return torch.einsum("iab,icd->acbd", self.rule, self.left @ self.right).flatten(2).flatten(0, 1)

    def forward(self, x: Float[Tensor, "*S inner"]) -> Float[Tensor, "*S out"]:
        """The map; its weight is R x D, nothing beside the tokens."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class KroneckerBottleneck(nn.Module):
    """up(act(down x)), D -> R -> D: 2 q (D + R) + R + D parameters beside the shared n^3."""

    def __init__(self, width: int, rank: int, *, rule: nn.Parameter, factor_rank: int, act: str) -> None:
        super().__init__()
        n = rule.shape[0]
        if width % n or rank % n:
            raise ConfigError(f"peft.terms={n} must divide peft.rank={rank} and the width {width} of every stream")
        self.down = KroneckerLinear(width, rank, rule=rule, factor_rank=factor_rank, zero=False)
        self.up = KroneckerLinear(rank, width, rule=rule, factor_rank=factor_rank, zero=True)
        self.act = ACTIVATIONS[act]

    def forward(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        """The adapter's output, without residual."""
        return self.up(self.act(self.down(x)))


class Compacter(Placed):
    """Kronecker bottlenecks at every site and, as in the paper, behind every attention.

    Args:
        sites: where the backbone stands open.
        rank: R, width of the bottleneck.
        terms: n.
        factor_rank: q.
        act: relu, gelu or silu.
        at: sites that get a part, see ``chosen``.
        placement: "houlsby" is Compacter, "pfeiffer" Compacter++; see ``Placed``.

    Raises:
        ConfigError: sizes below 1, n that does not divide R and every width, unknown activation or placement.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 32,
        terms: int = 4,
        factor_rank: int = 1,
        act: str = "gelu",
        at: str | Sequence[int] = "all",
        placement: Placement = "houlsby",
    ) -> None:
        need_positive(rank=rank, terms=terms, factor_rank=factor_rank)
        need_activation(act)
        rule = nn.Parameter(torch.randn(terms, terms, terms) * terms**-0.5)

        def make(width: int) -> KroneckerBottleneck:
            return KroneckerBottleneck(width, rank, rule=rule, factor_rank=factor_rank, act=act)

        super().__init__(sites, make, at=at, placement=placement)
        self.rule = rule
