"""Molecules of the user's own files, read and looked at in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.evaluation.summary import Look, Part
from graphcnf.molecules.metrics import evaluate_records
from graphcnf.molecules.smiles import MoleculeNotRepresentable, quiet
from graphcnf.molecules.standardize import parse_standardized
from graphcnf.scripts._output import read_stdin

if TYPE_CHECKING:
    from graphcnf.datasets.smiles_file import FileRecords

CHUNK = 500
"""Records of a file that a process scores at a time."""


@dataclass(frozen=True)
class Records:
    """What a file holds, or the files of a folder.

    Attributes:
        name: What to call it.
        records: What the file holds; None where files are read one after the other when it is
            their turn.
        files: These files.
        column: See `read_smiles`.
        count: Number of records.
    """

    name: str
    records: FileRecords | None
    files: list[Path]
    column: str | None
    count: int

    def chunks(self) -> Iterator[Chunk]:
        """All records, in pieces that end where a file does."""
        from graphcnf.datasets.smiles_file import read_smiles

        first = 0
        for file in self.files:
            numbers, smiles, _, unit = self.records or read_smiles(file, column=self.column)
            for k in range(0, len(smiles), CHUNK):
                end = k + CHUNK
                yield Chunk(str(file), first + k, unit, numbers[k:end], smiles[k:end])
            first += len(smiles)


class Chunk(NamedTuple):
    """Some records of a file, see `FileRecords`; `first` counts the records of all files."""

    file: str
    first: int
    unit: str
    numbers: list[int]
    smiles: list[str]


class Looked(NamedTuple):
    """What is known of a chunk.

    Attributes:
        part: See `Part`.
        came_back: How many of the valid molecules come back from their graphs as they were.
        unreadable: How many records are no SMILES.
        first: File, place ("line 3") and text of the first of these.
    """

    part: Part
    came_back: int
    unreadable: int
    first: tuple[str, str, str] | None


def look_at(look: Look, states: frozenset[str] | None, chunk: Chunk) -> Looked:
    """Score the molecules of a chunk, as `parse_standardized` writes them in given charge states.

    One that it refuses counts as it is.
    """
    smiles = list(chunk.smiles)
    if states is not None:
        for k, text in enumerate(smiles):
            with suppress(MoleculeNotRepresentable), quiet():
                smiles[k] = Chem.MolToSmiles(parse_standardized(text, states))
    frame = evaluate_records(smiles, first=chunk.first)
    bad = np.flatnonzero(frame["atoms"] == 0)
    first = None
    if len(bad):
        place = f"{chunk.unit} {chunk.numbers[bad[0]]}"
        first = chunk.file, place, chunk.smiles[bad[0]]
    valid = list(frame["smiles"][frame["strict"]])
    return Looked(look.at(frame), _come_back(valid), len(bad), first)


def read_records(file: str, column: str | None) -> Records:
    """See what a file of molecules holds, or a folder of such files.

    Args:
        file: See `read_smiles`; "-" for stdin; a folder of parts, taken in the order of their
            names.
        column: Column of a table.

    Raises:
        UserError: It holds none.
    """
    from graphcnf.datasets.smiles_file import SUFFIXES, NoMolecules, read_smiles

    if Path(file).is_dir():
        parts = sorted(
            part
            for part in Path(file).iterdir()
            if part.name.lower().endswith(SUFFIXES)
            and part.is_file()
            and part.stat().st_size
            and not part.name.startswith(".")
        )
        if not parts:
            raise UserError(
                f"{file} is a folder without files of molecules ({', '.join(SUFFIXES)})"
            )
        counts: dict[Path, int] = {}
        for part in parts:
            with suppress(NoMolecules):  # a shard in which nothing was accepted
                counts[part] = len(read_smiles(part, column=column)[0])
        if not counts:
            raise UserError(f"{file} is a folder whose files hold no molecules")
        return Records(file, None, list(counts), column, sum(counts.values()))
    shown = "standard input" if file == "-" else file
    content = read_stdin() if file == "-" else None
    records = read_smiles(shown, column=column, content=content)
    return Records(shown, records, [Path(shown)], column, len(records[0]))


def _come_back(smiles: Sequence[str]) -> int:
    """How many valid molecules come back from their graphs as they were."""
    from graphcnf.datasets.molecules import encode

    # It leaves out those that do not.
    return len(encode("molecules", list(smiles), workers=1)) if smiles else 0
