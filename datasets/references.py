"""Statistics and properties of molecules, computed on all cores once and then cached."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from graphcnf.compute.parallel import Workers, parallel_map
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import MoleculeDataset, cache_path
from graphcnf.molecules.distributions import (
    STATISTICS_VERSION,
    SetStatistics,
    quantities_of,
    set_statistics,
)
from graphcnf.molecules.selection import parse_names, property_table

MANY = 2000
"""Molecules from which on their properties take long enough to say so."""

_PACKAGES = ("eden-kernel", "fcd_torch", "molsets")
"""Optional packages, whose versions belong to the key of statistics."""


def cached_statistics(
    name: str,
    smiles: Sequence[str],
    *,
    metrics: Sequence[str] | None = None,
    workers: Workers = None,
    device: str = "cpu",
    use_cache: bool = True,
) -> SetStatistics:
    """Return the `set_statistics` of molecules, from the cache if they are in there.

    Args:
        name: Short name for the cache file and the progress bar.
        smiles: Valid molecules.
        metrics: As in `set_statistics`.
        workers: Processes, or a cluster; None for one per core.
        device: Device of ChemNet.
        use_cache: Whether to read and write the cache; samples, which are seen once, need none.

    Raises:
        ValueError: There is no such metric, or a SMILES is not valid.
    """
    quantities = sorted(quantities_of(metrics))
    mapper = partial(parallel_map, workers=workers, label=f"describing {name}")

    def compute() -> SetStatistics:
        return set_statistics(smiles, metrics=metrics, mapper=mapper, device=device)

    if not use_cache:
        return compute()
    # The features of NSPDK are hashes of Python's.
    versions = sys.version_info[:2], *map(_version, _PACKAGES)
    path = cache_path(
        f"statistics-{name}", STATISTICS_VERSION, quantities, _digest(smiles), *versions
    )
    return SetStatistics.from_arrays(cache.cached(path, lambda: compute().to_arrays()))


def property_values(
    dataset: MoleculeDataset, names: Sequence[str], workers: Workers = None
) -> np.ndarray:
    """Return properties of every molecule, (M, P) float64, from the cache if they are in there.

    Args:
        dataset: The molecules.
        names: Keys of `graphcnf.molecules.properties.PROPERTIES`.
        workers: Processes, or a cluster; None for one per core.

    Raises:
        UserError: There is no such property.
    """
    names = parse_names(",".join(names))

    def compute():
        if len(dataset) > MANY:
            cache.note(f"properties of {len(dataset):,} molecules, a few minutes; kept for later")
        label = f"properties of {dataset.name}"
        return {"values": property_table(dataset.smiles, names, workers, label)}

    path = cache_path(f"properties-{dataset.name}", names, _digest(dataset.smiles))
    return cache.cached(path, compute)["values"]


def _digest(smiles: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(smiles).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
