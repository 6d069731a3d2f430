"""Holding out whole directories of a training set, so that no scene is on both sides."""

from collections.abc import Iterable, Sequence

from hmmoe.errors import ConfigError


def held_out(wanted: int | Sequence[str | int], names: Iterable[str]) -> set[str]:
    """The directories to hold out: how many, spread evenly, or which.

    Raises:
        ConfigError: none, all, or one that is not there.
    """
    present = sorted(set(names), key=lambda name: (len(name), name))
    if isinstance(wanted, int):
        if not 0 < wanted < len(present):
            raise ConfigError(f"data.val_directories={wanted}: expected 1 to {len(present) - 1} of {len(present)}")
        return {present[i * len(present) // wanted] for i in range(wanted)}
    chosen = {str(name) for name in wanted}
    if strangers := sorted(chosen - set(present)):
        raise ConfigError(f"data.val_directories names {', '.join(strangers)}, not in train.json")
    if not chosen or len(chosen) == len(present):
        raise ConfigError(
            f"data.val_directories holds out {len(chosen)} of {len(present)} directories: leave some for both sides"
        )
    return chosen
