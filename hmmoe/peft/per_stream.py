"""What most methods at sites have in common: one part per site and stream that is updated."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from hmmoe.errors import ConfigError
from hmmoe.experts.kinds import ACTIVATIONS
from hmmoe.peft.base import Peft, chosen
from hmmoe.types import Adapted, Site, Stream

Build = Callable[[str, Mapping[str, int]], nn.Module | None]
"""(target modality, width by modality at the site) -> its part, which takes the site's streams and returns
(delta, Routing or None); None where there is nothing to build."""


class PerStream(Peft):
    """Parts by site and modality, never for memory.

    Args:
        sites: where the backbone stands open.
        build: makes a part.
        at: sites that get a part, see ``chosen``.
        balance_weight: see ``Peft``.

    Raises:
        ConfigError: nothing was built anywhere: the method needs modalities that meet.
    """

    def __init__(
        self, sites: Sequence[Site], build: Build, *, at: str | Sequence[int] = "all", balance_weight: float = 0.0
    ) -> None:
        super().__init__(sites, balance_weight=balance_weight)
        self.parts = nn.ModuleDict()
        for index in sorted(chosen(sites, at)):
            site = sites[index]
            made = {m: build(m, site.widths) for m in site.widths if m not in site.memory}
            made = {m: part for m, part in made.items() if part is not None}
            if made:
                self.parts[site.label] = nn.ModuleDict(made)
        if not self.parts:
            raise ConfigError(
                f"this method lets modalities inform each other, but none meet at the chosen sites (they hold "
                f"{sorted(set().union(*(site.widths for site in sites)))}): choose a backbone= with two or more, or a "
                "method for one, such as peft=parallel_adapter"
            )

    def forward(self, site: Site, streams: dict[str, Stream]) -> Adapted:
        """Deltas of all streams that have a part here, routing of those parts that route."""
        if site.label not in self.parts:
            return Adapted({}, {})
        results = {m: part(streams) for m, part in self.parts[site.label].items()}
        return Adapted(
            {m: delta for m, (delta, _) in results.items()},
            {m: routing for m, (_, routing) in results.items() if routing is not None},
        )


def need_positive(**sizes: int) -> None:
    """Every size must be at least 1.

    Raises:
        ConfigError: names the keys.
    """
    wrong = ", ".join(f"peft.{name}={size}" for name, size in sizes.items() if size < 1)
    if wrong:
        raise ConfigError(f"{wrong}: must be at least 1")


def need_activation(act: str) -> None:
    """It must be known by name.

    Raises:
        ConfigError: names those that are.
    """
    if act not in ACTIVATIONS:
        raise ConfigError(f"peft.act must be one of {', '.join(ACTIVATIONS)}, not {act!r}")
