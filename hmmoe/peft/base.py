"""What a method for parameter-efficient fine-tuning must offer."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from hmmoe.errors import ConfigError
from hmmoe.losses.balance import load_balance
from hmmoe.peft.hf_format import Stored
from hmmoe.types import Adapted, Routing, Site, Stream


class Size(NamedTuple):
    """A key that sets how much a method trains, dotted below ``peft``; ``divides`` if it must divide the widths."""

    key: str
    divides: bool = False


class Peft(nn.Module):
    """Built from the backbone's sites; adds deltas at sites, changes the backbone's weights, or both.

    A fresh method is the identity, through exactly one zero factor on every path.

    Args:
        sites: where the backbone stands open.
        balance_weight: price of uneven routing in the loss; ignored by methods without routing.
    """

    advice = "choose other targets or sites for this peft method"
    """What to do where a part of the method turns out to be dead."""

    sizes: ClassVar[tuple[Size, ...]] = ()
    """What ``peft.budget`` may set: the first of these keys that is in the configuration."""

    def __init__(self, sites: Sequence[Site], *, balance_weight: float = 0.0) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.balance_weight = balance_weight

    def prepare(self, backbone: nn.Module) -> None:
        """Inject into or unfreeze parts of the backbone; most methods leave it alone."""

    def forward(self, site: Site, streams: dict[str, Stream]) -> Adapted:
        """Deltas and routing at a site; both empty where the method is silent."""
        return Adapted({}, {})

    def begin(self, steps: int) -> None:
        """Training will take so many optimizer steps."""

    def balance(self, routing: Mapping[tuple[str, str], Routing]) -> Tensor:
        """Price of uneven routing, a scalar; joins the task's loss times ``balance_weight``."""
        return load_balance(routing)

    def penalty(self) -> Tensor | None:
        """What the method adds to the task's loss, a scalar, its weight included."""
        return None

    def after_step(self, step: int) -> None:
        """The optimizer has made its step-th step, counted from 1; gradients are still there."""

    def schedule(self) -> dict[str, Any]:
        """What ``begin`` and ``after_step`` keep between steps and a resumed run needs, in plain containers."""
        return {}

    def resume(self, schedule: dict[str, Any]) -> None:
        """Go on with what ``schedule`` gave."""

    def merge(self, backbone: nn.Module) -> None:
        """Fold what was learned into the backbone's own weights; afterwards nothing of the method is left.

        Raises:
            ConfigError: no weight can take it over.
        """
        raise ConfigError(
            f"{type(self).__name__} computes beside the FFN from what flows there, and no weight of the backbone can "
            "take that over: merge the LoRA family only (docs/post_training.md)"
        )

    def stored(self, backbone: nn.Module, prefix: str) -> Stored | None:
        """The method in HF peft's format, for the library model below ``prefix``; None where it touches nothing there.

        Raises:
            ConfigError: HF peft has no such method.
        """
        raise ConfigError(f"HF peft has no format for {type(self).__name__}: export the LoRA family only")

    def take(self, backbone: nn.Module, prefix: str, stored: Stored) -> None:
        """Fill the method below ``prefix`` with what HF peft's format holds.

        Raises:
            ConfigError: HF peft has no such method.
            CheckpointError: it was made for another method, size or set of layers.
        """
        raise ConfigError(f"HF peft has no format for {type(self).__name__}: import into the LoRA family only")


def chosen(sites: Sequence[Site], pick: str | Sequence[int]) -> frozenset[int]:
    """Site indices from a word that fits every host, [first, last] as "2-5", or a list.

    "all"; the "lower" or the "upper" half, "lower" with the middle one; "alternate", every second up to the last.

    Raises:
        ConfigError: a site that does not exist.
    """
    indices, middle = range(len(sites)), (len(sites) + 1) // 2
    words = {"all": indices, "lower": indices[:middle], "upper": indices[middle:], "alternate": indices[::-2]}
    if isinstance(pick, str) and pick in words:
        pick = words[pick]
    elif isinstance(pick, str):
        first, _, last = pick.partition("-")
        if not (first.isdigit() and last.isdigit()):
            known = ", ".join(words)
            raise ConfigError(f'peft.at must be one of {known}, a range like "2-5" or a list of indices, not {pick!r}')
        pick = range(int(first), int(last) + 1)
    picked = frozenset(pick)
    if not picked or not picked <= frozenset(range(len(sites))):
        raise ConfigError(f"peft.at={sorted(picked)}: the backbone has sites 0..{len(sites) - 1}")
    return picked
