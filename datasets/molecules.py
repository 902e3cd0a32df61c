"""`MoleculeDataset`, molecules as graphs with a split; parallel encoding and caching.

- *To encode* molecules is to turn SMILES into graphs (`graphcnf.molecules.codec`).
- *Vocabulary*: which atom or bond each category number in the graphs stands for.
- *Hash* of a molecule: that of its canonical SMILES without stereo marks
  (`graphcnf.chemistry.hashing.hash_each`).
- *Split*: molecules are *held out* from training by their hash, or by a list of `test_indices`.
- *Measured column*: numbers beside the molecules of a user's file, such as pIC50.
- *Targets*: the values of properties or measured columns that molecules have. A model that is
  trained with them can be asked for them; they are the *conditions* of its batches.
- *Workers*: a number of processes, or a cluster of Dask (`graphcnf.compute.parallel`).
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from graphcnf.chemistry.hashing import hash_each
from graphcnf.chunks import chunked
from graphcnf.compute.parallel import Workers, parallel_map
from graphcnf.datasets.cache import cache_file
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.conditions import hide_values
from graphcnf.graphs.training_batches import size_bucketed_batches
from graphcnf.limits import MAX_NODES
from graphcnf.molecules.vocabulary import AROMATIC, CODEC_VERSION, AtomCategory, MoleculeVocabulary
from graphcnf.molecules.vocabulary_building import vocabulary_from_counts

FORMAT_VERSION = 3
"""Version in cache keys; to be raised when the layout of the cache changes."""

TEST_SHARE = 10
"""One in this many molecules is held out."""

_CHUNK = 1000


class Skipped(NamedTuple):
    """A record of a file that was left out of a data set.

    Attributes:
        line: Number of its line or record, from 1.
        text: The SMILES as it stands there, at most 200 characters.
        reason: Why it was left out, in one line.
    """

    line: int
    text: str
    reason: str


@dataclass(eq=False)
class MoleculeDataset:
    """Molecules as graphs, in the order of their file, duplicates included.

    Without `test_indices`, one molecule in ten is held out, chosen by the hash of its canonical
    SMILES. So the split does not depend on the order of the file, and repeats of a molecule are in
    the same part.

    Attributes:
        name: Name, such as "zinc250k", or that of a file without its ending.
        smiles: Canonical SMILES of each molecule, without stereo marks.
        vocabulary: Which atom or bond each category in `graphs` stands for.
        hashes: Hash of each molecule by `hash_each`, (M,) uint64.
        test_indices: Indices of the held-out molecules, integers (K,); None to split by hash.
        columns: Names of the measured columns whose values are `targets`, (P of them); () if the
            targets are other properties, or if there are none.
        targets: Values of P properties of each molecule, NaN where unknown, (M, P) float64. They
            become the conditions of batches. None for a data set without targets.
        isomers: Canonical SMILES of each molecule with its stereo marks; None if they were not
            read.
    """

    # What a run of training does not depend on does not compare: it is continued with equal data.
    name: str = field(compare=False)
    graphs: PackedGraphs
    smiles: list[str] = field(compare=False)
    vocabulary: MoleculeVocabulary
    hashes: np.ndarray
    skipped: list[Skipped] = field(default_factory=list, compare=False)
    test_indices: np.ndarray | None = None
    columns: tuple[str, ...] = ()
    targets: np.ndarray | None = None
    isomers: list[str] | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.graphs)

    def __repr__(self) -> str:
        return f"MoleculeDataset({self.name!r}, {len(self)} molecules)"

    @cached_property
    def _is_test(self) -> np.ndarray:
        if self.test_indices is None:
            return self.hashes % np.uint64(TEST_SHARE) == 0
        chosen = np.zeros(len(self), dtype=bool)
        chosen[self.test_indices] = True
        return chosen

    def split(self, part: str) -> np.ndarray:
        """Return the ascending indices of the "train" or "test" (held-out) molecules, (K,)."""
        if part not in ("train", "test"):
            raise ValueError(f"split must be train or test, got {part!r}")
        return np.flatnonzero(self._is_test == (part == "test"))

    def take(self, rows: Sequence[int] | np.ndarray) -> MoleculeDataset:
        """Return a data set of some molecules, each held out if it was held out before."""
        chosen = None if self.test_indices is None else np.flatnonzero(self._is_test[rows])
        return dataclasses.replace(
            self,
            graphs=self.graphs.subset(rows),
            smiles=[self.smiles[k] for k in rows],
            hashes=self.hashes[rows],
            skipped=[],
            test_indices=chosen,
            targets=None if self.targets is None else self.targets[rows],
            isomers=None if self.isomers is None else [self.isomers[k] for k in rows],
        )

    def size_histogram(self) -> np.ndarray:
        """Count the training molecules by number of heavy atoms, (largest + 1,) int64."""
        return np.bincount(self.graphs.node_counts[self.split("train")])

    def atom_counts(self) -> Counter[AtomCategory]:
        """Count the atoms of each category, in all molecules: `{category: number of atoms}`."""
        counts = np.bincount(self.graphs.node_types, minlength=len(self.vocabulary.atoms))
        return Counter(dict(zip(self.vocabulary.atoms, counts.tolist(), strict=True)))

    def bond_counts(self) -> Counter[str]:
        """Count the bonds of each category, in all molecules: `{name of the category: number}`."""
        counts = np.bincount(self.graphs.edge_types, minlength=len(self.vocabulary.bonds))
        return Counter(dict(zip(self.vocabulary.bonds, counts.tolist(), strict=True)))

    def describe(self) -> dict[str, Any]:
        """Return facts about the data set as JSON values, which `graphcnf datasets info` prints.

        Returns:
            - "name"; numbers of molecules: "molecules", "distinct", "left_out", "train" and "test";
            - "atoms_per_molecule" and "bonds_per_molecule", each `{"least", "mean", "most"}`;
            - "charged", the share of molecules with a charged atom;
            - "atom_categories" and "bond_categories", each `{label of the category: number}`.
        """
        graphs = self.graphs
        charged = np.array([atom.charge != 0 for atom in self.vocabulary.atoms])[graphs.node_types]
        owners = np.repeat(np.arange(len(graphs)), graphs.node_counts)
        sizes = {
            f"{what}_per_molecule": {
                "least": int(counts.min()),
                "mean": float(counts.mean()),
                "most": int(counts.max()),
            }
            for what, counts in (("atoms", graphs.node_counts), ("bonds", graphs.edge_counts))
        }
        return {
            "name": self.name,
            "molecules": len(self),
            "distinct": len(np.unique(self.hashes)),
            "left_out": len(self.skipped),
            "train": len(self.split("train")),
            "test": len(self.split("test")),
            **sizes,
            "charged": len(np.unique(owners[charged])) / len(graphs),
            "atom_categories": {str(atom): n for atom, n in self.atom_counts().items()},
            "bond_categories": dict(self.bond_counts()),
        }

    def training_hashes(self) -> np.ndarray:
        """Return the sorted hashes of the training molecules, (K,) uint64: others are novel."""
        return np.unique(self.hashes[self.split("train")])

    def without_charges(self) -> MoleculeDataset:
        """Return the data set with atom categories without charge, as in most of the literature.

        Charged molecules cannot be recovered from such graphs. `smiles` and `hashes` stay those of
        the charged molecules.
        """
        return self._recoded(lambda atom: atom._replace(charge=0), str)

    def without_aromatic(self) -> MoleculeDataset:
        """Return the data set in categories that do not say which atoms and bonds are aromatic.

        Aromatic rings are then written by alternating single and double bonds (Kekulé structure).
        """
        return self._recoded(
            lambda atom: atom._replace(aromatic=False), lambda bond: bond.removeprefix(AROMATIC)
        )

    def in_categories(self, vocabulary: MoleculeVocabulary) -> MoleculeDataset:
        """Return the data set with its graphs in the categories of another vocabulary.

        It must have all categories of the data set, and may have more.
        """
        return self._recoded(lambda atom: atom, str, vocabulary)

    def _recoded(
        self,
        atom: Callable[[AtomCategory], AtomCategory],
        bond: Callable[[str], str],
        new: MoleculeVocabulary | None = None,
    ) -> MoleculeDataset:
        """Return the data set with renamed categories."""
        if new is None:
            new = vocabulary_from_counts(
                _renamed(self.atom_counts(), atom), _renamed(self.bond_counts(), bond)
            )
        node = [new.atom_index[atom(name)] for name in self.vocabulary.atoms]
        edge = [new.bond_index[bond(name)] for name in self.vocabulary.bonds]
        graphs = dataclasses.replace(
            self.graphs,
            node_types=np.array(node, np.uint8)[self.graphs.node_types],
            edge_types=np.array(edge, np.uint8)[self.graphs.edge_types],
        )
        return dataclasses.replace(self, graphs=graphs, vocabulary=new)

    def train_batches(
        self, batch_size: int, epoch: int, seed: int, start: int = 0
    ) -> Iterator[GraphBatch]:
        """Yield the training molecules of an epoch in batches of molecules of similar size.

        If there are targets, a random part of them is known in each molecule, and the others are
        NaN. So a model learns to draw molecules given any part of the targets.

        The epoch, from 0, determines the order; `start` is the first batch to yield, to go on
        within one.
        """
        train = self.split("train")
        sizes = self.graphs.node_counts[train]
        for number, index in size_bucketed_batches(sizes, batch_size, seed, epoch, start):
            yield self._batch(train[index], (seed, epoch, number))

    def test_batches(self, batch_size: int) -> Iterator[GraphBatch]:
        """Yield the held-out molecules in batches, always in the same random order.

        If there are targets, always the same random part of them is known; the others are NaN.
        """
        test = np.random.default_rng(0).permutation(self.split("test"))
        for first in range(0, len(test), batch_size):
            yield self._batch(test[first : first + batch_size], (0, first))

    def _batch(self, index: np.ndarray, seed: tuple[int, ...]) -> GraphBatch:
        """Return a batch; if there are targets, with a random part of them as known conditions."""
        batch = GraphBatch.collate(self.graphs, index)
        if self.targets is not None:
            values = hide_values(self.targets[index], np.random.default_rng(seed))
            batch.condition_values = torch.from_numpy(values.astype(np.float32))
        return batch

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the data set as arrays for the cache, which `from_arrays` reads.

        They lack `name`, `test_indices`, `columns` and `targets`, which do not follow from the
        molecules. `from_arrays` is given the name again; the caller sets the others afterwards.

        Returns:
            `{name: array}`:

            - the five attributes of `graphs`, see `PackedGraphs`, and "hashes", (M,) uint64;
            - texts as bytes of UTF-8, uint8: "smiles" and "isomers" (SMILES with stereo marks, if
              they were read) with a molecule on each line; "vocabulary" and "skipped" (the records
              that were left out) as JSON.
        """
        isomers = {} if self.isomers is None else {"isomers": _text("\n".join(self.isomers))}
        return {
            **self.graphs.to_arrays(),
            **isomers,
            "smiles": _text("\n".join(self.smiles)),
            "hashes": self.hashes,
            "vocabulary": _text(json.dumps(self.vocabulary.to_dict())),
            "skipped": _text(json.dumps(self.skipped)),
        }

    @classmethod
    def from_arrays(cls, name: str, arrays: dict[str, np.ndarray]) -> MoleculeDataset:
        """Build a data set from the arrays that `to_arrays` returned.

        It is split by hash and without targets.
        """
        return cls(
            name=name,
            graphs=PackedGraphs.from_arrays(arrays),
            smiles=_lines(arrays["smiles"]),
            vocabulary=MoleculeVocabulary.from_dict(json.loads(arrays["vocabulary"].tobytes())),
            hashes=arrays["hashes"],
            skipped=[Skipped(*s) for s in json.loads(arrays["skipped"].tobytes())],
            isomers=_lines(arrays["isomers"]) if "isomers" in arrays else None,
        )


def _renamed(counts: Counter[Any], name: Callable[[Any], Any]) -> Counter[Any]:
    """Return counts of renamed categories; counts of those with the same new name are added."""
    total: Counter = Counter()
    for old, count in counts.items():
        total[name(old)] += count
    return total


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _lines(text: np.ndarray) -> list[str]:
    return text.tobytes().decode().split("\n") if len(text) else []


def encode(
    name: str,
    lines: Sequence[str],
    *,
    vocabulary: MoleculeVocabulary | None = None,
    max_atoms: int = MAX_NODES,
    workers: Workers = None,
    exact: bool = True,
    standardize: frozenset[str] | None = None,
    stereo: bool = False,
) -> MoleculeDataset:
    """Encode SMILES as a data set; what cannot be encoded is left out and listed in `skipped`.

    Args:
        vocabulary: Categories of atoms and bonds; None to collect them from the molecules, aromatic
            ones apart.
        exact: True to leave out molecules that come back from their graphs as other molecules.
        standardize: None to encode molecules as they are. A set of names to standardize each first
            (`graphcnf.chemistry.standardize.parse_standardized`): which of "acid" and "amine" are
            then written charged; all others become neutral.
        stereo: True to keep the SMILES with stereo marks as well, in `isomers`.
    """
    encode_chunk = partial(
        _encode_chunk,
        vocabulary=vocabulary,
        standardize=standardize,
        max_atoms=max_atoms,
        exact=exact,
        stereo=stereo,
    )
    if len(lines) <= 2 * _CHUNK:
        workers = 1
    label = f"encoding {name}" if len(lines) > _CHUNK else ""
    parts = parallel_map(encode_chunk, chunked(lines, _CHUNK), workers=workers, label=label)
    if vocabulary is None:
        atoms = sum((part.atom_counts() for part in parts), Counter())
        bonds = sum((part.bond_counts() for part in parts), Counter())
        vocabulary = vocabulary_from_counts(atoms, bonds)
        parts = [part.in_categories(vocabulary) for part in parts]
    return MoleculeDataset(
        name,
        PackedGraphs.concatenate([part.graphs for part in parts]),
        [smiles for part in parts for smiles in part.smiles],
        vocabulary,
        np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)]),
        [
            record._replace(line=record.line + k * _CHUNK)
            for k, part in enumerate(parts)
            for record in part.skipped
        ],
        isomers=[smiles for part in parts for smiles in part.isomers or ()] if stereo else None,
    )


def _encode_chunk(
    lines: Sequence[str],
    *,
    vocabulary: MoleculeVocabulary | None,
    standardize: frozenset[str] | None,
    stereo: bool,
    **how: Any,
) -> MoleculeDataset:
    """Encode a chunk of SMILES as a data set with the name "", in one process."""
    from rdkit import Chem

    from graphcnf.molecules import codec

    read = codec.parse
    if standardize is not None:
        from graphcnf.chemistry.standardize import parse_standardized

        read = partial(parse_standardized, states=standardize)
    tell_aromatic = vocabulary is None or vocabulary.tells_aromatic
    atoms, bonds, edges, node_counts, edge_counts = [], [], [], [], []
    smiles, isomers, skipped = [], [], []
    with codec.quiet():
        for line, text in enumerate(lines, 1):
            try:
                mol = read(text)
                graph = codec.named_graph(
                    mol, tell_aromatic=tell_aromatic, vocabulary=vocabulary, **how
                )
            except codec.MoleculeNotRepresentable as error:
                skipped.append(Skipped(line, text[:200], str(error)))
                continue
            smiles.append(graph.smiles)
            if stereo:
                isomers.append(Chem.MolToSmiles(mol) if codec.has_marks(text) else graph.smiles)
            node_counts.append(len(graph.atoms))
            edge_counts.append(len(graph.edges))
            atoms += graph.atoms
            bonds += graph.bonds
            edges += graph.edges
    vocabulary = vocabulary or vocabulary_from_counts(Counter(atoms), Counter(bonds))
    graphs = PackedGraphs(
        np.array(node_counts, np.int64),
        np.array([vocabulary.atom_index[atom] for atom in atoms], np.uint8),
        np.array(edge_counts, np.int64),
        np.array(edges, np.uint8).reshape(-1, 2),
        np.array([vocabulary.bond_index[bond] for bond in bonds], np.uint8),
    )
    return MoleculeDataset(
        "", graphs, smiles, vocabulary, hash_each(smiles), skipped,
        isomers=isomers if stereo else None,
    )  # fmt: skip


def cache_path(name: str, *key) -> Path:
    """Return the path of a cache file of encoded molecules.

    The versions of RDKit and of the encoding are part of the key, so that an old file is not used.
    """
    return cache_file(name, FORMAT_VERSION, CODEC_VERSION, version("rdkit"), *key)


def roundtrip_failures(dataset: MoleculeDataset, workers: Workers = None) -> dict[int, str | None]:
    """Find the molecules that come back from their graphs as other molecules.

    The result is `{index: SMILES that its graph leads to}`, None for no valid molecule.
    """
    chunks = [dataset.take(part) for part in chunked(np.arange(len(dataset)), _CHUNK)]
    workers = 1 if len(chunks) <= 2 else workers
    parts = parallel_map(_written, chunks, workers=workers, label="checking graphs")
    written = (smiles for part in parts for smiles in part)
    pairs = zip(written, dataset.smiles, strict=True)
    return {k: smiles for k, (smiles, known) in enumerate(pairs) if smiles != known}


def _written(dataset: MoleculeDataset) -> list[str | None]:
    from graphcnf.molecules.validity import strict_smiles

    return strict_smiles(dataset.graphs, dataset.vocabulary)
