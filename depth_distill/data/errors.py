"""The one exception of this package's data code: its message is meant to be shown to a person as it is."""


class DataError(ValueError):
    """Bad input data. The message names the file (or manifest line), what was expected, and the cure."""
