"""Gaussian process over the scored molecules, which predicts the scores of proposals.

Its kernel is a sum of Tanimoto kernels of fingerprints (Ralaivola et al. 2005, Neural Networks 18,
1093) and a Gaussian kernel of a few descriptors. Their weights and the noise are those of a few
choices that maximize the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.rdFingerprintGenerator import GetAtomPairGenerator, GetMorganGenerator
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from graphcnf.molecules.properties import similarities

BITS = 1024
_MORGAN = GetMorganGenerator(radius=2, fpSize=BITS, countSimulation=True)
_PAIRS = GetAtomPairGenerator(maxDistance=10, fpSize=BITS, countSimulation=True)
_ELEMENTS = ("C", "N", "O", "F", "P", "S", "Cl", "Br")
# About the standard deviation of each descriptor in drug-like molecules.
_SCALES = np.array(
    [1.4, 25.0, 60.0, 5.0, 1.0, 1.0, 1.5, 1.0, 2.0, 5.0, *(3.5, 1.4, 1.4, 0.7, 0.3, 0.7, 0.5, 0.5)]
)
MIXTURES = (
    (1.0, 0.0, 0.3), (0.3, 0.7, 0.3), (0.5, 0.2, 1.0), (0.2, 0.1, 2.0), (0.6, 0.6, 0.0),
)  # fmt: skip
"""Weights of the three kernels (Morgan, atom pairs, descriptors) to choose from."""

NOISES = (1e-3, 1e-2, 1e-1)
"""Variances of the noise to choose from, for scores of variance 1."""

WORST = 0.05
"""Quantile of the scores below which all count alike."""

CHOSEN_ON = 250
"""Molecules that the evidence of a choice is computed on, at most."""


@lru_cache(maxsize=20_000)
def features(smiles: str) -> tuple[np.ndarray, np.ndarray]:
    """Return packed fingerprints (2 * BITS / 8,) uint8 and scaled descriptors (D,) float32."""
    mol = Chem.MolFromSmiles(smiles)
    bits = np.concatenate([_MORGAN.GetFingerprintAsNumPy(mol), _PAIRS.GetFingerprintAsNumPy(mol)])
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    logp, _ = rdMolDescriptors.CalcCrippenDescriptors(mol)
    values = [
        logp, rdMolDescriptors.CalcTPSA(mol), rdMolDescriptors.CalcExactMolWt(mol), len(symbols),
        rdMolDescriptors.CalcNumRings(mol), rdMolDescriptors.CalcNumAromaticRings(mol),
        rdMolDescriptors.CalcNumHBD(mol), rdMolDescriptors.CalcNumAliphaticRings(mol),
        rdMolDescriptors.CalcNumRotatableBonds(mol),
        sum(atom.GetTotalNumHs() for atom in mol.GetAtoms()),
        *(symbols.count(element) for element in _ELEMENTS),
    ]  # fmt: skip
    return np.packbits(bits), (np.array(values) / _SCALES).astype(np.float32)


def predict(
    smiles: Sequence[str], scores: np.ndarray, proposed: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the process to at least two molecules with scores (M,), and predict P other ones.

    Returns:
        Expected scores and standard deviations of the proposals, (P,) each.
    """
    known = _arrays(smiles)
    # A penalty of a million says nothing of the other molecules.
    scores = np.maximum(scores, np.quantile(scores, WORST))
    centre, scale = float(np.mean(scores)), float(np.std(scores)) or 1.0
    y = (scores - centre) / scale
    kernels = _kernels(known, known)
    some = np.arange(0, len(y), math.ceil(len(y) / CHOSEN_ON))
    few = [kernel[np.ix_(some, some)] for kernel in kernels]
    choices = product(MIXTURES, NOISES)
    weights, noise = max(choices, key=lambda choice: _process(few, y[some], *choice)[0])
    _, factor, dual, variance = _process(kernels, y, weights, noise)
    cross = _mixed(_kernels(_arrays(proposed), known), weights)
    solved = solve_triangular(factor, cross.T, lower=True, check_finite=False)
    deviation = np.sqrt(np.maximum(1 - (solved**2).sum(0), 1e-9) * variance)
    return centre + scale * (cross @ dual), scale * deviation


def _arrays(smiles: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    packed, descriptors = zip(*map(features, smiles), strict=True)
    bits = np.unpackbits(np.stack(packed), axis=1).astype(np.float32)
    return bits[:, :BITS], bits[:, BITS:], np.stack(descriptors)


def _kernels(left, right) -> list[np.ndarray]:
    parts = [similarities(left[0], right[0]), similarities(left[1], right[1])]
    squares = (left[2] ** 2).sum(1)[:, None] + (right[2] ** 2).sum(1)
    distance = np.maximum(squares - 2 * left[2] @ right[2].T, 0)
    return [*parts, np.exp(-distance / (2 * left[2].shape[1] * 0.5))]


def _mixed(kernels, weights) -> np.ndarray:
    return sum(w * k for w, k in zip(weights, kernels, strict=True)) / sum(weights)


def _process(kernels, y, weights, noise):
    """Return log evidence (scale at its optimum, no constant), Cholesky factor, dual, variance."""
    matrix = _mixed(kernels, weights).astype(np.float64) + noise * np.eye(len(y))
    factor = cho_factor(matrix, lower=True, check_finite=False)
    dual = cho_solve(factor, y, check_finite=False)
    variance = max(float(y @ dual) / len(y), 1e-12)
    evidence = -0.5 * len(y) * np.log(variance) - np.log(np.diag(factor[0])).sum()
    return evidence, factor[0], dual, variance
