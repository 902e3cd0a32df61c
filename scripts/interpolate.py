"""The `graphcnf interpolate` command: a path of molecules from one molecule to another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from graphcnf.messages import say
from graphcnf.scripts import _options as options
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts._output import (
    PICTURES,
    output_kind,
    rows_kind,
    write_table,
    write_text,
)


@options.grouped
def interpolate(
    *,
    first: Annotated[str, typer.Argument(metavar="A", help="SMILES of the first molecule.")],
    last: Annotated[str, typer.Argument(metavar="B", help="SMILES of the last molecule.")],
    steps: Annotated[int, option("Steps from A to B.", min=1, max=1000)] = 10,
    paths: Annotated[
        int, option("Random paths to compare; the smoothest is taken.", min=1, max=1000)
    ] = 32,
    out: Annotated[
        Path | None,
        option("File to write: .csv, .jsonl, or .smi for the molecules.", show_default="stdout"),
        Role.OUTPUT,
    ] = None,
    as_json: options.RowsJson = False,
    picture: options.Picture = None,
    model: options.Model = "zinc250k",
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    stereo: options.Stereo = None,
    chosen: options.Filter,
) -> None:
    """Find a path between two molecules through the latents of the flow.

    Writes a table with a row for each step: t from 0 to 1, the SMILES, its similarity to A and to B
    (Tanimoto, ECFP4) and its log-likelihood in nats. Molecules that fail a filter are replaced by
    blanks.
    """
    kind = rows_kind(out, as_json, "smi")
    output_kind(picture, PICTURES, "--picture")

    from graphcnf.chemistry.drawing import draw_grid
    from graphcnf.chemistry.filters import passing_text
    from graphcnf.design.interpolation import interpolate as path_between
    from graphcnf.molecule_flow import MoleculeFlow

    flow, outcomes = MoleculeFlow(options.load_model(model, device)), Counter[str]()
    filters = chosen.filters(flow.model)
    marked = options.draws_stereo(flow.model, model, stereo)
    options.say_deviations([first, last], None, marked=marked)
    rows = path_between(
        flow,
        first,
        last,
        steps=steps,
        paths=paths,
        seed=seed,
        filters=filters,
        outcomes=outcomes,
        stereo=marked,
    )
    if filters:
        say(f"of the molecules on {paths:,} paths {passing_text(filters.checks, outcomes)}")
    if kind == "smi":
        write_text("".join(f"{row['smiles']}\n" for row in rows if row["smiles"]), out)
    else:
        write_table(kind, out, rows)
    if picture is not None:
        # Draw repeats of a molecule once.
        shown = [
            (row["smiles"], f"{row['t']:.2g}")
            for k, row in enumerate(rows)
            if row["smiles"] and (not k or rows[k - 1]["smiles"] != row["smiles"])
        ]
        smiles, legends = zip(*shown, strict=True)
        draw_grid(smiles, picture, legends=legends)
