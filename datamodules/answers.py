"""Fixed lists of answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hmmoe.errors import ConfigError


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


def check_parts(parts: Mapping[str, Sequence[str]] | None, kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parts of a score by name, each the kinds of questions that it averages over.

    Raises:
        ConfigError: a kind that there is not.
    """
    if strangers := sorted({kind for own in (parts or {}).values() for kind in own} - set(kinds)):
        raise ConfigError(f"data.parts names {', '.join(strangers)}; the kinds are {', '.join(kinds)}")
    return {name: tuple(own) for name, own in (parts or {}).items()}


def most_frequent(answers: Iterable[str], size: int, source: str) -> list[str]:
    """The ``size`` most frequent answers, the more frequent first; of equals the one that appeared first.

    Raises:
        ConfigError: there are not so many.
    """
    counts = Counter(answers)
    if len(counts) < size:
        check_size(list(counts), size, source)
    return [answer for answer, _ in counts.most_common(size)]
