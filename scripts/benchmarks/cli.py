"""Compare models with others, measure speed: `python -m graphcnf.scripts.benchmarks`."""

from __future__ import annotations

from typing import Annotated

import typer

from graphcnf.scripts.benchmarks.cli_discrete import coloring, sets
from graphcnf.scripts.benchmarks.cli_goals import constrained, guacamol, pmo
from graphcnf.scripts.benchmarks.cli_images import images
from graphcnf.scripts.benchmarks.cli_molecules import codes, fragments, properties, systems
from graphcnf.scripts.benchmarks.options import Csv, Device, Out, Reference

app = typer.Typer(
    help="Benchmarks of GraphCNF models.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip


@app.command()
def speed(
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="Model to measure: its name, or a run.")
    ] = "zinc250k",
    reference: Reference = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Molecules per training step.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Of either; the medians count.")] = 5,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train under bfloat16 autocast.")] = False,
    device: Device = "cpu",
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Measure how fast one process trains a model and samples from it."""
    from graphcnf.scripts._tables import table_kind, write_table

    kind = table_kind(out, as_csv, False)
    from graphcnf.scripts.benchmarks.speed import COLUMNS, measure, notes

    how = {"batch_size": batch_size, "repeats": repeats, "bf16": bf16}
    row = measure(model, reference, **how, device=device)
    write_table(kind, out, [row], COLUMNS, notes(**how))


for _command in (
    codes,
    fragments,
    properties,
    systems,
    images,
    sets,
    coloring,
    pmo,
    guacamol,
    constrained,
):
    app.command()(_command)
