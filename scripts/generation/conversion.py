"""Files of text turned into compressed and columnar ones, a piece at a time."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from graphcnf.errors import require

ROWS = 1 << 14
"""Rows in a row group of a Parquet file."""

TYPES = {
    "record": "int64",
    "smiles": "string",
    "strict": "bool",
    "largest_fragment": "string",
    "atoms": "int64",
    "log_likelihood": "float64",
    **dict.fromkeys(
        ("rings", "aromatic_rings", "rotatable_bonds", "hbd", "hba", "charge"), "int64"
    ),
    "source": "string",
    "error": "string",
}
"""Of columns by name; all others hold numbers."""


def compress(source: Path, target: Path) -> None:
    """Write the gzip file of a file; without name and time, so that it depends on nothing else."""
    with (
        open(source, "rb") as plain,
        open(target, "wb") as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed, 1 << 20)


def check_parquet() -> None:
    """Raise UserError without the package that writes Parquet files."""
    require("pyarrow", ".parquet", "parquet")


def to_parquet(
    source: Path, target: Path, columns: tuple[str, ...], types: Mapping[str, str] | None = None
) -> None:
    """Write the Parquet file of a file with one JSON object per line.

    Args:
        source: That file.
        target: What to write.
        columns: Their names.
        types: Of columns, instead of those in `TYPES`.

    Raises:
        UserError: As `check_parquet`.
    """
    check_parquet()
    import pyarrow as pa
    from pyarrow import parquet

    # What is not listed is a property that is no whole number.
    known = {**TYPES, **(types or {})}
    schema = pa.schema([(name, pa.type_for_alias(known.get(name, "float64"))) for name in columns])
    with (
        open(source, encoding="utf-8") as lines,
        open(target, "wb") as file,
        parquet.ParquetWriter(file, schema) as writer,
    ):
        while rows := [json.loads(line) for line in islice(lines, ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def parquet_lines(source: BinaryIO) -> Iterator[str]:
    """The lines that `to_parquet` has made a file of.

    Raises:
        UserError: As `check_parquet`.
    """
    check_parquet()
    from pyarrow import parquet

    with parquet.ParquetFile(source) as file:
        for batch in file.iter_batches(ROWS):
            for row in batch.to_pylist():
                yield json.dumps(row) + "\n"
