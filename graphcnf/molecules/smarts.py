"""Categories of atoms and bonds that primitives of a SMARTS pattern allow.

Elements, charges and aromaticity can be answered for a category alone. Everything else (rings,
neighbours, hydrogens) is a matter of the molecule and left open here.
"""

from __future__ import annotations

from collections.abc import Callable

from rdkit import Chem

from graphcnf.molecules.vocabulary import MARK, AtomCategory


def atom_could_be(atom: Chem.Atom, category: AtomCategory, marked: bool) -> bool:
    """Return whether an atom of a pattern may match atoms of a category.

    Args:
        atom: Of a pattern.
        category: Of the vocabulary.
        marked: Whether the vocabulary marks aromatic atoms.
    """
    number = Chem.GetPeriodicTable().GetAtomicNumber(category.symbol)

    def leaf(name: str, value: int) -> bool | None:
        if name == "AtomAtomicNum":
            return number == value
        if name == "AtomType":  # RDKit adds 1000 to the number of an aromatic atom.
            if number != value % 1000:
                return False
            return (value >= 1000) == category.aromatic if marked else None
        if name in ("AtomFormalCharge", "AtomNegativeFormalCharge"):
            return (category.charge if name == "AtomFormalCharge" else -category.charge) == value
        if name in ("AtomIsAromatic", "AtomIsAliphatic") and marked:
            return (category.aromatic == (name == "AtomIsAromatic")) == bool(value)
        return None

    return _evaluate(atom.DescribeQuery(), leaf) is not False


def bond_could_be(bond: Chem.Bond, name: str, marked: bool) -> bool:
    """Return whether a bond of a pattern may match bonds with a name of the vocabulary.

    Args:
        bond: Of a pattern.
        name: Of the vocabulary.
        marked: Whether the vocabulary marks aromatic bonds; where it does not, a single or double
            bond may be one.
    """
    aromatic = name.startswith(MARK)
    order = Chem.BondType.AROMATIC if aromatic else Chem.BondType.names[name]
    may_be_aromatic = not marked and name in ("SINGLE", "DOUBLE")

    def leaf(query: str, value: int) -> bool | None:
        if query == "BondOrder":
            if may_be_aromatic and value in (int(order), int(Chem.BondType.AROMATIC)):
                return None
            return int(order) == value
        if query == "SingleOrAromaticBond":
            if aromatic or order == Chem.BondType.SINGLE:
                return True
            return None if may_be_aromatic else False
        return None

    return _evaluate(bond.DescribeQuery(), leaf) is not False


def _evaluate(description: str, leaf: Callable[[str, int], bool | None]) -> bool | None:
    """Truth of a query from its description, a line for each part; None where it is open."""
    lines = [line for line in description.splitlines() if line.strip()]
    value, _ = _part(lines, 0, leaf)
    return value


def _part(lines: list[str], at: int, leaf) -> tuple[bool | None, int]:
    depth = len(lines[at]) - len(lines[at].lstrip())
    words = lines[at].split()
    name, rest = words[0], words[1:]
    at += 1
    parts = []
    while at < len(lines) and len(lines[at]) - len(lines[at].lstrip()) > depth:
        value, at = _part(lines, at, leaf)
        parts.append(value)
    if name.endswith(("And", "Or", "Xor")) and parts:
        if name.endswith("And"):
            value = False if False in parts else None if None in parts else True
        elif name.endswith("Xor"):
            value = None
        else:
            value = True if True in parts else None if None in parts else False
        negated = "!" in rest
    else:
        numbers = [int(word) for word in rest if word.lstrip("-").isdigit()]
        value = leaf(name, numbers[0]) if numbers else leaf(name, 1)
        negated = "!=" in rest
    return (None if value is None else value != negated), at
