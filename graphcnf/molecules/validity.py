"""Validity of sampled molecules under several conventions.

A convention says when a sampled graph counts as a valid molecule:

- `strict`: it sanitizes as it is and is connected; the headline figure.
- `largest_fragment`: its largest fragment sanitizes ("+ sub-graphs", Lippe & Gavves 2021).
- `valence_only`: it sanitizes after automatic N+, O+, S+, fragments allowed (GDSS, DiGress, DeFoG).
- `repaired`: after valence repair; about 1 by construction, so it says nothing about a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from rdkit import Chem

from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules.codec import canonical_smiles, graph_to_molecule
from graphcnf.molecules.smiles import UnparsableSmiles, parse, quiet
from graphcnf.molecules.vocabulary import MoleculeVocabulary

CONVENTIONS = ("strict", "largest_fragment", "valence_only", "repaired")
"""Conventions of validity, in the order of a table."""

_LOWER = {
    Chem.BondType.TRIPLE: Chem.BondType.DOUBLE,
    Chem.BondType.DOUBLE: Chem.BondType.SINGLE,
}
_OVERFULL = {"N": 4, "O": 3, "S": 3}
"""Valence of an uncharged atom that the literature reads as N+, O+ or S+."""


def sanitized(mol: Chem.Mol) -> Chem.Mol | None:
    """Return a sanitized copy, None where RDKit refuses."""
    mol = Chem.Mol(mol)
    with quiet():
        try:
            Chem.SanitizeMol(mol)
        except (ValueError, RuntimeError):  # sanitization errors derive from ValueError
            return None
    return mol


def strict(mol: Chem.Mol) -> str | None:
    """Return canonical SMILES without stereo where the molecule sanitizes and is connected.

    RDKit's sanitization reads a few uncharged spellings as their charged form, N(=O)=O as
    `[N+](=O)[O-]` for one.

    Examples:
        >>> strict(Chem.MolFromSmiles("OCC", sanitize=False))
        'CCO'
        >>> strict(Chem.MolFromSmiles("C(C)(C)(C)(C)C", sanitize=False)) is None
        True
    """
    if not mol.GetNumAtoms() or len(Chem.GetMolFrags(mol)) != 1:
        return None
    clean = sanitized(mol)
    return None if clean is None else canonical_smiles(clean)


def strict_smiles(graphs: PackedGraphs, vocabulary: MoleculeVocabulary) -> list[str | None]:
    """Return the `strict` SMILES of every graph, None where it is not valid."""
    with quiet():
        return [strict(graph_to_molecule(*graphs.graph(k), vocabulary)) for k in range(len(graphs))]


def largest_fragment(mol: Chem.Mol) -> tuple[str | None, float]:
    """Return the fragment with most atoms, if it sanitizes, and the share of atoms that it holds.

    Returns:
        Canonical SMILES without stereo or None, and the share in [0, 1] (0 without atoms).
    """
    atoms = mol.GetNumAtoms()
    if not atoms:
        return None, 0.0
    part = _largest(mol)
    return strict(part), part.GetNumAtoms() / atoms


def valence_only(mol: Chem.Mol) -> str | None:
    """Return SMILES where the molecule sanitizes after automatic N+, O+, S+, fragments allowed.

    The convention of GDSS, DiGress and DeFoG: an uncharged nitrogen with four bonds becomes N+, an
    oxygen or sulfur with three O+ or S+.
    """
    if not mol.GetNumAtoms():
        return None
    mol = _kekulized(mol)
    for atom in mol.GetAtoms():
        bonds = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
        if not atom.GetFormalCharge() and bonds == _OVERFULL.get(atom.GetSymbol()):
            atom.SetFormalCharge(1)
    clean = sanitized(mol)
    return None if clean is None else canonical_smiles(clean)


def _kekulized(mol: Chem.Mol) -> Chem.Mol:
    """Return a copy without aromatic bonds, or with them where RDKit finds no Kekulé structure."""
    plain = Chem.Mol(mol)
    if any(bond.GetIsAromatic() for bond in mol.GetBonds()):
        with quiet():
            try:
                plain.UpdatePropertyCache(strict=False)
                Chem.Kekulize(plain, clearAromaticFlags=True)
            except (ValueError, RuntimeError):
                return Chem.Mol(mol)
    return plain


def repaired(mol: Chem.Mol) -> str | None:
    """Return the `strict` SMILES of the largest fragment after `repair_valence`."""
    return strict(_largest(repair_valence(mol))) if mol.GetNumAtoms() else None


def repair_valence(mol: Chem.Mol) -> Chem.Mol:
    """Lower or remove bonds at atoms whose valence is exceeded, until none is left.

    At each step the first such atom loses one order of its highest bond (the last one where
    several are equal). This is a repair: call what comes out of it that.
    """
    mol = Chem.RWMol(mol)
    with quiet():
        while True:
            problems = [
                problem.GetAtomIdx()
                for problem in Chem.DetectChemistryProblems(mol)
                if problem.GetType() == "AtomValenceException"
            ]
            bonds = mol.GetAtomWithIdx(problems[0]).GetBonds() if problems else ()
            if not bonds:
                return mol.GetMol()
            bond = max(bonds, key=lambda b: (b.GetBondTypeAsDouble(), b.GetIdx()))
            if bond.GetBondType() in _LOWER:
                bond.SetBondType(_LOWER[bond.GetBondType()])
            else:
                mol.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())


def molecules(
    samples: PackedGraphs | Iterable[Chem.Mol | str | None],
    vocabulary: MoleculeVocabulary | None = None,
) -> Iterable[Chem.Mol | None]:
    """Yield unsanitized molecules of packed graphs, of SMILES (None where unreadable), or as given.

    Raises:
        ValueError: Packed graphs without a vocabulary.
    """
    if isinstance(samples, PackedGraphs):
        if vocabulary is None:
            raise ValueError("packed graphs need the vocabulary that their categories refer to")
        for k in range(len(samples)):
            yield graph_to_molecule(*samples.graph(k), vocabulary)
        return
    for sample in samples:
        if isinstance(sample, str):
            # The SMILES counts as it is written: aromatic atoms stay so until sanitization.
            try:
                with quiet():
                    mol = parse(sample, sanitize=False)
            except UnparsableSmiles:
                mol = None
            yield mol
        else:
            yield sample


def evaluate_records(
    samples: PackedGraphs | Iterable[Chem.Mol | str | None],
    vocabulary: MoleculeVocabulary | None = None,
    *,
    first: int = 0,
    conventions: Sequence[str] = CONVENTIONS,
) -> pd.DataFrame:
    """Return a table with one row per sample.

    Args:
        samples: Packed graphs, molecules (sanitized or not; None counts as invalid) or SMILES.
        vocabulary: Of packed graphs.
        first: Record number of the first sample.
        conventions: From `CONVENTIONS`; strict and largest_fragment are always there, and the
            others take time where a sample is not valid.

    Returns:
        The columns `record`; `smiles` (canonical and without stereo where valid, else written
        unsanitized, None where nothing can be written); `strict` (bool); `largest_fragment` (its
        SMILES or None); `atoms`; `kept` (share of the atoms in the largest fragment); and one
        column of SMILES or None per further convention.
    """
    unknown = set(conventions) - set(CONVENTIONS)
    if unknown:
        raise ValueError(f"no convention {sorted(unknown)[0]!r}: choose from {CONVENTIONS}")
    further = {"valence_only": valence_only, "repaired": repaired}
    extra = [c for c in further if c in conventions]
    rows = []
    for record, mol in enumerate(molecules(samples, vocabulary), first):
        if mol is None:
            row: tuple = (record, None, False, None, 0, 0.0, *(None for _ in extra))
        else:
            fragment, kept = largest_fragment(mol)
            # A connected molecule is its own largest fragment.
            valid = fragment is not None and kept == 1
            row = (
                record,
                fragment if valid else unsanitized_smiles(mol),
                valid,
                fragment,
                mol.GetNumAtoms(),
                kept,
                *(fragment if valid else further[c](mol) for c in extra),
            )
        rows.append(row)
    columns = ["record", "smiles", "strict", "largest_fragment", "atoms", "kept", *extra]
    frame = pd.DataFrame(rows, columns=columns)
    texts = ["smiles", "largest_fragment", *extra]
    frame[texts] = frame[texts].astype(object).where(frame[texts].notna(), None)
    return frame.astype({"strict": bool, "atoms": "int64", "kept": float, "record": "int64"})


def unsanitized_smiles(mol: Chem.Mol) -> str | None:
    """Return the SMILES of a molecule as it is, valid or not; None where RDKit cannot write it."""
    try:
        with quiet():
            mol = Chem.Mol(mol)
            mol.UpdatePropertyCache(strict=False)
            return Chem.MolToSmiles(mol) or None
    except (RuntimeError, ValueError):
        return None


def _largest(mol: Chem.Mol) -> Chem.Mol:
    """Return the fragment with most atoms, unsanitized; the first of several."""
    if len(Chem.GetMolFrags(mol)) == 1:
        return mol
    fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
    return max(fragments, key=Chem.Mol.GetNumAtoms)
