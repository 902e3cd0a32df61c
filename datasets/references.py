"""Statistics of sets of molecules for the distribution metrics, on all cores and cached."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from graphcnf.compute.parallel import Workers, parallel_map
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import cache_path
from graphcnf.molecules.distributions import (
    STATISTICS_VERSION,
    SetStatistics,
    quantities_of,
    set_statistics,
)

_PACKAGES = ("eden-kernel", "fcd_torch", "molsets")
"""What is missing now may be there next time, and so belongs to the cache's key."""


def cached_statistics(
    name: str,
    smiles: Sequence[str],
    *,
    metrics: Sequence[str] | None = None,
    workers: Workers = None,
    device: str = "cpu",
    use_cache: bool = True,
) -> SetStatistics:
    """`set_statistics` of molecules, from the cache where the same ones were asked for before.

    Args:
        name: Short name for the cache file and the progress bar.
        smiles: Valid molecules.
        metrics: As in `set_statistics`.
        workers: Processes, or a cluster; None for one per core.
        device: Where ChemNet runs.
        use_cache: Whether to read and write the cache; samples, which are seen once, need none.

    Raises:
        ValueError: There is no such metric, or a SMILES is not valid.
    """
    quantities = sorted(quantities_of(metrics))
    digest = hashlib.sha256("\n".join(smiles).encode()).hexdigest()
    # The features of NSPDK are hashes of Python's.
    key = (STATISTICS_VERSION, quantities, digest, sys.version_info[:2], *map(_version, _PACKAGES))
    path = cache_path(f"statistics-{name}", *key)
    arrays = cache.read_or_none(path) if use_cache else None
    if arrays is not None:
        return SetStatistics.from_arrays(arrays)
    mapper = partial(parallel_map, workers=workers, label=f"describing {name}")
    statistics = set_statistics(smiles, metrics=metrics, mapper=mapper, device=device)
    if use_cache:
        cache.write(path, statistics.to_arrays())
    return statistics


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
