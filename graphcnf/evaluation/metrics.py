"""Distribution metrics: numbers that compare a set of generated molecules with a set of real ones.

- *Statistic*: what is computed from the molecules of a set, such as a histogram. The statistics of
  two parts of a set can be added to that of the whole.
- *Histogram*: a `Counter` `{text: number}`; a number such as a molecular weight is a decimal text.
- *Metric*: a number computed from one statistic of two sets: the *generated* set and the
  *reference* set of real molecules. `graphcnf.evaluation.METRICS` names the metrics. The docstring
  of each metric's function is its definition, from which the documentation is made.

All metrics compare valid molecules without stereo. Invalid samples have to be left out and reported
beside the metrics; duplicates count as often as they occur. Distances between finite sets are above
0 even for two samples of one distribution: compare them with the distance between the reference and
another set of real molecules of the same size.

"MOSES" is Polykovskiy et al. 2020, "Molecular Sets (MOSES)", arXiv 1811.12823, section 4, and the
code that its tables come from.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial, reduce
from operator import iadd
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.rdmolops import FragmentOnBRICSBonds
from rdkit.Chem.Scaffolds import MurckoScaffold

from graphcnf.chemistry import descriptors, properties
from graphcnf.data_files import installed_file
from graphcnf.errors import Unavailable, UserError
from graphcnf.evaluation import METRICS

if TYPE_CHECKING:
    import networkx as nx

Histogram = Mapping[str, int]
"""Counts by text, such as an element, a scaffold, or a property's value written as a decimal."""

ELEMENTS = frozenset(("C", "N", "S", "O", "F", "Cl", "Br", "H"))
"""Elements that the filters of MOSES allow."""

RADIUS, BITS = 2, 1024
"""Radius and length of the Morgan fingerprints."""

KEPT, COMPARED = 200_000, 30_000
"""How many fingerprints of a set are stored, and how many of a generated set are compared: those of
the first molecules.

Each test part of MOSES has fewer than 200,000; its protocol compares 30,000.
"""

BLOCK = 2000
"""Molecules of each set whose similarities are computed at once, in some 70 MB."""


def add_counts(one: Counter, other: Counter) -> Counter:
    """Add the counts of a histogram to those of another one, in place; for `Statistic.add`."""
    one.update(other)  # += would visit all keys of `one` each time
    return one


@dataclass(frozen=True)
class Statistic:
    """A statistic of molecule sets that adds up over parts of a set: a histogram or an array.

    Attributes:
        name: Key in `SetStatistics.values`; no other statistic has it.
        of: Function that returns the statistic of a list of sanitized molecules. It raises
            `Unavailable` if a package is missing. Worker processes call it, so it is a function at
            the top level of a module, or a `functools.partial` of one.
        add: Function of the statistics of two parts that returns the statistic of both together. It
            may change its first argument.
        on_device: True if `of` has a parameter `device`, the device of a network.
    """

    name: str
    of: Callable[..., Any]
    add: Callable[[Any, Any], Any] = add_counts
    on_device: bool = False


@dataclass(frozen=True)
class Metric:
    """A metric of a generated set, given a reference set; the values of `METRICS`.

    Attributes:
        statistic: The statistic of both sets that it is computed from.
        function: Function of the statistic of the generated set and that of the reference set, in
            this order. It returns the value, or raises `Unavailable` if there is none.
        needs: Package that must be installed separately; "" for none.
        axis: Label of the axis if reports show the statistic as a histogram; "" for none. The
            histogram is one of numbers if `function` is `wasserstein`, else of categories.
    """

    title: str
    better: str
    statistic: Statistic
    function: Callable[[Any, Any], float]
    needs: str = ""
    axis: str = ""


def histogram(function: Callable[[Chem.Mol], Iterable[str]], mols: Sequence[Chem.Mol]) -> Counter:
    """Count how often texts that describe molecules occur among them, such as their elements."""
    return Counter(text for mol in mols for text in function(mol))


def _decimal(function: Callable[[Chem.Mol], float], decimals: int, mol: Chem.Mol) -> list[str]:
    return [f"{function(mol):.{decimals}f}"]


def _outcome(function: Callable[[Chem.Mol], bool], mol: Chem.Mol) -> list[str]:
    return ["passed" if function(mol) else "failed"]


def _atoms(mol: Chem.Mol) -> list[str]:
    return [str(mol.GetNumAtoms())]


def _elements(mol: Chem.Mol) -> list[str]:
    return [atom.GetSymbol() for atom in mol.GetAtoms()]


def _charges(mol: Chem.Mol) -> list[str]:
    return [f"{atom.GetFormalCharge():+d}" for atom in mol.GetAtoms()]


def _kekule_bonds(mol: Chem.Mol) -> list[str]:
    mol = Chem.Mol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return [bond.GetBondType().name for bond in mol.GetBonds()]


def _ring_sizes(mol: Chem.Mol) -> list[str]:
    # Sanitization stores a symmetrized set of rings, which may be larger than the smallest set.
    # A copy, since GetSSSR replaces the stored rings, which other statistics need.
    return [str(len(ring)) for ring in Chem.GetSSSR(Chem.Mol(mol))]


def brics_fragments(mol: Chem.Mol) -> list[str]:
    """Cut a molecule at the bonds that BRICS rules break, and return the fragments' SMILES.

    They have dummy atoms at the cut bonds, and are listed as often as they occur; the molecule
    itself if nothing is cut.
    """
    return Chem.MolToSmiles(FragmentOnBRICSBonds(mol)).split(".")


def scaffolds(mol: Chem.Mol) -> list[str]:
    """Return the SMILES of the Bemis-Murcko scaffold, [] if it has fewer than two rings."""
    core = MurckoScaffold.GetScaffoldForMol(mol)
    large = core.GetRingInfo().NumRings() >= 2
    return [Chem.MolToSmiles(core)] if large else []


def passes_pains(mol: Chem.Mol) -> bool:
    """Return True if none of the 480 PAINS alerts A, B and C match (Baell & Holloway 2010)."""
    return not _pains().HasMatch(mol)


def passes_mcf(mol: Chem.Mol) -> bool:
    """Return True if none of MOSES' 22 medicinal chemistry filters (MCF) match."""
    with_hydrogens = Chem.AddHs(mol)  # the patterns contain hydrogens
    return not any(with_hydrogens.HasSubstructMatch(pattern) for pattern in _mcf())


def passes_filters(mol: Chem.Mol) -> bool:
    """Return True if a molecule passes the "Filters" of MOSES.

    These require no PAINS or MCF alert, no charge, no ring of eight or more atoms, and only C, N,
    S, O, F, Cl, Br and H.
    """
    return (
        all(a.GetSymbol() in ELEMENTS and not a.GetFormalCharge() for a in mol.GetAtoms())
        and all(len(ring) < 8 for ring in mol.GetRingInfo().AtomRings())
        and passes_pains(mol)
        and passes_mcf(mol)
    )


@cache
def _pains() -> FilterCatalog:
    return FilterCatalog(FilterCatalogParams(FilterCatalogParams.FilterCatalogs.PAINS))


@cache
def _mcf() -> list[Chem.Mol]:
    """Return the patterns of the 22 medicinal chemistry filters."""
    path = installed_file("moses", "metrics", "mcf.csv")
    if path is None:
        raise Unavailable("needs the list in molsets: pip install --no-deps molsets")
    with open(path, newline="", encoding="utf-8") as file:
        return [Chem.MolFromSmarts(row["smarts"]) for row in csv.DictReader(file)]


def passed_share(generated: Histogram, reference: Histogram) -> float:
    """Return the share of generated molecules that pass a filter, as in MOSES.

    In [0, 1], higher is better; the share of the reference may be far below 1 itself.
    """
    return generated.get("passed", 0) / sum(generated.values())


def values_and_counts(counts: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Return the K numbers that a histogram counts, and how often each occurs, (K,) each."""
    return np.array([*map(float, counts)]), np.array([*map(float, counts.values())])


def wasserstein(generated: Histogram, reference: Histogram) -> float:
    """Return the Wasserstein-1 distance between two samples of a property, as in MOSES.

    The mean distance by which values have to be moved to turn one distribution into the other, in
    the property's own unit. At least 0, lower is better.
    """
    from scipy.stats import wasserstein_distance

    (values, weights), (others, other_weights) = map(values_and_counts, (generated, reference))
    return float(wasserstein_distance(values, others, weights, other_weights))


def total_variation(generated: Histogram, reference: Histogram) -> float:
    """Return the total variation distance between two histograms, `1/2 sum_k |p_k - q_k|`.

    The share of one histogram that has to be moved to turn it into the other. In [0, 1], lower is
    better; 1 if one histogram is empty and the other is not.
    """
    totals = [sum(generated.values()), sum(reference.values())]
    if 0 in totals:
        return float(any(totals))
    keys = sorted({*generated, *reference})
    return 0.5 * sum(
        abs(generated.get(k, 0) / totals[0] - reference.get(k, 0) / totals[1]) for k in keys
    )


def cosine(generated: Histogram, reference: Histogram) -> float:
    """Return the cosine similarity of two histograms: Frag and Scaf of MOSES.

    In [0, 1], higher is better; 1 means the same proportions.

    Raises:
        Unavailable: A histogram is empty.
    """
    for name, counts in (("generated", generated), ("reference", reference)):
        if not counts:
            raise Unavailable(f"none among the {name} molecules")
    shared = sum(count * reference.get(key, 0) for key, count in generated.items())
    squares = (sum(count * count for count in c.values()) for c in (generated, reference))
    return shared / math.sqrt(math.prod(squares))


_MORGAN = GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def fingerprints(mols: Sequence[Chem.Mol]) -> np.ndarray:
    """Return Morgan fingerprints (radius 2, 1,024 bits, no chirality), packed, (M, 128) uint8."""
    return np.array([np.packbits(_MORGAN.GetFingerprintAsNumPy(mol)) for mol in mols])


def _add_fingerprints(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one if len(one) >= KEPT else np.concatenate([one, other])[:KEPT]


def nearest_similarity(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean similarity to the nearest reference molecule: SNN of MOSES.

    The Tanimoto similarity of each generated molecule to its most similar reference molecule,
    averaged over the generated ones, of which the first 30,000 (`COMPARED`) count. In [0, 1],
    higher is better; copies of the reference have 1.
    """
    best = _similarities(generated[:COMPARED], reference, lambda block: block.max(1), np.maximum)
    return math.fsum(best) / len(best)


def internal_diversity(generated: np.ndarray, reference: Any = None, power: int = 1) -> float:
    """Return the mean dissimilarity within the generated set: IntDiv_p of MOSES.

    `1 - mean_x (mean_y T(x, y)^p)^(1/p)` with the Tanimoto similarity T, including pairs (x, x). In
    [0, 1], higher is more diverse. A good model matches the value of the reference, which is not
    used here. The paper takes one root of the mean over all pairs; MOSES' code, and so every
    published IntDiv_2, takes the root per molecule. For p = 1 both agree.
    """
    chosen = generated[:COMPARED]

    def powers(block: np.ndarray) -> np.ndarray:
        return (block**power).sum(1, dtype=np.float64)

    means = _similarities(chosen, chosen, powers, np.add) / len(chosen)
    return 1 - math.fsum(means ** (1 / power)) / len(chosen)


def _similarities(
    rows: np.ndarray,
    columns: np.ndarray,
    reduced: Callable[[np.ndarray], np.ndarray],
    add: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Reduce each row of the matrix of Tanimoto similarities of two sets to a number."""

    def unpacked(packed: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(packed), BLOCK):
            yield np.unpackbits(packed[start : start + BLOCK], axis=1).astype(np.float32)

    parts = []
    for left in unpacked(rows):
        blocks = (properties.similarities(left, right) for right in unpacked(columns))
        parts.append(reduce(add, map(reduced, blocks)))
    return np.concatenate(parts)


def nspdk_sums(mols: Sequence[Chem.Mol]) -> np.ndarray:
    """Sum the feature vectors of the neighbourhood subgraph pairwise distance kernel (NSPDK).

    A molecule's features count pairs of atom neighbourhoods of equal radius, by radius and distance
    of their centres (both up to 4), hashed into 2^16 bins and scaled to unit length (Costa & De
    Grave 2010, computed by EDeN). The labels are those of GDSS, so that values compare with
    published ones: the element of an atom, without its charge, and the order of a bond, cut to a
    whole number, so that aromatic bonds (1.5) count as single.

    (65538,) float64: the sums of EDeN's 2^16 + 1 features, then the number of molecules.

    Raises:
        Unavailable: The package eden-kernel is not installed.
    """
    try:
        from eden.graph import Vectorizer
    except ImportError as error:
        raise Unavailable("needs eden-kernel: pip install 'graphcnf[metrics]'") from error
    features = Vectorizer(complexity=4, discrete=True).transform(map(_nspdk_graph, mols))
    return np.append(np.asarray(features.sum(0)).ravel(), len(mols))


def _nspdk_graph(mol: Chem.Mol) -> nx.Graph:
    """Convert a molecule to a networkx graph with the labels that `nspdk_sums` describes."""
    import networkx as nx

    graph = nx.Graph()
    # Atomic numbers, since Python's hashes of strings differ between runs.
    for atom in mol.GetAtoms():
        graph.add_node(atom.GetIdx(), label=atom.GetAtomicNum())
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        graph.add_edge(*ends, label=int(bond.GetBondTypeAsDouble()))
    return graph


def nspdk_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the biased estimate of the squared maximum mean discrepancy by NSPDK, as in GDSS.

    `mean k(x, x') + mean k(y, y') - 2 mean k(x, y)` over all pairs, including a graph with itself
    (Jo et al. 2022, arXiv 2202.02514). The kernel is linear in the features, so this is the squared
    distance between mean features. In [0, 2], lower is better; falls with the number of molecules.
    """
    one, other = (sums[:-1] / sums[-1] for sums in (generated, reference))
    return float(np.square(one - other).sum())


def chemnet_sums(mols: Sequence[Chem.Mol], device: str = "cpu") -> np.ndarray:
    """Sum ChemNet's 512 activations, and their products, over molecules.

    They give the mean and the covariance of the activations, which the FCD compares.

    The result is the sum of the outer products of the vector (1, activations) with itself, (513,
    513) float64: entry (0, 0) is the number of molecules, and row 0 has the sums of the
    activations.

    Raises:
        Unavailable: The package fcd_torch is not installed.
    """
    network = _chemnet(device)
    import torch

    from graphcnf.graphs.records import one_thread

    smiles = [Chem.MolToSmiles(mol) for mol in mols]
    with warnings.catch_warnings(action="ignore"), one_thread(torch.device(device)):
        activations = network.get_predictions(smiles).astype(np.float64)
    rows = np.hstack([np.ones((len(smiles), 1)), activations])
    return rows.T @ rows


def frechet_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the Frechet ChemNet distance, FCD (Preuer et al. 2018, arXiv 1803.09518).

    `|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))` for the means m and covariances C of ChemNet's
    activations, with fcd_torch's square root. At least 0, lower is better. Falls with the number of
    molecules: compare sets of equal size only.

    Raises:
        Unavailable: A set has fewer than two molecules, there is no finite distance, or fcd_torch
            is not installed.
    """
    fcd_torch = _fcd_torch()
    moments = [*_moments(generated), *_moments(reference)]
    with warnings.catch_warnings(action="ignore"):
        try:
            distance = float(fcd_torch.calculate_frechet_distance(*moments))
        except ValueError as error:
            raise Unavailable(f"no square root of the covariances: {error}") from error
    if not math.isfinite(distance):
        raise Unavailable("no finite distance")
    return max(distance, 0.0)  # rounding can make it negative


def _moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of ChemNet's activations."""
    count = sums[0, 0]
    if count < 2:
        raise Unavailable(f"needs two molecules or more, not {count:.0f}")
    mean = sums[0, 1:] / count
    return mean, (sums[1:, 1:] - count * np.outer(mean, mean)) / (count - 1)


@cache
def _chemnet(device: str):
    with warnings.catch_warnings(action="ignore"):
        return _fcd_torch().FCD(device=device, n_jobs=1, batch_size=512, canonize=False)


def _fcd_torch() -> ModuleType:
    """Return the module fcd_torch."""
    try:
        import fcd_torch
    except ImportError as error:
        raise Unavailable("needs fcd_torch: pip install 'graphcnf[metrics]'") from error
    return fcd_torch


def _counted(name: str, function: Callable[[Chem.Mol], Iterable[str]]) -> Statistic:
    return Statistic(name, partial(histogram, function))


def _w1(
    name: str, title: str, axis: str, function: Callable[[Chem.Mol], float], decimals: int
) -> Metric:
    """Return the metric that is the Wasserstein distance of a property."""
    counts = _counted(name, partial(_decimal, function, decimals))
    return Metric(f"{title}, Wasserstein", "lower", counts, wasserstein, axis=axis)


def _tv(name: str, title: str, axis: str, function: Callable[[Chem.Mol], Iterable[str]]) -> Metric:
    """Return the metric that is the total variation distance of shares of categories."""
    counts, title = _counted(name, function), f"{title}, total variation"
    return Metric(title, "lower", counts, total_variation, axis=axis)


def _passed(name: str, title: str, function: Callable[[Chem.Mol], bool], needs: str = "") -> Metric:
    """Return the metric that is the share of molecules that pass a filter."""
    counts = _counted(name, partial(_outcome, function))
    return Metric(title, "higher", counts, passed_share, needs)


_CHEMNET = Statistic("chemnet", chemnet_sums, iadd, on_device=True)
_NSPDK = Statistic("nspdk", nspdk_sums, iadd)
_PRINTS = Statistic("fingerprints", fingerprints, _add_fingerprints)
_SQUARED = partial(internal_diversity, power=2)

FCD = Metric("FCD", "lower", _CHEMNET, frechet_distance, needs="fcd_torch")
"""Fréchet distance of the 512 activations of ChemNet, each set taken as a normal distribution
(Preuer et al. 2018, arXiv 1803.09518)"""

NSPDK = Metric("NSPDK MMD", "lower", _NSPDK, nspdk_distance, needs="eden-kernel")
"""Squared maximum mean discrepancy, biased, under the neighbourhood subgraph pairwise distance
kernel of complexity 4 (Costa & De Grave 2010, by EDeN; as in GDSS, arXiv 2202.02514)"""

SNN = Metric("SNN", "higher", _PRINTS, nearest_similarity)
"""Tanimoto similarity to the nearest of the first 200,000 reference molecules, mean over the first
30,000 generated ones; Morgan fingerprints of radius 2, 1,024 bits (MOSES, arXiv 1811.12823)"""

FRAG = Metric("Frag", "higher", _counted("fragments", brics_fragments), cosine)
"""Cosine of the counts of BRICS fragments (MOSES)"""

SCAF = Metric("Scaf", "higher", _counted("scaffolds", scaffolds), cosine)
"""Cosine of the counts of Bemis-Murcko scaffolds of two or more rings (MOSES)"""

INT_DIV1 = Metric("IntDiv1", "as the reference", _PRINTS, internal_diversity)
"""Mean dissimilarity `1 - mean_x mean_y T(x, y)` within the first 30,000 generated molecules, T the
Tanimoto similarity (MOSES)"""

INT_DIV2 = Metric("IntDiv2", "as the reference", _PRINTS, _SQUARED)
"""Mean dissimilarity `1 - mean_x (mean_y T(x, y)^2)^(1/2)`, T the Tanimoto similarity (MOSES, as in
its code; the paper takes the root once)"""

PAINS = _passed("pains", "free of PAINS alerts", passes_pains)
"""Share of molecules without any of the 480 PAINS alerts (Baell & Holloway 2010, by RDKit's
`FilterCatalog`)"""

MCF = _passed("mcf", "free of MCF alerts", passes_mcf, needs="molsets")
"""Share of molecules that none of the 22 medicinal chemistry filters matches (MOSES, its list)"""

FILTERS = _passed("filters", "Filters", passes_filters, needs="molsets")
"""Share of molecules that pass `pains` and `mcf`, and have no charge, no ring of eight or more
atoms, and C N O S F Cl Br only (MOSES)"""

LOGP_W1 = _w1("logp", "logP", "logP", descriptors.logp, 4)
"""Wasserstein-1 distance of the octanol-water partition coefficient (Wildman & Crippen 1999;
MOSES)"""

QED_W1 = _w1("qed", "QED", "QED", descriptors.qed, 5)
"""Wasserstein-1 distance of the drug-likeness (Bickerton et al. 2012; MOSES)"""

SA_W1 = _w1("sa", "SA score", "SA score", descriptors.sa, 4)
"""Wasserstein-1 distance of the synthetic accessibility (Ertl & Schuffenhauer 2009; MOSES)"""

WEIGHT_W1 = _w1("weight", "molecular weight", "molecular weight (g/mol)", descriptors.weight, 3)
"""Wasserstein-1 distance of the molecular weight, g/mol (MOSES)"""

ATOMS_TV = _tv("atoms", "number of atoms", "heavy atoms", _atoms)
"""Total variation distance of the shares of molecules with each number of heavy atoms"""

ELEMENTS_TV = _tv("elements", "elements", "element", _elements)
"""Total variation distance of the shares of atoms of each element"""

CHARGES_TV = _tv("charges", "formal charges", "formal charge", _charges)
"""Total variation distance of the shares of atoms of each formal charge"""

BONDS_TV = _tv("bonds", "bond types", "bond type", _kekule_bonds)
"""Total variation distance of the shares of bonds of each type, in Kekulé structures"""

RINGS_TV = _tv("rings", "ring sizes", "ring size", _ring_sizes)
"""Total variation distance of the shares of rings of each size (smallest set of smallest rings)"""


def chosen_metrics(names: Sequence[str] | None = None) -> dict[str, Metric]:
    """Look up metrics by their names; None for all."""
    return {name: METRICS.find(name, "metric") for name in (METRICS if names is None else names)}


def statistics_of(names: Sequence[str] | None = None, device: str = "cpu") -> tuple[Statistic, ...]:
    """Return the statistics that some metrics need, each once; None for all metrics."""
    known: dict[str, tuple[str, Statistic]] = {}
    # Of all metrics, since `SetStatistics.add` finds the functions that add by the names alone.
    for name, metric in chosen_metrics().items():
        one = metric.statistic
        first, other = known.setdefault(one.name, (name, one))
        if one != other:
            raise UserError(
                f"the metrics {first!r} and {name!r} have different statistics of one name, "
                f"{one.name!r}: give the statistic of {name!r} another name"
            )
    chosen = [metric.statistic for metric in chosen_metrics(names).values()]
    needed = {statistic.name: statistic for statistic in chosen}
    return tuple(
        replace(one, of=partial(one.of, device=device)) if one.on_device else one
        for one in needed.values()
    )
