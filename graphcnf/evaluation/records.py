"""Molecules of the user's own, read and scored in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import Chem

from graphcnf.datasets.molecules import encode
from graphcnf.datasets.smiles_file import SUFFIXES, FileRecords, NoMolecules, read_smiles
from graphcnf.errors import UserError
from graphcnf.evaluation.metrics import Feature
from graphcnf.evaluation.summary import Part, look_at
from graphcnf.molecules.smiles import MoleculeNotRepresentable, quiet
from graphcnf.molecules.standardize import parse_standardized
from graphcnf.molecules.validity import evaluate_records, unsanitized_smiles

CHUNK = 500
"""Records that a process scores at a time."""


@dataclass(frozen=True)
class Records:
    """Records of a file, of the files of a folder, or of a list.

    Attributes:
        name: Name in tables.
        records: The records; None where files are read one after the other when it is their turn.
        files: These files.
        column: See `read_smiles`.
        count: Number of records.
    """

    name: str
    records: FileRecords | None
    files: list[Path]
    column: str | None
    count: int

    @classmethod
    def read(cls, file: str, column: str | None = None, content: bytes | None = None) -> Records:
        """Read the records of a file, or count those of a folder.

        Args:
            file: See `read_smiles`; a folder of parts is taken in the order of their names; "-"
                for `content` from standard input.
            column: Column of a table.
            content: The file's bytes where they are at hand.

        Raises:
            UserError: There are none.
        """
        if content is not None or not Path(file).is_dir():
            file = "standard input" if file == "-" else file
            records = read_smiles(file, column=column, content=content)
            return cls(file, records, [Path(file)], column, len(records[0]))
        parts = sorted(
            part
            for part in Path(file).iterdir()
            if part.name.lower().endswith(SUFFIXES)
            and part.is_file()
            and part.stat().st_size
            and not part.name.startswith(".")
        )
        if not parts:
            known = ", ".join(SUFFIXES)
            raise UserError(f"{file} is a folder without files of molecules ({known})")
        counts: dict[Path, int] = {}
        for part in parts:
            with suppress(NoMolecules):  # a shard in which nothing was accepted
                counts[part] = len(read_smiles(part, column=column)[0])
        if not counts:
            raise UserError(f"{file} is a folder whose files hold no molecules")
        return cls(file, None, list(counts), column, sum(counts.values()))

    @classmethod
    def of(cls, molecules: Iterable[str | Chem.Mol | None], name: str = "molecules") -> Records:
        """Take SMILES, molecules, or None for a record that could not be read.

        Raises:
            UserError: There are none.
        """
        smiles = [unsanitized_smiles(m) if isinstance(m, Chem.Mol) else m for m in molecules]
        if not smiles:
            raise UserError(f"{name}: there are no molecules to evaluate")
        numbers = list(range(1, len(smiles) + 1))
        records = FileRecords(numbers, [s or "" for s in smiles], {}, "record")
        return cls(name, records, [Path(name)], None, len(smiles))

    def chunks(self) -> Iterator[Chunk]:
        """Yield all records, in pieces that end where a file does."""
        first = 0
        for file in self.files:
            numbers, smiles, _, unit = self.records or read_smiles(file, column=self.column)
            of_file = f" of {file}" if len(self.files) > 1 else ""
            for k in range(0, len(smiles), CHUNK):
                end = k + CHUNK
                yield Chunk(of_file, first + k, unit, numbers[k:end], smiles[k:end])
            first += len(smiles)


class Chunk(NamedTuple):
    """Some records, see `FileRecords`; `first` counts those of all files, `of_file` names one."""

    of_file: str
    first: int
    unit: str
    numbers: list[int]
    smiles: list[str]


def score_chunk(
    features: tuple[Feature, ...], device: str, states: frozenset[str] | None, chunk: Chunk
) -> Part:
    """Score the molecules of a chunk.

    Args:
        features: Features of valid molecules that are wanted.
        device: Device of ChemNet.
        states: Charge states in which `parse_standardized` writes the molecules, those that it
            refuses as they are; None for all as they are.
        chunk: The records.
    """
    smiles = list(chunk.smiles)
    if states is not None:
        for k, text in enumerate(smiles):
            with suppress(MoleculeNotRepresentable), quiet():
                smiles[k] = Chem.MolToSmiles(parse_standardized(text, states))
    frame = evaluate_records(smiles, first=chunk.first)
    part = look_at(frame, features, device)
    valid = list(frame["smiles"][frame["strict"]])
    # Molecules that do not come back are left out.
    part.came_back = len(encode("molecules", valid, workers=1)) if valid else 0
    bad = np.flatnonzero(frame["atoms"] == 0)
    part.unreadable = len(bad)
    if len(bad):
        place = f"{chunk.unit} {chunk.numbers[bad[0]]}{chunk.of_file}"
        part.first_unreadable = place, chunk.smiles[bad[0]]
    return part
