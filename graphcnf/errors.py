"""Errors and messages.

`UserError`: wrong input of a user, in a command, a file, or an argument of a public method.
`ValueError`: arrays and objects that do not fit, a mistake in the code that calls.
"""

from __future__ import annotations

import difflib
import importlib.util


class UserError(Exception):
    """A mistake that the user can correct; the message is one line that says how.

    The `graphcnf` command prints it as ``error: ...`` and exits with status 1.
    """


class Unavailable(ValueError):
    """A figure that cannot be computed; the message is one line that says why."""


def require(package: str, what: str, extra: str) -> None:
    """Raise `UserError` unless a package is installed.

    Args:
        package: Import name of the package.
        what: What needs it, for the message, such as "a plot".
        extra: Extra of this package that installs it, such as "train".
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs the package {package}: pip install 'graphcnf[{extra}]'")


def suggest(name: str, known: list[str]) -> str:
    """Return the end of a message about an unknown name.

    Args:
        name: The unknown name.
        known: The known names.

    Returns:
        ``; did you mean 'x'?`` with the closest known name, or ``; known: a, b, c`` if none is
        close.
    """
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
