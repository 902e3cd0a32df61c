"""Errors that are meant for the person at the command line."""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from contextlib import suppress
from typing import Any


class UserError(Exception):
    """Something the user can put right; the message is one line that names the cure.

    The `graphcnf` command prints it as ``error: ...`` and exits with status 1.
    """


class Unavailable(ValueError):
    """A figure cannot be computed; the message says why in one line."""


def require(package: str, what: str, extra: str) -> None:
    """Raise `UserError` unless `what` finds the package that graphcnf's extra brings."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs the package {package}: pip install 'graphcnf[{extra}]'")


def suggest(name: str, known: list[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known name, else the list of all names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return text with control characters, but tab and line feed, as Python escapes.

    So are marks of direction and of no width, and halves of surrogate pairs: files, models and
    scores of others may hold them.
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_cell(value: Any) -> Any:
    """Return a value as a cell that no spreadsheet runs: formulas get an apostrophe before them."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    return value if _NUMBER.fullmatch(value) else f"'{value}"


def say(line: str) -> None:
    """Print a `printable` line on stderr, where that still takes one."""
    with suppress(OSError, ValueError):
        print(printable(line), file=sys.stderr, flush=True)


def counted(count: int, noun: str) -> str:
    """Return the number with its noun, as in "1 atom" and "2 atoms"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
