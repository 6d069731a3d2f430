"""DG-SCT: dual-guided spatial, channel and temporal attention (Duan et al., arXiv 2311.05152, section 3.3).

Stream n (tokens y, mean token ybar) tells stream m (tokens x) which channels, places and moments matter:

    channel   c = sigmoid(W2 relu(W1 mean_i [relu(P ybar) * relu(Q x_i)]))         (D)
    spatial   s_i = sigmoid(v . [relu(P' ybar) * relu(Q' x_i)])                    one number per token
    temporal  g_t = sigmoid(u . GRU(T ybar_1, ..., T ybar_t))                      one number per segment
    x_i'      = (gamma g_t + 1) (alpha c + beta s_i + 1 - alpha) * x_i
    delta     = up(act(down x'))

alpha = 0.3, beta = 0.05 as in the released code; gamma is chosen. Paper: P, Q, W keep the width D and cost most of the
43.6 M parameters that are trained on AVE; here they go through rank R. The paper adds x' itself; here an adapter with
``up`` = 0 at the start follows, so that a fresh method is the identity. Two places per block there, the FFN here
(``residual`` is read). A stream whose number of segments differs (a sentence beside ten seconds) gives one moment for
all. One adapter per source where three modalities meet.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.masked import masked_mean
from hmmoe.peft.base import Size
from hmmoe.peft.bottleneck import Bottleneck
from hmmoe.peft.per_stream import PerStream, need_activation, need_positive
from hmmoe.types import Site, Stream


class DualGuide(nn.Module):
    """One (target, source). Parameters, D of the target and D_n of the source:
    channel R (D + D_n) + R^2 + R + R D + D, spatial R (D + D_n) + R + 1, temporal R D_n + 6 R^2 + 6 R + R + 1,
    adapter 2 D R + R + D.

    Args:
        width: D.
        other: D_n.
        rank: R.
        act: relu, gelu or silu.
        alpha: weight of the channel map.
        beta: weight of the spatial map.
        gamma: weight of the temporal gate.
    """

    def __init__(self, width: int, other: int, *, rank: int, act: str, alpha: float, beta: float, gamma: float) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.own = nn.Linear(width, 2 * rank, bias=False)  # Q and Q'
        self.guide = nn.Linear(other, 3 * rank, bias=False)  # P, P' and T
        self.squeeze, self.excite = nn.Linear(rank, rank), nn.Linear(rank, width)
        self.place = nn.Linear(rank, 1)
        self.time, self.moment = nn.GRU(rank, rank, batch_first=True), nn.Linear(rank, 1)
        self.adapter = Bottleneck(width, rank, act)

    def forward(self, x: Stream, y: Stream) -> Float[Tensor, "S N D"]:
        """Delta of stream x, guided by y."""
        tokens = x.residual
        own_c, own_s = F.relu(self.own(tokens)).chunk(2, -1)
        row = self.guide(masked_mean(y.residual, y.keep))
        guide_c, guide_s, _ = F.relu(row).chunk(3, -1)
        mixed = masked_mean(guide_c.unsqueeze(1) * own_c, x.keep)
        channel = self.excite(F.relu(self.squeeze(mixed))).sigmoid().unsqueeze(1)
        spatial = self.place(guide_s.unsqueeze(1) * own_s).sigmoid()
        scaled = (self.alpha * channel + self.beta * spatial + 1 - self.alpha) * tokens
        return self.adapter((self.gamma * self._moments(x, y) + 1).to(scaled.dtype) * scaled)

    def _moments(self, x: Stream, y: Stream) -> Float[Tensor, "S N 1"]:
        """Gate of every token of x from the course of y over the segments of its sample."""
        count, size = y.rows * y.parts, y.residual.shape[0] * y.parts
        keep = None if y.keep is None else y.keep.reshape(size, -1)
        means = masked_mean(y.residual.reshape(size, -1, y.residual.shape[-1]), keep)
        steps = F.linear(means, self.guide.weight.chunk(3)[2]).unflatten(0, (-1, count))
        with torch.autocast(steps.device.type, enabled=False):
            course, _ = self.time(steps.to(self.moment.weight.dtype))
            gates = self.moment(course).sigmoid()  # (B, T_y, 1)
        if x.rows * x.parts != count:
            gates = gates.mean(1, keepdim=True).expand(-1, x.rows * x.parts, -1)
        return gates.reshape(-1, x.parts, 1).repeat_interleave(x.residual.shape[1] // x.parts, 1)


class _Part(nn.Module):
    """All sources of one target."""

    def __init__(self, target: str, widths: Mapping[str, int], **sizes: int | float | str) -> None:
        super().__init__()
        self.target = target
        self.sources = nn.ModuleDict(
            {n: DualGuide(widths[target], d, **sizes) for n, d in widths.items() if n != target}
        )

    def forward(self, streams: Mapping[str, Stream]) -> tuple[Float[Tensor, "S N D"], None]:
        """Sum over the sources."""
        x = streams[self.target]
        return torch.stack([guide(x, streams[n]) for n, guide in self.sources.items()]).sum(0), None


class DGSCT(PerStream):
    """DG-SCT at every site where two or more modalities meet.

    Args:
        sites: where the backbone stands open.
        rank: R.
        act: relu, gelu or silu.
        alpha: weight of the channel map.
        beta: weight of the spatial map.
        gamma: weight of the temporal gate.
        at: sites that get a part, see ``chosen``.

    Raises:
        ConfigError: rank below 1, unknown activation, or modalities that never meet.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 32,
        act: str = "relu",
        alpha: float = 0.3,
        beta: float = 0.05,
        gamma: float = 0.1,
        at: str | Sequence[int] = "all",
    ) -> None:
        need_positive(rank=rank)
        need_activation(act)

        def build(target: str, widths: Mapping[str, int]) -> nn.Module | None:
            if len(widths) == 1:
                return None
            return _Part(target, widths, rank=rank, act=act, alpha=alpha, beta=beta, gamma=gamma)

        super().__init__(sites, build, at=at)
