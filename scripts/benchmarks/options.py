"""Options that several benchmarks have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.scripts._sampling import checked_minutes, checked_seed

Csv = Annotated[bool, typer.Option("--csv", help="CSV instead of Markdown.")]
Out = Annotated[
    Path | None, typer.Option(help="File to write: .md, .txt or .csv.", show_default="stdout")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 ...")]
Samples = Annotated[int, typer.Option("--samples", "-n", min=1, help="Samples to score.")]
Seed = Annotated[int, typer.Option(callback=checked_seed, help="Of the samples.")]
Minutes = Annotated[
    float, typer.Option(callback=checked_minutes, help="CPU minutes of one thread for each run.")
]
Places = Annotated[
    list[Path], typer.Argument(metavar="RUN|DIR", help="Runs, or folders that hold runs.")
]
