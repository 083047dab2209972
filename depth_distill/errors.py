"""What goes wrong by a person's doing. The message is meant to be shown to that person as it is, without a traceback.

It names the file, key or value received, what was expected, and the cure.
"""


class UserError(ValueError):
    """Something outside of this package has to change."""


class DataError(UserError):
    """Bad input data."""


class ConfigError(UserError):
    """A configuration that cannot work."""
