"""Synthesis routes of molecules, searched by a program of the user, such as AiZynthFinder.

Routes are searched after an optimisation, for its best molecules. A *route* is a series of
reactions from molecules in stock to the target molecule. The program has its own environment, so it
is run as a *command* (docs/routes.py shows a script for AiZynthFinder). The command reads SMILES
from standard input, one a line, and writes one line of JSON for each.

Results are stored in a journal in the folder of the optimisation (`graphcnf.optimization.oracle`).
So the command is asked once for each molecule, and a kill loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pandas as pd

from graphcnf.errors import UserError
from graphcnf.file_reading import inside
from graphcnf.limits import is_number
from graphcnf.messages import counted, printable
from graphcnf.optimization.oracle import Answer, Journal

ASKED = 100
"""Molecules for which routes are searched: the first ones of a table."""

COLUMNS = ("route_solved", "route_steps", "route_score")
"""Columns of routes in a table: whether there is a route, its number of reactions, its score."""

LONGEST_LINE = 1 << 20
"""Largest number of bytes of a line that the command writes."""


def check_command(command: str) -> list[str]:
    """Split a command into its program and its arguments, and check that the program exists.

    Quotes work as in a shell, but it is not run by one.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"routes: cannot read {command!r}: {error}") from None
    if not words or shutil.which(words[0]) is None:
        raise UserError(f"routes: there is no program {words[0] if words else ''!r}")
    return words


def routes_of(
    smiles: Sequence[str], command: str, folder: str | Path
) -> tuple[pd.DataFrame, str | None]:
    """Ask a command for synthesis routes of molecules.

    For each molecule the command writes a JSON object such as `{"smiles": "CCO", "solved": true,
    "steps": 2, "score": 0.9}`. Here `solved` says whether there is a route from molecules in stock,
    and `steps` is its number of reactions; `score` may be any number. `steps` and `score` may be
    null or left out. `smiles` is the text that was asked for.

    Args:
        folder: Folder of an optimisation. Molecules with a stored result of this command are not
            asked for again.

    Returns:
        A table and an error. The table has one row per molecule and the columns `route_solved`
        (bool), `route_steps` (int) and `route_score` (float), with None where a value is not known.
        The error says in one line why the command has failed; None if it has not.
    """
    words = check_command(command)
    own = inside(folder, f"routes-{hashlib.sha256(command.encode()).hexdigest()[:12]}")
    own.mkdir(exist_ok=True)
    error = None
    with closing(Journal(own, command)) as journal:
        answers = journal.read()
        if new := [text for text in dict.fromkeys(smiles) if text not in answers]:
            try:
                for answer in _asked(words, new):
                    answers[answer.smiles] = journal.add(answer)
            except UserError as failure:
                error = str(failure)
    return pd.DataFrame([_row(answers.get(text)) for text in smiles], columns=[*COLUMNS]), error


def _row(answer: Answer | None) -> tuple[bool | None, int | None, float | None]:
    """Return the cells of an answer in a table of routes."""
    if answer is None:
        return None, None, None
    values = answer.values
    steps = int(values["steps"]) if "steps" in values else None
    return bool(values["solved"]), steps, answer.score if "score" in values else None


def _asked(words: Sequence[str], smiles: Sequence[str]) -> Iterator[Answer]:
    """Run a command, and yield the answers as they come."""
    left = set(smiles)
    with TemporaryFile() as asked, TemporaryFile() as said:
        asked.write("".join(f"{text}\n" for text in smiles).encode())
        asked.seek(0)
        try:
            process = subprocess.Popen(words, stdin=asked, stdout=subprocess.PIPE, stderr=said)
        except OSError as error:
            raise UserError(f"routes: cannot run {words[0]}: {error.strerror}") from None
        assert process.stdout is not None
        try:
            while line := process.stdout.readline(LONGEST_LINE):
                if line.strip():
                    answer = _answer(line.decode(errors="replace"), left)
                    left.discard(answer.smiles)
                    yield answer
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        said.seek(0)
        last = deque((line for line in said if line.strip()), maxlen=1)
    if code:
        why = printable(last[0].decode(errors="replace").strip()) if last else "no message"
        raise UserError(f"routes: {words[0]} ended with exit code {code}: {why}")
    if left:
        raise UserError(
            f"routes: {words[0]} gave no answer for {counted(len(left), 'molecule')}, the first "
            f"{next(text for text in smiles if text in left)}"
        )


def _answer(line: str, asked: set[str]) -> Answer:
    """Read a line of a command."""
    shown = printable(line.strip())[:80]
    try:
        content: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"routes: an answer must be a JSON object, got {shown!r}") from None
    smiles = content.get("smiles") if isinstance(content, dict) else None
    if not isinstance(smiles, str) or smiles not in asked:
        raise UserError(f"routes: smiles must be one that was asked for, once, got {shown!r}")
    solved, steps, score = (content.get(name) for name in ("solved", "steps", "score"))
    if not isinstance(solved, bool):
        raise UserError(f"routes: solved must be true or false, got {shown!r}")
    values = {"solved": float(solved)}
    if steps is not None:
        if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps < 1000:
            raise UserError(f"routes: steps must be an integer >= 0, got {shown!r}")
        values["steps"] = float(steps)
    if score is not None:
        if not is_number(score) or not math.isfinite(score):
            raise UserError(f"routes: score must be a number, got {shown!r}")
        values["score"] = float(score)
    return Answer(smiles, values.get("score", 0.0), values)
