"""Where and how commands write their tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from graphcnf.evaluation.formats import Column, Row, csv_text, json_text, markdown
from graphcnf.scripts._output import check_place, open_output, output_kind


def table_kind(out: Path | None, as_csv: bool, as_json: bool) -> str:
    """Say "md", "csv" or "json", as the flags or else the name of the file do.

    Raises:
        typer.BadParameter: They contradict each other, or the file has another suffix.
        UserError: The file has no folder to be in.
    """
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other")
    flagged = "csv" if as_csv else "json" if as_json else None
    named = output_kind(out, ("md", "txt", "csv", "json"))
    named = "md" if named == "txt" else named
    if flagged and named and flagged != named:
        raise typer.BadParameter(f"--{flagged} does not fit {out}", param_hint="'--out'")
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
