"""What the categories of a graph mean in chemistry: which atom, which bond.

- *Category*: the number of a kind of atom (node category) or of bond (edge category) in a graph.
- *Vocabulary*: the list of the atoms and of the bonds of the training molecules. Entry k of either
  list says what category k stands for. It is stored in the metadata of a model.
- *Kekulé structure*: in it, aromatic rings have alternating single and double bonds. Molecules are
  encoded and decoded by their Kekulé structure.
- *Aromatic categories*: a vocabulary can have separate categories for aromatic atoms and bonds
  nevertheless, since a network learns more from them. Decoding ignores the difference.

Vocabularies are counted, extended and compared in `graphcnf.molecules.vocabulary_building`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from graphcnf.errors import UserError
from graphcnf.limits import is_integer

if TYPE_CHECKING:
    from rdkit import Chem

    from graphcnf.graphs.graph_model import GraphModel

BONDS = ("SINGLE", "DOUBLE", "TRIPLE")
"""Bond types of a Kekulé structure, named as in RDKit."""

AROMATIC = "AROMATIC_"
"""Prefix of the names of aromatic bond categories, before their type in the Kekulé structure."""

CODEC_VERSION = 3
"""Version of `graphcnf.molecules.codec` in cache keys and in the metadata of models: to be raised
when the same molecule gives another graph. It stands here to be read without importing RDKit."""

ELEMENTS = frozenset(
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb "
    "Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm "
    "Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split()
)
"""Symbols of RDKit's elements, written out since the import of RDKit takes half a second."""

BOND_TYPES = frozenset(
    "UNSPECIFIED SINGLE DOUBLE TRIPLE QUADRUPLE QUINTUPLE HEXTUPLE ONEANDAHALF TWOANDAHALF "
    "THREEANDAHALF FOURANDAHALF FIVEANDAHALF AROMATIC IONIC HYDROGEN THREECENTER DATIVEONE DATIVE "
    "DATIVEL DATIVER OTHER ZERO".split()
)
"""RDKit's types of bonds."""

MOST_CHARGED = 15
"""Largest charge of an atom, that of SMILES."""


class AtomCategory(NamedTuple):
    """A node category: which atoms it stands for, such as nitrogen with charge +1.

    Attributes:
        symbol: Symbol of the element, such as "Cl".
        charge: Formal charge.
        aromatic: True if the category stands for aromatic atoms only. Decoding ignores it.
    """

    symbol: str
    charge: int = 0
    aromatic: bool = False

    @classmethod
    def of(cls, atom: Chem.Atom, tell_aromatic: bool = False) -> AtomCategory:
        """Return the category of an atom.

        A category is marked `aromatic` only if the vocabulary tells aromatic atoms from others.
        """
        aromatic = tell_aromatic and atom.GetIsAromatic()
        return cls(atom.GetSymbol(), atom.GetFormalCharge(), aromatic)

    def __str__(self) -> str:
        """Return a label such as C, N+, O- or Fe+2; in lower case if aromatic, as in SMILES."""
        symbol = self.symbol.lower() if self.aromatic else self.symbol
        sign = "" if not self.charge else "+" if self.charge > 0 else "-"
        return f"{symbol}{sign}{abs(self.charge) if abs(self.charge) > 1 else ''}"


@dataclass(frozen=True)
class MoleculeVocabulary:
    """Meaning of node and edge categories: entry k of `atoms` and `bonds` is category k.

    Charges are part of atom categories, since a third of ZINC250k contains charged atoms.

    Attributes:
        atoms: Atom of each node category.
        bonds: Bond of each edge category: the name of RDKit's bond type in the Kekulé structure,
            after the prefix "AROMATIC_" if aromatic, such as "SINGLE" or "AROMATIC_DOUBLE".
    """

    atoms: tuple[AtomCategory, ...]
    bonds: tuple[str, ...] = BONDS

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", tuple(AtomCategory(*atom) for atom in self.atoms))
        for name, entries in (("atoms", self.atoms), ("bonds", self.bonds)):
            if not len(set(entries)) == len(entries) <= 256:
                raise ValueError(f"a vocabulary holds at most 256 categories of {name}, each once")
        _check_chemistry(self.atoms, self.bonds)

    @cached_property
    def atom_index(self) -> dict[AtomCategory, int]:
        """Category number of each atom, the inverse of `atoms`."""
        return {atom: k for k, atom in enumerate(self.atoms)}

    @cached_property
    def bond_index(self) -> dict[str, int]:
        """Category number of each bond, the inverse of `bonds`."""
        return {bond: k for k, bond in enumerate(self.bonds)}

    @property
    def tells_aromatic(self) -> bool:
        """True if there are separate categories for aromatic atoms or aromatic bonds."""
        aromatic_bonds = any(bond.startswith(AROMATIC) for bond in self.bonds)
        return aromatic_bonds or any(atom.aromatic for atom in self.atoms)

    @property
    def atom_labels(self) -> list[str]:
        """Readable name of each node category: C, N+, O-, Fe+2; c and n+ for aromatic ones."""
        return [str(atom) for atom in self.atoms]

    @property
    def bond_types(self) -> list[str]:
        """Name of RDKit's bond type of each edge category, "DOUBLE" also for "AROMATIC_DOUBLE"."""
        return [bond.removeprefix(AROMATIC) for bond in self.bonds]

    def to_dict(self) -> dict[str, list]:
        """Return JSON values for `from_dict`.

        {"atoms": [["C", 0, false], ...], "bonds": ["SINGLE", ...]}.
        """
        return {"atoms": [list(a) for a in self.atoms], "bonds": list(self.bonds)}

    @classmethod
    def from_dict(cls, data: Mapping) -> MoleculeVocabulary:
        """Return the vocabulary from the JSON values that `to_dict` returned."""
        atoms = tuple(AtomCategory(str(s), int(c), bool(mark)) for s, c, mark in data["atoms"])
        return cls(atoms, tuple(str(bond) for bond in data["bonds"]))


def _check_chemistry(atoms: Sequence[AtomCategory], bonds: Sequence[str]) -> None:
    """Raise `ValueError` for an element, charge or type of bond that RDKit does not have."""
    for atom in atoms:
        if atom.symbol not in ELEMENTS:
            raise ValueError(f"atoms must be chemical elements, got {atom.symbol!r}")
        if not (is_integer(atom.charge) and abs(atom.charge) <= MOST_CHARGED):
            raise ValueError(f"charges must lie within ±{MOST_CHARGED}, got {atom.charge!r}")
    for bond in bonds:
        if bond.removeprefix(AROMATIC) not in BOND_TYPES:
            raise ValueError(f"bonds must be named as in RDKit, got {bond!r}")


def vocabulary_of(model: GraphModel, name: str = "model") -> MoleculeVocabulary:
    """Return the vocabulary in the metadata of a model: what its categories stand for."""
    try:
        vocabulary = MoleculeVocabulary.from_dict(model.metadata["vocabulary"])
    except (KeyError, TypeError):
        raise UserError(f"{name}: config.json names no vocabulary of atoms and bonds") from None
    except ValueError as error:
        raise UserError(f"{name}: the vocabulary in config.json: {error}") from None
    categories = (model.config["node_categories"], model.config["edge_categories"])
    if (len(vocabulary.atoms), len(vocabulary.bonds)) != categories:
        raise UserError(f"{name}: the vocabulary in config.json does not fit the model")
    return vocabulary
