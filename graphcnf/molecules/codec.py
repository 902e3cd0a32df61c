"""Parsing of SMILES and SMARTS, and conversion of molecules to typed graphs and back.

- *Graph*: the heavy atoms and the bonds of a molecule, without stereo marks and isotopes; hydrogens
  are implicit. Nodes are atoms, edges are bonds, and each has a *category*.
- *Category*: of an atom its element, charge and whether it is aromatic (`AtomCategory`); of a bond
  its type in the Kekulé structure, such as "DOUBLE", after "AROMATIC_" if it is aromatic. A
  *vocabulary* numbers the categories; only some vocabularies tell what is aromatic.
- *Kekulé structure*: in it, aromatic rings have alternating single and double bonds. Decoding reads
  this structure alone.
- *Heavy atom*: every atom but hydrogen.

The graph does not depend on the order of the given atoms, since it is read off RDKit's canonical
SMILES. Atoms are numbered depth-first from the first atom of that SMILES. At a branch, bonds in
rings come before others, so that a ring is closed before its substituents are numbered. (Very
symmetric cages, such as cubic ones of large girth, have several canonical SMILES and so several
graphs; ZINC250k and QM9 contain none.)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdqueries

from graphcnf.errors import UserError
from graphcnf.limits import MAX_NODES
from graphcnf.molecules.vocabulary import AROMATIC, CODEC_VERSION, AtomCategory, MoleculeVocabulary

if TYPE_CHECKING:
    from graphcnf.graphs.graph_model import GraphModel

LONGEST_SMILES = 5000
"""Longest SMILES or SMARTS, in characters: RDKit's recursive parser could crash on longer ones."""

LAST_ELEMENT = 118
"""Highest atomic number: RDKit parses [#119], but fails at any question about such an atom."""

quiet = rdBase.BlockLogs
"""Context manager that silences RDKit's log messages."""

_NOT_ASCII = re.compile(r"[^ -~]")
_CXSMILES = re.compile(r"([^ \t]+)[ \t]+(\|.*)", re.DOTALL)
_STEREO = re.compile(r"\[[^\]]*@|[/\\]|\|.*?\b[ct]:")
_ISOTOPE = re.compile(r"\[\d+[A-Za-z]")

Graph = tuple[list[int], list[tuple[int, int]], list[int]]
"""Node types (n), edges (i, j) with j < i sorted by i and -j (m), bond types (m)."""


class NamedGraph(NamedTuple):
    """The graph of a molecule before a vocabulary numbers its categories.

    Data sets are read in this form, since their vocabulary is known only after the last molecule.

    Attributes:
        smiles: Canonical SMILES of the molecule, without stereo marks.
        atoms: Category of each of the n atoms.
        edges: The m bonds as pairs (i, j) of atom numbers with j < i, sorted by ascending i, then
            by descending j.
        bonds: Name of the category of each of the m edges, such as "SINGLE" or "AROMATIC_DOUBLE".
    """

    smiles: str
    atoms: list[AtomCategory]
    edges: list[tuple[int, int]]
    bonds: list[str]


class MoleculeNotRepresentable(ValueError):
    """Raised for a molecule that cannot be written as a graph; the message says why in one line."""


class UnparsableSmiles(MoleculeNotRepresentable):
    """Raised for a SMILES that RDKit cannot read."""


def _any_of(*queries: Chem.QueryAtom) -> Chem.QueryAtom:
    """Return RDKit's query for atoms that match one of several queries; the first is extended."""
    for other in queries[1:]:
        queries[0].ExpandQuery(other, Chem.CompositeQueryType.COMPOSITE_OR)
    return queries[0]


_NO_ELEMENT = rdqueries.AtomNumGreaterQueryAtom(LAST_ELEMENT)
_TO_STRIP = _any_of(
    rdqueries.IsotopeGreaterQueryAtom(0),
    rdqueries.HasPropQueryAtom("molAtomMapNumber"),
    rdqueries.AtomNumEqualsQueryAtom(1),
)
_NO_CATEGORY = _any_of(
    rdqueries.AtomNumEqualsQueryAtom(0),
    rdqueries.AtomNumGreaterQueryAtom(LAST_ELEMENT),
    rdqueries.NumRadicalElectronsGreaterQueryAtom(0),
)


def _read(
    text: str,
    kind: str,
    error: type[Exception],
    read: Callable[[str], Chem.Mol | None],
    extension: str = "",
) -> Chem.Mol:
    """Read a molecule from text, and check what RDKit does not."""
    text = text.strip(" \t\r\n")
    whole = f"{text} {extension}" if extension else text
    shown = ascii(whole if len(whole) <= 80 else whole[:77] + "...")
    # RDKit would drop non-ASCII characters at the ends, and read the rest as another molecule.
    if foreign := _NOT_ASCII.search(whole):
        name = unicodedata.name(foreign[0], "")
        character = f"U+{ord(foreign[0]):04X} {name}".rstrip()
        raise error(f"not a {kind}: {character} at position {foreign.start() + 1} of {shown}")
    # RDKit would take what follows the blank for a name.
    if " " in text:
        raise error(f"not a {kind}: a blank at position {text.index(' ') + 1} of {shown}")
    try:
        mol = read(text) if len(whole) <= LONGEST_SMILES else None
    except RuntimeError:
        mol = None
    except ValueError as problem:
        raise error(f"not a {kind}: {problem}: {shown}") from None
    if mol is None:
        raise error(f"not a {kind} that RDKit accepts: {shown}")
    if not mol.GetNumAtoms():
        why = "" if text else " (an empty record, or an unreadable one)"
        raise error(f"not a {kind}: no atoms in {shown}{why}")
    if unknown := first_match(mol, _NO_ELEMENT):
        raise error(f"no element has the atomic number {unknown.GetAtomicNum()}: {shown}")
    return mol


def first_match(mol: Chem.Mol, query: Chem.QueryAtom) -> Chem.Atom | None:
    """Return the first atom of a molecule that matches a query; None if no atom does."""
    return next(iter(mol.GetAtomsMatchingQuery(query)), None)


def list_molecules(molecules: Any) -> list:
    """List what a user gives: a SMILES or molecule, several, or a DataFrame with column `smiles`.

    SMILES are neither read nor checked here.
    """
    if isinstance(molecules, str | Chem.Mol):
        return [molecules]
    columns = getattr(molecules, "columns", None)
    if columns is not None:
        if list(columns).count("smiles") != 1:
            shown = ", ".join(map(str, columns))
            raise UserError(f"a DataFrame needs one column smiles, got {shown}")
        return list(molecules["smiles"])
    if isinstance(molecules, bytes) or not isinstance(molecules, Iterable):
        raise UserError(
            f"molecules must be SMILES, RDKit molecules or a list of them, got {molecules!r}"
        )
    return list(molecules)


def parse(smiles: str, *, sanitize: bool = True) -> Chem.Mol:
    """Read a SMILES of a user as an RDKit molecule; it is stricter than RDKit alone.

    Blanks around the SMILES are ignored. A CXSMILES extension (text between bars, as in "CC=CC
    |t:1|") may follow after a blank; nothing else may.

    Raises:
        UnparsableSmiles: RDKit cannot read the SMILES; or it has no atoms, an atomic number above
            118, characters beyond ASCII, or more than 5,000 characters (`LONGEST_SMILES`).
    """
    extension = ""
    read: Callable[[str], Chem.Mol | None] = partial(Chem.MolFromSmiles, sanitize=sanitize)
    if found := _CXSMILES.fullmatch(smiles.strip(" \t\r\n")):
        smiles, extension = found.groups()
        from graphcnf.molecules.extension import extended

        read = partial(extended, extension=extension, sanitize=sanitize)
    return _read(smiles, "SMILES", UnparsableSmiles, read, extension)


def parse_smarts(smarts: str, *, kind: str = "SMARTS") -> Chem.Mol:
    """Read a SMARTS of a user as an RDKit pattern.

    Error messages call it `kind`.
    """
    with quiet():
        return _read(smarts, kind, UserError, Chem.MolFromSmarts)


def find_dropped(text: str) -> list[str]:
    """Return which of "stereo" and "isotopes" a SMILES or SMARTS specifies; graphs hold neither.

    Examples:
        >>> find_dropped("C[C@H](N)C(=O)O"), find_dropped("[13CH4]"), find_dropped("[1*]c1ccccc1")
        (['stereo'], ['isotopes'], [])
    """
    patterns = {"stereo": _STEREO, "isotopes": _ISOTOPE}
    return [name for name, pattern in patterns.items() if pattern.search(text)]


def has_marks(mol: Chem.Mol | str) -> bool:
    """Return True if a SMILES or RDKit molecule has stereo marks, at atoms or double bonds.

    A SMILES is searched as a text; only one with a CXSMILES extension ("... |...|") is parsed.
    """
    if isinstance(mol, str):
        if "|" not in mol:
            return bool(_STEREO.search(mol))
        mol = parse(mol)  # an extension may say cis and trans
    unmarked = Chem.ChiralType.CHI_UNSPECIFIED
    if any(atom.GetChiralTag() != unmarked for atom in mol.GetAtoms()):
        return True
    return any(bond.GetStereo().name not in ("STEREONONE", "STEREOANY") for bond in mol.GetBonds())


def without_stereo(mol: Chem.Mol) -> Chem.Mol:
    """Return a copy of a molecule reduced to what its graph holds.

    Stereo marks, isotopes, atom map numbers and explicit hydrogen atoms are removed.
    """
    mol = Chem.Mol(mol)
    hydrogens = False
    for atom in mol.GetAtomsMatchingQuery(_TO_STRIP):
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
        hydrogens |= atom.GetAtomicNum() == 1
    Chem.RemoveStereochemistry(mol)
    return Chem.RemoveHs(mol) if hydrogens else mol


def canonical_smiles(mol: Chem.Mol) -> str:
    """Return the canonical SMILES of a sanitized molecule without stereo marks and isotopes.

    Atom map numbers and explicit hydrogen atoms are left out as well (`without_stereo`).
    """
    return Chem.MolToSmiles(without_stereo(mol))


def _read_canonical(smiles: str) -> Chem.Mol:
    """Read the Kekulé structure of a canonical SMILES, its atoms numbered as in graphs."""
    # Kekulé structures depend on the order of atoms and bonds, so both come from the string.
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    try:
        mol.UpdatePropertyCache(strict=False)
        Chem.Kekulize(mol)  # keeps aromatic flags
        return Chem.RenumberAtoms(mol, _rings_first(mol))
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnparsableSmiles(f"{smiles[:80]!r} cannot be kekulized: {reason}") from None


def _rings_first(mol: Chem.Mol) -> list[int]:
    """Return the numbers of the atoms in depth-first order, from atom 0 on."""
    Chem.FastFindRings(mol)
    order: dict[int, None] = {}
    ahead = [0]
    while ahead:
        k = ahead.pop()
        if k in order:
            continue
        order[k] = None
        bonds = mol.GetAtomWithIdx(k).GetBonds()
        nearby = sorted((not bond.IsInRing(), bond.GetOtherAtomIdx(k)) for bond in bonds)
        ahead += [j for _, j in reversed(nearby) if j not in order]
    return list(order)


def bond_ends(mol: Chem.Mol) -> list[tuple[int, int]]:
    """Return the numbers of the two atoms of each bond, in RDKit's order of the bonds."""
    return [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]


def named_graph(
    mol: Chem.Mol,
    *,
    tell_aromatic: bool,
    vocabulary: MoleculeVocabulary | None = None,
    max_atoms: int = MAX_NODES,
    exact: bool = True,
) -> NamedGraph:
    """Return the graph of a molecule with named categories, before a vocabulary numbers them.

    Atoms are numbered depth-first from the first atom of the canonical SMILES.

    Args:
        vocabulary: Vocabulary that must have all categories of the molecule; None not to check.
        exact: True to refuse a molecule that would come back from its graph as another one
            (`check_roundtrip`).

    Raises:
        MoleculeNotRepresentable: The molecule has too many atoms, several fragments, a radical, a
            category that the vocabulary lacks, or would come back as another molecule.
    """
    if (count := mol.GetNumHeavyAtoms()) > max_atoms:
        raise MoleculeNotRepresentable(f"{count} heavy atoms, at most {max_atoms} are allowed")
    if (count := len(Chem.GetMolFrags(mol))) > 1:
        raise MoleculeNotRepresentable(
            f"{count} separate fragments, a molecule needs to be connected"
        )
    if atom := first_match(mol, _NO_CATEGORY):
        raise MoleculeNotRepresentable(_why_no_category(atom))
    smiles = canonical_smiles(mol)
    # From here on, atoms have the numbers of the graph.
    mol = _read_canonical(smiles)
    atoms = [AtomCategory.of(atom, tell_aromatic) for atom in mol.GetAtoms()]
    rows = []
    for (i, j), bond in zip(bond_ends(mol), mol.GetBonds(), strict=True):
        prefix = AROMATIC if tell_aromatic and bond.GetIsAromatic() else ""
        rows.append((max(i, j), -min(i, j), prefix + bond.GetBondType().name))
    rows.sort(key=lambda row: row[:2])
    edges = [(i, -minus_j) for i, minus_j, _ in rows]
    bonds = [name for _, _, name in rows]
    if vocabulary is not None:
        check_vocabulary(atoms, bonds, vocabulary)
    if exact:
        check_roundtrip(mol, smiles)
    return NamedGraph(smiles, atoms, edges, bonds)


def _why_no_category(atom: Chem.Atom) -> str:
    """Return why an atom that matches `_NO_CATEGORY` has no category."""
    number = atom.GetAtomicNum()
    if not number:
        return f"{atom.GetSymbol()} is no element"
    if number > LAST_ELEMENT:
        return f"no element has the atomic number {number}"
    return f"radical at {atom.GetSymbol()}, which implicit hydrogens would fill"


def check_roundtrip(mol: Chem.Mol, smiles: str) -> None:
    """Check that a molecule comes back from its graph as the same molecule.

    Molecules with hydrogens that RDKit does not add by itself do not. These are hydrogens at
    phosphorus and sulfur above their lowest valence, at metals, and at the ends of dative bonds.

    Raises:
        MoleculeNotRepresentable: Another molecule would come back, which the message names.
    """
    plain = plain_molecule(
        [AtomCategory.of(atom) for atom in mol.GetAtoms()],
        # Edges have no direction, so that of a dative bond is lost.
        [(max(ends), min(ends)) for ends in bond_ends(mol)],
        [bond.GetBondType() for bond in mol.GetBonds()],
    )
    try:
        Chem.SanitizeMol(plain)
        back = canonical_smiles(plain)
    except (ValueError, RuntimeError):
        back = "no molecule"
    if back != smiles:
        raise MoleculeNotRepresentable(
            f"its heavy atoms and bonds alone would be read as {back[:80]}"
        )


def check_vocabulary(atoms, bonds, vocabulary: MoleculeVocabulary) -> None:
    """Raise MoleculeNotRepresentable, with its name, if a vocabulary lacks a category."""
    for atom in atoms:
        if atom not in vocabulary.atom_index:
            labels = " ".join(vocabulary.atom_labels)
            raise MoleculeNotRepresentable(f"{atom} is not among the atoms {labels}")
    for bond in bonds:
        if bond not in vocabulary.bond_index:
            names = " ".join(vocabulary.bonds)
            raise MoleculeNotRepresentable(f"{bond} bond is not among {names}")


def molecule_to_graph(
    mol: Chem.Mol | str, vocabulary: MoleculeVocabulary, max_atoms: int = MAX_NODES
) -> Graph:
    """Return the graph of a molecule, with categories numbered by a vocabulary.

    Returns:
        (node_types, edges, bond_types): the category of each atom; pairs (i, j) of atom numbers
        with j < i, by ascending i, then descending j; the category of each pair. Atoms are
        numbered depth-first from the first atom of the canonical SMILES.

    Raises:
        MoleculeNotRepresentable: The molecule has no graph with these categories.

    Examples:
        >>> vocabulary = MoleculeVocabulary((("C", 0), ("O", 0)))
        >>> molecule_to_graph("OCC", vocabulary)  # the canonical SMILES is CCO
        ([0, 0, 1], [(1, 0), (2, 1)], [0, 0])
    """
    with quiet():
        mol = parse(mol) if isinstance(mol, str) else mol
        if not isinstance(mol, Chem.Mol):
            raise UnparsableSmiles(f"no molecule and no SMILES: {mol!r:.40}")
        named = named_graph(
            mol, tell_aromatic=vocabulary.tells_aromatic, vocabulary=vocabulary, max_atoms=max_atoms
        )
    node_types = [vocabulary.atom_index[atom] for atom in named.atoms]
    bond_types = [vocabulary.bond_index[bond] for bond in named.bonds]
    return node_types, named.edges, bond_types


def graph_to_molecule(node_types, edges, bond_types, vocabulary: MoleculeVocabulary) -> Chem.Mol:
    """Return the RDKit molecule of a graph, not sanitized, with implicit hydrogens.

    It may be invalid. Atom k is node k, and each bond stands once in `edges` (m, 2).
    """
    types = [Chem.BondType.names[name] for name in vocabulary.bond_types]
    atoms = [vocabulary.atoms[k] for k in np.asarray(node_types).tolist()]
    bonds = [types[k] for k in np.asarray(bond_types).tolist()]
    return plain_molecule(atoms, np.asarray(edges).tolist(), bonds)


def plain_molecule(atoms, edges, types) -> Chem.Mol:
    """Build an RDKit molecule from atoms and bonds, not sanitized, with implicit hydrogens.

    The molecule may be invalid. Whether a category is aromatic is ignored.
    """
    mol = Chem.RWMol()
    for category in atoms:
        mol.AddAtom(_atom(category.symbol, category.charge))
    for (i, j), kind in zip(edges, types, strict=True):
        mol.AddBond(int(i), int(j), kind)
    return mol.GetMol()


@cache
def _atom(symbol: str, charge: int) -> Chem.Atom:
    """Return an atom of an element with a formal charge, which RDKit's `AddAtom` copies."""
    atom = Chem.Atom(symbol)
    atom.SetFormalCharge(charge)
    return atom


def codec_problem(model: GraphModel) -> str:
    """Return why a model cannot score given molecules; "" if it can.

    Models keep the version of this module that numbered their training molecules
    (`vocabulary.CODEC_VERSION`). Under another numbering a molecule is another sequence for a model
    with a canonical node ordering, and its likelihood would be wrong.
    """
    if not model.ordered or model.metadata.get("codec", CODEC_VERSION) == CODEC_VERSION:
        return ""
    return (
        "this model comes from another version of graphcnf, which numbered atoms differently: it "
        "still draws molecules, but its likelihoods of given ones are wrong; train or fine-tune it "
        "again"
    )
