"""Histograms of molecules' contents and properties, and distances between histograms.

A histogram says how often each text occurs among the molecules of a set: an element, a scaffold, a
property's value written as a decimal. Fragments, scaffolds and alerts are those of MOSES
(Polykovskiy et al. 2020, arXiv 1811.12823, section 4, and the code that its tables come from).
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import numpy as np
from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams
from rdkit.Chem.rdmolops import FragmentOnBRICSBonds
from rdkit.Chem.Scaffolds import MurckoScaffold

from graphcnf.molecules.optional import Unavailable, installed_file

Histogram = Mapping[str, int]
"""Counts by text."""

PASSED, FAILED = "passed", "failed"
"""Outcomes of a structural alert."""

ELEMENTS = frozenset(("C", "N", "S", "O", "F", "Cl", "Br", "H"))
"""Elements that the filters of MOSES let pass."""

SCAFFOLD_RINGS = 2
"""Least number of rings of a scaffold that counts."""


def histogram(function: Callable[[Chem.Mol], Iterable[str]], mols: Sequence[Chem.Mol]) -> Counter:
    """Count the texts that a function has for each molecule."""
    return Counter(text for mol in mols for text in function(mol))


def rounded(
    function: Callable[[Chem.Mol], float], decimals: int, mols: Sequence[Chem.Mol]
) -> Counter:
    """Count the values of a property, rounded."""
    return Counter(f"{function(mol):.{decimals}f}" for mol in mols)


def judged(function: Callable[[Chem.Mol], bool], mols: Sequence[Chem.Mol]) -> Counter:
    """Count the molecules that pass a filter, and those that fail."""
    return Counter(PASSED if function(mol) else FAILED for mol in mols)


def add_counts(one: Counter, other: Counter) -> Counter:
    """Return the first histogram with the counts of the second added in place."""
    one.update(other)  # += would look at all that are there, each time
    return one


def atoms(mol: Chem.Mol) -> list[str]:
    """Return the number of heavy atoms."""
    return [str(mol.GetNumAtoms())]


def elements(mol: Chem.Mol) -> list[str]:
    """Return the element of every atom."""
    return [atom.GetSymbol() for atom in mol.GetAtoms()]


def charges(mol: Chem.Mol) -> list[str]:
    """Return the formal charge of every atom, such as "+1"."""
    return [f"{atom.GetFormalCharge():+d}" for atom in mol.GetAtoms()]


def kekule_bonds(mol: Chem.Mol) -> list[str]:
    """Return the type of every bond in a Kekulé structure, such as "DOUBLE"."""
    mol = Chem.Mol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return [bond.GetBondType().name for bond in mol.GetBonds()]


def ring_sizes(mol: Chem.Mol) -> list[str]:
    """Return the sizes of a smallest set of smallest rings."""
    # Sanitization finds the symmetrized set, which may hold more rings than are independent, and
    # which other features want: in a copy, GetSSSR puts another in the place of it.
    return [str(len(ring)) for ring in Chem.GetSSSR(Chem.Mol(mol))]


def brics_fragments(mol: Chem.Mol) -> list[str]:
    """Return SMILES of the pieces after all BRICS bonds are cut, cuts marked by dummy atoms."""
    return Chem.MolToSmiles(FragmentOnBRICSBonds(mol)).split(".")


def scaffolds(mol: Chem.Mol) -> list[str]:
    """Return the SMILES of the Bemis-Murcko scaffold; nothing where it has fewer than two rings."""
    core = MurckoScaffold.GetScaffoldForMol(mol)
    if core.GetRingInfo().NumRings() < SCAFFOLD_RINGS:
        return []
    return [Chem.MolToSmiles(core)]


def passes_pains(mol: Chem.Mol) -> bool:
    """Return True without any of the 480 PAINS alerts A, B and C (Baell & Holloway 2010)."""
    return not _pains().HasMatch(mol)


def passes_mcf(mol: Chem.Mol) -> bool:
    """Return True without any of MOSES' 22 medicinal chemistry filters.

    Raises:
        Unavailable: The list, which comes with the package molsets, is not installed.
    """
    with_hydrogens = Chem.AddHs(mol)  # which the patterns name
    return not any(with_hydrogens.HasSubstructMatch(pattern) for pattern in _mcf())


def passes_filters(mol: Chem.Mol) -> bool:
    """Return True for a molecule that counts for "Filters" of MOSES.

    It has no PAINS or MCF alert, no charge, no ring of eight or more atoms, and C, N, S, O, F, Cl,
    Br and H only.

    Raises:
        Unavailable: See `passes_mcf`.
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
    path = installed_file("moses", "metrics", "mcf.csv")
    if path is None:
        raise Unavailable("needs the list in molsets: pip install --no-deps molsets")
    with open(path, newline="", encoding="utf-8") as file:
        return [Chem.MolFromSmarts(row["smarts"]) for row in csv.DictReader(file)]


def wasserstein(generated: Histogram, reference: Histogram) -> float:
    """Return the Wasserstein-1 distance between two samples of a property, as in MOSES.

    The mean distance by which values have to be moved to turn one distribution into the other, in
    the property's own unit. At least 0, lower is better.
    """
    from scipy.stats import wasserstein_distance

    (values, weights), (others, other_weights) = map(values_and_counts, (generated, reference))
    return float(wasserstein_distance(values, others, weights, other_weights))


def values_and_counts(counts: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Return values that are written as decimals, and their counts, both (K,) float64."""
    return np.array([*map(float, counts)]), np.array([*map(float, counts.values())])


def total_variation(generated: Histogram, reference: Histogram) -> float:
    """Return the total variation distance between two histograms, `1/2 sum_k |p_k - q_k|`.

    The share of one histogram that has to be moved to turn it into the other. In [0, 1], lower is
    better. A histogram without any entry is at distance 1 from every other one.
    """
    totals = [sum(generated.values()), sum(reference.values())]
    if 0 in totals:
        return float(any(totals))
    keys = sorted({*generated, *reference})
    return 0.5 * sum(
        abs(generated.get(k, 0) / totals[0] - reference.get(k, 0) / totals[1]) for k in keys
    )


def cosine(generated: Histogram, reference: Histogram) -> float:
    """Return the cosine of the angle between two histograms, Frag and Scaf of MOSES.

    In [0, 1], higher is better; 1 means the same proportions.

    Raises:
        Unavailable: One of the sets has nothing to count.
    """
    for name, counts in (("generated", generated), ("reference", reference)):
        if not counts:
            raise Unavailable(f"none among the {name} molecules")
    shared = sum(count * reference.get(key, 0) for key, count in generated.items())
    squares = (sum(count * count for count in c.values()) for c in (generated, reference))
    return shared / math.sqrt(math.prod(squares))


def passed_share(generated: Histogram, reference: Histogram) -> float:
    """Return the share of the generated molecules that pass a filter (MOSES).

    In [0, 1], higher is better; the reference, which is not used, may be far from 1 itself.
    """
    return generated.get(PASSED, 0) / sum(generated.values())
