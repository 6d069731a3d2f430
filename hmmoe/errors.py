"""Errors that the user can set right: shown as a short message without a traceback, exit code 2."""


class UserError(ValueError):
    """Says what was expected, what was found and which setting to change."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or at odds with another one."""


class DataError(UserError):
    """A dataset that is missing, incomplete or not laid out as published."""


class CheckpointError(UserError):
    """A checkpoint that does not belong to this backbone, method or data."""
