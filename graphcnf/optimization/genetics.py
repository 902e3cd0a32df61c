"""Crossover and mutation of molecules, with the operators of mol_ga.

Jensen 2019, "A graph-based genetic algorithm", Chem. Sci. 10, 3567; Tripp & Hernandez-Lobato 2023,
arXiv 2310.09267. Offspring may be anything that RDKit sanitizes, whatever a model knows.
"""

from __future__ import annotations

from random import Random

import numpy as np
from mol_ga.graph_ga.gen_candidates import mutate, reproduce
from rdkit import Chem

from graphcnf.molecules.codec import canonical_smiles, quiet

MUTATION = 0.1
"""Share of the offspring that are mutations of one parent; the others have two parents."""

AFTERWARDS = 0.01
"""Probability that a child of two parents is mutated as well."""


def offspring(
    first: str,
    second: str,
    seed: tuple[int, ...],
    *,
    most_atoms: int = 80,
) -> str | None:
    """Return a child of two molecules, or of the first of them alone.

    Args:
        first: SMILES.
        second: SMILES.
        seed: The child is a function of the seed and the parents.
        most_atoms: Largest number of heavy atoms.

    Returns:
        Canonical SMILES without stereo, or None where the operators found no molecule.
    """
    random = Random(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
    with quiet():
        if random.random() < MUTATION:
            child = mutate(first, random)
        else:
            child = reproduce(first, second, AFTERWARDS, random)
        mol = None if child is None else Chem.MolFromSmiles(child)
        if mol is None or not 0 < mol.GetNumAtoms() <= most_atoms or not _whole(mol):
            return None
        return canonical_smiles(mol)


def _whole(mol: Chem.Mol) -> bool:
    """Return True for a molecule of one fragment without radicals."""
    radical = any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    return not radical and len(Chem.GetMolFrags(mol)) == 1
