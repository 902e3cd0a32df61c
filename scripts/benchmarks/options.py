"""Options that several benchmarks have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphcnf.scripts._options import checked_minutes, checked_seed

Html = Annotated[
    Path | None,
    typer.Option(help="Also a page with the table, curves of training and samples."),
]
Csv = Annotated[bool, typer.Option("--csv", help="CSV instead of Markdown.")]
Out = Annotated[
    Path | None, typer.Option(help="File to write: .md, .csv or .json.", show_default="stdout")
]
Seeds = Annotated[str, typer.Option(metavar="S,S,...", help="Of training and sampling.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1 ...")]
Samples = Annotated[int, typer.Option("--samples", "-n", min=1, help="Samples to score.")]
Seed = Annotated[int, typer.Option(callback=checked_seed, help="Of the samples.")]
Minutes = Annotated[
    float, typer.Option(callback=checked_minutes, help="CPU minutes of one thread for each run.")
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Data to take held-out molecules from.",
        show_default="what it was trained on",
    ),
]
Places = Annotated[
    list[Path], typer.Argument(metavar="RUN|DIR", help="Runs, or folders that hold runs.")
]


def check_page(html: Path | None) -> None:
    """Raise, before the long work, what would keep a page from being written.

    Raises:
        typer.BadParameter: The file is no HTML.
        UserError: It has no folder to be in, or what makes the page is missing.
    """
    if html is None:
        return
    from graphcnf.evaluation.report import check_report
    from graphcnf.scripts._output import check_place, output_kind

    output_kind(html, ("html", "htm"), "--html")
    check_place(html)
    check_report()
