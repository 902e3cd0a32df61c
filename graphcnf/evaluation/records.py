"""Molecules of the user's own, read and scored in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem

from graphcnf.datasets.molecules import encode
from graphcnf.datasets.smiles_file import SUFFIXES, FileRecords, NoMolecules, read_smiles
from graphcnf.errors import UserError
from graphcnf.evaluation.metrics import Feature
from graphcnf.evaluation.summary import Part, look_at
from graphcnf.molecules.codec import MoleculeNotRepresentable, quiet
from graphcnf.molecules.standardize import parse_standardized
from graphcnf.molecules.validity import evaluate_records, unsanitized_smiles

CHUNK = 500
"""Records that a process scores at a time."""


@dataclass(frozen=True)
class Records:
    """Records of a file, of the files of a folder, or of a list."""

    name: str  # in tables
    records: FileRecords | None  # None where files are read one after the other
    files: list[Path]
    column: str | None  # see `read_smiles`
    count: int

    @classmethod
    def read(cls, file: str, column: str | None = None, content: bytes | None = None) -> Records:
        """Read the records of a file, or count those of a folder of parts, in order of their names.

        Args:
            file: The file; "-" for `content` from standard input.
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
            places = [f"{unit} {number}{of_file}" for number in numbers]
            for k in range(0, len(smiles), CHUNK):
                yield first + k, places[k : k + CHUNK], smiles[k : k + CHUNK]
            first += len(smiles)


Chunk = tuple[int, list[str], list[str]]
"""Number of the first record among those of all files, places ("line 3") and SMILES."""


def score_chunk(
    features: tuple[Feature, ...], device: str, states: frozenset[str] | None, chunk: Chunk
) -> Part:
    """Score the molecules of a chunk (`look_at`).

    With charge states, they are taken as `parse_standardized` writes them, those that it refuses
    as they are.
    """
    first, places, given = chunk
    smiles = list(given)
    if states is not None:
        for k, text in enumerate(given):
            with suppress(MoleculeNotRepresentable), quiet():
                smiles[k] = Chem.MolToSmiles(parse_standardized(text, states))
    frame = evaluate_records(smiles, first=first)
    part = look_at(frame, features, device)
    valid = list(frame["smiles"][frame["strict"]])
    bad = np.flatnonzero(frame["atoms"] == 0)
    # Molecules that do not come back are left out.
    part.sums["came_back"] = len(encode("molecules", valid, workers=1)) if valid else 0
    part.sums["unreadable"] = len(bad)
    if len(bad):
        part.first_unreadable = places[bad[0]], given[bad[0]]
    return part
