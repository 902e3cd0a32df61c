"""Properties of the molecules of a data set, for models that are conditioned on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from graphcnf.compute.parallel import Workers
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import MoleculeDataset, cache_path
from graphcnf.molecules.selection import parse_names, property_table

MANY = 2000
"""Molecules from which on their properties take long enough to say so."""


def property_values(
    dataset: MoleculeDataset, names: Sequence[str], workers: Workers = None
) -> np.ndarray:
    """Return properties of every molecule, (M, P) float64, from the cache where they are known.

    Args:
        dataset: The molecules.
        names: Keys of `graphcnf.molecules.properties.PROPERTIES`.
        workers: Processes, or a cluster; None for one per core.

    Raises:
        UserError: There is no such property.
    """
    names = parse_names(",".join(names))
    digest = hashlib.sha256("\n".join(dataset.smiles).encode()).hexdigest()

    def compute() -> dict[str, np.ndarray]:
        if len(dataset) > MANY:
            cache.note(f"properties of {len(dataset):,} molecules, a few minutes; kept for later")
        label = f"properties of {dataset.name}"
        return {"values": property_table(dataset.smiles, names, workers, label)}

    return cache.cached(cache_path(f"properties-{dataset.name}", names, digest), compute)["values"]
