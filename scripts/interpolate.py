"""The `interpolate` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.scripts.generation import options


def interpolate(
    first: Annotated[str, typer.Argument(metavar="A", help="SMILES of the first molecule.")],
    last: Annotated[str, typer.Argument(metavar="B", help="SMILES of the last molecule.")],
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps from A to B.")] = 10,
    paths: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            help="Paths with other random latents that are compared; the smoothest is taken.",
        ),
    ] = 32,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .csv, .json, or .smi for the molecules alone.",
            show_default="stdout",
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png|.svg", help="Also draw the molecules.", show_default="none"),
    ] = None,
    model: options.Model = "zinc250k",
    seed: options.Seed = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """A path between two molecules through the latents of the flow.

    The columns are t from 0 to 1, the SMILES, its similarity to A and to B (Tanimoto, ECFP4) and
    its log-likelihood in nats.
    """
    from graphcnf.evaluation.formats import csv_text, json_text
    from graphcnf.scripts._output import check_place, output_kind
    from graphcnf.scripts._sampling import load_model, observations, tell
    from graphcnf.scripts._tables import write_text

    kind = output_kind(out, ("csv", "json", "smi")) or "csv"
    check_place(out)
    output_kind(picture, ("png", "svg"), "--picture")
    check_place(picture)

    import math

    from graphcnf.molecules.drawing import draw_grid
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.molecules.interpolation import interpolate as path_between

    flow = MoleculeFlow(load_model(model, device))
    tell(observations([first, last], None), 2)
    path = path_between(flow, first, last, steps=steps, paths=paths, seed=seed)
    there = [point.smiles for point in path if point.smiles is not None]
    nats = dict(zip(there, flow.log_prob(there).tolist(), strict=True))
    rows = []
    for point in path:
        value = nats.get(point.smiles, math.nan)
        a, b = (round(s, 4) for s in point.similarities)
        likelihood = round(value, 4) if math.isfinite(value) else None
        rows.append(
            {"t": round(point.t, 6), "smiles": point.smiles, "similarity_a": a, "similarity_b": b,
             "log_likelihood": likelihood}
        )  # fmt: skip
    if kind == "smi":
        text = "".join(f"{smiles}\n" for smiles in there)
    else:
        text = csv_text(rows) if kind == "csv" else json_text(rows)
    write_text(text, out)
    if picture is not None:
        # A molecule that stays is drawn once.
        shown = [
            (row["smiles"], f"{row['t']:.2g}")
            for k, row in enumerate(rows)
            if row["smiles"] and (not k or rows[k - 1]["smiles"] != row["smiles"])
        ]
        smiles, legends = zip(*shown, strict=True)
        draw_grid(smiles, picture, legends=legends)
