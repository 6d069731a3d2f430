"""Errors that the user can set right: shown as a short message without a traceback, exit code 2."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")


class UserError(ValueError):
    """Says what was expected, what was found and which setting to change."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or at odds with another one."""


class DataError(UserError):
    """A dataset that is missing, incomplete or not laid out as published."""


class DataMissing(DataError, FileNotFoundError):
    """A dataset or one of its files is not where the configuration says."""


class DataBroken(DataError):
    """A file is there and does not hold what its format promises."""


class CheckpointError(UserError):
    """A checkpoint that does not belong to this backbone, method or data."""


class WeightsMissing(UserError, FileNotFoundError):
    """A backbone's weights are not where the configuration says."""


class OutOfMemory(UserError):
    """The device or the machine has not enough memory for these sizes."""


class DiskFull(UserError, OSError):
    """No room for what a run writes."""


class Diverged(UserError):
    """The loss or the score that chooses is no number any more."""


class JobsFailed(RuntimeError):
    """Jobs of a sweep that have no result, each with its error; exit code 1."""


def answered(main: Callable[P, int]) -> Callable[P, int]:
    """A command's ``main`` that says a ``UserError`` on stderr and returns 2 for it."""

    @wraps(main)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return guarded
