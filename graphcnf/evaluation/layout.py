"""Tables of figures as Markdown, CSV or JSON.

A *row* holds values by name. A *column* is a heading with a function that turns a row into the text
of a cell, "" for an empty one; `text`, `number` and `percent` make such functions.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphcnf.file_writing import csv_cell

Row = Mapping[str, Any]
"""Values by name."""

Column = tuple[str, Callable[[Row], str]]
"""Heading of a column, and the function from a row to the text of its cell, "" for an empty one."""


def markdown(rows: Sequence[Row], columns: Sequence[Column], notes: Sequence[str] = ()) -> str:
    """Write a Markdown table, aligned so that it can be read as plain text.

    Columns that are empty in all rows are left out; `notes` become a list below the table.
    """
    cells = [[c.replace("|", "\\|") for c in column] for column in shown_columns(rows, columns)]
    if not cells:
        return ""
    widths = [max(3, *map(len, column)) for column in cells]
    lines = []
    for number in range(len(rows) + 1):
        line = [column[number].ljust(width) for column, width in zip(cells, widths, strict=True)]
        lines.append(f"| {' | '.join(line)} |")
        if number == 0:
            lines.append(f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    text = "\n".join(lines) + "\n"
    return text + ("\n" + "\n".join(f"- {note}" for note in notes) + "\n" if notes else "")


def shown_columns(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    """Fill the cells of a table, without the columns that are empty in all rows.

    For each remaining column a list: its heading, then the cells. Empty ones are "-", unless the
    heading is empty.
    """
    cells = [[title, *(show(row) for row in rows)] for title, show in columns]
    cells = [column for column in cells if any(column[1:])]
    return [[cell or "-" for cell in column] if column[0] else column for column in cells]


def transposed(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[list[Row], list[Column]]:
    """Transpose a table, so that few rows with many figures fit the page.

    The former headings become the cells of the first column, the former first column the headings.
    Columns that are empty in all rows are left out first; at least one must remain.
    """
    head, *lines = shown_columns(rows, columns)
    keys = [str(k) for k in range(len(head))]
    titles = [(title, text(key)) for title, key in zip(head, keys, strict=True)]
    return [dict(zip(keys, line, strict=True)) for line in lines], titles


def csv_text(rows: Sequence[Row]) -> str:
    """Write rows as comma-separated values, with a header.

    Every name that a row has is a column, empty where a row lacks it; lists and dicts are left out.
    """
    names = dict.fromkeys(
        name for row in rows for name, value in row.items() if not isinstance(value, dict | list)
    )
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(names), extrasaction="ignore", lineterminator="\n")
    writer.writerow({name: csv_cell(name) for name in names})
    writer.writerows({k: csv_cell(_plain(v)) for k, v in row.items()} for row in rows)
    return buffer.getvalue()


def json_text(content: Any, indent: int | None = 2) -> str:
    """Return JSON text, with a line break at the end.

    Numbers that are not finite, which JSON lacks, become null.
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    return float(f"{value:.8g}") if isinstance(value, float) and math.isfinite(value) else value


def _finite(content: Any) -> Any:
    """Replace numbers that are not finite by None, at any depth of JSON values."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def text(key: str, form: str = "{}") -> Callable[[Row], str]:
    """Return a function of a row that formats one of its values.

    `form` is such as "{:.1f} s"; a value that is missing or None gives "".
    """
    return lambda row: "" if row.get(key) is None else form.format(row[key])


def number(key: str, decimals: int = 2, *, digits: int | None = None) -> Callable[[Row], str]:
    """Return a function of a row that formats a number, such as "1.50 ± 0.10".

    The standard deviation is called `<key>_sd` and may be missing. With significant `digits`, it
    has two.
    """
    form, spread = (f",.{decimals}f",) * 2 if digits is None else (f".{digits}g", ".2g")

    def show(row: Row) -> str:
        value, sd = row.get(key), row.get(f"{key}_sd")
        if value is None or not math.isfinite(value):
            return ""
        return f"{value:{form}}" if sd is None else f"{value:{form}} ± {sd:{spread}}"

    return show


def percent(key: str, of: str | None = None) -> Callable[[Row], str]:
    """Return a function of a row that formats a fraction, such as "12.50 % of 1,000".

    The standard deviation is called `<key>_sd` and may be missing; `of` names the count.
    """

    def show(row: Row) -> str:
        value, sd = row.get(key), row.get(f"{key}_sd")
        if value is None:
            return ""
        shown = f"{100 * value:.2f}"
        shown += " %" if sd is None else f" ± {100 * sd:.2f} %"
        whole = row.get(of) if of else None
        return shown if whole is None else f"{shown} of {whole:,}"

    return show
