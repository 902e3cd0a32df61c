"""Where and how commands write their tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from graphcnf.evaluation.formats import Column, Row, csv_text, json_text, markdown
from graphcnf.scripts._output import check_place, open_output, output_kind


def table_kind(out: Path | None, as_csv: bool, as_json: bool, as_markdown: bool = False) -> str:
    """Say "md", "csv" or "json", as the flags or else the name of the file do.

    Raises:
        typer.BadParameter: They contradict each other, or the file has another suffix.
        UserError: The file has no folder to be in.
    """
    flags = {"csv": as_csv, "json": as_json, "markdown": as_markdown}
    given = [name for name, flag in flags.items() if flag]
    if len(given) > 1:
        raise typer.BadParameter(f"--{given[0]} and --{given[1]} exclude each other")
    flagged = given[0].replace("markdown", "md") if given else None
    named = output_kind(out, ("md", "txt", "csv", "json"))
    named = "md" if named == "txt" else named
    if flagged and named and flagged != named:
        raise typer.BadParameter(f"--{given[0]} does not fit {out}", param_hint="'--out'")
    # Before the long work, not after it.
    check_place(out)
    return flagged or named or "md"


def write_text(text: str, out: Path | None) -> None:
    """To stdout, or to a file that appears whole or not at all."""
    with open_output(out) as stream:
        stream.write(text)


def write_table(
    kind: str,
    out: Path | None,
    rows: Sequence[Row],
    columns: Sequence[Column],
    notes: Sequence[str] = (),
) -> None:
    """Write rows as "md", "csv" or "json"; see `write_text`."""
    formats = {
        "md": lambda: markdown(rows, columns, notes),
        "csv": lambda: csv_text(rows),
        "json": lambda: json_text(rows),
    }
    write_text(formats[kind](), out)
