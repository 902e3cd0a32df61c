"""Properties of molecules, and their similarity to others."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
from rdkit import Chem, RDConfig
from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.DataStructs import TanimotoSimilarity

from graphcnf.molecules.optional import Unavailable

_ECFP4 = GetMorganGenerator(radius=2, fpSize=2048)


# Functions of their own: RDKit's are lambdas, which cannot be pickled and have no name.
def logp(mol: Chem.Mol) -> float:
    """Return the decadic logarithm of the octanol-water partition (Wildman & Crippen 1999)."""
    return Crippen.MolLogP(mol)  # type: ignore[attr-defined]  # not in the stubs


def qed(mol: Chem.Mol) -> float:
    """Return the quantitative estimate of drug-likeness, in (0, 1) (Bickerton et al. 2012)."""
    return QED.qed(mol)


def weight(mol: Chem.Mol) -> float:
    """Return the molecular weight, g/mol."""
    return Descriptors.MolWt(mol)  # type: ignore[attr-defined]  # not in the stubs


def sa(mol: Chem.Mol) -> float:
    """Return the synthetic accessibility, 1 (easy) to 10 (Ertl & Schuffenhauer 2009), by RDKit.

    The worked example that MOSES publishes does not come out with current releases of RDKit, so
    hold distances of this score against figures of the same release only.

    Raises:
        Unavailable: This build of RDKit came without its Contrib folder.
    """
    return _sa_scorer().calculateScore(mol)


def similarity_to(mol: Chem.Mol) -> Callable[[Chem.Mol], float]:
    """Return a function that gives the Tanimoto similarity of ECFP4 fingerprints to a molecule.

    Morgan fingerprints of radius 2 in 2,048 bits, without chirality and counts; in [0, 1].
    """
    own = _ECFP4.GetFingerprint(mol)
    return lambda other: TanimotoSimilarity(own, _ECFP4.GetFingerprint(other))


def similarities(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the Tanimoto similarity of each to each, (M, N) float32.

    Args:
        left: Fingerprints of 0 and 1, (M, bits) float32; two empty ones have similarity 1.
        right: The same of other molecules, (N, bits).
    """
    shared = left @ right.T
    union = left.sum(1)[:, None] + right.sum(1) - shared
    return np.divide(shared, union, out=np.ones_like(shared), where=union > 0)


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
"""Properties of a sanitized molecule: numbers of atoms, rings, hydrogen bond donors and acceptors;
`weight` in g/mol, the polar surface `tpsa` in Å² (Ertl et al. 2000), `fsp3` the share of carbon
atoms that are sp3; the others are functions above."""
