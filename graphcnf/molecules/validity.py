"""Whether a drawn graph is a valid molecule.

A graph as drawn may have valences that do not exist, aromatic rings without a Kekulé structure, or
several fragments (connected pieces). To *sanitize* a molecule is what RDKit does to check this. A
graph is a valid molecule if it sanitizes as it is and is connected. This is the convention called
*strict*; `graphcnf.molecules.conventions` has the others.

In this module a molecule is an RDKit molecule that has not been sanitized, unless a function says
so, and *stereo* is the marks `@` and `/` of a molecule, which are dropped.
"""

from __future__ import annotations

from typing import NamedTuple

from rdkit import Chem

from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules.codec import graph_to_molecule, quiet, without_stereo
from graphcnf.molecules.vocabulary import MoleculeVocabulary


class CheckedMolecule(NamedTuple):
    """A molecule that was checked, valid or not.

    Attributes:
        molecule: The sanitized molecule without stereo if it is valid; else as it was given, not
            sanitized.
        smiles: Canonical SMILES without stereo, None if the molecule is not valid. RDKit wrote it
            last of `molecule`, so that the order of atoms that it stored belongs to it.
        isomer: `smiles`, with stereo marks where some were drawn.
    """

    molecule: Chem.Mol
    smiles: str | None
    isomer: str | None


def sanitize(mol: Chem.Mol, bare: bool = False) -> Chem.Mol | None:
    """Return a sanitized copy without stereo, None if RDKit refuses the molecule.

    Isotopes, atom map numbers and explicit hydrogen atoms are removed from the copy as well.

    Args:
        mol: Molecule, which stays as it is; it may have several fragments.
        bare: True if the molecule has none of these, nor stereo: the removal is skipped, which
            saves time.
    """
    mol = Chem.Mol(mol)
    with quiet():
        try:
            Chem.SanitizeMol(mol)
        except (ValueError, RuntimeError):  # sanitization errors derive from ValueError
            return None
    return mol if bare else without_stereo(mol)


def strict_molecule(mol: Chem.Mol, bare: bool = False) -> Chem.Mol | None:
    """Return a sanitized copy without stereo, None if the molecule is invalid or disconnected.

    Isotopes, atom map numbers and explicit hydrogen atoms are removed from the copy as well.

    Args:
        mol: Molecule, which need not be sanitized and stays as it is.
        bare: True if the molecule has none of these, nor stereo: the removal is skipped, which
            saves time.
    """
    return sanitize(mol, bare) if len(Chem.GetMolFrags(mol)) == 1 else None


def strict(mol: Chem.Mol) -> str | None:
    """Return the canonical SMILES without stereo if the molecule is valid and connected, or None.

    RDKit reads a few groups that are drawn without charges as their charged forms, such as N(=O)=O
    as `[N+](=O)[O-]`. A molecule whose SMILES RDKit cannot read again, C[O+]=I, is not valid.

    Examples:
        >>> strict(Chem.MolFromSmiles("OCC", sanitize=False))
        'CCO'
        >>> strict(Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)) is None
        True
    """
    return readable_smiles(strict_molecule(mol))


def readable_smiles(mol: Chem.Mol | None) -> str | None:
    """Return the canonical SMILES of a sanitized molecule; None if RDKit cannot read it again.

    Args:
        mol: A sanitized molecule; None is passed on, so that what `strict_molecule` returns fits.
    """
    if mol is None:
        return None
    text = Chem.MolToSmiles(mol)
    # RDKit writes [IH] at O+, and refuses to read it.
    with quiet():
        return text if "[IH" not in text or Chem.MolFromSmiles(text) else None


def check_molecule(mol: Chem.Mol, bare: bool = False) -> CheckedMolecule:
    """Check whether a molecule is valid and connected.

    Stereo, isotopes, atom map numbers and explicit hydrogen atoms are removed from the result.

    Args:
        mol: An RDKit molecule, which need not be sanitized and stays as it is.
        bare: True if the molecule has none of these: the removal is skipped, which saves time.

    Returns:
        The sanitized molecule and its SMILES. If it is invalid, in several fragments, or RDKit
        cannot read its SMILES again, `smiles` is None and `molecule` is `mol` itself.
    """
    sanitized = strict_molecule(mol, bare)
    smiles = readable_smiles(sanitized)
    if sanitized is None or smiles is None:
        return CheckedMolecule(mol, None, None)
    return CheckedMolecule(sanitized, smiles, smiles)


def check_graphs(graphs: PackedGraphs, vocabulary: MoleculeVocabulary) -> list[CheckedMolecule]:
    """Check which graphs are valid, connected molecules.

    Args:
        graphs: M graphs.
        vocabulary: Meaning of their categories.

    Returns:
        M molecules, in the order of the graphs; `smiles` is None for those that are not valid.
    """
    bare = all(category.symbol != "H" for category in vocabulary.atoms)
    every = map(graphs.graph, range(len(graphs)))
    with quiet():
        return [check_molecule(graph_to_molecule(*graph, vocabulary), bare) for graph in every]


def strict_smiles(graphs: PackedGraphs, vocabulary: MoleculeVocabulary) -> list[str | None]:
    """Return the canonical SMILES of every graph that is a valid, connected molecule, else None.

    Args:
        graphs: M graphs.
        vocabulary: Meaning of their categories.

    Returns:
        M texts, see `strict`; None for the other graphs.
    """
    return [molecule.smiles for molecule in check_graphs(graphs, vocabulary)]
