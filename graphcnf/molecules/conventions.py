"""Conventions of validity, evaluated side by side, and the reasons for invalidity.

Published figures of validity follow different conventions. `graphcnf evaluate` reports all of them.
A sampled graph counts as a valid molecule

- `strict`: if it sanitizes as it is and is connected; the headline figure;
- `largest_fragment`: if its largest fragment sanitizes ("+ sub-graphs", Lippe & Gavves 2021);
- `valence_only`: if it sanitizes after automatic N+, O+, S+, in one or more fragments (GDSS,
  DiGress, DeFoG);
- `repaired`: if its largest fragment sanitizes after bonds have been removed where valences are
  exceeded; about 100 % by construction, which says nothing about a model.

To *sanitize* is RDKit's check of valences and aromatic rings; a *fragment* is a connected piece of
a molecule. Molecules that the functions take are RDKit molecules that need not be sanitized.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rdkit import Chem

from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules.codec import UnparsableSmiles, parse, quiet
from graphcnf.molecules.validity import (
    CheckedMolecule,
    check_graphs,
    check_molecule,
    readable_smiles,
    sanitize,
    strict,
)
from graphcnf.molecules.vocabulary import AtomCategory, MoleculeVocabulary

if TYPE_CHECKING:
    import pandas as pd

CONVENTIONS = ("strict", "largest_fragment", "valence_only", "repaired")
"""Conventions of validity, in the order of tables."""

KEKULIZATION = "aromatic ring without a Kekulé structure"
"""A reason of invalidity, see `failures`."""

_LOWER = {Chem.BondType.TRIPLE: Chem.BondType.DOUBLE, Chem.BondType.DOUBLE: Chem.BondType.SINGLE}
"""Bond type of one order less."""

_OVERFULL = {"N": 4, "O": 3, "S": 3}
"""Valence at which the literature reads an uncharged atom as N+, O+ or S+."""


def valence_only(mol: Chem.Mol) -> str | None:
    """Return the canonical SMILES if a molecule sanitizes after automatic charging, else None.

    An uncharged nitrogen with four bonds becomes N+; oxygen and sulfur with three become O+ and S+.
    It is a convention of validity that published work uses, more lenient than `strict`.

    The SMILES is that of all fragments, with the charges that were added.
    """
    if not mol.GetNumAtoms():
        return None
    plain = Chem.Mol(mol)
    with quiet():
        try:
            plain.UpdatePropertyCache(strict=False)
            Chem.Kekulize(plain, clearAromaticFlags=True)
        except (ValueError, RuntimeError):
            plain = Chem.Mol(mol)
    for atom in plain.GetAtoms():
        bonds = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
        if not atom.GetFormalCharge() and bonds == _OVERFULL.get(atom.GetSymbol()):
            atom.SetFormalCharge(1)
    return readable_smiles(sanitize(plain))


def repaired(mol: Chem.Mol) -> str | None:
    """Return the canonical SMILES of a molecule's largest fragment after repair of its valences.

    While there are atoms above their valence, the first of them loses a bond order: its bond of
    highest order (of several, the bond with the highest index) is lowered by one order, or removed
    if it is single.

    None if the largest fragment is invalid for another reason.
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
                return strict(_largest(mol))
            bond = max(bonds, key=lambda b: (b.GetBondTypeAsDouble(), b.GetIdx()))
            if bond.GetBondType() in _LOWER:
                bond.SetBondType(_LOWER[bond.GetBondType()])
            else:
                mol.RemoveBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())


def read_unsanitized(sample: Chem.Mol | str | None) -> Chem.Mol | None:
    """Read a SMILES without sanitizing the molecule, so that invalid ones can be examined, too.

    Atoms written as aromatic stay aromatic; a molecule is returned as it is. None if unreadable.
    """
    if not isinstance(sample, str):
        return sample
    with quiet(), suppress(UnparsableSmiles):
        return parse(sample, sanitize=False)
    return None


def validity_row(checked: CheckedMolecule) -> dict[str, Any]:
    """Describe a molecule under the conventions "strict" and "largest_fragment".

    Returns:
        - `smiles`: canonical SMILES without stereo marks if the molecule is valid; else the SMILES
          as it is, None if RDKit cannot write it;
        - `strict`: True if it is valid under `strict`;
        - `largest_fragment`: canonical SMILES of the largest fragment if that is valid, else None;
        - `atoms`: number of atoms of the molecule;
        - `kept`: share of them that are in the largest fragment, in [0, 1].
    """
    mol, smiles = checked.molecule, checked.smiles
    atoms = mol.GetNumAtoms()
    if smiles is not None:
        row = {"smiles": smiles, "strict": True, "largest_fragment": smiles}
        return {**row, "atoms": atoms, "kept": 1.0}
    largest = _largest(mol)
    return {
        "smiles": unsanitized_smiles(mol),
        "strict": False,
        # The largest fragment of a connected molecule is the molecule itself, which is not valid.
        "largest_fragment": None if largest is mol else strict(largest),
        "atoms": atoms,
        "kept": largest.GetNumAtoms() / max(atoms, 1),
    }


def evaluate_records(
    samples: PackedGraphs | Iterable[CheckedMolecule | Chem.Mol | str | None],
    vocabulary: MoleculeVocabulary | None = None,
    *,
    first: int = 0,
) -> pd.DataFrame:
    """Evaluate the validity of samples under all conventions.

    The table has a row for each sample: `record` (its number, from `first`), the values of
    `validity_row`, and `valence_only` and `repaired`, each the SMILES that is valid by this
    convention, or None. Only graphs need a vocabulary.
    """
    import pandas as pd

    if isinstance(samples, PackedGraphs):
        assert vocabulary is not None
        samples = check_graphs(samples, vocabulary)
    rows = []
    for record, sample in enumerate(samples, first):
        checked = sample if isinstance(sample, CheckedMolecule) else _check(sample)
        valid, mol = checked.smiles is not None, checked.molecule
        row = {"record": record, **validity_row(checked)}
        row["valence_only"] = checked.smiles if valid else valence_only(mol)
        row["repaired"] = checked.smiles if valid else repaired(mol)
        rows.append(row)
    texts = ["smiles", *CONVENTIONS[1:]]
    columns = ["record", "smiles", "strict", "largest_fragment", "atoms", "kept", *CONVENTIONS[2:]]
    frame = pd.DataFrame(rows, columns=columns)
    frame[texts] = frame[texts].astype(object).where(frame[texts].notna(), None)
    return frame.astype({"strict": bool, "atoms": "int64", "kept": float, "record": "int64"})


def _check(sample: Chem.Mol | str | None) -> CheckedMolecule:
    """Check a molecule or SMILES; one that cannot be read is a molecule without atoms."""
    mol = read_unsanitized(sample)
    return check_molecule(Chem.Mol() if mol is None else mol)


def unsanitized_smiles(mol: Chem.Mol) -> str | None:
    """Return the SMILES of a molecule as it is, valid or not; None if RDKit cannot write it."""
    try:
        with quiet():
            mol = Chem.Mol(mol)
            mol.UpdatePropertyCache(strict=False)
            return Chem.MolToSmiles(mol) or None
    except (RuntimeError, ValueError):
        return None


def _largest(mol: Chem.Mol) -> Chem.Mol:
    """Return the fragment with most atoms, unsanitized; the first one on ties."""
    if len(Chem.GetMolFrags(mol)) <= 1:
        return mol
    fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
    return max(fragments, key=Chem.Mol.GetNumAtoms)


def failures(mol: Chem.Mol | None) -> dict[str, tuple[int, ...]]:
    """Find out why a molecule is not valid under the `strict` convention.

    Returns:
        `{reason: indices of the atoms that cause it}`, {} for a valid molecule. Reasons are texts
        such as "C with 5 bonds", "2 fragments" or "unreadable"; () where no single atoms are to
        blame.
    """
    if mol is None:
        return {"unreadable": ()}
    if not mol.GetNumAtoms():
        return {"no atoms": ()}
    reasons: dict[str, tuple[int, ...]] = {}
    with quiet():
        mol = Chem.Mol(mol)
        mol.UpdatePropertyCache(strict=False)
        problems = list(Chem.DetectChemistryProblems(mol))
    for problem in problems:
        reason: str = problem.Message()
        atoms: tuple[int, ...] = ()
        if problem.GetType() == "AtomValenceException":
            atom = mol.GetAtomWithIdx(problem.GetAtomIdx())
            bonds = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
            bonds += atom.GetNumExplicitHs()
            reason, atoms = (f"{AtomCategory.of(atom)} with {bonds:g} bonds", (atom.GetIdx(),))
        elif problem.GetType() == "KekulizeException":
            reason, atoms = KEKULIZATION, tuple(problem.GetAtomIndices())
        reasons[reason] = (*reasons.get(reason, ()), *atoms)
    pieces = len(Chem.GetMolFrags(mol))
    if pieces > 1:
        reasons[f"{pieces} fragments"] = ()
    return reasons
