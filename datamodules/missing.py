"""What to do about annotated examples whose media are not on disk: one policy for all datasets."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

from hmmoe.errors import ConfigError, DataMissing

T = TypeVar("T")
Policy = Literal["refuse", "drop", "zero"]
POLICIES = ("refuse", "drop", "zero")

log = logging.getLogger(__name__)


class Accepted(NamedTuple, Generic[T]):
    """The examples of a split that are used, and how many of its annotated ones lacked a file."""

    kept: list[T]
    dropped: int = 0
    zeroed: int = 0


def check_policy(policy: str) -> None:
    """Refuse an unknown value of ``data.missing``."""
    if policy not in POLICIES:
        raise ConfigError(f"data.missing={policy}: expected refuse, drop or zero")


def accept(
    examples: Sequence[T], media: Callable[[T], Path | None], *, policy: Policy, split: str, target: bool = False
) -> Accepted[T]:
    """The examples to use.

    Args:
        examples: of the split.
        media: the first file that an example lacks, None if it has all.
        policy: "refuse" lets nothing be missing; "drop" leaves examples out, as long as one is left; "zero" keeps them,
            their missing media being zeros with a ``keep`` of False.
        split: its name, for the message.
        target: the files hold what is to be predicted, which nothing can stand in for: "zero" refuses them.

    Raises:
        DataMissing: counts the examples and names the first file.
    """
    lacking = [media(example) for example in examples]
    absent = [path for path in lacking if path is not None]
    if not absent:
        return Accepted(list(examples))
    report = f"{len(absent)} of {len(examples)} examples of {split} lack a file, the first is {min(absent)}"
    if policy == "zero" and target:
        raise DataMissing(f"{report}: data.missing=zero stands in for no target; complete the files, or set drop")
    if policy == "refuse" or len(absent) == len(examples):
        raise DataMissing(
            f"{report}: complete the files, or set data.missing=drop to score only what is there, or zero to score all "
            "with zeros in their place (at least one example must be whole)"
        )
    if policy == "zero":
        log.warning("%s: data.missing=zero gives zeros for them", report)
        return Accepted(list(examples), zeroed=len(absent))
    log.warning("%s: data.missing=drop leaves %d", report, len(examples) - len(absent))
    whole = [example for example, path in zip(examples, lacking, strict=True) if path is None]
    return Accepted(whole, dropped=len(absent))
