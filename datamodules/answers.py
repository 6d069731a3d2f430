"""Fixed lists of answers."""

from collections import Counter
from collections.abc import Iterable, Sequence

from hmmoe.errors import ConfigError

OUTSIDE = -1
"""Label of an answer that is not in the list: never right."""


def check_size(answers: Sequence[str], expected: int, source: str) -> None:
    """Refuse a list of another length than the head was made for.

    Raises:
        ConfigError: names both numbers.
    """
    if len(answers) != expected:
        raise ConfigError(
            f"data.answers={expected}, but {source} gives {len(answers)}: fetch the published files again, or set "
            f"data.answers={len(answers)} if these are the ones you mean"
        )


def most_frequent(answers: Iterable[str], size: int, source: str) -> list[str]:
    """The ``size`` most frequent answers, the more frequent first; of equals the one that appeared first.

    Raises:
        ConfigError: there are not so many.
    """
    counts = Counter(answers)
    if len(counts) < size:
        check_size(list(counts), size, source)
    return [answer for answer, _ in counts.most_common(size)]
