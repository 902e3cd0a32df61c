"""Distance between two sets of molecular graphs by the NSPDK graph kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit import Chem

from graphcnf.molecules.optional import Unavailable

COMPLEXITY = 4
"""Largest radius of a neighbourhood and largest distance between two of them."""


def nspdk_sums(mols: Sequence[Chem.Mol]) -> np.ndarray:
    """Sum the feature vectors of the neighbourhood subgraph pairwise distance kernel.

    The features of a molecule count its pairs of atom neighbourhoods of equal radius by the
    distance between their centres, hashed into 2^16 bins and scaled to unit length (Costa & De
    Grave 2010, computed by EDeN). Labels are those of GDSS, so that figures compare with published
    ones: the element of an atom, and the whole part of a bond order of the aromatic molecule, so
    that an aromatic bond counts as single; formal charges do not count. The features are hashes of
    labels, and Python's hashes of strings change from run to run, so elements enter as atomic
    numbers.

    Args:
        mols: Sanitized molecules, at least one.

    Returns:
        (65538,) float64, the last one the number of molecules.

    Raises:
        Unavailable: The package eden-kernel is missing.
    """
    try:
        from eden.graph import Vectorizer
    except ImportError as error:
        raise Unavailable("needs eden-kernel: pip install 'graphcnf[metrics]'") from error
    features = Vectorizer(complexity=COMPLEXITY, discrete=True).transform(map(_graph, mols))
    return np.append(np.asarray(features.sum(0)).ravel(), len(mols))


def nspdk_distance(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the NSPDK-MMD of GDSS (Jo et al. 2022, arXiv 2202.02514), squared and biased.

    `mean k(x, x') + mean k(y, y') - 2 mean k(x, y)` over all pairs, those of a graph with itself
    included. The kernel is linear in the features, so that is the squared distance between their
    means. In [0, 2], lower is better; it falls with the number of molecules.

    Args:
        generated: `nspdk_sums` of the generated molecules.
        reference: `nspdk_sums` of the reference.
    """
    one, other = (sums[:-1] / sums[-1] for sums in (generated, reference))
    return float(np.square(one - other).sum())


def _graph(mol: Chem.Mol):
    import networkx as nx

    graph = nx.Graph()
    for atom in mol.GetAtoms():
        graph.add_node(atom.GetIdx(), label=atom.GetAtomicNum())
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        graph.add_edge(*ends, label=int(bond.GetBondTypeAsDouble()))
    return graph
