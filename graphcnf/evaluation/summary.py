"""Molecules and samples looked at once, in bounded memory, and the summary of a set of them.

A sample, or the records of files, are looked at block by block, here or elsewhere, and only the
`Part` of a block travels. Uniqueness is distinct / valid, novelty is (valid and not in the training
set) / valid, V.U.N. is (distinct, valid and not in the training set) / samples. A fraction of
nothing is 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rdkit import Chem

from graphcnf.compute.parallel import ordered_map
from graphcnf.compute.progress import progress_bar
from graphcnf.datasets.molecules import encode
from graphcnf.datasets.smiles_file import SUFFIXES, FileRecords, NoMolecules, read_smiles
from graphcnf.errors import UserError
from graphcnf.evaluation.metrics import Feature
from graphcnf.evaluation.statistics import SetStatistics, chunk_statistics
from graphcnf.molecules.codec import MoleculeNotRepresentable, quiet
from graphcnf.molecules.hashing import HashSet, contains, hash_each
from graphcnf.molecules.standardize import parse_standardized
from graphcnf.molecules.validity import (
    CONVENTIONS,
    evaluate_records,
    failures,
    molecules,
    unsanitized_smiles,
)

if TYPE_CHECKING:
    from graphcnf.compute.parallel import Cluster

HEAD = 10_000
"""Samples whose rows are kept, the first ones: for pictures."""

UNIQUE_AT = (1_000, 10_000)
"""Numbers of valid samples that uniqueness is also given among, because it falls with them."""


@dataclass
class Part:
    """Summary of a block of samples.

    Its `sums` add up: `samples`; `connected`, samples in one piece; `share_kept`, sum of the shares
    of atoms in the largest fragment, where that is valid; of a file also `came_back`, valid
    molecules that come back from their graphs unchanged, and `unreadable`, records that are no
    SMILES.
    """

    sums: Counter[str]
    hashes: dict[str, np.ndarray]  # of the valid samples in each convention
    statistics: SetStatistics  # of the strictly valid samples
    failures: Counter[str]  # samples that fail for each reason
    head: pd.DataFrame | None  # `evaluate_records` where they are among the first `HEAD`
    first_unreadable: tuple[str, str] | None = None  # place ("line 3") and text


def look_at(records: pd.DataFrame, features: tuple[Feature, ...] = (), device: str = "cpu") -> Part:
    """Summarize a table of `evaluate_records` in all conventions, numbered throughout.

    The features are those of the strictly valid molecules; the device is ChemNet's.
    """
    strict, kept = records["strict"], records["kept"]
    valid = list(records["smiles"][strict])
    hashes = {"strict": hash_each(valid)}
    for convention in CONVENTIONS[1:]:
        hashes[convention] = hash_each(s for s in records[convention] if isinstance(s, str))
    sums: Counter[str] = Counter(samples=len(records), connected=int((kept == 1).sum()))
    sums.update({"share_kept": kept[records["largest_fragment"].notna()].sum()})
    failed = molecules(records["smiles"][~strict])
    among_first = len(records) > 0 and records["record"].iloc[0] < HEAD
    return Part(
        sums,
        hashes,
        chunk_statistics(features, device, (0, valid)),
        Counter(f.reason for mol in failed for f in failures(mol)),
        records if among_first else None,
    )


class Summary:
    """Summary of a sample.

    Args:
        training_hashes: Sorted `hash_each` of the training set; None leaves novelty out (None).

    Attributes:
        sums: See `Part`, as `statistics`, `failures` and `first_unreadable`.
    """

    def __init__(self, training_hashes: np.ndarray | None = None):
        self.training_hashes = training_hashes
        self.sums: Counter[str] = Counter(samples=0)
        self.statistics = SetStatistics(0)
        self.failures: Counter[str] = Counter()
        self.first_unreadable: tuple[str, str] | None = None
        self._first = np.zeros(0, np.uint64)
        self._valid: Counter[str] = Counter()
        self._novel: Counter[str] = Counter()
        self._distinct = {convention: HashSet() for convention in CONVENTIONS}
        self._heads: list[pd.DataFrame] = []

    def add(self, part: Part) -> None:
        """Take in the next block."""
        self.sums.update(part.sums)
        for convention, own in part.hashes.items():
            self._valid[convention] += len(own)
            self._distinct[convention].update(own)
            if self.training_hashes is not None:
                self._novel[convention] += int((~contains(self.training_hashes, own)).sum())
        self._first = np.concatenate([self._first, part.hashes["strict"]])[: max(UNIQUE_AT)]
        self.statistics.add(part.statistics)
        self.failures.update(part.failures)
        self.first_unreadable = self.first_unreadable or part.first_unreadable
        self._heads += [] if part.head is None else [part.head]

    @property
    def head(self) -> pd.DataFrame:
        """`evaluate_records` of the first samples."""
        return pd.concat(self._heads, ignore_index=True)[:HEAD]

    def figures(self) -> dict[str, Any]:
        """Return the figures, fractions in [0, 1] with their denominators.

        Returns:
            `samples`; `strict_validity`, `largest_fragment_validity`, `largest_fragment_atom_share`
            (mean over samples that are valid in this convention); `uniqueness`, `novelty`, `vun` in
            the strict convention with the counts `strict_valid`, `strict_unique`, `strict_novel`;
            the same for every other convention under its name, as `largest_fragment_uniqueness`;
            `uniqueness_at_1000` and `uniqueness_at_10000`, among the first strictly valid ones,
            None where there are fewer; `connected`, the share in one piece.
        """
        samples, known = self.sums["samples"], self.training_hashes
        found: dict[str, Any] = {"samples": samples}
        for convention, distinct in self._distinct.items():
            valid = self._valid[convention]
            own: dict[str, Any] = {
                "valid": valid,
                "unique": len(distinct),
                "validity": share(valid, samples),
                "uniqueness": share(len(distinct), valid),
            }
            if convention == "strict":
                for k in UNIQUE_AT:
                    first = self._first[:k]
                    enough = len(first) == k
                    own[f"uniqueness_at_{k}"] = len(np.unique(first)) / k if enough else None
            own |= dict.fromkeys(("novel", "novelty", "vun"))
            if known is not None:
                novel = self._novel[convention]
                own |= {"novel": novel, "novelty": share(novel, valid)}
                own["vun"] = share(distinct.count_outside(known), samples)
            if convention == "largest_fragment":
                own["atom_share"] = share(self.sums["share_kept"], valid)
            found |= {figure_key(convention, name): value for name, value in own.items()}
        return {**found, "connected": share(self.sums["connected"], samples)}


def figure_key(convention: str, name: str) -> str:
    """Return the key in `Summary.figures` of a figure such as "novelty" in a convention."""
    counted = name in ("valid", "validity", "unique", "novel")
    return f"{convention}_{name}" if counted or convention != "strict" else name


def share(part: float, whole: int) -> float:
    """Return a fraction, 0 where there is nothing."""
    return part / whole if whole else 0.0


def summarize(records: pd.DataFrame, training_hashes: np.ndarray | None = None) -> dict[str, Any]:
    """Return `Summary.figures` of one table of `evaluate_records` in all conventions."""
    summary = Summary(training_hashes)
    summary.add(look_at(records))
    return summary.figures()


def summarize_blocks(
    score: Callable[[Any], Part],
    blocks: Iterable[Any],
    *,
    total: int,
    label: str,
    workers: int | Cluster,
    training_hashes: np.ndarray | None = None,
) -> Summary:
    """Score a sample block by block, in processes or on a cluster, on which nothing depends.

    Raises:
        WorkerDied: A process was killed.
    """
    result = Summary(training_hashes)
    with (
        progress_bar(label, total) as show,
        ordered_map(score, blocks, workers=workers) as parts,
    ):
        for part in parts:
            result.add(part)
            show(result.sums["samples"])
    return result


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
