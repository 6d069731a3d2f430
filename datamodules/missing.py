"""What to do about annotated examples whose media are not on disk."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from hmmoe.errors import ConfigError, DataMissing

T = TypeVar("T")
Policy = Literal["refuse", "drop"]

log = logging.getLogger(__name__)


def check_policy(policy: str) -> None:
    """Refuse an unknown value of ``data.missing``."""
    if policy not in ("refuse", "drop"):
        raise ConfigError(f"data.missing={policy}: expected refuse or drop")


def accept(examples: Sequence[T], media: Callable[[T], Path | None], *, policy: Policy, split: str) -> list[T]:
    """The examples that are whole.

    Args:
        examples: of the split.
        media: the first file that an example lacks, None if it has all.
        policy: "refuse" lets nothing be missing; "drop" leaves examples out, as long as one is left.
        split: its name, for the message.

    Raises:
        DataMissing: counts the examples and names the first file.
    """
    lacking = [media(example) for example in examples]
    absent = [path for path in lacking if path is not None]
    if not absent:
        return list(examples)
    report = f"{len(absent)} of {len(examples)} examples of {split} lack a file, the first is {min(absent)}"
    if policy == "refuse" or len(absent) == len(examples):
        raise DataMissing(f"{report}: complete the files, or set data.missing=drop to score only what is there")
    log.warning("%s: data.missing=drop leaves %d", report, len(examples) - len(absent))
    return [example for example, path in zip(examples, lacking, strict=True) if path is None]
