"""What the distribution metrics read off every molecule of a set.

Quantities of parts of a set add up to that of the whole, in any number of parts, and what they take
does not grow with the number of molecules; fragments and scaffolds with that of different ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import iadd
from typing import Any

import numpy as np
from rdkit import Chem

from graphcnf.molecules import chemnet, nspdk, properties, similarity

HISTOGRAMS = ("atoms", "elements", "charges", "bonds", "rings")
"""Keys of `properties.contents`."""


@dataclass(frozen=True)
class Quantity:
    """Something that is read off every molecule of a set.

    Attributes:
        of: Its value for a list of molecules; `chemnet` takes a `device` as well.
        add: The value of two lists together; it may be the first one's, changed.
    """

    of: Callable[..., Any]
    add: Callable[[Any, Any], Any]


def _counted(function: Callable[[Chem.Mol], Sequence[str]]) -> Quantity:
    """How often each of the texts occurs that a function has for a molecule."""
    return Quantity(partial(_counts, function), _add_counts)


def _counts(function: Callable[[Chem.Mol], Sequence[str]], mols: Sequence[Chem.Mol]) -> Counter:
    return Counter(entry for mol in mols for entry in function(mol))


def _add_counts(one: Counter, other: Counter) -> Counter:
    one.update(other)
    return one


def _rounded(function: Callable[[Chem.Mol], float], decimals: int) -> Quantity:
    """How often each value of a property occurs, rounded."""
    return _counted(partial(_written, function, decimals))


def _written(function: Callable[[Chem.Mol], float], decimals: int, mol: Chem.Mol) -> list[str]:
    return [f"{function(mol):.{decimals}f}"]


def _verdict(function: Callable[[Chem.Mol], bool], mol: Chem.Mol) -> list[str]:
    return [properties.PASSED if function(mol) else properties.FAILED]


def _contents(mols: Sequence[Chem.Mol]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in HISTOGRAMS}
    for mol in mols:
        for name, entries in properties.contents(mol).items():
            counts[name].update(entries)
    return counts


def _add_contents(one: dict[str, Counter], other: dict[str, Counter]) -> dict[str, Counter]:
    return {name: _add_counts(one[name], other[name]) for name in HISTOGRAMS}


def _fingerprints(mols: Sequence[Chem.Mol]) -> np.ndarray:
    return np.array([similarity.fingerprint(mol) for mol in mols])


def _add_fingerprints(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if len(one) >= similarity.LARGEST:
        return one
    return np.concatenate([one, other])[: similarity.LARGEST]


QUANTITIES = {
    "fingerprints": Quantity(_fingerprints, _add_fingerprints),
    "fragments": _counted(similarity.brics_fragments),
    "scaffolds": _counted(similarity.scaffolds),
    "contents": Quantity(_contents, _add_contents),
    "logp": _rounded(properties.logp, 4),
    "qed": _rounded(properties.qed, 5),
    "sa": _rounded(properties.sa, 4),
    "weight": _rounded(properties.weight, 3),
    "pains": _counted(partial(_verdict, properties.passes_pains)),
    "mcf": _counted(partial(_verdict, properties.passes_mcf)),
    "nspdk": Quantity(nspdk.nspdk_sums, iadd),
    "chemnet": Quantity(chemnet.chemnet_sums, iadd),
}
"""What is read off the molecules."""
