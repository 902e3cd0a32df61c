"""Scores of a molecule by name, and the means that join several."""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import Descriptors
from rdkit.Chem.rdFingerprintGenerator import (
    GetAtomPairGenerator,
    GetMorganFeatureAtomInvGen,
    GetMorganGenerator,
)
from rdkit.DataStructs import TanimotoSimilarity

from graphcnf.errors import UserError
from graphcnf.molecules import properties
from graphcnf.molecules.codec import UnparsableSmiles, parse, parse_smarts, quiet
from graphcnf.molecules.properties import PROPERTIES

Score = Callable[[Chem.Mol], float]


def penalized_logp(mol: Chem.Mol) -> float:
    """Return the logP less synthetic accessibility and long rings, each standardised over ZINC250k.

    As in Gomez-Bombarelli et al. 2018 (arXiv 1610.02415) with the constants of Kusner et al. 2017
    (arXiv 1703.01925) that GCPN and its successors use.
    """
    longest = max((len(ring) for ring in Chem.GetSSSR(mol)), default=0)
    logp = (properties.logp(mol) - 2.4570953396190123) / 1.434324401111988
    sa = (-properties.sa(mol) + 3.0525811293166134) / 0.8335207024513095
    cycle = (-max(longest - 6, 0) + 0.0485696876403053) / 0.2860212110245455
    return logp + sa + cycle


PLAIN: dict[str, Score] = {
    **PROPERTIES,
    "penalized_logp": penalized_logp,
    "bertz": Descriptors.BertzCT,
}
"""Scores without parameters."""

_GENERATORS: dict[str, Callable[[], Any]] = {
    "ECFP4": partial(GetMorganGenerator, radius=2),
    "ECFP6": partial(GetMorganGenerator, radius=3),
    "FCFP4": lambda: GetMorganGenerator(
        radius=2, atomInvariantsGenerator=GetMorganFeatureAtomInvGen()
    ),
    "AP": partial(GetAtomPairGenerator, maxDistance=10),
}
FINGERPRINTS = (*_GENERATORS, "PHCO")
"""Names as in GuacaMol; all but the pharmacophores are counted and not folded."""


def similarity(to: str, fingerprint: str = "ECFP4") -> Score:
    """Return a score: Tanimoto similarity to a molecule, in [0, 1].

    Args:
        to: SMILES.
        fingerprint: One of `FINGERPRINTS`.

    Raises:
        UserError: `to` is no molecule, or there is no such fingerprint.
    """
    if fingerprint not in FINGERPRINTS:
        raise UserError(f"fingerprint must be one of {', '.join(FINGERPRINTS)}: {fingerprint!r}")
    if fingerprint == "PHCO":
        # Slow to import, and to compute.
        from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D

        def of(mol: Chem.Mol):
            return Generate.Gen2DFingerprint(mol, Gobbi_Pharm2D.factory)
    else:
        of = _GENERATORS[fingerprint]().GetSparseCountFingerprint
    known = of(_molecule(to))
    return lambda mol: TanimotoSimilarity(known, of(mol))


def smarts(pattern: str) -> Score:
    """Return a score: 1 where a SMARTS pattern matches, else 0.

    Raises:
        UserError: RDKit does not read the pattern.
    """
    query = parse_smarts(pattern)
    return lambda mol: float(mol.HasSubstructMatch(query))


def count(element: str) -> Score:
    """Return a score: number of atoms of an element, hydrogens included.

    Raises:
        UserError: There is no such element.
    """
    _element(element)
    return lambda mol: float(_composition(mol)[element])


def formula(of: str) -> Score:
    """Return a score: closeness to a sum formula, in [0, 1], the isomer score of GuacaMol.

    The geometric mean of Gaussians, of width 1 for the number of atoms of each element and of
    width 2 for the number of all atoms, hydrogens included.

    Args:
        of: Such as C7H8N2O2.

    Raises:
        UserError: It is no formula.
    """
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", of)
    if not parts or "".join(map("".join, parts)) != of:
        raise UserError(f"not a formula such as C7H8N2O2: {of!r}")
    wanted: Counter[str] = Counter()
    for element, number in parts:
        _element(element)
        wanted[element] += int(number or 1)

    def score(mol: Chem.Mol) -> float:
        there = _composition(mol)
        values = [gaussian(there[element], number, 1.0) for element, number in wanted.items()]
        values.append(gaussian(there.total(), wanted.total(), 2.0))
        return geometric(values, np.ones(len(values)))

    return score


def gaussian(value: float, centre: float, width: float) -> float:
    """Return `exp(-(value - centre)^2 / (2 width^2))`."""
    return math.exp(-0.5 * ((value - centre) / width) ** 2)


def geometric(values, weights) -> float:
    """Return the weighted geometric mean; 0 where a value with weight is not above 0."""
    values, weights = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    if (values[weights > 0] <= 0).any():
        return 0.0
    return float(np.exp(np.average(np.log(np.maximum(values, 1e-300)), weights=weights)))


def arithmetic(values, weights) -> float:
    """Return the weighted mean."""
    return float(np.average(values, weights=weights))


MAKERS: dict[str, Callable[..., Score]] = {
    maker.__name__: maker for maker in (similarity, smarts, formula, count)
}
"""Scores with parameters, all of them text."""

PARAMETERS = {name: tuple(inspect.signature(maker).parameters) for name, maker in MAKERS.items()}
MEANS = {"geometric": geometric, "arithmetic": arithmetic}


def _composition(mol: Chem.Mol) -> Counter[str]:
    there = Counter(atom.GetSymbol() for atom in mol.GetAtoms())
    there["H"] += sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    return there


def _molecule(smiles: str) -> Chem.Mol:
    try:
        with quiet():
            return parse(smiles)
    except UnparsableSmiles as error:
        raise UserError(str(error)) from None


def _element(symbol: str) -> None:
    try:
        Chem.GetPeriodicTable().GetAtomicNumber(symbol)
    except RuntimeError:
        raise UserError(f"no element {symbol!r}") from None
