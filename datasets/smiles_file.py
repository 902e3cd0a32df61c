"""Molecule files of users: .smi, .csv, .sdf, .jsonl, .parquet, plain or gzipped.

- *Record* of a file: one molecule with what stands beside it: a line, a row of a table, a mol block
  with its properties, a JSON object.
- *Other values* of a record: all but the SMILES, `{name of the column or property: value}`.
- *Measured column*: a column of numbers that cannot be computed, such as pIC50. Its *surrogate* is
  a Gaussian process that predicts it (`graphcnf.chemistry.surrogate`).
- The name "-" stands for standard input, whose format is told by its content alone.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graphcnf.compute.parallel import Workers
from graphcnf.data_files import MEMORY_SHARE, NotUnpacked, gunzip, memory, read_data, unpacked_limit
from graphcnf.datasets import MOLECULES, cache
from graphcnf.datasets.measured import column_values
from graphcnf.datasets.molecules import MoleculeDataset, cache_path, encode
from graphcnf.errors import UserError
from graphcnf.file_writing import write_file
from graphcnf.limits import MAX_NODES
from graphcnf.molecules.vocabulary import MoleculeVocabulary

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow
    from rdkit import Chem

    from graphcnf.chemistry.surrogate import Surrogate

SUFFIXES = tuple(
    suffix + packed
    for suffix in (".smi", ".smiles", ".csv", ".tsv", ".sdf", ".jsonl", ".parquet")
    for packed in ("", ".gz")
)
"""Endings of molecule files."""

STDIN = "-"
"""Name of standard input."""

SDF = ("sdf", "sd", "mol")

READER_VERSION = 3
"""Version in cache keys; to be raised when records of the same file are read differently."""

LEAST_ROWS = 1_000_000
"""A Parquet file may have a million rows, or a row per byte, whichever is more."""

# Unlike `str.splitlines` and `str.split`, these ignore exotic line ends and no-break spaces.
_LINE_END = re.compile(r"\r\n|\r|\n")
_BLANK = " \t\r\n\f\v"
# A SMILES, and after a blank its extension: up to the second bar, and what follows it directly.
_EXTENSION = rf"[ \t]+\|[^|]*(?:\|[^{_BLANK}]*)?"
_LINE = re.compile(rf" *([^{_BLANK}]+(?:{_EXTENSION})?|)[{_BLANK}]*(.*)", re.DOTALL)
# Numbers of atoms and bonds, in the fourth line of an SD file.
_COUNTS = re.compile(r"[ \d]{2}\d[ \d]{2}\d(?:[ \d]|$)")
_FIELD = re.compile(r"^>[^\n]*?<([^\n]*?)>[^\n]*\n((?:[^\n]+\n?)*)", re.MULTILINE)
_END = re.compile(r"^M  END", re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")

Row = tuple[int, str, dict[str, Any]]
"""Number of a record, its SMILES ("" if it has none), and its other values by name."""


COMPRESSIONS = {
    "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P)", "xz": rb"\xfd7zXZ\0",
    "zip": rb"PK(\x03\x04|\x05\x06)", "zstd": rb"\x28\xb5\x2f\xfd",
}  # fmt: skip
"""How files begin whose compression is not read, as regular expressions."""


class FileRecords(NamedTuple):
    """The records of a file; their SMILES are not checked.

    Attributes:
        numbers: For each record its number in the file, or that of its first line, from 1.
        smiles: SMILES of each record, with its CXSMILES extension; "" if it has none.
        others: Other values of each record, `{name: value}`; {} if they were not asked for.
        unit: What `numbers` counts, "line" or "record".
    """

    numbers: list[int]
    smiles: list[str]
    others: list[dict[str, Any]]
    unit: str

    def beside(self, frame: pd.DataFrame, *, exact: bool = False) -> list[dict[str, Any]]:
        """Join a result, such as scores, with what the file says about the same records.

        Args:
            frame: The result, a row for each record.
            exact: True to turn decimal numbers of the file into text with all digits.

        Returns:
            A dict `{column: value}` for each record, with columns in this order: the number of the
            record, in the column "line" or "record" (`unit`); the first column of the result; what
            the file says beside the SMILES; the other columns of the result. A column of the file
            that has the name of one of the other columns gets "_given" appended. NaN in the result
            becomes None. The first dict has all columns; later ones lack columns of the file that
            their record does not have.
        """
        columns = dict.fromkeys(name for other in self.others for name in other)
        own, names = {self.unit, *frame}, {}
        taken = own | columns.keys()
        for name in columns:
            names[name] = name
            while names[name] in own or (names[name] != name and names[name] in taken):
                names[name] += "_given"
            taken.add(names[name])
        rows = []
        for k, figures in enumerate(frame.to_dict("records")):
            first, *rest = [(n, None if v != v else v) for n, v in figures.items()]
            more = {names[name]: value for name, value in self.others[k].items()}
            if exact:
                more = {name: repr(v) if isinstance(v, float) else v for name, v in more.items()}
            if not k:
                more = {new: more.get(new) for new in names.values()}
            rows.append(dict([(self.unit, self.numbers[k]), first, *more.items(), *rest]))
        return rows


class DataFileError(UserError, ValueError):
    """Raised for a file that is missing, or has no usable molecules; the message names the file."""


class NoMolecules(DataFileError):
    """Raised for a file that is intact, but has no records."""


def load_smiles_file(
    path: str | Path,
    *,
    column: str | None = None,
    vocabulary: MoleculeVocabulary | None = None,
    max_atoms: int = MAX_NODES,
    aromatic: bool = True,
    standardize: frozenset[str] | None = None,
    columns: Sequence[str] = (),
    content: bytes | None = None,
    workers: Workers = None,
) -> MoleculeDataset:
    """Load the molecules of a file as graphs, with their stereo marks beside, and cache them.

    Records are left out if RDKit cannot read them, or if the molecule has several fragments, atoms
    or bonds outside the vocabulary, or more than `max_atoms` heavy atoms. They are listed with
    their line numbers and reasons in the result's `skipped`, and in a file whose path is printed on
    stderr.

    Args:
        path: The file, or "-" for standard input. It has one SMILES per line, alone or before white
            space (lines that start with # are comments); or it is a table with a header line,
            separated by commas, tabs or semicolons, whose cells hold one SMILES each; or a .jsonl,
            .sdf or .parquet file, as `graphcnf generate` writes them. A CXSMILES extension may
            follow any SMILES after a blank.
        column: Column of a table that holds the SMILES; None for "smiles" in any case.
        max_atoms: Largest number of heavy atoms of a molecule to keep, at most 255.
        standardize: None to take molecules as they are. A set to keep only the largest organic
            fragment of each, cleaned up by RDKit's MolStandardize. The set names the groups that
            are then written charged, some of "acid" and "amine", as `MoleculeFlow.charge_states`
            does; with an empty set molecules are written neutral.
        columns: Names of measured columns (numbers, or empty), which become the `targets` of the
            data set. Several records of one molecule get the mean of their values.
    """
    if not 1 <= max_atoms <= MAX_NODES:
        raise ValueError(f"max_atoms must be 1 to {MAX_NODES}, got {max_atoms}")
    path, content = _opened(path, content)
    key = (
        READER_VERSION,
        hashlib.sha256(content).hexdigest(),
        path.suffixes[-2:],
        column,
        max_atoms,
        vocabulary.to_dict() if vocabulary else None,
        None if standardize is None else sorted(standardize),
    )
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0] or "molecules"
    if name in MOLECULES:
        name = f"{name} (file)"  # a model would be taken for one of the data set

    def encoded():
        numbers, smiles, *_ = read_smiles(path, column=column, content=content)
        try:
            dataset = encode(
                name,
                smiles,
                vocabulary=vocabulary,
                max_atoms=max_atoms,
                workers=workers,
                standardize=standardize,
                stereo=True,
            )
        except ValueError as error:  # more categories than a vocabulary holds
            raise DataFileError(f"{path}: {error}") from None
        dataset.skipped = [s._replace(line=numbers[s.line - 1]) for s in dataset.skipped]
        return dataset.to_arrays()

    stored = cache_path(f"file-{name}", *key)
    dataset = MoleculeDataset.from_arrays(name, cache.cached(stored, encoded))
    if dataset.skipped:
        unit, _ = _records(path, content, column, False)
        _note_skipped(path, unit, dataset, stored.with_suffix(".skipped.tsv"))
    if columns:
        records = read_smiles(path, column=column, content=content, others=True, once=columns)
        left_out = {record.line for record in dataset.skipped}
        rows = [k for k, number in enumerate(records.numbers) if number not in left_out]
        values = column_values(path, columns, records, rows, dataset.hashes)
        dataset = replace(dataset, columns=tuple(columns), targets=values)
    return dataset if aromatic or vocabulary is not None else dataset.without_aromatic()


def _note_skipped(path: Path, unit: str, dataset: MoleculeDataset, listing: Path) -> None:
    """Print a note that records were left out, and list them all in a file."""
    first, count = dataset.skipped[0], len(dataset.skipped)
    if not len(dataset):
        many = f" (and {count - 1} more)" if count > 1 else ""
        place = f"{path}, {unit} {first.line}"
        raise DataFileError(f"no usable molecule: {place}: {first.reason}{many}")
    rows = [f"{s.line}\t{s.text}\t{s.reason}\n" for s in dataset.skipped]
    try:
        write_file(listing, (f"{unit}\tsmiles\treason\n" + "".join(rows)).encode())
        where = f"; all are listed in {listing}"
    except UserError as error:
        where = f"; {error}"
    cache.note(
        f"{path}: left out {count} of {count + len(dataset)} molecules, the first at {unit} "
        f"{first.line}: {first.reason}{where}"
    )


def read_smiles(
    path: str | Path,
    *,
    column: str | None = None,
    content: bytes | None = None,
    others: bool = False,
    once: Sequence[str] = (),
) -> FileRecords:
    """Read the records of a molecule file, without a check of their SMILES.

    Args:
        others: True to keep the other values of records: columns of a table; "name", the text after
            the SMILES in a line; "title" and properties of an SD file.
        once: Columns that a table must not have twice; others that it has get numbers appended.

    Raises:
        DataFileError: The file is missing, binary or damaged, lacks the column, or has one of
            `once` twice; `NoMolecules` if it is empty.
    """
    path, content = _opened(path, content)
    unit, records = _records(path, content, column, others, once)
    rows = list(records)
    if not rows:
        raise NoMolecules(f"{path} holds no molecules")
    return FileRecords(
        [number for number, _, _ in rows],
        [smiles for _, smiles, _ in rows],
        [more if others else {} for _, _, more in rows],
        unit,
    )


def load_surrogate(path: str | Path, column: str, bound: str = "mean") -> Surrogate:
    """Fit a Gaussian process, the surrogate, to a measured column of a molecule file.

    It predicts the column for other molecules.

    `bound` is "mean", the expected value, or "lower" or "upper", one standard deviation less or
    more. Predictions are (M,), in the unit of the column.
    """
    from graphcnf.chemistry.surrogate import Surrogate  # imports RDKit

    return Surrogate.of_data(load_smiles_file(path, columns=[column]), column, bound)


def surrogate(*, file: str, column: str, bound: str = "mean") -> Callable[[Chem.Mol], float]:
    """Return a score for searches: a measured column as its surrogate predicts it.

    `graphcnf optimize` calls it for the score "surrogate:FILE:COLUMN".

    The prediction is in the unit of the column; `bound` is that of `load_surrogate`.
    """
    found = load_surrogate(file, column, bound)
    return lambda mol: float(found([mol])[0])


def _suffix(path: Path) -> str:
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def _is_sdf(path: Path, text: str) -> bool:
    """Return True if a file has the name of an SD file, or begins as one."""
    fourth = _LINE_END.split(text, 4)[3:4]
    return _suffix(path) in SDF or ("M  END" in text and any(map(_COUNTS.match, fourth)))


def _records(
    path: Path, content: bytes, column: str | None, others: bool, once: Sequence[str] = ()
) -> tuple[str, Iterable[Row]]:
    """Read a file in any format."""
    if content[:4] == b"PAR1":
        return "record", _parquet(path, content, column, others)
    text, suffix = _decode(path, content), _suffix(path)
    if _is_sdf(path, text):
        if column is not None:
            raise DataFileError(f"{path}: an SD file has no columns, --column is for tables")
        return "record", _sdf(path, text)
    lines = _LINE_END.split(text.rstrip(_BLANK))
    first = next((line for line in lines if line.strip(_BLANK)), "")
    if suffix == "jsonl" or first.lstrip(_BLANK).startswith("{"):
        return "line", _jsonl(path, lines, column or "smiles")
    cells = {d: [c.strip().strip('"').lower() for c in first.split(d)] for d in ",\t;"}
    wanted = (column or "smiles").lower()
    with_column = [d for d in ",\t;" if d in first and wanted in cells[d]]
    # The most frequent delimiter, among those that split off the wanted column if there are any.
    delimiter = "\t" if suffix == "tsv" else max(with_column or ",\t;", key=first.count)
    is_table = column is not None or suffix in ("csv", "tsv")
    if is_table or (delimiter in first and "smiles" in cells[delimiter]):
        rows = list(_table(path, text, column, delimiter, once))
        has_header = bool(rows) and rows[0][1].lower() == "smiles"
        return "line", rows[1:] if has_header else rows
    return "line", _plain(lines)


def _plain(lines: list[str]) -> list[Row]:
    """Return the records of a .smi file: lines that begin with a SMILES."""
    rows: list[Row] = []
    names, begun = ["name"], False
    for number, line in enumerate(lines, 1):
        if line.lstrip(_BLANK).startswith("#"):
            title = line.lstrip("#" + _BLANK).split("\t")
            if title[0].lower() == "smiles" and len(title) > 1:  # as `generate` writes them
                names = title[1:]
            continue
        found = _LINE.match(line)
        smiles, rest = found.groups()
        if not begun and smiles.lower() == "smiles":
            names = [rest.rstrip(_BLANK) or "name"]
        else:
            # One tab ends the SMILES: the cell after it may be empty.
            cells = [rest] if len(names) == 1 else line[found.end(1) + 1 :].split("\t")
            more = {n: c.strip(_BLANK) or None for n, c in zip(names, cells, strict=False)}
            rows.append((number, smiles, more if rest else {}))
        begun = True
    # Columns of their own cost nothing where a line has no cell for them, however many there are.
    if len(names) == 1 and any(more for _, _, more in rows):
        rows = [(number, smiles, more or {names[0]: None}) for number, smiles, more in rows]
    return rows


def read_stdin() -> bytes:
    """Return all bytes of standard input."""
    try:
        content = sys.stdin.buffer.read(most := memory() // MEMORY_SHARE)
        if sys.stdin.buffer.read(1):
            raise UserError(f"standard input holds more than {most:,} bytes: split it")
        return content
    except (AttributeError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is closed"
        raise UserError(f"cannot read standard input: {reason}") from None


def _opened(path: str | Path, content: bytes | None) -> tuple[Path, bytes]:
    """Return what stands for a file in messages, and its content."""
    if str(path) == STDIN:
        return Path("standard input"), read_stdin() if content is None else content
    return Path(path), _read(Path(path)) if content is None else content


def _read(path: Path) -> bytes:
    """Return the content of a file."""
    try:
        return read_data(path)
    except FileNotFoundError as error:
        raise DataFileError(f"no such file: {path}") from error
    except OSError as error:
        hint = "; write - for standard input" if error.errno == errno.EINVAL else ""
        raise DataFileError(f"cannot read {path}: {error.strerror}{hint}") from error


def _decode(path: Path, content: bytes) -> str:
    """Return the text in a file's content, unpacked if gzipped."""
    if path.name.lower().endswith(".gz") or content[:2] == b"\x1f\x8b":
        try:
            content = gunzip(content)
        except NotUnpacked as error:
            raise DataFileError(f"{path} is {error}") from error
    for name, start in COMPRESSIONS.items():
        if re.match(start, content):
            raise DataFileError(
                f"{path} is compressed with {name}: give its text, plain or compressed with gzip"
            )
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
    """Find the column of SMILES in a table, by its exact name, or else ignoring case."""
    wanted = "smiles" if column is None else column
    for same in (str, str.lower):
        places = [k for k, name in enumerate(names) if same(name) == same(wanted)]
        if len(places) > 1:
            raise DataFileError(f"{path} has {len(places)} columns {wanted!r}: rename one")
        if places:
            return places[0]
    shown = ", ".join(name[:40] for name in names[:12])
    raise DataFileError(f"{path} has no column {wanted!r} (--column); it has: {shown}")


def _table(
    path: Path, text: str, column: str | None, delimiter: str, once: Sequence[str]
) -> Iterator[Row]:
    """Yield the rows of a table as records; an empty cell gives the SMILES ""."""
    # Not strict, a quote that is not closed would swallow the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = 0
    try:
        header = next((row for row in reader if any(cell.strip() for cell in row)), [])
        header = [cell.strip() for cell in header]
        place, names = _place(path, header, column), _distinct(header)
        if twice := next((name for name in once if header.count(name) > 1), None):
            raise DataFileError(f"{path} has {header.count(twice)} columns {twice!r}: rename one")
        before = reader.line_num
        for row in reader:
            line, before = before + 1, reader.line_num
            if any(cell.strip() for cell in row):
                if any(cell.strip() for cell in row[len(names) :]):
                    raise DataFileError(
                        f"{path}, line {line}: {len(row)} cells, but {len(names)} columns: quote a "
                        f"cell that holds {delimiter!r}"
                    )
                # A quoted cell may end with a line break, as in the original ZINC250k table.
                smiles = row[place].strip(_BLANK) if len(row) > place else ""
                more = dict(zip(names, row, strict=False))
                more.pop(names[place], None)
                yield line, smiles, more
    except csv.Error as error:
        raise DataFileError(f"{path}, line {before + 1}: not a table: {error}") from error


def _distinct(names: list[str]) -> list[str]:
    """Make the names of columns distinct, by numbers that are appended to repeated ones."""
    found: dict[str, None] = {}
    counts: dict[str, int] = {}  # numbers up to these are taken
    for name in names:
        numbered = name
        while numbered in found:
            counts[name] = counts.get(name, 1) + 1
            numbered = f"{name}_{counts[name]}"
        found[numbered] = None
    return list(found)


def _jsonl(path: Path, lines: list[str], wanted: str) -> list[Row]:
    """Return the records of lines that hold a JSON object each; blank lines are none."""
    rows: list[Row] = []
    faults = []
    for number, line in enumerate(lines, 1):
        if not line.strip(_BLANK):
            continue
        value, more = None, {}
        try:
            row = json.loads(line)
            key = wanted if wanted in row else {k.lower(): k for k in row}[wanted.lower()]
            value = row.pop(key)
            more = {_whole(k): _cell(v) for k, v in row.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            faults.append((number, line[:60]))
        rows.append((number, _whole(value) if isinstance(value, str) else "", more))
    if rows and len(faults) == len(rows):
        number, text = faults[0]
        raise DataFileError(f"{path}, line {number}: no JSON object with {wanted!r}: {text!r}")
    return rows


def _whole(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by the replacement character."""
    return _SURROGATE.sub("\ufffd", text)


def _cell(value: Any) -> Any:
    """Convert a JSON value to a cell of a table."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return _whole(json.dumps(value, default=str) if isinstance(value, dict | list) else str(value))


def _sdf(path: Path, text: str) -> Iterator[Row]:
    """Yield the records of an SD file, with title and properties."""
    blocks = re.split(r"(?m)^\$\$\$\$.*\n", _LINE_END.sub("\n", text))
    blocks = [block for block in blocks if block.strip(_BLANK)]
    if blocks and not any("M  END" in block for block in blocks):
        raise DataFileError(f"{path}, record 1: without M  END: no SD file")
    joined = [k for k, block in enumerate(blocks, 1) if len(_END.findall(block)) > 1]
    if joined:
        cache.note(
            f"{path}: {len(joined):,} of {len(blocks):,} records hold several mol blocks and are "
            f"not read, the first is record {joined[0]}: end each block with a line $$$$"
        )
    for number, block in enumerate(blocks, 1):
        title = block.partition("\n")[0].strip(_BLANK)
        more = {"title": title} if title else {}
        fields = _FIELD.findall(block.partition("M  END")[2])
        more |= {name: value.rstrip(_BLANK) for name, value in fields}
        yield number, _smiles_of_block(block), more


def _smiles_of_block(block: str) -> str:
    """Return the SMILES of the mol block of an SD record."""
    from rdkit import Chem, rdBase

    if len(_END.findall(block)) != 1:
        return ""
    with rdBase.BlockLogs():
        try:
            mol = Chem.MolFromMolBlock(block)
            if mol is None:
                mol = Chem.MolFromMolBlock(block, sanitize=False, removeHs=False)
                mol.UpdatePropertyCache(strict=False)
            return Chem.MolToSmiles(mol)
        except (AttributeError, RuntimeError, ValueError):
            return ""


def _parquet(path: Path, content: bytes, column: str | None, others: bool) -> Iterator[Row]:
    """Yield the rows of a Parquet file as records, numbered from 1."""
    most = unpacked_limit(content)
    try:
        from pyarrow.parquet import ParquetFile

        metadata = ParquetFile(io.BytesIO(content)).metadata
        schema = metadata.schema.to_arrow_schema()
        rows, names = metadata.num_rows, schema.names
        if rows > max(LEAST_ROWS, len(content)):
            raise ValueError(f"{rows:,} rows in {len(content):,} bytes, more than one per byte")
        place = _place(path, names, column)
        if not _is_text(kind := schema.field(place).type):
            raise DataFileError(f"{path}: column {names[place]!r} holds {kind}, no text")
        names = names if others else [names[place]]
        # Repeated values stay single objects, since a few bytes can stand for a million long ones.
        texts = [name for name in names if _is_text(schema.field(name).type)]
        file = ParquetFile(io.BytesIO(content), read_dictionary=texts)
        place, shown = place if others else 0, _distinct(names)
        number, size = 0, 0
        for batch in file.iter_batches(columns=names):
            for row in zip(*map(_values, batch.columns), strict=True):
                number, size = number + 1, size + sum(len(v) for v in row if isinstance(v, str))
                if size > most:
                    raise ValueError(f"more than {most:,} characters in {len(content):,} bytes")
                cells = dict(zip(shown, map(_cell, row), strict=True))
                value = cells.pop(shown[place])
                yield number, value if isinstance(row[place], str) else "", cells
    except ImportError:
        raise DataFileError(f"{path}: .parquet needs pip install 'graphcnf[parquet]'") from None
    except DataFileError:
        raise
    except Exception as error:  # damage shows itself anywhere in the reader
        reason = " ".join(str(error).split())[:120]
        raise DataFileError(f"{path} is no intact Parquet file: {reason}") from error


def _is_text(kind: pyarrow.DataType) -> bool:
    """Return True for a type of text, or of a dictionary of texts."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind)


def _values(column: pyarrow.Array) -> Iterator[Any]:
    """Yield the values of an Arrow column."""
    repeated = hasattr(column, "dictionary")
    known = (column.dictionary if repeated else column).to_pylist()
    for k in column.indices.to_pylist() if repeated else range(len(column)):
        yield None if k is None else known[k]
