"""Errors caused by user input. The message is shown to the user unchanged, without a traceback.

It names the file, key or value received, what was expected, and the fix.
"""


class UserError(ValueError):
    """An error that the user has to fix, outside this package."""


class DataError(UserError):
    """Bad input data."""


class ConfigError(UserError):
    """A configuration that cannot work."""


class DivergedError(UserError):
    """A run whose numbers are not finite any more."""
