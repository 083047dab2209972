"""Errors caused by user input. The message is shown to the user unchanged, without a traceback.

It names the file, key or value received, what was expected, and the fix.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """An error that the user has to fix, outside this package."""


class DataError(UserError):
    """Bad input data."""


class ConfigError(UserError):
    """A configuration that cannot work."""


class DivergedError(UserError):
    """A run whose numbers are not finite any more."""


def user_error_in(error: BaseException | None) -> UserError | None:
    """The error of ours that another was raised from; None if there is none.

    Jsonargparse raises an error of its own from ours where it builds what a config names.
    """
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says anything; the name of its type if none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there is too little memory, of the machine or of a GPU."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def one_line(error: object, longest: int = 300) -> str:
    """The message of an error of another package as one line that is not endless."""
    text = " ".join(str(error).replace('in "<unicode string>", ', "").split())
    if not any(character.isalpha() for character in text):  # of a KeyError it is the key, of others nothing
        text = f"{type(error).__name__} {text}".rstrip()
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."


@contextmanager
def building(what: str) -> Iterator[None]:
    """Say in one line what cannot be built of the values that a config gives, and where that was found.

    Raises:
        UserError: the one in which an error of another package began.
        ConfigError: for all other errors.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # a class that a config names raises whatever it does
        cause = user_error_in(error)
        if cause is not None:
            raise cause from error
        if is_out_of_memory(error):
            raise
        first: BaseException = error
        while first.__cause__ is not None or first.__context__ is not None:
            first = first.__cause__ or first.__context__  # type: ignore[assignment]
        frame = traceback.extract_tb(first.__traceback__)[-1]
        place = f"{Path(frame.filename).name} line {frame.lineno}"
        raise ConfigError(
            f"{what} cannot be built: {type(first).__name__}: {one_line(first)} ({place}); check the values it is given"
        ) from error
