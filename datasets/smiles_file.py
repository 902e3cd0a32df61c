"""Molecules from the user's own file: .smi, .csv, .sdf, .jsonl, .parquet, plain or gzipped."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from graphcnf.compute.files import NotUnpacked, gunzip, most_unpacked, read_file
from graphcnf.compute.parallel import Workers
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import (
    MoleculeDataset,
    Skipped,
    cache_path,
    encode,
    load_cached,
)
from graphcnf.errors import UserError
from graphcnf.graphs.packed import MAX_NODES
from graphcnf.molecules.vocabulary import MoleculeVocabulary

SUFFIXES = tuple(
    suffix + packed
    for suffix in (".smi", ".smiles", ".csv", ".tsv", ".sdf", ".jsonl", ".parquet")
    for packed in ("", ".gz")
)
"""How the names of files of molecules end."""

_LINE_END = re.compile(r"\r\n|\r|\n")
"""Where a line ends; `str.splitlines` would end it at characters that a name may hold."""

LEAST_ROWS = 1_000_000
"""A Parquet file may have so many rows in any case, and more where each takes a byte: one value in
a thousand million rows takes a hundred."""

Records = Iterable[tuple[int, str]]
"""The line number of each record, and its SMILES, "" where it has none."""


class DataFileError(UserError, ValueError):
    """A file without usable molecules; the message is one line that names the file."""


class NoMolecules(DataFileError):
    """A file as it should be, with no record in it."""


class MissingDataFile(UserError, FileNotFoundError):
    """There is no such file."""


def load_smiles_file(
    path: str | Path,
    *,
    column: str | None = None,
    vocabulary: MoleculeVocabulary | None = None,
    max_atoms: int = MAX_NODES,
    strict: bool = False,
    aromatic: bool = True,
    standardize: bool = False,
    workers: Workers = None,
    use_cache: bool = True,
) -> MoleculeDataset:
    """Load the molecules of a file as graphs, and cache them.

    Lines that RDKit does not read, that have several fragments, atoms or bonds outside the
    vocabulary or more than `max_atoms` heavy atoms are left out: the result's `skipped` names each
    with its line number and the reason, and so does a file in the cache, whose path goes to stderr.

    Args:
        path: One SMILES per line, alone or before white space (lines that start with # are
            comments), or a table with a header line, separated by commas, tabs or semicolons; also
            the .jsonl, .sdf and .parquet files that `graphcnf generate` writes.
        column: Column of a table that holds the SMILES; None for the one called "smiles" in any
            case.
        vocabulary: Categories to use, as a trained model's; None to take them from the file.
        max_atoms: Largest molecule to keep, at most 255 heavy atoms.
        strict: Refuse the file at the first line that would be left out.
        aromatic: Whether categories taken from the file also say what is aromatic.
        standardize: Whether to keep the largest organic fragment of each molecule alone, cleaned
            up and neutral where it can be (RDKit's MolStandardize).
        workers: Processes that encode, or a cluster; None for one per core.
        use_cache: Whether to read and write the cache.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, binary, damaged, lacks the column or has no usable molecule; or
            `strict`, and a line is not usable.
    """
    path = Path(path)
    if not 1 <= max_atoms <= MAX_NODES:
        raise ValueError(f"max_atoms is 1 to {MAX_NODES}, not {max_atoms}")
    content = _read(path)
    key = (
        hashlib.sha256(content).hexdigest(), path.suffixes[-2:], column, max_atoms,
        vocabulary.to_dict() if vocabulary else None, *(["standardized"] if standardize else []),
    )  # fmt: skip
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0] or "molecules"
    stored = cache_path(f"file-{name}", *key)
    dataset = load_cached(name, stored) if use_cache else None
    if dataset is None:
        lines, smiles = read_smiles(path, column=column, content=content)
        dataset = encode(
            name, smiles, vocabulary=vocabulary, max_atoms=max_atoms, workers=workers,
            standardize=standardize,
        )  # fmt: skip
        dataset.skipped = [replace(s, line=lines[s.line - 1]) for s in dataset.skipped]
        if use_cache and len(dataset):
            cache.write(stored, dataset.to_arrays())
    if dataset.skipped:
        first = dataset.skipped[0]
        if strict or not len(dataset):
            many = f" (and {len(dataset.skipped) - 1} more)" if len(dataset.skipped) > 1 else ""
            none = "" if len(dataset) else "no usable molecule: "
            raise DataFileError(f"{none}{path}, line {first.line}: {first.reason}{many}")
        listing = stored.with_suffix(".skipped.tsv")
        written = use_cache and _list_skipped(listing, dataset.skipped)
        cache.note(
            f"{path}: left out {len(dataset.skipped)} of {len(dataset.skipped) + len(dataset)} "
            f"molecules, the first at line {first.line}: {first.reason}"
            + (f"; all are listed in {listing}" if written else "")
        )
    return dataset if aromatic or vocabulary is not None else dataset.without_marks()


def read_smiles(
    path: str | Path, *, column: str | None = None, content: bytes | None = None
) -> tuple[list[int], list[str]]:
    """The line numbers and the SMILES of a file, unchecked; "" where a record has none.

    Args:
        path: As in `load_smiles_file`.
        column: As in `load_smiles_file`.
        content: The file's bytes where they are at hand.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is empty, binary or damaged, or lacks the column.
    """
    path = Path(path)
    pairs = list(_records(path, _read(path) if content is None else content, column))
    if not pairs:
        raise NoMolecules(f"{path} holds no molecules")
    return [line for line, _ in pairs], [smiles for _, smiles in pairs]


def _records(path: Path, content: bytes, column: str | None) -> Records:
    """The records of a file of whichever format."""
    if content[:4] == b"PAR1":
        return _parquet(path, content, column)
    text = _decode(path, content)
    suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    lines = _LINE_END.split(text.rstrip())
    first = next((line for line in lines if line.strip()), "")
    if suffix in ("sdf", "sd", "mol") or "\nM  END" in text:
        return _sdf(path, text)
    if suffix == "jsonl" or first.lstrip().startswith("{"):
        return _jsonl(path, lines, column)
    delimiter = "\t" if suffix == "tsv" else _delimiter(first, column or "smiles")
    cells = _cells(first, delimiter)
    is_table = column is not None or suffix in ("csv", "tsv")
    if is_table or (len(cells) > 1 and "smiles" in cells):
        rows = list(_table(path, text, column, delimiter))
    else:
        # A blank line between others is a molecule that could not be written.
        rows = [
            (number, "" if line.startswith("\t") else (line.split() or [""])[0])
            for number, line in enumerate(lines, 1)
            if not line.lstrip().startswith("#")
        ]
    has_header = bool(rows) and rows[0][1].lower() == "smiles"
    return rows[1:] if has_header else rows


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"').lower() for cell in line.split(delimiter)]


def _delimiter(header: str, column: str) -> str:
    """The one that sets the column apart; the most frequent where several do, or none."""
    known = [d for d in ",\t;" if d in header and column.lower() in _cells(header, d)]
    return max(known or ",\t;", key=header.count)


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise MissingDataFile(f"no such file: {path}") from error
    except OSError as error:
        hint = "; write - for standard input" if error.errno == errno.EINVAL else ""
        raise DataFileError(f"cannot read {path}: {error.strerror}{hint}") from error


def _decode(path: Path, content: bytes) -> str:
    if path.name.lower().endswith(".gz") or content[:2] == b"\x1f\x8b":
        try:
            content = gunzip(content)
        except NotUnpacked as error:
            raise DataFileError(f"{path} is {error}") from error
    if not content.strip():
        raise NoMolecules(f"{path} is empty")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFileError(f"{path} is no text file in UTF-8 (byte {error.start})") from error
    if "\0" in text:
        raise DataFileError(f"{path} is no text file (it holds zero bytes)")
    return text


def _place(path: Path, names: list[str], column: str | None) -> int:
    """Where the column is among the names: exactly that one, or else in any case."""
    wanted = "smiles" if column is None else column
    for same in (str, str.lower):
        places = [k for k, name in enumerate(names) if same(name) == same(wanted)]
        if len(places) > 1:
            raise DataFileError(f"{path} has {len(places)} columns {wanted!r}: rename one")
        if places:
            return places[0]
    shown = ", ".join(name[:40] for name in names[:12])
    raise DataFileError(f"{path} has no column {wanted!r} (--column); it has: {shown}")


def _table(path: Path, text: str, column: str | None, delimiter: str) -> Records:
    """One column, "" for a blank cell."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = next((row for row in reader if any(cell.strip() for cell in row)), [])
        place = _place(path, [cell.strip() for cell in header], column)
        before = reader.line_num
        for row in reader:
            line, before = before + 1, reader.line_num
            # A quoted cell may hold a line break, as in the original ZINC250k table.
            if any(cell.strip() for cell in row):
                yield line, (row[place].split() or [""])[0] if len(row) > place else ""
    except csv.Error as error:
        raise DataFileError(f"{path}, line {reader.line_num}: not a table: {error}") from error


def _jsonl(path: Path, rows: list[str], column: str | None) -> Records:
    """One entry of the JSON object of each line."""
    wanted = column or "smiles"
    for number, line in enumerate(rows, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            value = (
                row[wanted] if wanted in row else {k.lower(): row[k] for k in row}[wanted.lower()]
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataFileError(
                f"{path}, line {number}: no JSON object with {wanted!r}: {line[:60]!r}"
            ) from None
        yield number, value if isinstance(value, str) else ""


def _sdf(path: Path, text: str) -> Records:
    """Each record of an SD file by its first line, "" where RDKit does not read it."""
    from rdkit import Chem, rdBase

    number = 1
    records = re.split(r"(?m)^\$\$\$\$.*\n", text.replace("\r\n", "\n"))
    for record in records:
        if record.strip():
            if "M  END" not in record:
                raise DataFileError(f"{path}, line {number}: a record without M  END: no SD file")
            with rdBase.BlockLogs():
                mol = Chem.MolFromMolBlock(record, sanitize=False, removeHs=False)
                if mol is not None:
                    mol.UpdatePropertyCache(strict=False)
            yield number, "" if mol is None else Chem.MolToSmiles(mol)
        number += record.count("\n") + 1


def _parquet(path: Path, content: bytes, column: str | None) -> Records:
    """One column of a Parquet file; rows count from 1."""
    most = most_unpacked(content)
    try:
        from pyarrow.parquet import ParquetFile

        metadata = ParquetFile(io.BytesIO(content)).metadata
        rows, names = metadata.num_rows, metadata.schema.to_arrow_schema().names
        if rows > max(LEAST_ROWS, len(content)):
            raise ValueError(f"{rows:,} rows in {len(content):,} bytes, more than one per byte")
        name = names[_place(path, names, column)]
        # Values that repeat stay one object each: a few bytes may stand for a million long ones.
        file = ParquetFile(io.BytesIO(content), read_dictionary=[name])
        number, size = 0, 0
        for batch in file.iter_batches(columns=[name]):
            values = batch.column(0)
            repeated = hasattr(values, "dictionary")
            known = (values.dictionary if repeated else values).to_pylist()
            for k in values.indices.to_pylist() if repeated else range(len(values)):
                value = None if k is None else known[k]
                text = value if isinstance(value, str) else ""
                number, size = number + 1, size + len(text)
                if size > most:
                    raise ValueError(f"more than {most:,} characters in {len(content):,} bytes")
                yield number, text
    except ImportError:
        raise DataFileError(f"{path}: .parquet needs pip install 'graphcnf[parquet]'") from None
    except DataFileError:
        raise
    except Exception as error:  # damage shows itself anywhere in the reader
        reason = " ".join(str(error).split())[:120]
        raise DataFileError(f"{path} is no intact Parquet file: {reason}") from error


def _list_skipped(path: Path, skipped: list[Skipped]) -> bool:
    rows = [f"{s.line}\t{s.text}\t{s.reason}\n" for s in skipped]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("line\tsmiles\treason\n" + "".join(rows), encoding="utf-8")
    except OSError as error:
        cache.note(f"cannot write {path}: {error.strerror}")
        return False
    return True
