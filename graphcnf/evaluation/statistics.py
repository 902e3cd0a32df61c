"""Compute the statistics of molecule sets, and compare two sets by the distribution metrics.

*Statistic*, *metric*, generated and reference set are those of `graphcnf.evaluation.metrics`. The
statistics of a large set are computed once, in parts, by several processes, and kept in the cache.
Two sets are then compared in no time. Where a package is missing or a set is too small, a *reason*
in one line takes the place of the value.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

import numpy as np
from rdkit import Chem

from graphcnf.chunks import chunked
from graphcnf.compute.parallel import Workers, parallel_map
from graphcnf.datasets import cache
from graphcnf.datasets.molecules import cache_path
from graphcnf.errors import Unavailable
from graphcnf.evaluation.metrics import Statistic, chosen_metrics, statistics_of
from graphcnf.molecules import codec

STATISTICS_VERSION = 3
"""Version in the cache key; to be raised when the same molecules give other statistics."""

CHUNK = 500
"""Molecules per task of a worker. Affects the results, since sums are rounded per chunk."""

_PACKAGES = ("eden-kernel", "fcd_torch", "molsets")
"""Optional packages, whose versions are in the cache key: a missing one may be installed later."""


@dataclass(eq=False)
class SetStatistics:
    """Statistics of a set of molecules, as `set_statistics` computes them.

    Attributes:
        size: Number of molecules.
        values: `{name of the statistic: Counter of texts, or array}`.
        missing: `{name of a statistic that could not be computed: reason in one line}`.
    """

    size: int
    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, other: SetStatistics) -> None:
        """Add the statistics of further molecules to these, in place.

        Do not use the further ones afterwards, since parts of them are taken over and changed.
        """
        if not self.size:
            self.values = other.values
        elif other.size:
            for one in statistics_of():
                if one.name in self.values and one.name in other.values:
                    self.values[one.name] = one.add(self.values[one.name], other.values[one.name])
        self.missing = {**other.missing, **self.missing}
        self.size += other.size

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the statistics as arrays, for a cache file; `from_arrays` reads them.

        Returns:
            - `{name: array}` of the statistics that are arrays;
            - "rest": the bytes of a JSON object with "size", "counts" (`{name: histogram}` of the
              other statistics) and "missing", uint8.
        """
        arrays = {k: v for k, v in self.values.items() if isinstance(v, np.ndarray)}
        rest = {k: v for k, v in self.values.items() if k not in arrays}
        text = json.dumps({"size": self.size, "counts": rest, "missing": self.missing})
        return {**arrays, "rest": np.frombuffer(text.encode(), np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> SetStatistics:
        """Build the statistics from the arrays that `to_arrays` returned."""
        rest = json.loads(arrays["rest"].tobytes())
        values: dict[str, Any] = {k: v for k, v in arrays.items() if k != "rest"}
        values |= {name: Counter(counts) for name, counts in rest["counts"].items()}
        return cls(rest["size"], values, rest["missing"])


@dataclass(frozen=True)
class Comparison:
    """Metrics of a generated set, given a reference set, as `compare` returns them.

    Attributes:
        values: `{metric: value}`; None if it could not be computed.
        missing: `{metric without a value: reason in one line}`.
        generated: Number of generated molecules.
    """

    values: dict[str, float | None]
    missing: dict[str, str]
    generated: int


Molecules = SetStatistics | Iterable[Chem.Mol | str]
"""A set of valid molecules: RDKit molecules, SMILES, or the set's statistics."""


def compare(
    generated: Molecules, reference: Molecules, *, metrics: Sequence[str] | None = None
) -> Comparison:
    """Compare a set of valid generated molecules with a reference set.

    Args:
        generated: The generated molecules: RDKit molecules or SMILES, or what `set_statistics`
            returned for them. Pass the latter if several comparisons share a set.
    """
    chosen = chosen_metrics(metrics)
    one, other = (
        found if isinstance(found, SetStatistics) else set_statistics(found, metrics=metrics)
        for found in (generated, reference)
    )
    values: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    for name, metric in chosen.items():
        read = metric.statistic.name
        try:
            values[name] = metric.function(
                _value(one, read, "generated"), _value(other, read, "reference")
            )
        except Unavailable as error:
            values[name], missing[name] = None, str(error)
    return Comparison(values, missing, one.size)


def _value(statistics: SetStatistics, name: str, which: str) -> Any:
    """Return one statistic of a set."""
    if not statistics.size:
        raise Unavailable(f"there are no {which} molecules")
    if name not in statistics.values:
        without = f"the statistics of the {which} molecules were made without {name}"
        raise Unavailable(statistics.missing.get(name, without))
    return statistics.values[name]


def set_statistics(
    molecules: Iterable[Chem.Mol | str],
    *,
    metrics: Sequence[str] | None = None,
    workers: Workers = 1,
    device: str = "cpu",
    label: str = "",
    use_cache: bool = False,
) -> SetStatistics:
    """Compute the statistics that metrics need, in one pass over a set of molecules.

    Args:
        workers: Number of processes, or a cluster; None for one per core. Does not affect the
            result.
        label: Short name of the set, for the progress bar and the cache file.
        use_cache: Ignored if the source of a statistic's function, by which the cache is keyed,
            cannot be found, as for a lambda in a console.

    Returns:
        The statistics. For one that needs a missing package, the reason is in `missing`.
    """
    wanted = statistics_of(metrics, device)
    if isinstance(molecules, str | Chem.Mol):
        molecules = [molecules]
    smiles = [m if isinstance(m, str) else codec.canonical_smiles(m) for m in molecules]

    def compute() -> dict[str, np.ndarray]:
        result = SetStatistics(0)
        describe = partial(chunk_statistics, wanted)
        chunks = list(enumerate(chunked(smiles, CHUNK)))
        title = f"describing {label}" if label else ""
        for part in parallel_map(describe, chunks, workers=workers, label=title):
            result.add(part)
        return result.to_arrays()

    # The device does not affect the result.
    path = _cache_path(statistics_of(metrics), smiles, label) if use_cache else None
    return SetStatistics.from_arrays(cache.cached(path, compute) if path else compute())


def _cache_path(wanted: Sequence[Statistic], smiles: Sequence[str], label: str) -> Path | None:
    """Return the cache file of the statistics of a set."""
    try:
        functions = sorted((one.name, _origin(one.of), _origin(one.add)) for one in wanted)
    except (OSError, TypeError):
        return None
    digest = hashlib.sha256("\n".join(smiles).encode()).hexdigest()
    # NSPDK features depend on Python's hash function, and so on Python's version.
    key = (STATISTICS_VERSION, functions, digest, sys.version_info[:2], *map(_version, _PACKAGES))
    return cache_path(f"statistics-{label or 'molecules'}", *key)


def _origin(thing: Any) -> str:
    """Return the text by which a cache key recognises a function, or an argument of a partial."""
    if isinstance(thing, partial):
        parts = [thing.func, *thing.args, *thing.keywords.values()]
        return json.dumps([[_origin(part) for part in parts], list(thing.keywords)])
    if isinstance(thing, str | int | float):
        return repr(thing)
    function = inspect.unwrap(thing)
    name = f"{function.__module__}:{function.__qualname__}"
    if isinstance(function, BuiltinFunctionType) and function.__module__ in sys.stdlib_module_names:
        return name
    if getattr(function, "__closure__", None) or not inspect.isfunction(function):
        raise TypeError(f"{thing!r} has no source that says all")
    return f"{name} {hashlib.sha256(inspect.getsource(function).encode()).hexdigest()}"


def chunk_statistics(
    wanted: tuple[Statistic, ...], chunk: tuple[int, Sequence[str]]
) -> SetStatistics:
    """Compute statistics of one part of a set; worker processes call it.

    All parts but the last have 500 molecules (`CHUNK`).
    """
    number, smiles = chunk
    result, mols = SetStatistics(len(smiles)), []
    if not wanted:
        return result
    with codec.quiet():
        for k, text in enumerate(smiles, number * CHUNK):
            try:
                mols.append(codec.parse(codec.canonical_smiles(codec.parse(text))))
            except codec.UnparsableSmiles as error:
                raise codec.UnparsableSmiles(f"molecules[{k}]: {error}") from error
        for one in wanted if mols else ():
            try:
                result.values[one.name] = one.of(mols)
            except Unavailable as error:
                result.missing[one.name] = str(error)
    return result


def _version(package: str) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
