"""How far a set of generated molecules is from a reference set, in many respects at once.

`set_statistics` looks at every molecule of a set once, in chunks that may go to other processes and
whose statistics add up; `compare` turns the statistics of two sets into the figures of `METRICS`:

| name | what it compares | better |
|---|---|---|
| `fcd` | ChemNet activations, Frechet distance | lower |
| `nspdk` | pairs of atom neighbourhoods, squared MMD | lower |
| `snn` | similarity to the nearest reference molecule, of the first 30,000 | higher |
| `frag`, `scaf` | BRICS fragments, Bemis-Murcko scaffolds, cosine | higher |
| `int_div1`, `int_div2` | dissimilarity among the first 30,000 of a set | as the reference |
| `pains`, `mcf` | share that passes structural alerts | higher |
| `logp_w1`, `qed_w1`, `sa_w1`, `weight_w1` | properties, Wasserstein-1 distance | lower |
| `atoms_tv`, `rings_tv` | numbers of heavy atoms, ring sizes, total variation | lower |
| `elements_tv`, `charges_tv`, `bonds_tv` | elements, formal charges, bond types, likewise | lower |

All of them are about valid molecules without stereo; invalid samples have to be left out and
reported beside the figures, and duplicates count as often as they occur. Distances between finite
sets are above 0 even for two samples of one distribution: hold them against the distance of the
reference to another set of real molecules of the same size.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from rdkit import Chem

from graphcnf.molecules import chemnet, codec, nspdk, properties, similarity
from graphcnf.molecules.optional import Unavailable
from graphcnf.molecules.quantities import QUANTITIES

if TYPE_CHECKING:
    import pandas as pd

STATISTICS_VERSION = 3
"""Raised when the same molecules would give other statistics, so that caches are rebuilt."""

CHUNK = 500
"""Molecules per task of a worker. Part of the definition: sums are rounded per chunk."""


@dataclass(frozen=True)
class Metric:
    """A figure of a generated set, given a reference.

    Attributes:
        quantity: What it needs to know about both sets.
        function: The figure, from the quantity of the generated and of the reference set.
        better: "lower", "higher", or "as the reference".
    """

    quantity: str
    function: Callable[[Any, Any], float]
    better: str


@dataclass(eq=False)
class SetStatistics:
    """What the metrics need to know about a set of molecules.

    Attributes:
        size: Number of molecules.
        values: Value of each quantity that was asked for and could be computed.
        missing: Why another one could not, in one line.
    """

    size: int
    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, other: SetStatistics) -> None:
        """Take in the statistics of further molecules, which are used up by it."""
        if not self.size:
            self.values = other.values
        elif other.size:
            for name in self.values.keys() & other.values.keys():
                self.values[name] = QUANTITIES[name].add(self.values[name], other.values[name])
        self.missing = {**other.missing, **self.missing}
        self.size += other.size

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything, for a cache."""
        arrays = {k: v for k, v in self.values.items() if isinstance(v, np.ndarray)}
        rest = {k: v for k, v in self.values.items() if k not in arrays}
        text = json.dumps({"size": self.size, "counts": rest, "missing": self.missing})
        return {**arrays, "rest": np.frombuffer(text.encode(), np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> SetStatistics:
        """Inverse of `to_arrays`."""
        rest = json.loads(arrays["rest"].tobytes())
        values: dict[str, Any] = {k: v for k, v in arrays.items() if k != "rest"}
        values |= {name: Counter(counts) for name, counts in rest["counts"].items()}
        return cls(rest["size"], values, rest["missing"])


@dataclass(frozen=True)
class Comparison:
    """Figures of a generated set against a reference.

    Attributes:
        values: Each metric; None where it could not be computed.
        missing: Why, for each of those, in one line.
        generated: Number of generated molecules.
        reference: Number of reference molecules.
    """

    values: dict[str, float | None]
    missing: dict[str, str]
    generated: int
    reference: int

    def to_frame(self) -> pd.DataFrame:
        """One row per metric: `metric`, `value` (NaN where missing), `better`, `missing`."""
        import pandas as pd

        rows = [
            {"metric": k, "value": v, "better": METRICS[k].better, "missing": self.missing.get(k)}
            for k, v in self.values.items()
        ]
        frame = pd.DataFrame(rows, columns=["metric", "value", "better", "missing"])
        return frame.astype({"value": float})


Molecules = SetStatistics | Iterable[Chem.Mol | str]
"""A set of valid molecules, as such, as SMILES or by its statistics."""

Mapper = Callable[[Callable, list], Iterable]
"""Applies a function to the items of a list, in order, as `map`; it may show how far it is."""


def compare(
    generated: Molecules,
    reference: Molecules,
    *,
    metrics: Sequence[str] | None = None,
) -> Comparison:
    """Compare a set of generated molecules with a reference.

    Args:
        generated: Valid molecules, or their `set_statistics`.
        reference: As `generated`; give the statistics where several sets share a reference.
        metrics: Names from `METRICS`; None for all.

    Raises:
        ValueError: There is no such metric, or a SMILES is not valid.
    """
    chosen = _chosen(metrics)
    generated, reference = (
        molecules
        if isinstance(molecules, SetStatistics)
        else set_statistics(molecules, metrics=chosen)
        for molecules in (generated, reference)
    )
    values: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    for name in chosen:
        metric = METRICS[name]
        try:
            pair = (
                _value(generated, metric.quantity, "generated"),
                _value(reference, metric.quantity, "reference"),
            )
            values[name] = metric.function(*pair)
        except Unavailable as error:
            values[name], missing[name] = None, str(error)
    return Comparison(values, missing, generated.size, reference.size)


def set_statistics(
    molecules: Iterable[Chem.Mol | str],
    *,
    metrics: Sequence[str] | None = None,
    mapper: Mapper = map,
    device: str = "cpu",
) -> SetStatistics:
    """Look at every molecule of a set once.

    Args:
        molecules: Valid molecules or SMILES; stereo is dropped.
        metrics: Names from `METRICS` that are to be computed; None for all.
        mapper: Applies a function to chunks of molecules: `map`, or for several processes
            `graphcnf.compute.parallel.parallel_map`. The result does not depend on it.
        device: Where ChemNet runs.

    Raises:
        ValueError: There is no such metric, or a SMILES is not valid.
    """
    quantities = quantities_of(metrics)
    if isinstance(molecules, str | Chem.Mol):
        molecules = [molecules]
    smiles = [m if isinstance(m, str) else codec.canonical_smiles(m) for m in molecules]
    starts = range(0, len(smiles), CHUNK)
    describe = partial(statistics_of_chunk, quantities, device)
    result = SetStatistics(0)
    for part in mapper(describe, [(k, smiles[k : k + CHUNK]) for k in starts]):
        result.add(part)
    return result


def statistics_of_chunk(
    quantities: tuple[str, ...], device: str, chunk: tuple[int, Sequence[str]]
) -> SetStatistics:
    """What a set's statistics are the sum of.

    Args:
        quantities: See `quantities_of`.
        device: Where ChemNet runs.
        chunk: Number of the first molecule, and SMILES.

    Raises:
        ValueError: A SMILES is not valid.
    """
    first, smiles = chunk
    result, mols = SetStatistics(len(smiles)), []
    if not quantities:
        return result
    with codec.quiet():
        for number, text in enumerate(smiles, first):
            try:
                mols.append(codec.parse(codec.canonical_smiles(codec.parse(text))))
            except codec.UnparsableSmiles as error:
                raise codec.UnparsableSmiles(f"molecules[{number}]: {error}") from error
        for name in quantities if mols else ():
            options = {"device": device} if name == "chemnet" else {}
            try:
                result.values[name] = QUANTITIES[name].of(mols, **options)
            except Unavailable as error:
                result.missing[name] = str(error)
    return result


def quantities_of(metrics: Sequence[str] | None = None) -> tuple[str, ...]:
    """Quantities that metrics need, each once.

    Raises:
        ValueError: There is no such metric.
    """
    return tuple(dict.fromkeys(METRICS[name].quantity for name in _chosen(metrics)))


def _chosen(metrics: Sequence[str] | None) -> tuple[str, ...]:
    chosen = tuple(METRICS if metrics is None else metrics)
    for name in chosen:
        if name not in METRICS:
            raise ValueError(f"no metric {name!r}: choose from {', '.join(METRICS)}")
    return chosen


def _value(statistics: SetStatistics, quantity: str, which: str) -> Any:
    if not statistics.size:
        raise Unavailable(f"there are no {which} molecules")
    if quantity in statistics.missing:
        raise Unavailable(statistics.missing[quantity])
    if quantity not in statistics.values:
        raise Unavailable(f"the statistics of the {which} molecules were made without {quantity}")
    return statistics.values[quantity]


def _diversity(power: int, generated: np.ndarray, reference: np.ndarray) -> float:
    return similarity.internal_diversity(generated, power)


METRICS = {
    "fcd": Metric("chemnet", chemnet.frechet_distance, "lower"),
    "nspdk": Metric("nspdk", nspdk.nspdk_distance, "lower"),
    "snn": Metric("fingerprints", similarity.nearest_similarity, "higher"),
    "frag": Metric("fragments", similarity.count_similarity, "higher"),
    "scaf": Metric("scaffolds", similarity.count_similarity, "higher"),
    "int_div1": Metric("fingerprints", partial(_diversity, 1), "as the reference"),
    "int_div2": Metric("fingerprints", partial(_diversity, 2), "as the reference"),
    "pains": Metric("pains", properties.share, "higher"),
    "mcf": Metric("mcf", properties.share, "higher"),
    **{
        f"{name}_w1": Metric(name, properties.wasserstein, "lower")
        for name in ("logp", "qed", "sa", "weight")
    },
    **{
        f"{name}_tv": Metric(name, properties.total_variation, "lower")
        for name in ("atoms", "elements", "charges", "bonds", "rings")
    },
}
"""Every metric by name, in the order of a table."""
