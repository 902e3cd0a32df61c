"""Lines for people: what is printed on stderr, and numbers with their nouns."""

from __future__ import annotations

import sys
from contextlib import suppress

from graphcnf.errors import printable


def say(line: str) -> None:
    """Print a `printable` line on stderr; do nothing if stderr is closed."""
    with suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, as in "1 atom" and "2 atoms"; the noun is the singular."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
