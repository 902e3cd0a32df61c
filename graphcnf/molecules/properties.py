"""Properties, bonds and alerts of molecules, and how their distributions are compared."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
from rdkit import Chem, RDConfig
from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from graphcnf.molecules.optional import Unavailable, installed_file

PASSED, FAILED = "passed", "failed"
"""What a filter says of a molecule."""


# Functions of their own: RDKit's are lambdas, which cannot be pickled and have no name.
def logp(mol: Chem.Mol) -> float:
    """Octanol-water partition coefficient, decadic logarithm (Wildman & Crippen 1999)."""
    return Crippen.MolLogP(mol)  # type: ignore[attr-defined]  # not in the stubs


def qed(mol: Chem.Mol) -> float:
    """Quantitative estimate of drug-likeness, in (0, 1) (Bickerton et al. 2012)."""
    return QED.qed(mol)


def weight(mol: Chem.Mol) -> float:
    """Molecular weight, g/mol."""
    return Descriptors.MolWt(mol)  # type: ignore[attr-defined]  # not in the stubs


def sa(mol: Chem.Mol) -> float:
    """Synthetic accessibility, 1 (easy) to 10 (Ertl & Schuffenhauer 2009), as RDKit computes it.

    The worked example that MOSES publishes does not come out with current releases of RDKit, so
    hold distances of this score against figures of the same release only.

    Raises:
        Unavailable: This build of RDKit came without its Contrib folder.
    """
    return _sa_scorer().calculateScore(mol)


def wasserstein(generated: Mapping[str, int], reference: Mapping[str, int]) -> float:
    """Wasserstein-1 distance between two samples of a property, as in MOSES (arXiv 1811.12823).

    The mean distance by which values have to be moved to turn one distribution into the other, in
    the property's own unit. At least 0, lower is better.

    Args:
        generated: How often each value occurs, the values written as decimals.
        reference: As `generated`.
    """
    from scipy.stats import wasserstein_distance

    (values, weights), (others, other_weights) = map(values_and_counts, (generated, reference))
    return float(wasserstein_distance(values, others, weights, other_weights))


def values_and_counts(counts: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Values that are written as decimals, and how often each occurs, both float64."""
    return np.array([*map(float, counts)]), np.array([*map(float, counts.values())])


def kekule_bonds(mol: Chem.Mol) -> list[str]:
    """Type of every bond between heavy atoms in a Kekulé structure, such as "DOUBLE"."""
    mol = Chem.Mol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return [bond.GetBondType().name for bond in mol.GetBonds()]


def total_variation(generated: Mapping[str, int], reference: Mapping[str, int]) -> float:
    """Total variation distance between two histograms, `1/2 sum_k |p_k - q_k|`.

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


def passes_pains(mol: Chem.Mol) -> bool:
    """Whether none of the 480 PAINS alerts A, B and C is found (Baell & Holloway 2010)."""
    return not _pains().HasMatch(mol)


def passes_mcf(mol: Chem.Mol) -> bool:
    """Whether none of MOSES' 22 medicinal chemistry filters matches (arXiv 1811.12823).

    Raises:
        Unavailable: The list, which comes with the package molsets, is not installed.
    """
    with_hydrogens = Chem.AddHs(mol)  # which the patterns name
    return not any(with_hydrogens.HasSubstructMatch(pattern) for pattern in _mcf())


def share(generated: Mapping[str, int], reference: Mapping[str, int]) -> float:
    """Share of the generated molecules that pass a filter (MOSES, arXiv 1811.12823).

    In [0, 1], higher is better; the reference, which is not used, may be far from 1 itself. MOSES'
    own "Filters" also asks for PAINS and MCF at once, its eight elements, no charge and no ring of
    eight or more atoms.
    """
    return generated.get(PASSED, 0) / sum(generated.values())


@cache
def _sa_scorer() -> ModuleType:
    path = Path(RDConfig.RDContribDir, "SA_Score", "sascorer.py")
    if not path.is_file():
        raise Unavailable(f"this RDKit has no {path}: install the rdkit wheel from PyPI")
    spec = spec_from_file_location("rdkit_sa_scorer", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


COUNTS = ("atoms", "rings", "aromatic_rings", "rotatable_bonds", "hbd", "hba", "charge")
"""Properties that are integers."""

RANGES = {
    "qed": (0, 1), "fsp3": (0, 1), "sa": (1, 10), "weight": (0, math.inf), "tpsa": (0, math.inf),
    **dict.fromkeys(COUNTS[:-1], (0, math.inf)),
}  # fmt: skip
"""Lowest and highest value of a property; those without an entry have no limits."""

PROPERTIES: dict[str, Callable[[Chem.Mol], float]] = {
    "qed": qed,
    "sa": sa,
    "logp": logp,
    "weight": weight,
    "tpsa": rdMolDescriptors.CalcTPSA,
    "atoms": Chem.Mol.GetNumHeavyAtoms,
    "rings": rdMolDescriptors.CalcNumRings,
    "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
    "rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "hbd": rdMolDescriptors.CalcNumHBD,
    "hba": rdMolDescriptors.CalcNumHBA,
    "fsp3": rdMolDescriptors.CalcFractionCSP3,
    "charge": Chem.GetFormalCharge,
}
"""Of a sanitized molecule: numbers of heavy atoms, rings, hydrogen bond donors and acceptors;
`weight` in g/mol, the polar surface `tpsa` in Å² (Ertl et al. 2000), `fsp3` the share of carbon
atoms that are sp3; the others are functions above."""
