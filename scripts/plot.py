"""The `graphcnf plot` command: draws the training curves of a run, a folder of `graphcnf train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.file_reading import expand_user, inside
from graphcnf.messages import say
from graphcnf.scripts import _output as output
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option


def plot(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run of training."), Role.MODEL
    ],
    out: Annotated[
        Path | None, option("File: .svg or .png.", show_default="RUN/curves.svg"), Role.PLOT
    ] = None,
) -> None:
    """Draw the curves of a training, which may still be running: each metric over the steps."""
    output.output_kind(out, ("svg", "png"))
    from graphcnf.training.history import History

    run = expand_user(run)
    path = inside(run, "curves.svg") if out is None else expand_user(out)
    History.read(run).plot(path)
    say(f"curves in {path}")
