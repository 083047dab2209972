"""What to choose instead of a name that does not exist, for error messages."""

import difflib
from collections.abc import Iterable

_MOST = 12  # names in a message


def did_you_mean(received: str, choices: Iterable[str]) -> str:
    """``"did you mean 'x'? expected one of a, b, x"``: the end of an error message about ``received``.

    There is no question if nothing is similar. Of more than 12 choices none is listed beside the question, and the 12
    most similar ones without it.
    """
    names = list(dict.fromkeys(choices))
    if not names:
        return "there are none"
    question = "".join(f"did you mean {name!r}? " for name in difflib.get_close_matches(received, names, n=1))
    if question and len(names) > _MOST:
        return question.rstrip()
    listed = names if len(names) <= _MOST else difflib.get_close_matches(received, names, n=_MOST, cutoff=0.0)
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{question}expected one of {', '.join(listed)}{more}"
