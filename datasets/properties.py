"""Properties of the molecules of a data set, that a model can be asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from rdkit import Chem

from graphcnf.datasets import cache
from graphcnf.datasets.molecules import MoleculeDataset, cache_path
from graphcnf.molecules.codec import quiet
from graphcnf.molecules.selection import described, parse_names
from graphcnf.parallel import Workers, chunked, parallel_map

CHUNK = 1000


def property_values(
    dataset: MoleculeDataset, names: Sequence[str], workers: Workers = None
) -> np.ndarray:
    """Properties of every molecule, (M, P) float64, from the cache where they are known.

    Args:
        dataset: The molecules.
        names: Keys of `graphcnf.molecules.properties.PROPERTIES`.
        workers: Processes, or a cluster; None for one per core.

    Raises:
        UserError: There is no such property.
    """
    names = parse_names(",".join(names))
    digest = hashlib.sha256("\n".join(dataset.smiles).encode()).hexdigest()
    path = cache_path(f"properties-{dataset.name}", names, digest)
    found = cache.read_or_none(path)
    if found is None:
        few = len(dataset) <= 2 * CHUNK
        if not few:
            cache.note(f"properties of {len(dataset):,} molecules, a few minutes; kept for later")
        parts = parallel_map(
            _values,
            [(names, part) for part in chunked(dataset.smiles, CHUNK)],
            workers=1 if few else workers,
            label=f"properties of {dataset.name}",
        )
        found = {"values": np.concatenate(parts)}
        cache.write(path, found)
    return found["values"]


def _values(task: tuple[tuple[str, ...], list[str]]) -> np.ndarray:
    names, smiles = task
    with quiet():
        rows = [[*described(Chem.MolFromSmiles(s), names).values()] for s in smiles]
    return np.array(rows, dtype=np.float64).reshape(-1, len(names))
