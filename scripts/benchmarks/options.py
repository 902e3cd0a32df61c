"""Options, published figures and output of the benchmarks."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphcnf.compute.files import write_file
from graphcnf.errors import require
from graphcnf.evaluation.formats import Column, Row
from graphcnf.scripts._options import checked_minutes, checked_seed
from graphcnf.scripts._output import check_place, output_kind, table_kind, write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent


def _checked_table(out: Path | None) -> Path | None:
    """Raise before the long work where no table can be written to the file."""
    table_kind(out, False, False)
    return out


Model = Annotated[str, typer.Option(metavar="NAME|DIR", help="Shipped weights, or a run.")]
Samples = Annotated[int, typer.Option("--samples", "-n", min=1, help="Samples to score.")]
Seed = Annotated[int, typer.Option(callback=checked_seed, help="Seed of everything random.")]
Seeds = Annotated[str, typer.Option(metavar="S,S,...", help="Seeds of training and sampling.")]
Minutes = Annotated[
    float, typer.Option(callback=checked_minutes, help="CPU minutes of one thread for each run.")
]
Folder = Annotated[
    Path, typer.Option(help="Folder of the runs: finished ones count, others are continued.")
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE", help="Data with held-out molecules.", show_default="the model's own"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        callback=_checked_table, help="File to write: .md, .csv or .json.", show_default="stdout"
    ),
]


def published(table: str, /, **where: str | float) -> list[dict[str, Any]]:
    """Return rows of `published/TABLE.csv`: figures as their authors report them.

    Numbers are floats; a row lacks the columns whose cell is empty. Methods are marked as
    published.

    Args:
        table: Name of the file.
        **where: Values of columns that the rows have.
    """
    with open(HERE / "published" / f"{table}.csv", newline="", encoding="utf-8") as file:
        rows = [{k: _number(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return [
        {**row, "method": f"{row['method']} (published)"}
        for row in rows
        if where.items() <= row.items()
    ]


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def write(
    out: Path | None, rows: Sequence[Row], columns: Sequence[Column], notes: Sequence[str]
) -> None:
    """Write a table to stdout as Markdown, or to a file in the format of its name."""
    write_table(table_kind(out, False, False), out, rows, columns, notes)


def check_picture(path: Path | None, option: str) -> None:
    """Raise, before the long work, what would keep a figure from being written.

    Raises:
        typer.BadParameter: The file is no PNG.
        UserError: It has no folder to be in, or matplotlib is missing.
    """
    if path is None:
        return
    output_kind(path, ("png",), option)
    check_place(path)
    require("matplotlib", "a figure", "train")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure of matplotlib as PNG.

    Raises:
        UserError: The file cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_file(path, buffer.getvalue())
