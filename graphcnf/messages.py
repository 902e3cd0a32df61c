"""Lines that people read: what is printed on stderr, numbers with their nouns, exceptions.

A message may contain text of others: names in files, messages of exceptions. It is printed in one
line, without characters that a terminal would obey.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Replace characters that a terminal would obey, or not show, by Python escapes.

    These are control characters but for tab and line feed, direction marks, zero-width characters
    and lone surrogates. Files, models and scores from others may contain them.

    Examples:
        >>> printable("red \x1b[31m")
        'red \\x1b[31m'
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


LONGEST_REASON = 300
"""Characters of an exception's message that are shown."""


def described(error: BaseException) -> str:
    """Return an exception as one line, such as "ValueError: no atoms", cut at 300 characters."""
    try:
        message = " ".join(str(error).split())[:LONGEST_REASON]
    except BaseException:  # of the exception's own `__str__`
        message = "its message cannot be shown"
    return ": ".join(filter(None, [type(error).__name__, message]))


def say(line: str) -> None:
    """Print a line for people on stderr, made `printable`; do nothing if stderr is closed."""
    with suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, as in "1 atom" and "2 atoms"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
