"""The `graphcnf` command: its subcommands, exit codes and error messages.

A *subcommand*, such as `graphcnf generate`, is a function in a module of its own. An *app* is a
`typer.Typer` object, a group of subcommands such as `graphcnf images ...`.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

import typer

from graphcnf import __version__
from graphcnf.compute.signals import prompt_interrupts
from graphcnf.errors import UserError
from graphcnf.messages import described, say
from graphcnf.registry import Registry
from graphcnf.scripts._files import commands, guard, roles_of
from graphcnf.scripts._output import ReaderGone

app = typer.Typer(
    name="graphcnf",
    help="Generate molecular graphs with categorical normalizing flows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"graphcnf {__version__}")
        raise typer.Exit


@app.callback()
def _graphcnf(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


_COMMANDS = (
    "generate", "grow", "analogs", "interpolate", "optimize", "score", "stereoisomers", "evaluate",
    "train", "plot", "finetune", "merge", "push",
)  # fmt: skip
COMMANDS = Registry(
    "commands",
    {
        **{name: f"graphcnf.scripts.{name}:{name}" for name in _COMMANDS},
        "datasets": "graphcnf.scripts.datasets:app",
        "images": "graphcnf.scripts.images:app",
    },
)
"""Functions of the commands by name, and `Typer` objects of those that have commands of their own.

Their modules defer heavy imports until a command runs, so that --help is fast.
"""


def _add(name: str) -> None:
    """Add a command to `graphcnf`, or an app with commands of its own."""
    command = COMMANDS[name]
    is_app = isinstance(command, typer.Typer)
    if name not in COMMANDS.own:
        for one in [found.callback for found in commands(command)] if is_app else [command]:
            roles_of(one)
    if is_app:
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)


for _name in COMMANDS:
    try:
        _add(_name)
    except Exception as error:
        if _name in COMMANDS.own:
            raise
        say(f"warning: the command {_name!r} of another package is left out: {described(error)}")
guard(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the `graphcnf` command as the shell does, and exit the process.

    Args:
        arguments: The words after `graphcnf`, such as ["generate", "-n", "5"]; None for those of
            the process.

    Raises:
        SystemExit: Always, with the exit code, see `run`.
    """
    run(app, arguments)


def run(command: typer.Typer, arguments: list[str] | None = None, name: str = "graphcnf") -> None:
    """Run a command line, print an error as one line, and exit the process.

    Exit codes are 0 for success, 1 for a failure, 2 for wrong usage and 130 for an interruption, or
    those of a subcommand. If the environment variable GRAPHCNF_DEBUG is set, a failure shows its
    traceback instead.

    Args:
        command: The app with its subcommands.
        arguments: The words of the command line after the program's name; None for those of the
            process.
        name: Name of the program in messages.

    Raises:
        SystemExit: Always, with the exit code.
    """
    # Python has None for a closed stream, to which print() writes silently. In its place, a file
    # open for reading raises an error.
    sys.stderr = sys.stderr or open(os.devnull, "w")
    sys.stdout = sys.stdout or open(os.devnull)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may support ASCII only
            stream.reconfigure(errors="backslashreplace")
    try:
        words = sys.argv[1:] if arguments is None else arguments
        # As a path, an empty argument would be the current folder.
        if "" in words:
            which = f"argument after {words[words.index('') - 1]}" if words[0] else "first argument"
            raise typer.BadParameter(f"the {which} is empty: is a shell variable not set?")
        with prompt_interrupts():
            code = command(arguments, standalone_mode=False, prog_name=name)
        sys.stdout.flush()
    except (BrokenPipeError, ReaderGone):
        _abandon(sys.stdout)
        code = 0
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        # Errors of usage, of click's classes or typer's copies of them.
        if hasattr(error, "format_message"):
            code = _usage(error)
        elif os.environ.get("GRAPHCNF_DEBUG"):
            raise
        else:
            say(f"error: {_one_line(error)}")
            code = 1
        if isinstance(error, OSError):
            _abandon(sys.stdout)
    sys.exit(code if isinstance(code, int) else 0)


def _abandon(stream: TextIO) -> None:
    """Redirect a stream that fails to /dev/null, so that the flush at exit does not fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _usage(error) -> int:
    """Print an error of typer about wrong usage on one line."""
    context = getattr(error, "ctx", None)
    message = " ".join(error.format_message().split())
    # Pydantic's phrases are meant for programmers.
    message = message.replace("Value error, ", "").replace("Input should be", "must be")
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        say(f"error: {message}" + (f" (see {context.command_path} --help)" if context else ""))
    return error.exit_code


def _one_line(error: Exception) -> str:
    """Return the message for an error, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and not isinstance(error, UserError):
        # Errors of files have a file name, so this one is of a stream.
        return f"cannot write to standard output: {error.strerror or text}"
    if isinstance(error, MemoryError):
        return "not enough memory: take smaller batches, a smaller model or fewer molecules"
    if isinstance(error, UserError | ValueError) and text:
        return text
    if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("graphcnf."):
        return f"this needs {error.name}, which is not installed"
    if isinstance(error, ModuleNotFoundError):
        return f"the Python package {error.name!r} is missing: pip install {error.name}"
    return f"{type(error).__name__}: {text} (GRAPHCNF_DEBUG=1 shows where)"
