"""The `graphcnf stereoisomers` command: the stereoisomers of a molecule, most probable first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.messages import say
from graphcnf.scripts import _options as options
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts._output import check_target, output_kind, rows_kind, write_table

DRAWN = 30
"""Largest number of isomers in a picture."""


def stereoisomers(
    molecule: Annotated[str, typer.Argument(metavar="SMILES", help="The molecule.")],
    number: Annotated[
        int | None, option("Isomers to write.", "-n", "--number", min=1, show_default="all")
    ] = None,
    model: Annotated[
        str,
        option("Shipped weights of stereo, or a folder with a model.", metavar="NAME|DIR"),
        Role.MODEL,
    ] = "zinc250k-stereo",
    out: options.RowsOut = None,
    force: options.Force = False,
    as_json: options.RowsJson = False,
    picture: Annotated[
        Path | None,
        option(f"Also draw the first {DRAWN} with wedges: .png or .svg."),
        Role.OUTPUT,
    ] = None,
) -> None:
    """List the fully marked stereoisomers of a molecule, most probable first.

    All isomers keep the stereo marks of the SMILES. Probabilities are given the graph and these
    marks, and sum to 1 over the fully marked isomers.
    """
    kind = rows_kind(out, as_json)
    check_target(out, kind, force)
    output_kind(picture, ("png", "svg"), "--picture")

    from graphcnf.pretrained import load_model, model_folder
    from graphcnf.stereo.stereo_flow import StereoFlow

    flow = load_model(StereoFlow, model_folder(model, shipped=True))
    found = flow.isomers(molecule)
    options.say_deviations([molecule], None, marked=True)
    write_table(kind, out, found[:number].to_dict("records"))
    if picture is not None:
        from graphcnf.chemistry.drawing import draw_grid

        shown = found[: min(number or DRAWN, DRAWN)]
        draw_grid(list(shown.smiles), picture, [f"{p:.1%}" for p in shown.probability])
    rest = f", {number:,} of them written" if number and number < len(found) else ""
    say(f"{len(found):,} stereoisomers{rest}")
