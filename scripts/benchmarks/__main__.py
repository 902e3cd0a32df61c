"""Benchmarks beside published figures: `python -m graphcnf.scripts.benchmarks NAME`."""

import typer

from graphcnf.scripts._files import guard
from graphcnf.scripts.benchmarks.coloring import coloring
from graphcnf.scripts.benchmarks.columns import columns
from graphcnf.scripts.benchmarks.discrete import (
    digits,
    english_text,
    predictions,
    synthetic,
    tables,
)
from graphcnf.scripts.benchmarks.figures import figures
from graphcnf.scripts.benchmarks.graphs import graphs
from graphcnf.scripts.benchmarks.images import images
from graphcnf.scripts.benchmarks.moses import moses, zinc_fold
from graphcnf.scripts.benchmarks.optimization import constrained, guacamol, pmo
from graphcnf.scripts.benchmarks.reproduce import reproduce
from graphcnf.scripts.benchmarks.sequences import sequences
from graphcnf.scripts.benchmarks.stereo import isomers, stereo_bits
from graphcnf.scripts.benchmarks.systems import systems
from graphcnf.scripts.benchmarks.vectors import vectors
from graphcnf.scripts.benchmarks.weights import codes, fragments, properties
from graphcnf.scripts.cli import run

app = typer.Typer(
    help="Benchmarks of this package's models, beside published figures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _command in (
    codes,
    fragments,
    properties,
    columns,
    systems,
    images,
    coloring,
    graphs,
    pmo,
    guacamol,
    constrained,
    moses,
    zinc_fold,
    stereo_bits,
    isomers,
    synthetic,
    tables,
    predictions,
    digits,
    english_text,
    sequences,
    vectors,
    figures,
    reproduce,
):
    app.command(_command.__name__)(_command)
guard(app)

if __name__ == "__main__":
    run(app, name="python -m graphcnf.scripts.benchmarks")
