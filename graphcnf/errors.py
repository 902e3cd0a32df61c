"""Errors that are meant for the person at the command line."""

from __future__ import annotations

import difflib


class UserError(Exception):
    """Something the user can put right; the message is one line that names the cure.

    The `graphcnf` command prints it as ``error: ...`` and exits with status 1.
    """


def nearest(name: str, known: list[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known name, else the list of all names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
