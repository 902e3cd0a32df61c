"""Output of the commands: to stdout, or to a file that is replaced once it is written whole.

- *Kind* of a file: the ending of its name without the dot, such as "csv.gz".
- A result is a *table*, a text with a row for each thing; or *molecules* in one of the `KINDS` of
  `graphcnf.sampling.writers`, such as "smi".
- `out` is the file that the option --out names, None for stdout.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from graphcnf.compute.progress import progress_bar
from graphcnf.compute.signals import termination_raises
from graphcnf.errors import UserError
from graphcnf.evaluation.layout import Column, Row, csv_text, json_text, markdown
from graphcnf.file_writing import output_lock, replacing
from graphcnf.messages import printable
from graphcnf.sampling.writers import (
    KINDS,
    WRITERS,
    Conversion,
    check_parquet,
    columns_of,
    conversion,
    header,
    open_text,
    plain_kind,
)

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from graphcnf.design.growing import Result
    from graphcnf.molecule_flow import MoleculeFlow
    from graphcnf.scripts._options import Draw

PICTURES = ("png", "svg", "pdf")

PICTURED, LISTED = 50, 500
"""Largest number of molecules in a picture, and on an HTML page."""

NOTE = (
    "How likely: the share of training molecules of about this size that are less likely under the "
    "model; it sorts by bits per atom."
)
"""Text on an HTML page of molecules."""


def output_kind(
    path: Path | None, kinds: tuple[str, ...], option: str = "--out", *, check: bool = True
) -> str | None:
    """Return the kind of a file to write, and check that it can be written.

    Args:
        path: The file; None for stdout.
        kinds: Kinds that it may have, such as ("csv", "json").
        option: Option that names the file, for the message.
        check: False to skip the check that the file can be written.

    Returns:
        The kind; None without a file.

    Raises:
        typer.BadParameter: The name has another ending.
    """
    if path is None:
        return None
    for kind in kinds:
        if path.name.lower().endswith(f".{kind}") and len(path.name) > len(kind) + 1:
            if check:
                check_place(path)
            return kind
    known = ", ".join(f".{k}" for k in kinds)
    one_of = "one of " if len(kinds) > 1 else ""
    raise typer.BadParameter(f"{path} must end in {one_of}{known}", param_hint=f"'{option}'")


def check_place(path: Path) -> None:
    """Check that a file can be written.

    Args:
        path: The file, which need not exist.
    """
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    with output_lock(path):
        pass


def molecule_kind(out: Path | None, as_json: bool, default: str = "smi") -> str:
    """Return the kind in which molecules are written, by the ending of --out and by --json.

    Args:
        out: The file; None for stdout.
        as_json: True if --json is given.
        default: Kind for stdout without --json.

    Returns:
        The kind, such as "smi" or "csv.gz".

    Raises:
        typer.BadParameter: The file's ending is none of .smi, .csv, .sdf, .jsonl (also with .gz)
            and .parquet, or contradicts --json.
    """
    kind = output_kind(out, KINDS, check=False)
    if as_json and kind is not None and kind.partition(".")[0] != "jsonl":
        raise typer.BadParameter(f"--json writes .jsonl files, not {out}", param_hint="'--out'")
    return kind or ("jsonl" if as_json else default)


def rows_kind(out: Path | None, as_json: bool, *more: str) -> str:
    """Return the kind in which a table with a row for each molecule is written.

    Args:
        out: The file; None for stdout.
        as_json: True if --json is given, for "jsonl" on stdout.
        *more: Kinds that the file may have beside "csv" and "jsonl", such as "smi".

    Returns:
        "csv", "jsonl" or one of `more`.

    Raises:
        typer.BadParameter: The file has another ending, or one that contradicts --json.
    """
    output_kind(out, ("csv", "jsonl", *more))
    return molecule_kind(out, as_json, "csv")


def check_target(out: Path | None, kind: str, force: bool) -> None:
    """Check that a file of molecules can be written, before long work begins.

    Args:
        out: The file; None for stdout.
        kind: Its kind, such as "csv.gz"; for "parquet", pyarrow must be installed.
        force: True if the file may exist already, and is then replaced.
    """
    if out is not None:
        check_place(out)
        if out.exists() and not force:
            raise UserError(f"{out} exists: choose another --out, or replace it with --force")
    if kind == "parquet":
        check_parquet()


def check_shown(draw: Draw) -> None:
    """Check that the files of --picture and --html can be written, before long work begins.

    Args:
        draw: Options of the command.

    Raises:
        typer.BadParameter: --picture does not end in .png, .svg or .pdf, or --html in .html.
    """
    output_kind(draw.picture, PICTURES, "--picture")
    output_kind(draw.html, ("html",), "--html")


def written_kind(draw: Draw) -> str:
    """Check that all files of a command that draws molecules can be written.

    Args:
        draw: Options of the command.

    Returns:
        The kind of --out, or that of the molecules on stdout.

    Raises:
        typer.BadParameter: The ending of a file is that of no known format.
    """
    kind = molecule_kind(draw.out, draw.as_json)
    check_target(draw.out, kind, draw.force)
    check_shown(draw)
    return kind


def table_kind(out: Path | None, as_csv: bool, as_json: bool) -> str:
    """Choose the format of a table: by --csv or --json, else by the file's ending, else Markdown.

    Args:
        out: The file; None for stdout.
        as_csv: True if --csv is given.
        as_json: True if --json is given.

    Returns:
        "md", "csv" or "json".

    Raises:
        typer.BadParameter: Both flags are given, a flag contradicts the ending, or the ending is
            unknown.
    """
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other")
    flagged = "csv" if as_csv else "json" if as_json else None
    named = output_kind(out, ("md", "txt", "csv", "json"))
    named = "md" if named == "txt" else named
    if flagged and named and flagged != named:
        raise typer.BadParameter(f"--{flagged} does not fit {out}", param_hint="'--out'")
    return flagged or named or "md"


class ReaderGone(Exception):
    """Raised when the reader of stdout, such as head or less, has closed it; this is no failure.

    It is not an `OSError`, since typer handles a broken pipe as a failure.
    """


class _Stdout(io.TextIOBase):
    """Standard output, with control characters escaped by `printable`."""

    def write(self, text: str) -> int:
        return sys.stdout.write(printable(text))

    def flush(self) -> None:
        sys.stdout.flush()

    def isatty(self) -> bool:
        return sys.stdout.isatty()


@contextmanager
def open_output(path: Path | None, convert: Conversion = None) -> Iterator[TextIO]:
    """Return a context with a text stream to stdout or to a file.

    The file replaces `path` if the block ends without an error; until then `path` stays as it is.

    Args:
        path: The file; None for stdout.
        convert: Function that converts the text (first path) into the file (second path), such as
            to Parquet; None if the file is the text.

    Raises:
        ReaderGone: The reader of stdout has closed it.
        OSError: Stdout cannot be written.
    """
    if path is not None:
        with _open_file(path, convert) as stream:
            yield stream
        return
    try:
        yield _Stdout()
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGone from None


@contextmanager
def _open_file(path: Path, convert: Conversion) -> Iterator[TextIO]:
    """Return a context with a text stream, whose text replaces a file at the end."""
    check_place(path)
    with termination_raises(), output_lock(path), replacing(path) as whole:
        with open_text(whole, convert) as stream:
            yield stream


def write_text(text: str, out: Path | None) -> None:
    """Write the result of a command, a text, to a file or to stdout.

    Args:
        text: The result.
        out: File that it replaces, once it is written whole; None for stdout.
    """
    with open_output(out) as stream:
        stream.write(text)


def write_found(
    molecules: Generator[Result],
    draw: Draw,
    kind: str,
    types: Mapping[str, str],
    more: Callable[[Mol], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Write the molecules of a search to --out or stdout, each as soon as it is found.

    Args:
        molecules: Generator of the molecules, which is closed after --number of them.
        draw: Options of the command.
        kind: Kind of the file.
        types: Further columns beside SMILES and properties, `{name: its type in Parquet}`. Files of
            the kind "smi" do not have them.
        more: Function from an RDKit molecule to the values of the further columns by name.

    Returns:
        The first `LISTED` (500) rows as dicts: "record" (its number from 0), "smiles", the further
        columns, and the properties of --properties.
    """
    from graphcnf.chemistry.properties import properties_of
    from graphcnf.molecules.codec import parse

    plain, properties = plain_kind(kind), draw.properties or ()
    columns = columns_of(plain, (*(types if plain != "smi" else ()), *properties))
    rows: list[dict[str, Any]] = []
    # A progress bar would be mixed up with molecules on the same terminal.
    hidden = draw.out is None and sys.stdout.isatty()
    with (
        open_output(draw.out, conversion(kind, columns, types)) as stream,
        progress_bar("drawing", draw.number, hidden=hidden) as show,
        closing(molecules),
    ):
        stream.write(header(plain, columns))
        for record, one in enumerate(islice(molecules, draw.number)):
            mol = parse(one.smiles)
            row = {"record": record, "smiles": one.smiles, **more(mol)}
            row |= properties_of(mol, properties)
            if record < LISTED:
                rows.append(row)
            stream.write(WRITERS[plain]({name: row[name] for name in columns}))
            stream.flush()
            show(record + 1)
    return rows


def show_molecules(
    flow: MoleculeFlow,
    rows: list[dict[str, Any]],
    draw: Draw,
    title: str,
    marks: Callable[[Mol], Sequence[int]] = lambda mol: (),
    given: Sequence[str] = (),
) -> None:
    """Draw molecules into the files of --picture and --html, if these are given.

    Args:
        flow: Model that says on the HTML page how likely each molecule is.
        rows: For each molecule a dict of "smiles" and the values that become columns of the page;
            with --html, likelihoods are added in place.
        draw: Options of the command.
        title: Title of the page.
        marks: Function from an RDKit molecule to the indices of the atoms to highlight.
        given: SMILES of molecules that the page compares with, unless --known names others.
    """
    if not rows or not (draw.picture or draw.html):
        return
    from graphcnf.chemistry.drawing import draw_grid
    from graphcnf.chemistry.page import SortedCell, write_page
    from graphcnf.chemistry.scoring import percentile_text
    from graphcnf.molecules.codec import parse

    smiles = [row["smiles"] for row in rows]
    atoms = [marks(parse(text)) for text in smiles]
    if draw.picture:
        legends = [
            ", ".join(f"{name} {row[name]}" for name in draw.properties or ()) for row in rows
        ]
        draw_grid(smiles[:PICTURED], draw.picture, legends[:PICTURED], atoms[:PICTURED])
    if draw.html:
        scores = flow.score(smiles, workers=1)
        for row, (_, score) in zip(rows, scores.iterrows(), strict=True):
            shown = percentile_text(score["percentile"], score["percentile_below"])
            row["how likely"] = SortedCell(shown, -score["bits_per_atom"])
            row["log p, nats"] = round(score["log_likelihood"], 2)
        write_page(
            rows,
            draw.html,
            title,
            about=NOTE,
            known=draw.known or given,
            training_hashes=flow.model.training_hashes,
            highlights=atoms,
        )


def write_table(
    kind: str,
    out: Path | None,
    rows: Sequence[Row],
    columns: Sequence[Column] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write a table to a file or stdout.

    Args:
        kind: "md", "csv", "json" for one list, or "jsonl" for an object per line.
        out: The file; None for stdout.
        rows: `{name: value}` of each row; CSV and JSON have all values.
        columns: Columns of Markdown: a heading, and a function from a row to the text of its cell.
        notes: Footnotes of Markdown.
    """
    if kind == "md":
        text = markdown(rows, columns, notes)
    elif kind == "jsonl":
        text = "".join(json_text(row, indent=None) for row in rows)
    else:
        text = json_text(rows) if kind == "json" else csv_text(rows)
    write_text(text, out)
