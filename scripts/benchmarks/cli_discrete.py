"""Benchmarks of the experiments on sets and on graph colourings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.scripts._options import checked_seed
from graphcnf.scripts.benchmarks.options import Csv, Out, Places

Json = Annotated[bool, typer.Option("--json", help="JSON instead of Markdown.")]


def sets(
    places: Places,
    as_csv: Csv = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Print the table of the set experiments from finished runs, beside the published figures."""
    from graphcnf.scripts._output import table_kind, write_table
    from graphcnf.scripts.benchmarks.discrete import set_rows
    from graphcnf.scripts.benchmarks.runs import find_runs

    kind = table_kind(out, as_csv, as_json)
    write_table(kind, out, *set_rows(find_runs(places)))


def coloring(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|DIR", help="Runs, or folders with colouring models."),
    ],
    graphs: Annotated[
        int, typer.Option("--graphs", "-n", min=1, help="Held-out graphs to colour.")
    ] = 2000,
    seed: Annotated[int, typer.Option(callback=checked_seed, help="Of the samples.")] = 0,
    png: Annotated[Path | None, typer.Option(help="Picture of sampled colourings.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    as_csv: Csv = False,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Colour held-out graphs with trained models, and count the colourings without a conflict."""
    from graphcnf.pretrained import check_device
    from graphcnf.scripts._output import check_picture, table_kind, write_table

    kind = table_kind(out, as_csv, as_json)
    check_picture(png, "--png")
    check_device(device)
    import torch

    from graphcnf.scripts.benchmarks.discrete import COLORING_COLUMNS, coloring_rows
    from graphcnf.scripts.figures.colorings import draw_colorings

    used = torch.get_num_threads()
    rows, samples = coloring_rows(places, graphs=graphs, seed=seed, device=device)
    notes = [
        f"One colouring each of {graphs:,} held-out graphs, seed {seed}, temperature 1. Bits are "
        "upper bounds; those of the data are their entropy under the search that drew them, the "
        "fewest that a model can reach.",
        "One node at a time: always a node with the most colours around it (DSATUR), which is also "
        "how the colourings of the data were searched for. The order alone takes a free colour at "
        "random; what a model is better than that, it has learned.",
        f"Seconds: median over batches of 128 graphs on {device}"
        + (f", {used} thread{'s' if used > 1 else ''}" if device == "cpu" else "")
        + ". Published figures are quoted (Lippe & Gavves 2021, arXiv 2006.09790): other random "
        "graphs of the same kind, colourings of another solver, a GPU.",
    ]
    write_table(kind, out, rows, COLORING_COLUMNS, notes)
    if png is not None:
        draw_colorings(samples, png)
