"""Percentile of a molecule among training molecules of about its number of atoms."""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST = 100
"""Molecules of a group of sizes, at least; all in one group where there are fewer."""

COUNT = 101
"""Quantiles of a group."""

TAIL = 5, 1
"""Per cent of a group between which the slope of its tail is taken."""


def quantiles_by_size(sizes: np.ndarray, bits: np.ndarray) -> list[dict[str, Any]]:
    """Quantiles of the bits of molecules in groups of neighbouring sizes.

    Args:
        sizes: Numbers of atoms, (M,).
        bits: Bits of each molecule given its number of atoms, per atom, (M,) finite.

    Returns:
        For each group, from small to large, JSON: `largest`, its largest number of atoms, and
        `quantiles`, of the bits, from 0 to 100 % in even steps.
    """
    ends: list[int] = []
    count = 0
    for size, here in zip(*np.unique(sizes, return_counts=True), strict=True):
        count += here
        if count >= LEAST:
            ends.append(int(size))
            count = 0
    # What is left over belongs to the last group.
    ends = [*ends[:-1], int(sizes.max())]
    groups = np.searchsorted(ends, sizes)
    shares = np.linspace(0, 1, COUNT)
    return [
        {
            "largest": end,
            "quantiles": [round(float(q), 4) for q in np.quantile(bits[groups == k], shares)],
        }
        for k, end in enumerate(ends)
    ]


def percentiles(table: list[dict[str, Any]], sizes: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Share of the molecules of like size that are less likely, 0 to 100, (M,).

    Below 1 % the few molecules of the tail say little: it goes on as an exponential through the
    quantiles of `TAIL`, so that it never comes to 0.

    Args:
        table: Of `quantiles_by_size`.
        sizes: Numbers of atoms, (M,).
        bits: As there, (M,); NaN where it is not finite.
    """
    groups = np.searchsorted([group["largest"] for group in table[:-1]], sizes)
    places = np.full(len(bits), np.nan)
    for k, group in enumerate(table):
        here = (groups == k) & np.isfinite(bits)
        known, shares = group["quantiles"], np.linspace(100, 0, len(group["quantiles"]))
        found = np.interp(bits[here], known, shares)
        begin, end = np.interp(TAIL, shares[::-1], known[::-1])
        if end > begin:
            beyond = bits[here] > end
            decay = np.log(TAIL[0] / TAIL[1]) / (end - begin)
            found[beyond] = TAIL[1] * np.exp(-decay * (bits[here][beyond] - end))
        places[here] = found
    return places
