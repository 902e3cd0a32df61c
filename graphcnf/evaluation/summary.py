"""Summarize a sample or molecule files: validity, uniqueness, novelty.

The nouns:

- *Record*: one entry of a sample or a file, which may be no molecule.
- *Block*, or *chunk* of a file: some consecutive records. Several processes summarize blocks, and
  the summaries add up to that of all records.
- *Convention*: what counts as valid, one of `graphcnf.molecules.conventions.CONVENTIONS`. "strict"
  is the main one: the graph is one connected molecule that RDKit can sanitize.
- *Figure*: a number about all records, by name.
- *Hash* of a molecule: that of its canonical SMILES without stereo, by which distinct molecules are
  counted. *Isomers* are counted by the hash of the isomeric SMILES. Hashes are uint64.

Uniqueness is distinct / valid, novelty is (valid and not in the training set) / valid, V.U.N. is
(distinct, valid and not in the training set) / samples. A fraction with the denominator 0 is 0.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rdkit import Chem

from graphcnf.chemistry.hashing import contains, hash_each
from graphcnf.chemistry.standardize import parse_standardized
from graphcnf.compute.parallel import Cluster, ordered_map
from graphcnf.compute.progress import progress_bar
from graphcnf.datasets.molecules import encode
from graphcnf.datasets.smiles_file import STDIN, SUFFIXES, FileRecords, NoMolecules, read_smiles
from graphcnf.errors import UserError
from graphcnf.evaluation.metrics import Statistic
from graphcnf.evaluation.statistics import SetStatistics, chunk_statistics
from graphcnf.molecules.codec import MoleculeNotRepresentable, quiet
from graphcnf.molecules.conventions import (
    CONVENTIONS,
    evaluate_records,
    failures,
    read_unsanitized,
    unsanitized_smiles,
)
from graphcnf.stereo.marks import count_marks

HEAD = 10_000
"""Number of first samples whose rows are kept, for pictures."""

UNIQUE_AT = (1_000, 10_000)
"""Uniqueness is also reported among this many first valid samples, as it falls with the number."""


@dataclass
class Summary:
    """Summary of a sample, or of a block of it.

    Attributes:
        sums: Counts by name: "samples"; "connected" samples; "share_kept", the sum over samples of
            the share of atoms in their largest fragment, where that is valid. For files also
            "came_back", valid molecules that come back unchanged from their graphs, and
            "unreadable" records.
        hashes: `{convention: [hashes of the valid samples of each block, uint64]}`.
        statistics: Statistics of the strictly valid molecules, for distribution metrics.
        failures: Number of samples by the reason for which they are not strictly valid. A sample
            with several reasons counts at each.
        heads: Tables that `evaluate_records` returns, one for each block, of the first samples.
        first_unreadable: Place ("line 3") and text of the first unreadable record; None if none.
        marks: Counts of stereo marks of the strictly valid molecules, by
            `graphcnf.stereo.marks.count_marks`.
        isomers: Hashes of the isomeric SMILES of the strictly valid molecules, an array for each
            block.
    """

    sums: Counter[str] = field(default_factory=lambda: Counter(samples=0))
    hashes: dict[str, list[np.ndarray]] = field(
        default_factory=lambda: {convention: [] for convention in CONVENTIONS}
    )
    statistics: SetStatistics = field(default_factory=lambda: SetStatistics(0))
    failures: Counter[str] = field(default_factory=Counter)
    heads: list[pd.DataFrame] = field(default_factory=list)
    first_unreadable: tuple[str, str] | None = None
    marks: Counter[str] = field(default_factory=Counter)
    isomers: list[np.ndarray] = field(default_factory=list)

    def add(self, block: Summary) -> None:
        """Add the summary of the next block, in place.

        Do not use it afterwards, since its parts are taken over without a copy.
        """
        self.sums.update(block.sums)
        for convention, own in block.hashes.items():
            self.hashes[convention] += own
        self.statistics.add(block.statistics)
        self.failures.update(block.failures)
        self.heads += block.heads
        self.marks.update(block.marks)
        self.isomers += block.isomers
        self.first_unreadable = self.first_unreadable or block.first_unreadable

    def add_marks(self, smiles: Iterable[str]) -> None:
        """Count the stereo marks of strictly valid molecules, in place."""
        counts, isomers = count_marks(smiles)
        self.marks.update(counts)
        self.isomers.append(hash_each(isomers))

    @property
    def head(self) -> pd.DataFrame:
        """Table of the first `HEAD` (10,000) samples, a row for each.

        Its columns are those of `graphcnf.molecules.conventions.evaluate_records`.
        """
        return pd.concat(self.heads, ignore_index=True)[:HEAD]

    def figures(self, training_hashes: np.ndarray | None = None) -> dict[str, Any]:
        """Return the figures: fractions in [0, 1] and counts, by name.

        Args:
            training_hashes: Sorted hashes of the training molecules; without them, novelty is None.

        Returns:
            A dictionary with these keys:

            - "samples": number of records; "connected": share of connected ones;
            - "strict_validity", "uniqueness", "novelty", "vun" (distinct, valid and novel molecules
              among all samples): shares by the convention "strict"; "strict_valid",
              "strict_unique", "strict_novel": the counts;
            - the same for every other convention with its name in front, such as
              "largest_fragment_uniqueness";
            - "largest_fragment_atom_share": mean share of atoms in a valid largest fragment;
            - "uniqueness_at_1000", "uniqueness_at_10000": among the first 1,000 or 10,000 strictly
              valid samples; None if there are fewer.
        """
        samples = self.sums["samples"]
        found: dict[str, Any] = {"samples": samples}
        for convention, parts in self.hashes.items():
            hashes = np.concatenate([np.zeros(0, np.uint64), *parts])
            distinct, valid = np.unique(hashes), len(hashes)
            own: dict[str, Any] = {
                "valid": valid,
                "unique": len(distinct),
                "validity": share(valid, samples),
                "uniqueness": share(len(distinct), valid),
            }
            for k in UNIQUE_AT if convention == "strict" else ():
                unique = len(np.unique(hashes[:k]))
                own[f"uniqueness_at_{k}"] = unique / k if valid >= k else None
            own |= dict.fromkeys(("novel", "novelty", "vun"))
            if training_hashes is not None:
                novel = int((~contains(training_hashes, hashes)).sum())
                outside = int((~contains(training_hashes, distinct)).sum())
                own |= {"novel": novel, "novelty": share(novel, valid)}
                own["vun"] = share(outside, samples)
            if convention == "largest_fragment":
                own["atom_share"] = share(self.sums["share_kept"], valid)
            found |= {figure_key(convention, name): value for name, value in own.items()}
        return {**found, "connected": share(self.sums["connected"], samples)}


def summarize(records: pd.DataFrame, wanted: tuple[Statistic, ...] = ()) -> Summary:
    """Summarize a block of records, the table that `evaluate_records` returns.

    `marks` and `isomers` are empty until `add_marks` is called.
    """
    strict, kept = records["strict"], records["kept"]
    valid = list(records["smiles"][strict])
    hashes = {c: [hash_each(s for s in records[c] if isinstance(s, str))] for c in CONVENTIONS[1:]}
    sums: Counter[str] = Counter(samples=len(records), connected=int((kept == 1).sum()))
    sums.update({"share_kept": kept[records["largest_fragment"].notna()].sum()})
    among_first = len(records) > 0 and records["record"].iloc[0] < HEAD
    return Summary(
        sums,
        {"strict": [hash_each(valid)], **hashes},
        chunk_statistics(wanted, (0, valid)),
        Counter(why for s in records["smiles"][~strict] for why in failures(read_unsanitized(s))),
        [records] if among_first else [],
    )


def figure_key(convention: str, name: str) -> str:
    """Return the key in `Summary.figures` of a figure in a convention.

    It is the name with the convention in front; in "strict", the names of ratios other than
    "validity" stay as they are.

    Examples:
        >>> figure_key("strict", "novelty"), figure_key("strict", "validity")
        ('novelty', 'strict_validity')
        >>> figure_key("repaired", "novelty")
        'repaired_novelty'
    """
    counted = name in ("valid", "validity", "unique", "novel")
    return f"{convention}_{name}" if counted or convention != "strict" else name


def share(part: float, whole: int) -> float:
    """Return `part / whole`, 0 if the whole is 0."""
    return part / whole if whole else 0.0


def mean_and_sd(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average figures over seeds, with their standard deviations.

    Returns:
        - `name`: mean of the figure, rounded if it is a count; None if it is None for a seed. What
          is no number is taken from the first seed.
        - `name_sd`: standard deviation (n - 1) of a figure that is no count.

        With one seed, its figures as they are.
    """
    if len(summaries) == 1:
        return dict(summaries[0])
    result: dict[str, Any] = {}
    for name, first in summaries[0].items():
        values = [summary[name] for summary in summaries]
        result[name] = None if None in values else first
        if None not in values and isinstance(first, float):
            result |= {name: statistics.fmean(values), f"{name}_sd": statistics.stdev(values)}
        elif None not in values and isinstance(first, int):
            result[name] = round(statistics.fmean(values))
    return result


def summarize_blocks(
    score: Callable[[Any], Summary],
    blocks: Iterable[Any],
    *,
    total: int,
    label: str,
    workers: int | Cluster,
) -> Summary:
    """Summarize every block, in processes or on a cluster, and add up the summaries.

    It is the same for any number of processes; an empty one for no blocks.
    """
    result = Summary()
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


Chunk = tuple[int, list[str], list[str]]
"""Up to `CHUNK` consecutive records to score: the number of the first one among the records of all
files, from 0; the place of each for messages, such as "line 3"; and the SMILES of each."""


@dataclass(frozen=True)
class Records:
    """Records of a file, of the files of a folder, or of a list.

    Made by `Records.read` of a file or folder, and by `Records.of` of a list.

    Attributes:
        files: The files; for a list of molecules, `[Path(name)]`, which is not read.
        count: Number of records of all files.
        records: The records of a file or list; None for a folder, whose files are read when needed.
    """

    name: str
    files: list[Path]
    count: int
    column: str | None = None
    records: FileRecords | None = None

    @classmethod
    def read(cls, file: str, column: str | None = None) -> Records:
        """Read the records of a file, or count the records in the files of a folder.

        Files of a folder that hold no molecule are left out; "-" is standard input.
        """
        if file == STDIN or not Path(file).is_dir():
            records = read_smiles(file, column=column)
            file = "standard input" if file == STDIN else file
            return cls(file, [Path(file)], len(records.smiles), column, records)
        parts = sorted(
            part
            for part in Path(file).iterdir()
            if part.name.lower().endswith(SUFFIXES)
            and not part.name.startswith(".")
            and part.is_file()
            and part.stat().st_size
        )
        if not parts:
            known = ", ".join(SUFFIXES)
            raise UserError(f"{file} is a folder without files of molecules ({known})")
        counts: dict[Path, int] = {}
        for part in parts:
            with suppress(NoMolecules):  # a shard without any accepted molecule
                counts[part] = len(read_smiles(part, column=column).smiles)
        if not counts:
            raise UserError(f"{file} is a folder whose files hold no molecules")
        return cls(file, list(counts), sum(counts.values()), column)

    @classmethod
    def of(cls, molecules: Iterable[str | Chem.Mol | None], name: str) -> Records:
        """Return the records of a list.

        They have "" in place of None and of molecules that RDKit cannot write.
        """
        smiles = [unsanitized_smiles(m) if isinstance(m, Chem.Mol) else m for m in molecules]
        for number, text in enumerate(smiles, 1):
            if not isinstance(text, str | None):
                raise UserError(f"{name}, record {number}: {text!r} is no SMILES and no molecule")
        if not smiles:
            raise UserError(f"{name}: there are no molecules to evaluate")
        numbers = list(range(1, len(smiles) + 1))
        records = FileRecords(numbers, [s or "" for s in smiles], [], "record")
        return cls(name, [Path(name)], len(smiles), records=records)

    def chunks(self) -> Iterator[Chunk]:
        """Yield all records in chunks of up to 500 (`CHUNK`); a chunk does not span two files.

        Yields:
            - Number of the chunk's first record among all records, from 0.
            - Place of each record for messages, such as "line 3".
            - SMILES of each record.
        """
        first = 0
        for file in self.files:
            numbers, smiles, _, unit = self.records or read_smiles(file, column=self.column)
            of_file = f" of {file}" if len(self.files) > 1 else ""
            places = [f"{unit} {number}{of_file}" for number in numbers]
            for k in range(0, len(smiles), CHUNK):
                yield first + k, places[k : k + CHUNK], smiles[k : k + CHUNK]
            first += len(smiles)


def score_chunk(
    wanted: tuple[Statistic, ...], states: frozenset[str] | None, marked: bool, chunk: Chunk
) -> Summary:
    """Summarize the molecules of a chunk; worker processes call it.

    Args:
        states: None to take the molecules as they are; else the groups, "acid" and "amine", that
            standardizing (`parse_standardized`) then writes charged. Molecules that cannot be
            standardized are taken as they are.

    `sums` also count "came_back", the valid molecules that a graph represents without loss, and
    "unreadable", the records that are no molecule.
    """
    first, places, given = chunk
    smiles = list(given)
    if states is not None:
        for k, text in enumerate(given):
            with suppress(MoleculeNotRepresentable), quiet():
                smiles[k] = Chem.MolToSmiles(parse_standardized(text, states))
    frame = evaluate_records(smiles, first=first)
    summary = summarize(frame, wanted)
    valid = list(frame["smiles"][frame["strict"]])
    bad = np.flatnonzero(frame["atoms"] == 0)
    # `encode` leaves out molecules that their graph does not lead back to.
    summary.sums["came_back"] = len(encode("molecules", valid, workers=1)) if valid else 0
    summary.sums["unreadable"] = len(bad)
    if marked:
        isomers = [text for text, is_valid in zip(smiles, frame["strict"], strict=True) if is_valid]
        summary.add_marks(isomers)
    if len(bad):
        summary.first_unreadable = places[bad[0]], given[bad[0]]
    return summary
