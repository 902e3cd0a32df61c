"""Errors that are meant for the person at the command line."""

from __future__ import annotations

import difflib
import importlib.util


class UserError(Exception):
    """Something the user can put right; the message is one line that names the cure.

    The `graphcnf` command prints it as ``error: ...`` and exits with status 1.
    """


def require(package: str, what: str, extra: str) -> None:
    """Raise `UserError` unless a package is there.

    Args:
        package: Name that it is imported by.
        what: What needs it; the message begins with it.
        extra: That of graphcnf which brings it.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{what} needs the package {package}: pip install 'graphcnf[{extra}]'")


def suggest(name: str, known: list[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known name, else the list of all names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def counted(count: int, noun: str) -> str:
    """Return the number with its noun, as in "1 atom" and "2 atoms"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
