"""MokA: an A per modality, a shared B, attention at rank R between them (Wei et al., arXiv 2506.05191, section 3).

For stream m with tokens x_m, z_m = A_m x_m in R^R:

    h_m     = z_m + lambda sum_n softmax(z_m z_n^T / sqrt(R)) z_n       n over the sources, no maps of their own
    delta_m = (alpha / R) B h_m

Paper: on the linear layers of a language model, text as the only source, text itself without attention. Here the update
stands beside the FFN as a whole (it reads ``inp``, joins the FFN's output), and ``source: null`` lets all modalities
inform each other, for backbones without text. B is shared by streams of one width; others have their own. B starts at
zero, the only zero factor.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from hmmoe.errors import ConfigError
from hmmoe.peft.base import Peft, Size, chosen
from hmmoe.peft.lavish import attend
from hmmoe.peft.per_stream import need_positive
from hmmoe.types import Adapted, Site, Stream


class _Shared(nn.Module):
    """One site: R D_m for every stream that is read, D R for every width that is written."""

    def __init__(self, site: Site, rank: int, source: str | None) -> None:
        super().__init__()
        targets = [m for m in site.widths if m not in site.memory]
        self.sources = {
            m: [n for n in site.widths if n != m and (source in (None, n)) and source != m] for m in targets
        }
        read = {*targets, *(n for sources in self.sources.values() for n in sources)}
        self.A = nn.ParameterDict(
            {
                m: nn.Parameter(torch.empty(rank, d).uniform_(-(d**-0.5), d**-0.5))
                for m, d in site.widths.items()
                if m in read
            }
        )
        self.B = nn.ParameterDict(
            {str(site.widths[m]): nn.Parameter(torch.zeros(site.widths[m], rank)) for m in targets}
        )


class MokA(Peft):
    """Low-rank updates beside the FFN that meet each other at rank R.

    Args:
        sites: where the backbone stands open.
        rank: R.
        alpha: scale of the update, alpha / R.
        cross: lambda, weight of what the other modalities say.
        source: the modality that informs the others (paper: text); None lets every one inform every other.
        at: sites that get a part, see ``chosen``.

    Raises:
        ConfigError: rank below 1, or a source that no site has.
    """

    sizes = (Size("rank"),)

    def __init__(
        self,
        sites: Sequence[Site],
        *,
        rank: int = 32,
        alpha: float = 32.0,
        cross: float = 1.0,
        source: str | None = None,
        at: str | Sequence[int] = "all",
    ) -> None:
        super().__init__(sites)
        need_positive(rank=rank)
        present = set().union(*(site.widths for site in sites))
        if source is not None and source not in present:
            raise ConfigError(
                f"peft.source={source}: the backbone has {', '.join(sorted(present))}; null lets all inform"
            )
        self.scale, self.cross = alpha / rank, cross
        self.shared = nn.ModuleDict(
            {sites[i].label: _Shared(sites[i], rank, source) for i in sorted(chosen(sites, at))}
        )

    def forward(self, site: Site, streams: dict[str, Stream]) -> Adapted:
        """Deltas of every stream that is not memory."""
        if site.label not in self.shared:
            return Adapted({}, {})
        here = self.shared[site.label]
        z = {m: F.linear(streams[m].inp, here.A[m]) for m in here.A}
        deltas = {}
        for m, sources in here.sources.items():
            h = z[m]
            for n in sources:
                h = h + self.cross * attend(z[m], z[n], streams[n].keep, scale=None)
            deltas[m] = self.scale * F.linear(h, here.B[str(site.widths[m])])
        return Adapted(deltas, {})
