"""Errors that users see, and parts of their messages.

`UserError` is for wrong input of a user: in a command, a file, or an argument of a public method.
`ValueError` is for values that do not fit: arrays and objects, which is a mistake in the code that
calls, or data of which a figure cannot be computed (`Unavailable`).
"""

from __future__ import annotations

import difflib
import importlib.util


class UserError(Exception):
    """A mistake that the user can correct; the message is one line that says how.

    It says what was given and what would be right. The `graphcnf` command prints it as
    `error: ...` and exits with status 1.
    """


class Unavailable(ValueError):
    """A figure of a table that cannot be computed; the message is one line that says why.

    The code that makes the table leaves this figure out, says why, and goes on with the others.
    """


def require(package: str, what: str, extra: str) -> None:
    """Check that an optional package is installed, of an extra of graphcnf such as "train"."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs the package {package}: pip install 'graphcnf[{extra}]'")


def with_article(noun: str) -> str:
    """Return a noun with "a" or "an", such as "an int" or "an ndarray"."""
    return f"{'an' if noun[0] in 'aeioAEIO' or noun.startswith(('nd', 'nx')) else 'a'} {noun}"


def type_of(value: object) -> str:
    """Return what type of value was given, for a message: "an int", "a str" or "None"."""
    return "None" if value is None else with_article(type(value).__name__)


def suggest(name: str, known: list[str]) -> str:
    """Return the end of a message about an unknown name: the closest one, or all known names.

    Examples:
        >>> suggest("pathh", ["path", "pairs"]), suggest("x", ["path", "pairs"])
        ("; did you mean 'path'?", '; known: pairs, path')
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
