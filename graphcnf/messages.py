"""Lines for people: what is printed on stderr, numbers with their nouns, exceptions in one line."""

from __future__ import annotations

import re
import sys
from contextlib import suppress

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Replace control characters other than tab and line feed by Python escapes.

    Direction marks, zero-width characters and lone surrogates are replaced, too: files, models and
    scores from others may contain them.
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


LONGEST_REASON = 300
"""Characters of an exception's message that are shown."""


def described(error: BaseException) -> str:
    """Return class and message of an exception in one line, also if it cannot be turned to text."""
    try:
        message = " ".join(str(error).split())[:LONGEST_REASON]
    except BaseException:  # of the exception's own `__str__`
        message = "its message cannot be shown"
    return ": ".join(filter(None, [type(error).__name__, message]))


def say(line: str) -> None:
    """Print a `printable` line on stderr; do nothing if stderr is closed."""
    with suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, as in "1 atom" and "2 atoms"; the noun is the singular."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
