"""Gaussian process that predicts a value of a molecule, such as pIC50, from known molecules.

- *Known molecules*: those whose value was given, to which the process is fitted.
- *Features* of a molecule: two binary fingerprints (circular environments and atom pairs) and a
  vector of descriptors such as logP.
- *Kernel*: a weighted mean of the two Tanimoto kernels of the fingerprints (Ralaivola et al. 2005,
  Neural Networks 18, 1093) and a Gaussian kernel of the descriptors.
- *Evidence*: the marginal likelihood of the values. A grid search over the weights in `MIXTURES`
  and the variances of the noise maximizes it.

Surrogates of measured columns (`graphcnf.chemistry.surrogate`) and searches for high scores predict
with it.
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

from graphcnf.chemistry.properties import similarities

BITS = 1024
"""Length of each of the two fingerprints."""

_MORGAN = GetMorganGenerator(radius=2, fpSize=BITS, countSimulation=True, includeChirality=True)
_PAIRS = GetAtomPairGenerator(maxDistance=10, fpSize=BITS, countSimulation=True)
_ELEMENTS = ("C", "N", "O", "F", "P", "S", "Cl", "Br")
# Approximate standard deviation of each descriptor in drug-like molecules.
_SCALES = np.array(
    [1.4, 25.0, 60.0, 5.0, 1.0, 1.0, 1.5, 1.0, 2.0, 5.0, *(3.5, 1.4, 1.4, 0.7, 0.3, 0.7, 0.5, 0.5)]
)
MIXTURES = ((1.0, 0.0, 0.3), (0.3, 0.7, 0.3), (0.5, 0.2, 1.0), (0.2, 0.1, 2.0), (0.6, 0.6, 0.0))
"""Candidate weights of the three kernels: Morgan, atom pairs, descriptors."""

NOISES = (1e-3, 1e-2, 1e-1)
"""Candidate variances of the noise, for scores of variance 1."""

EVIDENCE_SIZE = 250
"""Molecules at most on which the evidence of a kernel is computed."""


@lru_cache(maxsize=20_000)
def features(smiles: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute the features of a molecule that the kernels compare.

    The last 20,000 results are kept, since searches ask for the same molecules again.

    Returns:
        (fingerprints, descriptors): 1,024 bits (`BITS`) of circular environments, then 1,024 of
        atom pairs, packed eight to a byte, (256,); and 18 descriptors, each divided by about
        its standard deviation in drug-like molecules, (18,).
    """
    mol = Chem.MolFromSmiles(smiles)
    bits = np.concatenate([_MORGAN.GetFingerprintAsNumPy(mol), _PAIRS.GetFingerprintAsNumPy(mol)])
    symbols = [atom.GetSymbol() for atom in mol.GetAtoms()]
    logp, _ = rdMolDescriptors.CalcCrippenDescriptors(mol)
    values = [
        logp,
        rdMolDescriptors.CalcTPSA(mol),
        rdMolDescriptors.CalcExactMolWt(mol),
        len(symbols),
        rdMolDescriptors.CalcNumRings(mol),
        rdMolDescriptors.CalcNumAromaticRings(mol),
        rdMolDescriptors.CalcNumHBD(mol),
        rdMolDescriptors.CalcNumAliphaticRings(mol),
        rdMolDescriptors.CalcNumRotatableBonds(mol),
        sum(atom.GetTotalNumHs() for atom in mol.GetAtoms()),
        *(symbols.count(element) for element in _ELEMENTS),
    ]
    return np.packbits(bits), (np.array(values) / _SCALES).astype(np.float32)


class GaussianProcess:
    """Gaussian process fitted to the values of N known molecules; `predict` asks it for others.

    Its kernel is a weighted mean of three: Tanimoto kernels of the fingerprints of circular
    environments (Morgan) and of atom pairs, and a Gaussian kernel of descriptors such as logP. The
    constructor chooses the weights and the noise for which the given values are most probable.

    Args:
        values: Finite values of the known molecules, in any unit, which is that of predictions.
        noises: Candidate variances of the noise, for values scaled to variance 1.
        evidence_size: Candidates are compared on at most so many of the known molecules.
    """

    def __init__(
        self,
        smiles: Sequence[str],
        values: np.ndarray,
        noises: Sequence[float] = NOISES,
        evidence_size: int = EVIDENCE_SIZE,
    ):
        self._known = _arrays(smiles)
        self._centre, self._scale = float(np.mean(values)), float(np.std(values)) or 1.0
        y = (values - self._centre) / self._scale
        kernels = _kernels(self._known, self._known)
        some = np.arange(0, len(y), math.ceil(len(y) / evidence_size))
        few = [kernel[np.ix_(some, some)] for kernel in kernels]
        choices = product(MIXTURES, noises)
        self.weights, self.noise = max(choices, key=lambda one: _fit(few, y[some], *one)[0])
        _, self._factor, self._dual, self._variance = _fit(kernels, y, self.weights, self.noise)

    def mean(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the expected values of M molecules, (M,) float64, in the unit of the known values.

        It is faster than `predict`, which also returns standard deviations.
        """
        return self._centre + self._scale * (self._cross(smiles) @ self._dual)

    def predict(self, smiles: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Predict the values of M molecules, and their standard deviations, (M,) each.

        The noise of measurements is not part of the deviations; see `noise_deviation`.
        """
        from scipy.linalg import solve_triangular

        cross = self._cross(smiles)
        solved = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        deviation = np.sqrt(np.maximum(1 - (solved**2).sum(0), 1e-9) * self._variance)
        return self._centre + self._scale * (cross @ self._dual), self._scale * deviation

    def similarities(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the Tanimoto similarities of M molecules to the N known ones, (M, N) float32.

        The fingerprints of circular environments are compared.
        """
        return similarities(_arrays(smiles)[0], self._known[0])

    @property
    def noise_deviation(self) -> float:
        """Standard deviation of the noise of measurements, in the unit of the known values."""
        return self._scale * math.sqrt(self.noise * self._variance)

    def _cross(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the kernel between M molecules and the known ones, (M, N)."""
        return _mixed(_kernels(_arrays(smiles), self._known), self.weights)


def _arrays(smiles: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the `features` of M molecules as float32 arrays."""
    packed, descriptors = zip(*map(features, smiles), strict=True)
    bits = np.unpackbits(np.stack(packed), axis=1).astype(np.float32)
    return bits[:, :BITS], bits[:, BITS:], np.stack(descriptors)


def _kernels(left, right) -> list[np.ndarray]:
    """Return three kernel matrices between two sets of molecules, as `MIXTURES` lists them."""
    parts = [similarities(left[0], right[0]), similarities(left[1], right[1])]
    squares = (left[2] ** 2).sum(1)[:, None] + (right[2] ** 2).sum(1)
    distance = np.maximum(squares - 2 * left[2] @ right[2].T, 0)
    return [*parts, np.exp(-distance / (2 * left[2].shape[1] * 0.5))]


def _mixed(kernels, weights) -> np.ndarray:
    """Return the weighted mean of kernel matrices."""
    return sum(w * k for w, k in zip(weights, kernels, strict=True)) / sum(weights)


def _fit(kernels, y, weights, noise):
    """Fit a Gaussian process with a mixture of kernels."""
    from scipy.linalg import cho_factor, cho_solve

    matrix = _mixed(kernels, weights).astype(np.float64) + noise * np.eye(len(y))
    factor = cho_factor(matrix, lower=True, check_finite=False)
    dual = cho_solve(factor, y, check_finite=False)
    variance = max(float(y @ dual) / len(y), 1e-12)
    evidence = -0.5 * len(y) * np.log(variance) - np.log(np.diag(factor[0])).sum()
    return evidence, factor[0], dual, variance
