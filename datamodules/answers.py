"""Fixed lists of answers."""

from collections.abc import Sequence

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
