"""What the categories of a graph mean in chemistry: which atom, which bond.

A *vocabulary* lists the atoms and bonds of the training molecules; entry k is category k of nodes
or edges. Molecules are encoded by a *Kekulé structure*, in which aromatic rings have alternating
single and double bonds. A vocabulary can mark atoms and bonds as *aromatic* nevertheless, which
tells a network more, and which decoding ignores. The *codec* is the code that translates molecules
to graphs (`graphcnf.molecules.codec`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from graphcnf.errors import UserError
from graphcnf.limits import is_integer

CODEC_VERSION = 3
"""Version in cache keys and models; to be raised when the same molecule gives another graph."""

BONDS = ("SINGLE", "DOUBLE", "TRIPLE")
"""Bond types of a Kekulé structure, named as in RDKit."""

MARK = "AROMATIC_"
"""Prefix of the names of aromatic bond categories, before their type in the Kekulé structure."""

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

_ORDERS = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "QUADRUPLE": 4, "QUINTUPLE": 5, "HEXTUPLE": 6}


class AtomCategory(NamedTuple):
    """A node category: which atoms it stands for.

    Attributes:
        symbol: Symbol of the element.
        charge: Formal charge.
        aromatic: True if marked as aromatic, which decoding ignores.
    """

    symbol: str
    charge: int = 0
    aromatic: bool = False

    @classmethod
    def of(cls, atom, marked: bool = False) -> AtomCategory:
        """Return the category of an atom.

        Args:
            atom: RDKit atom.
            marked: True to mark an aromatic atom as such.
        """
        return cls(atom.GetSymbol(), atom.GetFormalCharge(), marked and atom.GetIsAromatic())

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
        atoms: Node categories.
        bonds: Edge categories: names of bond types in RDKit, with the prefix `MARK` if aromatic.

    Raises:
        ValueError: for more than 256 categories of atoms or bonds, or one that occurs twice.
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
        """Number of each atom category."""
        return {atom: k for k, atom in enumerate(self.atoms)}

    @cached_property
    def bond_index(self) -> dict[str, int]:
        """Number of each bond category by its name, such as "SINGLE" or "AROMATIC_DOUBLE"."""
        return {bond: k for k, bond in enumerate(self.bonds)}

    @property
    def marked(self) -> bool:
        """True if there are aromatic categories."""
        return any(a.aromatic for a in self.atoms) or any(b.startswith(MARK) for b in self.bonds)

    @property
    def atom_labels(self) -> list[str]:
        """Readable names of the node categories: C, N+, O-, Fe+2, c, n+."""
        return [str(atom) for atom in self.atoms]

    @property
    def bond_types(self) -> list[str]:
        """RDKit's bond type of each category, without aromatic marks."""
        return [bond.removeprefix(MARK) for bond in self.bonds]

    @property
    def bond_orders(self) -> list[int]:
        """Bond order of each category; 1 for types without an order, such as dative bonds."""
        return [_ORDERS.get(bond, 1) for bond in self.bond_types]

    @property
    def merged(self) -> tuple[list[int], list[int]]:
        """For each category of atoms, and of bonds, the first one that differs in the mark at most.

        The mark says "aromatic". By these lists, environments of atoms tell neighbours apart by
        element and charge, and bonds by their type in the Kekulé structure, but not by marks: `c`
        is merged with `C`.
        """
        atoms = [atom[:2] for atom in self.atoms]
        types = self.bond_types
        return [atoms.index(atom) for atom in atoms], [types.index(bond) for bond in types]

    @classmethod
    def from_counts(
        cls, atoms: Mapping[AtomCategory, int], bonds: Mapping[str, int]
    ) -> MoleculeVocabulary:
        """Return the vocabulary of counted categories, most frequent first, ties by name.

        Args:
            atoms: Number of atoms of each category.
            bonds: Number of bonds of each name; all of `BONDS` are included, even if not counted.
        """
        names = [*BONDS, *sorted(set(bonds) - set(BONDS))]
        names.sort(key=lambda b: -bonds.get(b, 0))
        return cls(tuple(sorted(atoms, key=lambda a: (-atoms[a], a))), tuple(names))

    @classmethod
    def of_model(cls, model, name: str = "model") -> MoleculeVocabulary:
        """Return the vocabulary in the metadata of a model.

        Args:
            model: A `GraphModel`.
            name: Name of the model, for messages.

        Raises:
            UserError: if the metadata hold no vocabulary, or one of another size than the model.
        """
        sizes = model.config
        try:
            vocabulary = cls.from_dict(model.metadata["vocabulary"])
        except (KeyError, TypeError):
            raise UserError(f"{name}: config.json names no vocabulary of atoms and bonds") from None
        except ValueError as error:
            raise UserError(f"{name}: the vocabulary in config.json: {error}") from None
        known = (len(vocabulary.atoms), len(vocabulary.bonds))
        if known != (sizes["node_categories"], sizes["edge_categories"]):
            raise UserError(f"{name}: the vocabulary in config.json does not fit the model")
        return vocabulary

    def to_dict(self) -> dict[str, list]:
        """Return the vocabulary as JSON values.

        Returns:
            {"atoms": [["C", 0, false], ...], "bonds": ["SINGLE", ...]}: symbol, charge and aromatic
            mark of each node category, name of each edge category.
        """
        return {"atoms": [list(a) for a in self.atoms], "bonds": list(self.bonds)}

    @classmethod
    def from_dict(cls, data: Mapping) -> MoleculeVocabulary:
        """Return the vocabulary from the JSON values that `to_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: for other data.
        """
        atoms = tuple(AtomCategory(str(s), int(c), bool(mark)) for s, c, mark in data["atoms"])
        return cls(atoms, tuple(str(bond) for bond in data["bonds"]))

    def extended(self, data: MoleculeVocabulary) -> MoleculeVocabulary:
        """Return this vocabulary with the categories that only `data` has appended."""
        atoms = [atom for atom in data.atoms if atom not in self.atom_index]
        bonds = [bond for bond in data.bonds if bond not in self.bond_index]
        return MoleculeVocabulary((*self.atoms, *atoms), (*self.bonds, *bonds))

    def nearest_atoms(self, wanted: MoleculeVocabulary) -> list[int]:
        """Find for each atom of another vocabulary the category of this one that bonds most alike.

        Compared are, in this order: aromatic mark, number of valence electrons, charge, atomic
        number. Atoms with equally many valence electrons form equally many bonds: N+, Si and B- are
        like C, Se is like S.

        Args:
            wanted: The other vocabulary.

        Returns:
            For each of its atom categories, the number of a category of this vocabulary.
        """
        from rdkit.Chem import GetPeriodicTable

        table = GetPeriodicTable()

        def key(a: AtomCategory) -> tuple[int, ...]:
            electrons = table.GetNOuterElecs(a.symbol) - a.charge
            return a.aromatic, electrons, a.charge, table.GetAtomicNumber(a.symbol)

        return _nearest([*map(key, self.atoms)], [*map(key, wanted.atoms)])

    def nearest_bonds(self, wanted: MoleculeVocabulary) -> list[int]:
        """Find for each bond of another vocabulary the category of this one that is most like it.

        That is the same bond, if this vocabulary has it; else one with the nearest bond order and,
        of several, with the same aromatic mark.

        Args:
            wanted: The other vocabulary.

        Returns:
            For each of its bond categories, the number of a category of this vocabulary.
        """
        keys = [
            [(order, b.startswith(MARK)) for order, b in zip(v.bond_orders, v.bonds, strict=True)]
            for v in (self, wanted)
        ]
        nearest = zip(wanted.bonds, _nearest(keys[0], keys[1]), strict=True)
        return [self.bond_index.get(bond, k) for bond, k in nearest]


def _check_chemistry(atoms: Sequence[AtomCategory], bonds: Sequence[str]) -> None:
    """Raise `ValueError` for an element, charge or type of bond that RDKit does not have."""
    for atom in atoms:
        if atom.symbol not in ELEMENTS:
            raise ValueError(f"atoms must be chemical elements, got {atom.symbol!r}")
        if not (is_integer(atom.charge) and abs(atom.charge) <= MOST_CHARGED):
            raise ValueError(f"charges must lie within ±{MOST_CHARGED}, got {atom.charge!r}")
    for bond in bonds:
        if bond.removeprefix(MARK) not in BOND_TYPES:
            raise ValueError(f"bonds must be named as in RDKit, got {bond!r}")


def _nearest(known: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> list[int]:
    """Return for each wanted key the index of the nearest known key, the first one on ties.

    A key is a sequence of numbers in order of importance: absolute differences are compared entry
    by entry, and later entries decide between keys whose earlier entries are equally near.
    """
    nearest = []
    for key in wanted:
        distances = [[abs(x - y) for x, y in zip(key, other, strict=True)] for other in known]
        nearest.append(distances.index(min(distances)))
    return nearest


def codec_problem(model) -> str:
    """Return why a model cannot score given molecules: it was trained with another codec.

    Args:
        model: A `GraphModel`.

    Returns:
        A message; "" if the model can score molecules.
    """
    if not model.ordered or model.metadata.get("codec", CODEC_VERSION) == CODEC_VERSION:
        return ""
    return (
        "this model comes from another version of graphcnf, which numbered atoms differently: it "
        "still draws molecules, but its likelihoods of given ones are wrong; train or fine-tune it "
        "again"
    )
