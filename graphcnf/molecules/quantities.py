"""What the distribution metrics read off every molecule of a set, in chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rdkit import Chem

from graphcnf.molecules import nspdk, properties, similarity

HISTOGRAMS = ("atoms", "elements", "charges", "bonds", "rings")
"""Keys of `properties.contents`."""


@dataclass(frozen=True)
class Quantity:
    """Something that is read off every molecule of a set.

    Attributes:
        of: Its value for a list of molecules.
        merge: The value of several lists together, from their values and lengths.
    """

    of: Callable[[Sequence[Chem.Mol]], Any]
    merge: Callable[[Sequence[Any], Sequence[int]], Any]


def _each(function: Callable[[Chem.Mol], Any]) -> Quantity:
    """One number or array per molecule."""
    return Quantity(partial(_array, function), _concatenated)


def _array(function: Callable[[Chem.Mol], Any], mols: Sequence[Chem.Mol]) -> np.ndarray:
    return np.array([function(mol) for mol in mols])


def _concatenated(values: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    return np.concatenate(values)


def _mean(values: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    return np.average(values, axis=0, weights=sizes)


def _fragments(mols: Sequence[Chem.Mol]) -> Counter[str]:
    return Counter(fragment for mol in mols for fragment in similarity.brics_fragments(mol))


def _scaffolds(mols: Sequence[Chem.Mol]) -> Counter[str]:
    found = map(similarity.scaffold, mols)
    return Counter(scaffold for scaffold in found if scaffold is not None)


def _summed(values: Sequence[Counter[str]], sizes: Sequence[int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counts in values:
        total.update(counts)
    return total


def _contents(mols: Sequence[Chem.Mol]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in HISTOGRAMS}
    for mol in mols:
        for name, entries in properties.contents(mol).items():
            counts[name].update(entries)
    return counts


def _summed_each(
    values: Sequence[dict[str, Counter[str]]], sizes: Sequence[int]
) -> dict[str, Counter[str]]:
    return {name: _summed([value[name] for value in values], sizes) for name in HISTOGRAMS}


QUANTITIES = {
    "fingerprints": _each(similarity.fingerprint),
    "fragments": Quantity(_fragments, _summed),
    "scaffolds": Quantity(_scaffolds, _summed),
    "contents": Quantity(_contents, _summed_each),
    "logp": _each(properties.logp),
    "qed": _each(properties.qed),
    "sa": _each(properties.sa),
    "weight": _each(properties.weight),
    "pains": _each(properties.passes_pains),
    "mcf": _each(properties.passes_mcf),
    "nspdk": Quantity(nspdk.nspdk_mean, _mean),
}
"""What is read off the molecules in chunks; "chemnet" is the one quantity that is not."""
