"""SMILES and SMARTS read in one place, without torch."""

from __future__ import annotations

import re
import unicodedata
from contextlib import AbstractContextManager

from rdkit import Chem, rdBase

from graphcnf.errors import UserError

LONGEST = 5000
"""Characters of a SMILES or SMARTS: RDKit's parser recurses, and a megabyte of brackets could take
the process down with it."""

LAST_ELEMENT = 118
"""Atomic number: RDKit reads [#119], and fails at whatever it is asked about that atom."""

_FOREIGN = re.compile(r"[^ -~]")
_STEREO, _ISOTOPE = re.compile(r"\[[^\]]*@|[/\\]"), re.compile(r"\[\d+[A-Za-z]")


class MoleculeNotRepresentable(ValueError):
    """The molecule has no graph in this coding; the message says why in one line."""


class UnparsableSmiles(MoleculeNotRepresentable):
    """RDKit does not read it."""


def quiet() -> AbstractContextManager:
    """Context without RDKit's log messages."""
    return rdBase.BlockLogs()


def foreign_character(text: str) -> str:
    """Return the first character outside printable ASCII and its position, "" without one.

    RDKit drops such characters at either end and reads the rest as another molecule.

    Examples:
        >>> foreign_character("CC\u041e")
        'U+041E CYRILLIC CAPITAL LETTER O at position 3'
    """
    found = _FOREIGN.search(text)
    if found is None:
        return ""
    name = unicodedata.name(found[0], "")
    return f"U+{ord(found[0]):04X} {name}".rstrip() + f" at position {found.start() + 1}"


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def parse(smiles: str, *, sanitize: bool = True) -> Chem.Mol:
    """Return the molecule of a SMILES; everything that a user writes as one is read here.

    Args:
        smiles: Line ends and blanks at its ends do not count, nor does a name after a blank.
        sanitize: Whether RDKit has to accept its valences and aromatic rings.

    Raises:
        UnparsableSmiles: RDKit refuses it, or it has no atoms, an atom beyond `LAST_ELEMENT` or a
            character outside printable ASCII.
    """
    smiles = smiles.strip(" \t\r\n")
    if foreign := foreign_character(smiles):
        raise UnparsableSmiles(f"not a SMILES: {foreign} of {_shown(smiles)}")
    try:
        mol = Chem.MolFromSmiles(smiles, sanitize=sanitize) if len(smiles) <= LONGEST else None
    except RuntimeError:
        mol = None
    if mol is None:
        raise UnparsableSmiles(f"not a SMILES that RDKit accepts: {_shown(smiles)}")
    if not mol.GetNumAtoms():
        raise UnparsableSmiles(f"no atoms in {_shown(smiles)}")
    if (number := max(atom.GetAtomicNum() for atom in mol.GetAtoms())) > LAST_ELEMENT:
        raise UnparsableSmiles(f"no element has the atomic number {number}: {_shown(smiles)}")
    return mol


def parse_smarts(smarts: str, *, kind: str = "SMARTS") -> Chem.Mol:
    """Return the pattern of a SMARTS; everything that a user writes as one is read here.

    Args:
        smarts: The text.
        kind: What it should be, for the message.

    Raises:
        UserError: RDKit refuses it, or it has no atoms or a character outside printable ASCII.
    """
    smarts = smarts.strip(" \t\r\n")
    if foreign := foreign_character(smarts):
        raise UserError(f"not a {kind}: {foreign} of {_shown(smarts)}")
    try:
        with quiet():
            pattern = Chem.MolFromSmarts(smarts) if len(smarts) <= LONGEST else None
    except RuntimeError:
        pattern = None
    if pattern is None or not pattern.GetNumAtoms():
        raise UserError(f"not a {kind} that RDKit accepts: {_shown(smarts)}")
    return pattern


def dropped(text: str) -> list[str]:
    """Return what of a SMILES or SMARTS no graph holds: "stereo", "isotopes", both or nothing.

    Examples:
        >>> dropped("C[C@H](N)C(=O)O"), dropped("[13CH4]"), dropped("[1*]c1ccccc1")
        (['stereo'], ['isotopes'], [])
    """
    kinds = {"stereo": _STEREO, "isotopes": _ISOTOPE}
    return [name for name, pattern in kinds.items() if pattern.search(text)]
