"""Compare models with others: `python -m graphcnf.scripts.benchmarks`."""

from __future__ import annotations

import typer

from graphcnf.scripts.benchmarks.cli_discrete import coloring, sets
from graphcnf.scripts.benchmarks.cli_goals import constrained, guacamol, pmo
from graphcnf.scripts.benchmarks.cli_images import images
from graphcnf.scripts.benchmarks.cli_molecules import codes, fragments, properties, systems

app = typer.Typer(
    help="Benchmarks of GraphCNF models.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip


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
