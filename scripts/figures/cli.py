"""Figures that explain the methods: `python -m graphcnf.scripts.figures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.scripts._options import checked_seed

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _figures() -> None:
    """Draw figures that explain the methods."""


@app.command()
def latents(
    out: Annotated[Path, typer.Option(help="Picture to write, .png.")] = Path("latents.png"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each encoding.")] = 400,
    seed: Annotated[
        int, typer.Option(callback=checked_seed, help="Of training and of what is drawn at random.")
    ] = 0,
    width: Annotated[
        int, typer.Option(min=300, max=6000, help="Of the picture, in pixels.")
    ] = 1200,
) -> None:
    """Draw the volumes of two latents that each encoding gives the atom types of ZINC250k.

    A small flow of single atoms is trained for each encoding, which takes about half a minute.
    """
    from graphcnf.scripts._output import check_picture

    check_picture(out, "--out")
    from graphcnf.scripts._output import write_figure
    from graphcnf.scripts.figures.latents import atom_types, learn
    from graphcnf.scripts.figures.volumes import draw_latents

    write_figure(draw_latents(learn(atom_types(), steps=steps, seed=seed), width), out)
