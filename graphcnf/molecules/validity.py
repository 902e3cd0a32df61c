"""Whether a drawn graph is a valid molecule.

- *Graph*: atoms and bonds as a model drew them. Valences may not exist, aromatic rings may have no
  Kekulé structure, and there may be several fragments.
- *Fragment*: a connected piece of a molecule.
- *To sanitize*: what RDKit does to check valences and aromatic rings.
- *Valid*: the graph sanitizes as it is and is one fragment. This is the convention of validity
  called *strict*; `graphcnf.molecules.conventions` has others of the literature.
- *Stereo*: the marks `@` and `/` of a molecule. They are removed here, since graphs have none.

Molecules that the functions take are RDKit molecules that need not be sanitized.
"""

from __future__ import annotations

from typing import NamedTuple

from rdkit import Chem

from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules.codec import graph_to_molecule, quiet, without_stereo
from graphcnf.molecules.vocabulary import MoleculeVocabulary


class CheckedMolecule(NamedTuple):
    """An RDKit molecule with the outcome of its check for validity.

    Attributes:
        molecule: The sanitized molecule without stereo if it is valid; else as it was given, not
            sanitized.
        smiles: Canonical SMILES without stereo; None if the molecule is not valid. It is the last
            SMILES that RDKit wrote of `molecule`, so that `_smilesAtomOutputOrder` of `molecule`
            says in which order its atoms stand in `smiles`.
        isomer: `smiles` with the stereo marks that were drawn; equal to `smiles` if none were.
    """

    molecule: Chem.Mol
    smiles: str | None
    isomer: str | None


def sanitize(mol: Chem.Mol, bare: bool = False) -> Chem.Mol | None:
    """Return a sanitized copy of a molecule without stereo; None if RDKit refuses the molecule.

    Isotopes, atom map numbers and explicit hydrogen atoms are removed from the copy as well.

    `bare` skips the removal, for molecules known to have none of these.
    """
    mol = Chem.Mol(mol)
    with quiet():
        try:
            Chem.SanitizeMol(mol)
        except (ValueError, RuntimeError):  # sanitization errors derive from ValueError
            return None
    return mol if bare else without_stereo(mol)


def strict_molecule(mol: Chem.Mol, bare: bool = False) -> Chem.Mol | None:
    """Return a sanitized copy of a molecule without stereo; None if the molecule is not valid.

    Isotopes, atom map numbers and explicit hydrogen atoms are removed from the copy as well. A
    molecule of several fragments is not valid.
    """
    return sanitize(mol, bare) if len(Chem.GetMolFrags(mol)) == 1 else None


def strict(mol: Chem.Mol) -> str | None:
    """Return the canonical SMILES of a valid molecule without stereo; None if it is not valid.

    RDKit reads a few groups that are drawn without charges as their charged forms, such as N(=O)=O
    as `[N+](=O)[O-]`. A molecule whose SMILES RDKit cannot read again, such as C[O+]=I, is not
    valid.

    Examples:
        >>> strict(Chem.MolFromSmiles("OCC", sanitize=False))
        'CCO'
        >>> strict(Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)) is None
        True
    """
    return readable_smiles(strict_molecule(mol))


def readable_smiles(mol: Chem.Mol | None) -> str | None:
    """Return the canonical SMILES of a sanitized molecule; None if RDKit cannot read it again.

    None gives None, as `sanitize` and `strict_molecule` return it.
    """
    if mol is None:
        return None
    text = Chem.MolToSmiles(mol)
    # RDKit writes [IH] at O+, and refuses to read it.
    with quiet():
        return text if "[IH" not in text or Chem.MolFromSmiles(text) else None


def check_molecule(mol: Chem.Mol, bare: bool = False) -> CheckedMolecule:
    """Check whether a molecule is valid, and keep it together with its SMILES.

    For a valid molecule: its sanitized bare copy and its SMILES. Else `mol` itself, with None for
    both.
    """
    sanitized = strict_molecule(mol, bare)
    smiles = readable_smiles(sanitized)
    if sanitized is None or smiles is None:
        return CheckedMolecule(mol, None, None)
    return CheckedMolecule(sanitized, smiles, smiles)


def check_graphs(graphs: PackedGraphs, vocabulary: MoleculeVocabulary) -> list[CheckedMolecule]:
    """Check which drawn graphs are valid molecules."""
    bare = all(category.symbol != "H" for category in vocabulary.atoms)
    every = map(graphs.graph, range(len(graphs)))
    with quiet():
        return [check_molecule(graph_to_molecule(*graph, vocabulary), bare) for graph in every]


def strict_smiles(graphs: PackedGraphs, vocabulary: MoleculeVocabulary) -> list[str | None]:
    """Return the canonical SMILES of each graph that is a valid molecule, else None."""
    return [molecule.smiles for molecule in check_graphs(graphs, vocabulary)]
