"""A set of molecules as graphs, with its split, counts and cache; encoding in parallel."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from graphcnf.compute.parallel import Workers, chunked, parallel_map
from graphcnf.datasets import cache
from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.batching import size_bucketed_batches
from graphcnf.graphs.conditions import partly_known
from graphcnf.graphs.packed import MAX_NODES, PackedGraphs
from graphcnf.molecules.hashing import hash_each
from graphcnf.molecules.vocabulary import CODEC_VERSION, MARK, MoleculeVocabulary

FORMAT_VERSION = 2
"""Raised when the cache's layout changes."""

TEST_SHARE = 10
"""One molecule in this many is held out."""

_CHUNK = 1000


@dataclass(frozen=True)
class Skipped:
    """A record that was left out: line number (1-based), its text, and why."""

    line: int
    text: str
    reason: str


@dataclass(eq=False)
class MoleculeDataset:
    """Molecules as graphs, in the order of their file, duplicates included.

    A molecule belongs to the test set when the hash of its canonical SMILES says so (one in ten):
    the split does not depend on the order of the file, and equal molecules share a side.

    Attributes:
        name: Short name.
        graphs: One graph per molecule.
        smiles: Canonical SMILES without stereo of each molecule.
        vocabulary: Meaning of the categories in `graphs`.
        hashes: `smiles_hash` of each molecule, (M,) uint64.
        skipped: Records of the file that are not among the molecules.
        test_indices: Held-out molecules where they were chosen by hand; None: by hash.
        targets: Properties of each molecule that batches ask for, (M, P), or None.
    """

    name: str
    graphs: PackedGraphs
    smiles: list[str]
    vocabulary: MoleculeVocabulary
    hashes: np.ndarray
    skipped: list[Skipped] = field(default_factory=list)
    test_indices: np.ndarray | None = None
    targets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.graphs)

    def __repr__(self) -> str:
        return (
            f"MoleculeDataset({self.name!r}, {len(self)} molecules, "
            f"{len(self.vocabulary.atoms)} atom and {len(self.vocabulary.bonds)} bond categories)"
        )

    @cached_property
    def _is_test(self) -> np.ndarray:
        if self.test_indices is None:
            return self.hashes % np.uint64(TEST_SHARE) == 0
        chosen = np.zeros(len(self), dtype=bool)
        chosen[self.test_indices] = True
        return chosen

    def split(self, part: str) -> np.ndarray:
        """Indices of the molecules of "train", "test" or "all", rising.

        Raises:
            ValueError: Another name.
        """
        if part == "all":
            return np.arange(len(self))
        if part not in ("train", "test"):
            raise ValueError(f"no split {part!r}: choose train, test or all")
        return np.flatnonzero(self._is_test == (part == "test"))

    def take(self, rows) -> MoleculeDataset:
        """Some of the molecules, in the order of `rows`; the split by hash goes with them."""
        chosen = None if self.test_indices is None else np.flatnonzero(self._is_test[rows])
        return dataclasses.replace(
            self,
            graphs=self.graphs.subset(rows),
            smiles=[self.smiles[k] for k in rows],
            hashes=self.hashes[rows],
            skipped=[],
            test_indices=chosen,
            targets=None if self.targets is None else self.targets[rows],
        )

    def size_histogram(self, part: str = "train") -> np.ndarray:
        """Number of molecules of each size; the index is the number of atoms."""
        return np.bincount(self.graphs.node_counts[self.split(part)])

    def node_type_counts(self) -> np.ndarray:
        """Atoms of each category, in all molecules."""
        return np.bincount(self.graphs.node_types, minlength=len(self.vocabulary.atoms))

    def bond_type_counts(self) -> np.ndarray:
        """Bonds of each category, in all molecules."""
        return np.bincount(self.graphs.bond_types, minlength=len(self.vocabulary.bonds))

    def training_hashes(self) -> np.ndarray:
        """Hashes of the distinct training molecules, sorted uint64, to hold novelty against."""
        return np.unique(self.hashes[self.split("train")])

    def without_charges(self) -> MoleculeDataset:
        """The same molecules with categories of elements alone, as the literature has them.

        The split stays. Molecules that hold a charge do not come back from such graphs: nitro
        groups become a nitrogen with five bonds.
        """
        return self._merged(lambda atom: atom._replace(charge=0), lambda bond: bond)

    def without_marks(self) -> MoleculeDataset:
        """The same molecules with categories that do not say what is aromatic."""
        return self._merged(
            lambda atom: atom._replace(aromatic=False), lambda bond: bond.removeprefix(MARK)
        )

    def _merged(self, atom, bond) -> MoleculeDataset:
        """The same graphs with fewer categories: `atom` and `bond` map old names to new ones."""
        old, atoms, bonds = self.vocabulary, Counter(), Counter()
        for name, count in zip(old.atoms, self.node_type_counts(), strict=True):
            atoms[atom(name)] += int(count)
        for name, count in zip(old.bonds, self.bond_type_counts(), strict=True):
            bonds[bond(name)] += int(count)
        return self._renumbered(MoleculeVocabulary.from_counts(atoms, bonds), atom, bond)

    def in_categories(self, vocabulary: MoleculeVocabulary) -> MoleculeDataset:
        """The same graphs with the category numbers of another vocabulary.

        Raises:
            KeyError: It lacks a category that the molecules have.
        """
        return self._renumbered(vocabulary, lambda atom: atom, lambda bond: bond)

    def _renumbered(self, new: MoleculeVocabulary, atom, bond) -> MoleculeDataset:
        old = self.vocabulary
        node = np.array([new.atom_index[atom(a)] for a in old.atoms], dtype=np.uint8)
        edge = np.array([new.bond_index[bond(b)] for b in old.bonds], dtype=np.uint8)
        graphs = dataclasses.replace(
            self.graphs,
            node_types=node[self.graphs.node_types],
            bond_types=edge[self.graphs.bond_types],
        )
        return dataclasses.replace(self, graphs=graphs, vocabulary=new)

    def train_batches(
        self, batch_size: int, epoch: int, seed: int, start: int = 0
    ) -> Iterator[GraphBatch]:
        """The batches of one epoch over the training part, from number `start` on."""
        train = self.split("train")
        numbers = size_bucketed_batches(self.graphs.node_counts[train], batch_size, seed, epoch)
        for number, index in enumerate(islice(numbers, start, None), start):
            yield self._batch(train[index], (seed, epoch, number))

    def test_batches(self, batch_size: int) -> Iterator[GraphBatch]:
        """The held-out molecules, the same random order every time: any first few are fair."""
        test = np.random.default_rng(0).permutation(self.split("test"))
        for first in range(0, len(test), batch_size):
            yield self._batch(test[first : first + batch_size], (0, first))

    def _batch(self, index: np.ndarray, seed: tuple[int, ...]) -> GraphBatch:
        """Some molecules, some of whose targets are known."""
        batch = GraphBatch.collate(self.graphs, index)
        if self.targets is not None:
            values = partly_known(self.targets[index], np.random.default_rng(seed))
            batch.conditions = torch.from_numpy(values.astype(np.float32))
        return batch

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything but the name, `test_indices` and `targets`, for the cache."""
        skipped = [[s.line, s.text, s.reason] for s in self.skipped]
        return {
            **self.graphs.to_arrays(),
            "smiles": _text("\n".join(self.smiles)),
            "hashes": self.hashes,
            "vocabulary": _text(json.dumps(self.vocabulary.to_dict())),
            "skipped": _text(json.dumps(skipped)),
        }

    @classmethod
    def from_arrays(cls, name: str, arrays: dict[str, np.ndarray]) -> MoleculeDataset:
        """Inverse of `to_arrays`."""
        return cls(
            name=name,
            graphs=PackedGraphs.from_arrays(arrays),
            smiles=arrays["smiles"].tobytes().decode().split("\n"),
            vocabulary=MoleculeVocabulary.from_dict(json.loads(arrays["vocabulary"].tobytes())),
            hashes=arrays["hashes"],
            skipped=[Skipped(*s) for s in json.loads(arrays["skipped"].tobytes())],
        )


def encode(
    name: str,
    lines: Sequence[str],
    *,
    vocabulary: MoleculeVocabulary | None = None,
    max_atoms: int = MAX_NODES,
    workers: Workers = None,
    exact: bool = True,
    standardize: frozenset[str] | None = None,
) -> MoleculeDataset:
    """Encode SMILES; `skipped` of the result numbers them from 1.

    Args:
        name: Name of the result.
        lines: One SMILES each.
        vocabulary: Categories to use; None to take them from the molecules, aromatic ones marked.
        max_atoms: Largest molecule to keep.
        workers: Processes, or a cluster; None for one per core (one in all for short lists).
        exact: Whether to leave out molecules that their graphs do not lead back to.
        standardize: Charge states to take each molecule in, as `parse_standardized` gives it; None
            for the molecule as it is.
    """
    chunks = [(c, vocabulary, max_atoms, exact, standardize) for c in chunked(lines, _CHUNK)]
    if len(lines) <= 2 * _CHUNK:
        workers = 1
    label = f"encoding {name}" if len(lines) > _CHUNK else ""
    parts = parallel_map(_encode_chunk, chunks, workers=workers, label=label)
    if vocabulary is None:
        vocabulary = MoleculeVocabulary.from_counts(
            sum((p["atoms"] for p in parts), Counter()), sum((p["bonds"] for p in parts), Counter())
        )
    graphs, smiles, skipped = [], [], []
    for k, part in enumerate(parts):
        # A chunk numbers its categories in the order of its own counters.
        atoms = np.array([vocabulary.atom_index[a] for a in part["atoms"]], dtype=np.uint8)
        bonds = np.array([vocabulary.bond_index[b] for b in part["bonds"]], dtype=np.uint8)
        graph = part["graphs"]
        graph.node_types, graph.bond_types = atoms[graph.node_types], bonds[graph.bond_types]
        graphs.append(graph)
        smiles += part["smiles"]
        start = k * _CHUNK + 1
        skipped += [Skipped(start + line, text, reason) for line, text, reason in part["skipped"]]
    return MoleculeDataset(
        name, PackedGraphs.concatenate(graphs), smiles, vocabulary, hash_each(smiles), skipped
    )


def _encode_chunk(
    task: tuple[list[str], MoleculeVocabulary | None, int, bool, frozenset[str] | None],
) -> dict:
    from graphcnf.molecules import codec

    lines, vocabulary, max_atoms, exact, standardize = task
    read = codec.parse
    if standardize is not None:
        from graphcnf.molecules.standardize import parse_standardized

        read = partial(parse_standardized, states=standardize)
    marked = vocabulary is None or vocabulary.marked
    atoms, bonds = {}, {}
    atom_counts, bond_counts = Counter(), Counter()
    node_counts, node_types, edge_counts, edges, bond_types = [], [], [], [], []
    smiles, skipped = [], []
    with codec.quiet():
        for line, text in enumerate(lines):
            try:
                mol = read(text)
                codec.check_representable(mol, max_atoms)
                written = codec.canonical_smiles(mol)
                mol = codec.canonical(written)
                names, pairs, kinds = codec.categories(mol, marked)
                if vocabulary is not None:
                    codec.check_vocabulary(names, kinds, vocabulary)
                if exact:
                    codec.check_roundtrip(mol, written)
            except codec.MoleculeNotRepresentable as error:
                skipped.append((line, text[:200], str(error)))
                continue
            atom_counts.update(names)
            bond_counts.update(kinds)
            smiles.append(written)
            node_counts.append(len(names))
            edge_counts.append(len(pairs))
            node_types += [atoms.setdefault(a, len(atoms)) for a in names]
            bond_types += [bonds.setdefault(b, len(bonds)) for b in kinds]
            edges += pairs
    return {
        "graphs": PackedGraphs(
            np.array(node_counts, np.int64),
            np.array(node_types, np.uint8),
            np.array(edge_counts, np.int64),
            np.array(edges, np.uint8).reshape(-1, 2),
            np.array(bond_types, np.uint8),
        ),
        "atoms": Counter({a: atom_counts[a] for a in atoms}),
        "bonds": Counter({b: bond_counts[b] for b in bonds}),
        "smiles": smiles,
        "skipped": skipped,
    }


def cache_path(name: str, *key) -> Path:
    """Cache file of a data set whose content is a function of `key` and of the codec.

    Of the name it has what every file system takes.
    """
    try:
        rdkit = version("rdkit")  # canonical SMILES differ between versions
    except PackageNotFoundError:
        rdkit = "unknown"
    text = json.dumps([FORMAT_VERSION, CODEC_VERSION, rdkit, *key])
    name = "".join(c if c.isalnum() and c.isascii() or c in "-_" else "_" for c in name)[:45]
    return cache.cache_folder() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"


def load_cached(name: str, path: Path) -> MoleculeDataset | None:
    """The data set cached at `path`; None where there is none or it is damaged (with a note)."""
    arrays = cache.read_or_none(path)
    if arrays is None:
        return None
    try:
        return MoleculeDataset.from_arrays(name, arrays)
    except (KeyError, ValueError, TypeError) as error:
        cache.note(f"cache {path} is damaged ({error}); rebuilding it")
        return None


def official_rows(
    name: str, digest: str, rows: Callable[[], list[str]], place: str, *,
    vocabulary: MoleculeVocabulary | None = None, workers: Workers = None, use_cache: bool = True,
) -> MoleculeDataset:  # fmt: skip
    """A published data set, encoded the first time; every row stays, so that row numbers hold.

    Args:
        name: Of the data set.
        digest: Of the file that it comes from.
        rows: Gives the SMILES.
        place: What the number of a row stands behind in a message.
        vocabulary: Categories to use; None to take them from the rows.
        workers: Processes that encode, or a cluster; None for one per core.
        use_cache: Whether to read and write the cache.

    Raises:
        UserError: A row is no molecule that can be encoded.
    """
    path = cache_path(name, digest)
    dataset = load_cached(name, path) if use_cache else None
    if dataset is None:
        dataset = encode(name, rows(), vocabulary=vocabulary, workers=workers, exact=False)
        if dataset.skipped:
            first = dataset.skipped[0]
            raise UserError(f"{place} {first.line}: {first.reason}")
        if use_cache:
            cache.write(path, dataset.to_arrays())
    return dataset


def roundtrip_failures(
    dataset: MoleculeDataset, indices: Iterable[int], workers: Workers = None
) -> list[int]:
    """Indices of the molecules whose graph does not lead back to them."""
    indices = np.asarray(indices)
    chunks = [
        (dataset.graphs.subset(part), [dataset.smiles[k] for k in part], dataset.vocabulary)
        for part in chunked(indices, _CHUNK)
    ]
    workers = 1 if len(indices) <= 2 * _CHUNK else workers
    parts = parallel_map(_roundtrip_chunk, chunks, workers=workers, label="checking graphs")
    places = [k * _CHUNK + place for k, part in enumerate(parts) for place in part]
    return [int(indices[place]) for place in places]


def _roundtrip_chunk(task: tuple[PackedGraphs, list[str], MoleculeVocabulary]) -> list[int]:
    from graphcnf.molecules.validity import strict_smiles

    graphs, smiles, vocabulary = task
    found = strict_smiles(graphs, vocabulary)
    return [k for k, pair in enumerate(zip(found, smiles, strict=True)) if pair[0] != pair[1]]


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)
