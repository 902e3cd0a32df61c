"""Validity of sampled molecules under four conventions, and the reasons for invalidity.

A graph as drawn may have valences that do not exist, aromatic rings without a Kekulé structure, or
several fragments (connected pieces). To *sanitize* a molecule is what RDKit does to check this. A
sampled graph counts as a valid molecule

- `strict`: if it sanitizes as it is and is connected; the headline figure;
- `largest_fragment`: if its largest fragment sanitizes ("+ sub-graphs", Lippe & Gavves 2021);
- `valence_only`: if it sanitizes after automatic N+, O+, S+, in one or more fragments (GDSS,
  DiGress, DeFoG);
- `repaired`: if its largest fragment sanitizes after bonds have been removed where valences are
  exceeded; about 100 % by construction, which says nothing about a model.

In this module a molecule is an RDKit molecule that has not been sanitized, unless a function says
so, and *stereo* is the marks `@` and `/` of a molecule, which are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rdkit import Chem

from graphcnf.graphs.batch import PackedGraphs
from graphcnf.molecules.codec import (
    UnparsableSmiles,
    graph_to_molecule,
    parse,
    quiet,
    without_stereo,
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


def _sanitized(mol: Chem.Mol, bare: bool = False) -> Chem.Mol | None:
    """Return a sanitized copy without stereo, None if RDKit refuses the molecule.

    Args:
        mol: Molecule.
        bare: True to save time, if it has no stereo, isotopes, atom map numbers and hydrogen atoms.
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

    Args:
        mol: Molecule.
        bare: True to save time, if it has no stereo, isotopes, atom map numbers and hydrogen atoms.
    """
    return _sanitized(mol, bare) if len(Chem.GetMolFrags(mol)) == 1 else None


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
    return _written(strict_molecule(mol))


def _written(mol: Chem.Mol | None) -> str | None:
    """Return the canonical SMILES of a sanitized molecule; None if RDKit cannot read it again."""
    if mol is None:
        return None
    text = Chem.MolToSmiles(mol)
    # RDKit writes [IH] at O+, and refuses to read it.
    with quiet():
        return text if "[IH" not in text or Chem.MolFromSmiles(text) else None


def strict_smiles(graphs: PackedGraphs, vocabulary: MoleculeVocabulary) -> list[str | None]:
    """Return the canonical SMILES of every graph that is a valid, connected molecule, else None.

    Args:
        graphs: M graphs.
        vocabulary: Meaning of their categories.

    Returns:
        M texts, see `strict`; None for the other graphs.
    """
    every = map(graphs.graph, range(len(graphs)))
    with quiet():
        return [strict(graph_to_molecule(*graph, vocabulary)) for graph in every]


def valence_only(mol: Chem.Mol) -> str | None:
    """Return the canonical SMILES if the molecule sanitizes after automatic charging, or None.

    An uncharged nitrogen with four bonds becomes N+; oxygen and sulfur with three become O+ and S+.
    It is a convention of validity that published work uses, more lenient than `strict`.

    Args:
        mol: The molecule, unsanitized and left as it is. It may be disconnected.
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
    return _written(_sanitized(plain))


def repaired(mol: Chem.Mol) -> str | None:
    """Return the canonical SMILES of the largest fragment after valence repair, None if invalid.

    While an atom exceeds its valence, the bond of highest order of the first such atom (the last
    one on ties) is lowered by one order, or removed if single.
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


_FURTHER = {"valence_only": valence_only, "repaired": repaired}
"""Functions that give the SMILES of a molecule if it is valid under the other conventions."""


def as_written(sample: Chem.Mol | str | None) -> Chem.Mol | None:
    """Read a SMILES without sanitizing the molecule.

    Args:
        sample: SMILES, in which atoms written as aromatic stay aromatic, or a molecule, which is
            returned as it is, or None.

    Returns:
        The molecule; None for None or an unreadable SMILES.
    """
    if not isinstance(sample, str):
        return sample
    with quiet(), suppress(UnparsableSmiles):
        return parse(sample, sanitize=False)
    return None


def checked_records(
    samples: PackedGraphs | Iterable[Chem.Mol | str | None],
    vocabulary: MoleculeVocabulary | None = None,
    *,
    first: int = 0,
    conventions: Sequence[str] = CONVENTIONS,
) -> Iterator[tuple[dict[str, Any], Chem.Mol | None]]:
    """Evaluate the validity of samples, one by one.

    Args:
        samples: Packed graphs, molecules (sanitized or not; None counts as invalid) or SMILES.
        vocabulary: Vocabulary of packed graphs.
        first: Record number of the first sample.
        conventions: `CONVENTIONS` to evaluate, beside strict and largest_fragment.

    Yields:
        For each sample the sanitized molecule, None if it is not valid, after a row with `record`;
        `smiles` (canonical without stereo if valid, else unsanitized, None if RDKit cannot write
        it); `strict` (bool); `largest_fragment` (its SMILES if valid, or None); `atoms`; `kept`
        (share of atoms in the largest fragment); and for each further convention SMILES or None.
    """
    bare = False
    if isinstance(samples, PackedGraphs):
        assert vocabulary is not None
        bare = all(category.symbol != "H" for category in vocabulary.atoms)
        graphs = map(samples.graph, range(len(samples)))
        samples = (graph_to_molecule(*graph, vocabulary) for graph in graphs)
    further = {c: check for c, check in _FURTHER.items() if c in conventions}
    for record, given in enumerate(map(as_written, samples), first):
        mol = Chem.Mol() if given is None else given
        largest = _largest(mol)
        sanitized = strict_molecule(largest, bare)
        fragment, kept = _written(sanitized), largest.GetNumAtoms() / max(mol.GetNumAtoms(), 1)
        # A connected molecule equals its largest fragment, which is sanitized already.
        valid = fragment is not None and kept == 1
        row = {
            "record": record,
            "smiles": fragment if valid else unsanitized_smiles(mol),
            "strict": valid,
            "largest_fragment": fragment,
            "atoms": mol.GetNumAtoms(),
            "kept": kept,
            **{c: fragment if valid else check(mol) for c, check in further.items()},
        }
        yield row, sanitized if valid else None


def evaluate_records(
    samples: PackedGraphs | Iterable[Chem.Mol | str | None],
    vocabulary: MoleculeVocabulary | None = None,
    *,
    first: int = 0,
) -> pd.DataFrame:
    """Evaluate the validity of samples; return the table of `checked_records`, a row per sample."""
    return records_table(row for row, _ in checked_records(samples, vocabulary, first=first))


def records_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the table of the rows that `checked_records` yields with all conventions."""
    import pandas as pd

    texts = ["smiles", "largest_fragment", *_FURTHER]
    columns = ["record", "smiles", "strict", "largest_fragment", "atoms", "kept", *_FURTHER]
    frame = pd.DataFrame(list(rows), columns=columns)
    frame[texts] = frame[texts].astype(object).where(frame[texts].notna(), None)
    return frame.astype({"strict": bool, "atoms": "int64", "kept": float, "record": "int64"})


def unsanitized_smiles(mol: Chem.Mol) -> str | None:
    """Return the SMILES of a molecule as it is, whether or not it is valid.

    Args:
        mol: The molecule, which is not sanitized.

    Returns:
        The SMILES; None if RDKit cannot write it.
    """
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

    Args:
        mol: Molecule; None if its SMILES is unreadable.

    Returns:
        For each reason, such as "C with 5 bonds", "2 fragments" or `KEKULIZATION`, the indices of
        the atoms that cause it, if known. Empty for a valid molecule.
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
