"""What the distribution metrics read off every molecule of a set.

Quantities of parts of a set add up to that of the whole, in any number of parts, and what they take
does not grow with the number of molecules; fragments and scaffolds with that of different ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import iadd
from typing import Any

import numpy as np
from rdkit import Chem

from graphcnf.molecules import chemnet, nspdk, properties, similarity


@dataclass(frozen=True)
class Quantity:
    """Something that is read off every molecule of a set.

    Attributes:
        of: Its value for a list of molecules; `chemnet` takes a `device` as well.
        add: The value of two lists together; it may be the first one's, changed.
    """

    of: Callable[..., Any]
    add: Callable[[Any, Any], Any]


def _counted(function: Callable[[Chem.Mol], Iterable[str]]) -> Quantity:
    """How often each of the texts occurs that a function has for a molecule."""
    return Quantity(
        lambda mols: Counter(entry for mol in mols for entry in function(mol)), _add_counts
    )


def _add_counts(one: Counter, other: Counter) -> Counter:
    one.update(other)  # += would look at all that are there, each time
    return one


def _rounded(function: Callable[[Chem.Mol], float], decimals: int) -> Quantity:
    """How often each value of a property occurs, rounded."""
    return _counted(lambda mol: [f"{function(mol):.{decimals}f}"])


def _judged(function: Callable[[Chem.Mol], bool]) -> Quantity:
    """How many pass a filter, and how many do not."""
    return _counted(lambda mol: [properties.PASSED if function(mol) else properties.FAILED])


def _add_fingerprints(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if len(one) >= similarity.LARGEST:
        return one
    return np.concatenate([one, other])[: similarity.LARGEST]


QUANTITIES = {
    "fingerprints": Quantity(
        lambda mols: np.array([similarity.fingerprint(mol) for mol in mols]), _add_fingerprints
    ),
    "fragments": _counted(similarity.brics_fragments),
    "scaffolds": _counted(similarity.scaffolds),
    "atoms": _counted(lambda mol: [str(mol.GetNumAtoms())]),
    "elements": _counted(lambda mol: (atom.GetSymbol() for atom in mol.GetAtoms())),
    "charges": _counted(lambda mol: (f"{atom.GetFormalCharge():+d}" for atom in mol.GetAtoms())),
    "bonds": _counted(properties.kekule_bonds),
    # Sanitization finds the symmetrized set, which may hold more rings than are independent, and
    # which other quantities want: in a copy, GetSSSR puts another in the place of it.
    "rings": _counted(lambda mol: (str(len(ring)) for ring in Chem.GetSSSR(Chem.Mol(mol)))),
    "logp": _rounded(properties.logp, 4),
    "qed": _rounded(properties.qed, 5),
    "sa": _rounded(properties.sa, 4),
    "weight": _rounded(properties.weight, 3),
    "pains": _judged(properties.passes_pains),
    "mcf": _judged(properties.passes_mcf),
    "nspdk": Quantity(nspdk.nspdk_sums, iadd),
    "chemnet": Quantity(chemnet.chemnet_sums, iadd),
}
"""What is read off the molecules: of the first 30,000 the fingerprints, of all of them the rest;
among it the number of heavy atoms, elements and charges of these, the types of bonds, and the sizes
of the rings of a smallest set of smallest rings."""
