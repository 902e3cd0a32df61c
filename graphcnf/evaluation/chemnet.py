"""Frechet ChemNet distance: both sets as normal distributions of a network's activations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cache

import numpy as np
from rdkit import Chem

from graphcnf.molecules.optional import Unavailable

BATCH = 512
"""Molecules that the network sees at once, as in fcd_torch."""


def chemnet_sums(mols: Sequence[Chem.Mol], device: str = "cpu") -> np.ndarray:
    """Sum ChemNet's 512 activations, and their products, over molecules.

    Args:
        mols: Sanitized molecules, at least one.
        device: Where the network runs.

    Returns:
        Sum of the outer products of (1, activations), (513, 513) float64: the number of molecules
        in the corner, the sums of the activations beside it.

    Raises:
        Unavailable: The package fcd_torch is missing.
    """
    network = _network(device)
    import torch

    from graphcnf.graphs.record_blocks import one_thread

    smiles = [Chem.MolToSmiles(mol) for mol in mols]
    with warnings.catch_warnings(), one_thread(torch.device(device)):
        warnings.simplefilter("ignore")  # of deprecated calls inside the package
        activations = network.get_predictions(smiles).astype(np.float64)
    rows = np.hstack([np.ones((len(smiles), 1)), activations])
    return rows.T @ rows


def frechet_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the Frechet ChemNet distance, FCD (Preuer et al. 2018, arXiv 1803.09518).

    `|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))` of the two normal distributions, with fcd_torch's
    square root. At least 0, lower is better. It falls with the number of molecules: compare sets
    of one size only.

    Args:
        generated: `chemnet_sums` of the generated molecules.
        reference: `chemnet_sums` of the reference.

    Raises:
        Unavailable: The package fcd_torch is missing, there are fewer than two molecules, or the
            distance has no finite value.
    """
    fcd_torch = _fcd_torch()
    moments = [*_moments(generated), *_moments(reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            distance = float(fcd_torch.calculate_frechet_distance(*moments))
        except ValueError as error:
            raise Unavailable(f"no square root of the covariances: {error}") from error
    if not math.isfinite(distance):
        raise Unavailable("no finite distance")
    return max(distance, 0.0)  # rounding


def _moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (512,) and covariance (512, 512)."""
    count = sums[0, 0]
    if count < 2:
        raise Unavailable(f"needs two molecules or more, not {count:.0f}")
    mean = sums[0, 1:] / count
    return mean, (sums[1:, 1:] - count * np.outer(mean, mean)) / (count - 1)


@cache
def _network(device: str):
    fcd_torch = _fcd_torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fcd_torch.FCD(device=device, n_jobs=1, batch_size=BATCH, canonize=False)


def _fcd_torch():
    try:
        import fcd_torch
    except ImportError as error:
        raise Unavailable("needs fcd_torch: pip install 'graphcnf[metrics]'") from error
    return fcd_torch
