"""What a method for parameter-efficient fine-tuning must offer."""

from collections.abc import Sequence

from torch import nn

from hmmoe.errors import ConfigError
from hmmoe.types import Adapted, Site, Stream


class Peft(nn.Module):
    """Built from the backbone's sites; adds deltas at sites, changes the backbone's weights, or both.

    A fresh method is the identity, through exactly one zero factor on every path.

    Args:
        sites: where the backbone stands open.
        balance_weight: price of uneven routing in the loss; ignored by methods without routing.
    """

    advice = "choose other targets or sites for this peft method"
    """What to do where a part of the method turns out to be dead."""

    def __init__(self, sites: Sequence[Site], *, balance_weight: float = 0.0) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.balance_weight = balance_weight

    def prepare(self, backbone: nn.Module) -> None:
        """Inject into or unfreeze parts of the backbone; most methods leave it alone."""

    def forward(self, site: Site, streams: dict[str, Stream]) -> Adapted:
        """Deltas and routing at a site; both empty where the method is silent."""
        return Adapted({}, {})


def chosen(sites: Sequence[Site], pick: str | Sequence[int]) -> frozenset[int]:
    """Site indices from "all", [first, last] as "2-5", or a list.

    Raises:
        ConfigError: a site that does not exist.
    """
    if pick == "all":
        return frozenset(range(len(sites)))
    if isinstance(pick, str):
        first, _, last = pick.partition("-")
        if not (first.isdigit() and last.isdigit()):
            raise ConfigError(f'peft.at must be all, a range like "2-5" or a list of indices, not {pick!r}')
        pick = range(int(first), int(last) + 1)
    picked = frozenset(pick)
    if not picked or not picked <= frozenset(range(len(sites))):
        raise ConfigError(f"peft.at={sorted(picked)}: the backbone has sites 0..{len(sites) - 1}")
    return picked
