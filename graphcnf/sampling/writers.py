"""Write and read files of molecules: .smi, .csv, .sdf, .jsonl, each plain or gzipped, and Parquet.

- *Kind* of a file: its ending, one of `KINDS`, such as "csv.gz".
- *Plain kind*: the kind of the text from which the file is made, "smi", "csv", "sdf" or "jsonl". It
  is "csv" for "csv.gz" and "jsonl" for "parquet". All files are first written as text, and then
  converted.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from graphcnf.chemistry.descriptors import COUNTS
from graphcnf.errors import require
from graphcnf.file_reading import open_input
from graphcnf.file_writing import csv_cell, open_new

KINDS = ("smi", "csv", "sdf", "jsonl", "parquet", "smi.gz", "csv.gz", "sdf.gz", "jsonl.gz")
"""Kinds of molecule files that can be written."""

ROWS = 1 << 14
"""Rows in a row group of a Parquet file."""

TYPES = {
    "strict": "bool",
    "route_solved": "bool",
    "route_steps": "int64",
    **dict.fromkeys(("smiles", "largest_fragment", "source", "error"), "string"),
    **dict.fromkeys(("record", "cluster", *COUNTS), "int64"),
}
"""Types of Parquet columns by name; all other columns hold float64."""


def plain_kind(kind: str) -> str:
    """Return the kind of text from which a file is made.

    Examples:
        >>> plain_kind("csv.gz"), plain_kind("parquet")
        ('csv', 'jsonl')
    """
    return "jsonl" if kind == "parquet" else kind.removesuffix(".gz")


def columns_of(kind: str, more: Sequence[str] = (), *, everything: bool = False) -> tuple[str, ...]:
    """Return the names of the columns of a file of samples, in their order.

    A .smi file has "smiles" alone, since most readers expect a SMILES at the beginning of a line;
    with `everything`, "record" comes after it. Other files begin with "record", "smiles".

    Args:
        everything: True to add "strict", "largest_fragment" and "atoms", which tell valid from
            invalid graphs.

    Examples:
        >>> columns_of("csv", ["qed"])
        ('record', 'smiles', 'qed')
        >>> columns_of("smi", everything=True)
        ('smiles', 'record', 'strict', 'largest_fragment', 'atoms')
    """
    columns = ["record", "smiles"]
    if kind == "smi":
        columns = ["smiles", "record"] if everything else ["smiles"]
    checked = ("strict", "largest_fragment", "atoms") if everything else ()
    return tuple(dict.fromkeys([*columns, *checked, *more]))


def header(kind: str, columns: Sequence[str]) -> str:
    """Return the header line of a file of molecules, or "" if files of its kind have none.

    A .csv file has one; a .smi file of several columns has a comment in place of one.
    """
    if kind == "smi" and len(columns) > 1:
        return "# " + "\t".join(columns) + "\n"
    return _csv(dict(zip(columns, columns, strict=True))) if kind == "csv" else ""


def _smi(row: Mapping[str, Any]) -> str:
    return "\t".join("" if value is None else str(value) for value in row.values()) + "\n"


def _csv(row: Mapping[str, Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(map(csv_cell, row.values()))
    return buffer.getvalue()


def _jsonl(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _sdf(row: Mapping[str, Any]) -> str:
    """Return an SD record with 2D coordinates; an invalid molecule is written unsanitized."""
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    from graphcnf.molecules.codec import quiet

    valid = row.get("strict", True)
    with quiet():
        mol = Chem.MolFromSmiles(row["smiles"] or "", sanitize=valid)
        if valid:
            # Without this mark, the coordinates would imply cis or trans.
            for place in Chem.FindPotentialStereo(mol):
                if place.type == Chem.StereoType.Bond_Double:
                    bond = mol.GetBondWithIdx(place.centeredOn)
                    if bond.GetStereo() == Chem.BondStereo.STEREONONE:
                        bond.SetStereo(Chem.BondStereo.STEREOANY)
        else:
            mol.UpdatePropertyCache(strict=False)
            Chem.FastFindRings(mol)
        # CoordGen, which the caller may have switched on, is not deterministic.
        with rdDepictor.UsingCoordGen(False):
            rdDepictor.Compute2DCoords(mol)
        mol.SetProp("_Name", str(row["record"]))
        for name, value in row.items():
            mol.SetProp(name, "" if value is None else str(value))
        return Chem.SDWriter.GetText(mol, kekulize=valid)


WRITERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "smi": _smi,
    "csv": _csv,
    "jsonl": _jsonl,
    "sdf": _sdf,
}
"""Functions that turn a record into text, by plain kind. A record holds values by the names of the
columns, in their order."""


def entries(lines: Iterable[str], kind: str, columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield text and SMILES ("" for none) of a file's records, to merge files without parsing."""
    lines = iter(lines)
    if header(kind, columns):
        next(lines, None)
    place = columns.index("smiles")
    parts: list[str] = []
    for line in lines:
        if kind == "sdf":
            parts.append(line)
            if line.rstrip() == "$$$$":
                named = next(k for k, part in enumerate(parts) if re.match(r">.*<smiles>", part))
                yield "".join(parts), parts[named + 1].rstrip("\n")
                parts = []
        elif kind == "jsonl":
            yield line, json.loads(line)["smiles"] or ""
        elif kind == "csv":
            yield line, next(csv.reader([line]))[place]
        else:
            yield line, line.rstrip("\n").split("\t")[place]


Conversion = Callable[[Path, Path], None] | None
"""Function that converts a text file (first path) to another file (second path), or None."""


def conversion(
    kind: str, columns: Sequence[str], types: Mapping[str, str] | None = None
) -> Conversion:
    """Return the function that converts text of the plain kind to a file of a kind.

    Args:
        types: Types of Parquet columns by name, such as "int64"; for other columns those in
            `TYPES`, else float64. None for none.
    None if the text is the file, as for "csv".
    """
    if kind == "parquet":
        return partial(to_parquet, columns=columns, types=types)
    return _compress if kind.endswith(".gz") else None


def _compress(source: Path, target: Path) -> None:
    """Compress a file without name and time, so that equal content gives equal bytes."""
    with (
        open(source, "rb") as plain,
        open(target, "wb") as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed, 1 << 20)


def check_parquet() -> None:
    """Check that pyarrow, which reads and writes Parquet files, is installed."""
    require("pyarrow", ".parquet", "parquet")


def to_parquet(
    source: Path, target: Path, columns: Sequence[str], types: Mapping[str, str] | None = None
) -> None:
    """Convert a .jsonl file to Parquet.

    `types` are those of columns by name, such as "int64"; for others those in `TYPES`, else
    float64.
    """
    check_parquet()
    import pyarrow as pa
    from pyarrow import parquet

    known = {**TYPES, **(types or {})}
    schema = pa.schema([(name, pa.type_for_alias(known.get(name, "float64"))) for name in columns])
    with (
        open(source, encoding="utf-8") as lines,
        open(target, "wb") as file,
        parquet.ParquetWriter(file, schema) as writer,
    ):
        while rows := [json.loads(line) for line in islice(lines, ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


@contextmanager
def open_text(path: Path, convert: Conversion = None) -> Iterator[TextIO]:
    """Context with a text stream; when the block ends, its text becomes the file.

    `convert` makes the file (second path) of the text (first path); None if the file is the text.
    """
    text = path if convert is None else path.with_name(f"{path.name}.text")
    try:
        with open_new(text) as file, io.TextIOWrapper(file, "utf-8", newline="") as stream:
            yield stream
        if convert is not None:
            convert(text, path)
    finally:
        if convert is not None:
            text.unlink(missing_ok=True)


@contextmanager
def open_lines(path: Path) -> Iterator[Iterable[str]]:
    """Context with the lines of a text file, plain or packed by gzip, or of a Parquet file.

    The rows of a Parquet file become lines of JSON, as in .jsonl. The kind is told by the first
    bytes of the content, not by the name.
    """
    with open_input(path) as file:
        magic = file.read(4)
        file.seek(0)
        if magic == b"PAR1":
            check_parquet()
            from pyarrow import parquet

            with parquet.ParquetFile(file) as table:
                batches = (batch.to_pylist() for batch in table.iter_batches(ROWS))
                yield (_jsonl(row) for rows in batches for row in rows)
            return
        packed = gzip.open(file) if magic[:2] == b"\x1f\x8b" else file
        with packed as content, io.TextIOWrapper(content, "utf-8", newline="") as text:
            yield text
