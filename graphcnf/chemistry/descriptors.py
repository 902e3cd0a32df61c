"""Properties that RDKit computes from a molecule, such as logP: a function and a row for each.

Commands, scores, filters, tables and the documentation have their properties from `TABLE`. Every
function takes a sanitized RDKit molecule. RDKit is imported only when a property is computed, since
every `--help` names the properties and must be quick.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import get_annotations
from math import inf
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING

from graphcnf.errors import Unavailable

if TYPE_CHECKING:
    from rdkit import Chem


def qed(mol: Chem.Mol) -> float:
    """Return the quantitative estimate of drug-likeness, 0 (worst) to 1 (Bickerton et al. 2012)."""
    from rdkit.Chem import QED

    return QED.qed(mol)


def logp(mol: Chem.Mol) -> float:
    """Return log10 of the octanol-water partition coefficient (Wildman & Crippen 1999)."""
    from rdkit.Chem import Crippen

    return Crippen.MolLogP(mol)  # type: ignore[attr-defined]  # not in the stubs


def weight(mol: Chem.Mol) -> float:
    """Return the molecular weight, g/mol."""
    from rdkit.Chem import Descriptors

    return Descriptors.MolWt(mol)  # type: ignore[attr-defined]  # not in the stubs


def tpsa(mol: Chem.Mol) -> float:
    """Return the topological polar surface area, Å² (Ertl et al. 2000)."""
    from rdkit.Chem.rdMolDescriptors import CalcTPSA

    return CalcTPSA(mol)


def atoms(mol: Chem.Mol) -> int:
    """Return the number of heavy atoms (all but hydrogen)."""
    return mol.GetNumHeavyAtoms()


def rings(mol: Chem.Mol) -> int:
    """Return the number of rings (of the smallest set of smallest rings)."""
    from rdkit.Chem.rdMolDescriptors import CalcNumRings

    return CalcNumRings(mol)


def aromatic_rings(mol: Chem.Mol) -> int:
    """Return the number of aromatic rings."""
    from rdkit.Chem.rdMolDescriptors import CalcNumAromaticRings

    return CalcNumAromaticRings(mol)


def rotatable_bonds(mol: Chem.Mol) -> int:
    """Return the number of rotatable bonds, by RDKit's strict definition."""
    from rdkit.Chem.rdMolDescriptors import CalcNumRotatableBonds

    return CalcNumRotatableBonds(mol)


def hbd(mol: Chem.Mol) -> int:
    """Return the number of hydrogen bond donors, as RDKit counts them."""
    from rdkit.Chem.rdMolDescriptors import CalcNumHBD

    return CalcNumHBD(mol)


def hba(mol: Chem.Mol) -> int:
    """Return the number of hydrogen bond acceptors, as RDKit counts them."""
    from rdkit.Chem.rdMolDescriptors import CalcNumHBA

    return CalcNumHBA(mol)


def fsp3(mol: Chem.Mol) -> float:
    """Return the share of carbon atoms that are sp3, in [0, 1]."""
    from rdkit.Chem.rdMolDescriptors import CalcFractionCSP3

    return CalcFractionCSP3(mol)


def charge(mol: Chem.Mol) -> int:
    """Return the formal charge of the molecule: the sum of those of its atoms."""
    from rdkit.Chem import GetFormalCharge

    return GetFormalCharge(mol)


def sa(mol: Chem.Mol) -> float:
    """Return the synthetic accessibility score, 1 (easy) to 10 (Ertl & Schuffenhauer 2009).

    It differs a little between releases of RDKit.

    Raises:
        Unavailable: This build of RDKit lacks the folder Contrib, which has the score.
    """
    return _sa_score()(mol)


@cache
def _sa_score() -> Callable[[Chem.Mol], float]:
    """Load the function that computes the synthetic accessibility score from RDKit's Contrib."""
    from rdkit import RDConfig

    path = Path(RDConfig.RDContribDir, "SA_Score", "sascorer.py")
    if not path.is_file():
        raise Unavailable(f"this RDKit has no {path}: install the rdkit wheel from PyPI")
    return run_path(str(path))["calculateScore"]


TABLE: tuple[tuple[Callable[[Chem.Mol], float], float, float], ...] = (
    (qed, 0, 1),
    (sa, 1, 10),
    (logp, -inf, inf),
    (weight, 0, inf),
    (tpsa, 0, inf),
    (atoms, 1, inf),
    (rings, 0, inf),
    (aromatic_rings, 0, inf),
    (rotatable_bonds, 0, inf),
    (hbd, 0, inf),
    (hba, 0, inf),
    (fsp3, 0, 1),
    (charge, -inf, inf),
)
"""Function of a sanitized molecule, lowest and highest possible value; the name is the function's.

A function that is annotated with `-> int` has integers in files and comparisons.
"""

PROPERTIES = {function.__name__: function for function, _, _ in TABLE}
"""Properties of a sanitized molecule by name."""

RANGES = {function.__name__: (low, high) for function, low, high in TABLE}
"""Lowest and highest possible value of a property."""

COUNTS = frozenset(
    name
    for name, function in PROPERTIES.items()
    if get_annotations(function).get("return") == "int"
)
"""Properties that are integers."""
