"""Frechet ChemNet distance: both sets as normal distributions of a network's activations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from graphcnf.molecules.optional import Unavailable

BATCH = 512
"""Molecules that the network sees at once, as in fcd_torch."""


def chemnet_moments(
    smiles: Sequence[str],
    device: str = "cpu",
    mapper: Callable[[Callable, list], Iterable] = map,
) -> np.ndarray:
    """Mean and covariance of ChemNet's 512 activations over a set of molecules.

    Args:
        smiles: Canonical SMILES.
        device: Where the network runs.
        mapper: Applies the network to the list of batches, in order and in this process: `map`, or
            something that shows the progress.

    Returns:
        The mean in row 0, the covariance below it, (513, 512) float64.

    Raises:
        Unavailable: There are fewer than two molecules, or the package fcd_torch is missing.
    """
    if len(smiles) < 2:
        raise Unavailable(f"needs two molecules or more, not {len(smiles)}")
    fcd_torch = _fcd_torch()
    batches = [list(smiles[k : k + BATCH]) for k in range(0, len(smiles), BATCH)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated calls inside the package
        network = fcd_torch.FCD(device=device, n_jobs=1, batch_size=BATCH, canonize=False)
        activations = np.concatenate(list(mapper(network.get_predictions, batches)))
    return np.vstack([activations.mean(0), np.cov(activations.T)]).astype(np.float64)


def frechet_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Frechet ChemNet distance, FCD (Preuer et al. 2018, arXiv 1803.09518).

    `|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))` of the two normal distributions, with fcd_torch's
    square root. At least 0, lower is better. It falls with the number of molecules: compare sets
    of one size only.

    Args:
        generated: `chemnet_moments` of the generated molecules.
        reference: `chemnet_moments` of the reference.

    Raises:
        Unavailable: The package fcd_torch is missing, or the distance has no finite value.
    """
    fcd_torch = _fcd_torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            distance = float(
                fcd_torch.calculate_frechet_distance(
                    generated[0], generated[1:], reference[0], reference[1:]
                )
            )
        except ValueError as error:
            raise Unavailable(f"no square root of the covariances: {error}") from error
    if not math.isfinite(distance):
        raise Unavailable("no finite distance")
    return max(distance, 0.0)  # rounding


def _fcd_torch():
    try:
        import fcd_torch
    except ImportError as error:
        raise Unavailable("needs fcd_torch: pip install 'graphcnf[metrics]'") from error
    return fcd_torch
