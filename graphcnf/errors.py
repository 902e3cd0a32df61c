"""Errors that are meant for the person at the command line."""


class UserError(Exception):
    """Something the user can put right; the message is one line that names the cure.

    The `graphcnf` command prints it as ``error: ...`` and exits with status 1.
    """
