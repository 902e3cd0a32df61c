"""Gaussian process over the scored molecules, which predicts the scores of proposals.

Its kernel is a sum of Tanimoto kernels of fingerprints (Ralaivola et al. 2005, Neural Networks 18,
1093) and a Gaussian kernel of a few descriptors. Their weights and the noise are those of a few
choices that maximize the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from rdkit.Chem.rdFingerprintGenerator import GetAtomPairGenerator, GetMorganGenerator

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

CACHED = 20_000
"""Molecules whose features are cached, at most."""

CHOSEN_ON = 250
"""Molecules that the evidence of a choice is computed on, at most."""


@lru_cache(maxsize=CACHED)
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


class Surrogate:
    """Gaussian process regression of scores on molecules."""

    def __init__(self):
        self._fitted: tuple | None = None

    @staticmethod
    def _features(smiles: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        packed, descriptors = zip(*map(features, smiles), strict=True)
        bits = np.unpackbits(np.stack(packed), axis=1).astype(np.float32)
        return bits[:, :BITS], bits[:, BITS:], np.stack(descriptors)

    @staticmethod
    def _kernels(left, right) -> list[np.ndarray]:
        parts = [similarities(left[0], right[0]), similarities(left[1], right[1])]
        squares = (left[2] ** 2).sum(1)[:, None] + (right[2] ** 2).sum(1)
        distance = np.maximum(squares - 2 * left[2] @ right[2].T, 0)
        return [*parts, np.exp(-distance / (2 * left[2].shape[1] * 0.5))]

    def fit(self, smiles: Sequence[str], scores: np.ndarray) -> None:
        """Fit the process to molecules and their scores (M,), at least two."""
        known = self._features(smiles)
        # A penalty of a million says nothing of the other molecules.
        scores = np.maximum(scores, np.quantile(scores, WORST))
        self.mean, self.scale = float(np.mean(scores)), float(np.std(scores)) or 1.0
        y = (scores - self.mean) / self.scale
        kernels = self._kernels(known, known)
        some = np.arange(0, len(y), math.ceil(len(y) / CHOSEN_ON))
        few = [kernel[np.ix_(some, some)] for kernel in kernels]
        choices = [(weights, noise) for weights in MIXTURES for noise in NOISES]
        weights, noise = max(choices, key=lambda choice: _process(few, y[some], *choice)[0])
        self._fitted = known, weights, *_process(kernels, y, weights, noise)[1:]

    def predict(self, smiles: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return expected scores and their standard deviations, (M,) each."""
        from scipy.linalg import solve_triangular

        assert self._fitted is not None
        known, weights, factor, alpha, variance = self._fitted
        kernels = self._kernels(self._features(smiles), known)
        cross = _mixed(kernels, weights)
        mean = cross @ alpha
        solved = solve_triangular(factor[0], cross.T, lower=True, check_finite=False)
        spread = np.sqrt(np.maximum(1 - (solved**2).sum(0), 1e-9) * variance)
        return self.mean + self.scale * mean, self.scale * spread


def _process(kernels, y, weights, noise):
    """Return log evidence (scale at its optimum, no constant), Cholesky factor, dual, variance."""
    from scipy.linalg import cho_factor, cho_solve

    matrix = _mixed(kernels, weights).astype(np.float64) + noise * np.eye(len(y))
    factor = cho_factor(matrix, lower=True, check_finite=False)
    dual = cho_solve(factor, y, check_finite=False)
    variance = max(float(y @ dual) / len(y), 1e-12)
    evidence = -0.5 * len(y) * np.log(variance) - np.log(np.diag(factor[0])).sum()
    return evidence, factor, dual, variance


def _mixed(kernels, weights) -> np.ndarray:
    return sum(w * k for w, k in zip(weights, kernels, strict=True)) / sum(weights)
