"""Why a sampled graph is no valid molecule, in words and with the atoms to blame."""

from __future__ import annotations

from dataclasses import dataclass

from rdkit import Chem

from graphcnf.molecules.smiles import quiet
from graphcnf.molecules.vocabulary import AtomCategory

KEKULIZATION = "aromatic ring without a Kekulé structure"


@dataclass(frozen=True)
class Failure:
    """A reason why a molecule is not strictly valid.

    Attributes:
        reason: A few words, the same for all molecules that fail alike.
        atoms: Indices of the atoms to blame; none where the whole molecule is.
    """

    reason: str
    atoms: tuple[int, ...] = ()


def failures(mol: Chem.Mol | None) -> list[Failure]:
    """Everything that keeps a molecule from being strictly valid, each reason once.

    Args:
        mol: Unsanitized molecule, as `graphcnf.molecules.metrics.molecules` gives it; None for a
            record that could not be read.

    Returns:
        No entry for a molecule that is `validity.strict`. Valences come first, then rings, then
        the number of fragments.
    """
    if mol is None:
        return [Failure("unreadable")]
    if not mol.GetNumAtoms():
        return [Failure("no atoms")]
    found: dict[str, tuple[int, ...]] = {}
    with quiet():
        mol = Chem.Mol(mol)
        mol.UpdatePropertyCache(strict=False)
        problems = list(Chem.DetectChemistryProblems(mol))
    for problem in problems:
        if problem.GetType() == "AtomValenceException":
            index = problem.GetAtomIdx()
            reason = _valence(mol.GetAtomWithIdx(index))
            atoms: tuple[int, ...] = (index,)
        elif problem.GetType() == "KekulizeException":
            reason, atoms = KEKULIZATION, tuple(problem.GetAtomIndices())
        else:
            reason, atoms = problem.Message(), ()
        found[reason] = (*found.get(reason, ()), *atoms)
    pieces = len(Chem.GetMolFrags(mol))
    if pieces > 1:
        found[f"{pieces} fragments"] = ()
    return [Failure(reason, atoms) for reason, atoms in found.items()]


def _valence(atom: Chem.Atom) -> str:
    category = AtomCategory(atom.GetSymbol(), atom.GetFormalCharge())
    bonds = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds()) + atom.GetNumExplicitHs()
    return f"{category} with {bonds:g} bonds"
