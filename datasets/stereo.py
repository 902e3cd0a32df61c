r"""Molecules with their stereo marks: ZINC250k, or a user's file of molecules.

- *Stereo mark*: `@`, `@@`, `/` or `\` in SMILES.
- *Stereo element*: an atom or double bond that can have a mark.
- *Configuration* of a molecule: which of its elements have which mark (`graphcnf.stereo.marks`).
- *Hash* of a molecule: that of its canonical SMILES without stereo marks
  (`graphcnf.chemistry.hashing.hash_each`).

A density of stereo marks given the graph, a `StereoFlow`, learns from them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphcnf.chemistry.hashing import hash_each
from graphcnf.chunks import chunked
from graphcnf.compute.parallel import Workers, parallel_map
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import TEST_SHARE, cache_path
from graphcnf.datasets.smiles_file import read_smiles
from graphcnf.datasets.zinc250k import zinc250k_table
from graphcnf.errors import UserError
from graphcnf.graphs.training_batches import size_bucketed_batches
from graphcnf.limits import MAX_NODES
from graphcnf.molecules.codec import MoleculeNotRepresentable, parse, quiet
from graphcnf.stereo.marks import (
    Configuration,
    Constitution,
    mark_figures,
    split_renumbered,
    split_stereo,
)
from graphcnf.stereo.stereo_flow import KINDS, StereoGraphs

_CHUNK = 1000


@dataclass(eq=False)
class StereoDataset:
    """Molecules with stereo elements and their marks, split by hash like `MoleculeDataset`.

    Attributes:
        graphs: The M molecules that have stereo elements, with their configurations.
        hashes: Hash of each molecule by `hash_each`, (M,) uint64.
        total: Number of readable molecules in the file, those without stereo elements included.
        test_indices: Indices of the held-out molecules, integers (K,); None to hold out one in ten
            by hash.
    """

    name: str = field(compare=False)
    graphs: StereoGraphs
    hashes: np.ndarray
    total: int
    test_indices: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.graphs)

    def marks(self) -> dict[str, Any]:
        """Describe how often the molecules have stereo marks, by shares of all readable molecules.

        Molecules without stereo elements count as molecules without marks.

        "chain", "ring", "double" and "marks" are those of `graphcnf.stereo.marks.mark_figures`;
        "kept" is None, which drawn molecules alone have.
        """
        kinds, marked = self.graphs.kinds.numpy(), self.graphs.categories.numpy() > 0
        counts: Counter[str] = Counter()
        for k, kind in enumerate(KINDS):
            here = marked[kinds == k]
            counts.update({kind: len(here), f"marked {kind}": int(here.sum())})
        owner = np.repeat(np.arange(len(self)), self.graphs.counts.numpy())
        each = np.bincount(owner, marked, len(self)).astype(int)
        each = np.concatenate([each, np.zeros(self.total - len(self), int)])
        counts.update({f"{k} marks": n for k, n in enumerate(np.bincount(each).tolist())})
        return mark_figures(counts)

    def split(self, part: str) -> np.ndarray:
        """Return the ascending indices of the "train" or "test" (held-out) molecules, (K,)."""
        if self.test_indices is None:
            is_test = self.hashes % np.uint64(TEST_SHARE) == 0
        else:
            is_test = np.isin(np.arange(len(self)), self.test_indices)
        return np.flatnonzero(is_test == (part == "test"))

    def marked(self) -> StereoDataset:
        """Return the molecules with at least one stereo mark, split by hash.

        In a user's file, a molecule without any mark was mostly written without its stereo: its
        elements are unknown rather than unmarked, so it is left out.
        """
        graphs = self.graphs
        owner = torch.arange(len(graphs)).repeat_interleave(graphs.counts)
        kept = owner[graphs.categories > 0].unique()
        return StereoDataset(self.name, graphs[kept], self.hashes[kept.numpy()], self.total)

    def train_batches(
        self, batch_size: int, epoch: int, seed: int, start: int = 0
    ) -> Iterator[StereoGraphs]:
        """Yield the training molecules of an epoch in batches.

        The molecules of a batch have similar numbers of stereo elements. `start` is the first batch
        to yield, to go on within an epoch.
        """
        train = self.split("train")
        sizes = self.graphs.counts[train].numpy()
        for _, index in size_bucketed_batches(sizes, batch_size, seed, epoch, start):
            yield self.graphs[torch.from_numpy(train[index])]

    def test_batches(self, batch_size: int) -> Iterator[StereoGraphs]:
        """Yield the held-out molecules in batches, always in the same random order."""
        test = np.random.default_rng(0).permutation(self.split("test"))
        for first in range(0, len(test), batch_size):
            yield self.graphs[torch.from_numpy(test[first : first + batch_size])]


def load_stereo(path: str | Path | None = None, *, workers: Workers = None) -> StereoDataset:
    """Load the molecules with stereo elements of a file; on first use, encode and cache them.

    `path` is a file of molecules; None for ZINC250k. Unreadable records are left out.
    """
    name = "zinc250k" if path is None else Path(path).stem
    lines = zinc250k_table().smiles() if path is None else read_smiles(path).smiles
    dataset = encode_stereo(name, lines, workers=workers)
    if not len(dataset):
        raise UserError(f"{path}: no molecule has stereo elements")
    return dataset


def encode_stereo(
    name: str, lines: Sequence[str], *, orders: int = 0, workers: Workers = None
) -> StereoDataset:
    """Encode the molecules with stereo elements among SMILES, and cache them.

    Unreadable SMILES are left out.

    Args:
        orders: How often each molecule is repeated with its atoms in another, random order, so that
            a model learns not to depend on the order. A molecule that several configurations may
            describe is not repeated.
    """
    if len(lines) <= 2 * _CHUNK:
        workers = 1

    def compute() -> dict[str, np.ndarray]:
        if len(lines) > _CHUNK:
            cache.note(
                f"encoding the stereo of {len(lines):,} molecules; later starts take seconds"
            )
        chunks = chunked(lines, _CHUNK) if lines else [lines]
        encoded = partial(_encoded, orders=orders)
        parts = parallel_map(encoded, chunks, workers=workers, label="encoding")
        return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}

    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    arrays = cache.cached(cache_path(f"stereo-{name}", 6, digest, orders), compute)
    hashes, read = arrays.pop("hashes"), int(arrays.pop("read").sum())
    graphs = StereoGraphs(**{k: torch.from_numpy(array) for k, array in arrays.items()})
    return StereoDataset(name, graphs, hashes, read)


def _encoded(lines: Sequence[str], orders: int) -> dict[str, np.ndarray]:
    """Encode the molecules of SMILES that have stereo elements."""
    constitutions: list[Constitution] = []
    configurations: list[Configuration] = []
    canonical, read = [], 0
    random = np.random.default_rng(0)
    with quiet():
        for line in lines:
            with suppress(MoleculeNotRepresentable):
                mol = parse(line)
                constitution, configuration = split_stereo(mol)
                read += 1
                if configuration and constitution.mol.GetNumAtoms() <= MAX_NODES:
                    further = 0 if orders and constitution.ambiguous else orders
                    renumbered = (split_renumbered(mol, random) for _ in range(further))
                    for one, marks in ((constitution, configuration), *renumbered):
                        constitutions.append(one)
                        configurations.append(marks)
                    canonical += [constitution.smiles] * (1 + further)
    arrays = StereoGraphs.of(constitutions, configurations).to_arrays()
    hashes = hash_each(canonical)
    return {**arrays, "hashes": hashes, "read": np.array([read])}
