"""CXSMILES extensions: what stands between bars after a SMILES, as in `CC=CC |t:1|`.

`graphcnf.molecules.codec.parse` calls this module for a SMILES that has an extension. An extension
is a list of *fields*, of three kinds:

- some only draw the molecule or comment on it (coordinates, wedges and wavy bonds, names of atoms,
  lone pairs) and are ignored;
- `c:` and `t:` say which double bonds are cis and trans, and are read;
- all others say what no SMILES alone says, such as a radical or a racemate, and are refused, since
  graphs hold none of it.
"""

from __future__ import annotations

import html
import re

from rdkit import Chem

_NUMBERS = r"\d{1,6}(?:\.\d{1,6})*(?:,\d{1,6}(?:\.\d{1,6})*)*"
_FIELD = re.compile(
    r"\((?P<points>[-+.,;\deE]*)\)|\$_AV:[^$|]*\$|\$(?P<labels>[^$|]*)\$"
    rf"|atomProp(?::\d+\.[^:,|]*)+|lp:\d+:\d+(?:,\d+:\d+)*|f:{_NUMBERS}"
    rf"|(?P<kind>a|c|t|ctu|w|wU|wD):(?P<numbers>{_NUMBERS})"
)
"""A field that a molecule may have: `points` are coordinates, `numbers` atoms or bonds."""

_ESCAPE = re.compile(r"&#\d+;")
_LABEL = re.compile(rf"(?:{_ESCAPE.pattern}|[^;])+")
_STANDS_FOR_MORE = re.compile(r"_.*|.*_[ep]|(?:R|AP)\d*'*")
"""Labels of R groups, attachment points and query atoms."""

_DOUBLE_BONDS, _WAVY, _WEDGES = ("c", "t", "ctu"), ("w",), ("wU", "wD")

_UNSAID = {
    r"\^\d:": "radicals",
    r"o\d*:": "groups of relative stereo",
    r"&\d*:": "mixtures of stereoisomers",
    r"r[,|]": "racemates",
    r"m:": "bonds to one of several atoms",
    r"C:": "coordinate bonds",
    r"H:": "hydrogen bonds",
    r"Z:": "bonds without an order",
    r"LN:": "repeated units",
    r"Sg": "groups of atoms",
    r"RG:|LOG?:": "R groups",
    r"(?:rb|s|u):": "query atoms",
}
"""What no graph holds, by a pattern of the field that says it."""


def extended(smiles: str, extension: str, *, sanitize: bool = True) -> Chem.Mol | None:
    """Read a SMILES with its extension, such as "|t:1|"; None if RDKit cannot read the SMILES."""
    # With all hydrogen atoms that are written, since the numbers of an extension count them.
    written = Chem.MolFromSmiles(smiles, _options(False))
    if written is None:
        return None
    # RDKit loses marks beside wedges, and acts upon some comments: it gets nothing of both.
    fields = _double_bonds(extension, written)
    plain = Chem.MolFromSmiles(smiles, sanitize=sanitize)
    if plain is None or not fields:
        return plain
    mol = Chem.MolFromSmiles(f"{smiles} |{','.join(fields)}|", _options(sanitize))
    bonds = zip(plain.GetBonds(), mol.GetBonds() if mol else (), strict=mol is not None)
    none = Chem.BondStereo.STEREONONE
    if mol is None or any(a.GetStereo() not in (none, b.GetStereo()) for a, b in bonds):
        raise ValueError(f"{','.join(fields)!a} in the extension contradicts the SMILES")
    return mol


def _options(sanitize: bool) -> Chem.SmilesParserParams:
    """Return RDKit's options to sanitize a molecule and remove its hydrogens, or to do neither."""
    options = Chem.SmilesParserParams()
    options.sanitize = sanitize  # type: ignore[assignment]  # wrong in the stubs
    options.removeHs = sanitize  # type: ignore[assignment]
    return options


def _double_bonds(extension: str, written: Chem.Mol) -> list[str]:
    """Return the fields of an extension that say cis and trans."""
    if len(extension) < 2 or not extension.endswith("|"):
        raise ValueError(f"an extension without its second bar: {extension[:40]!a}")
    place, end = 1, len(extension) - 1
    fields = []
    while place < end:
        shown = f"{extension[place : min(end, place + 40)]!a} in the extension"
        found = _FIELD.match(extension, place, end)
        labels = _LABEL.findall(found["labels"] or "") if found else ()
        said = [words for field, words in _UNSAID.items() if re.match(field, extension[place:])]
        if any(_STANDS_FOR_MORE.fullmatch(html.unescape(label)) for label in labels):
            said = ["R groups or query atoms"]
        if said:
            raise ValueError(f"{shown} says {said[0]}, which graphs do not hold")
        # A comma leads to another field, the last bar to none.
        following = extension[found.end() : end] if found else ""
        if (
            not found
            or following[:1] not in ("", ",")
            or following == ","
            or not _fits(found, written)
        ):
            raise ValueError(f"{shown} is broken or unknown")
        if found["kind"] in (*_WAVY, *_WEDGES):
            _check_drawn(found, written)
        if found["kind"] in _DOUBLE_BONDS:
            fields.append(found[0])
        place = found.end() + 1
    return fields


def _numbers(field: re.Match[str]) -> list[list[int]]:
    """Return the numbers of atoms and bonds in a field: [[1, 2], [3, 4]] for "1.2,3.4"."""
    return [[int(n) for n in part.split(".")] for part in field["numbers"].split(",")]


def _fits(field: re.Match[str], written: Chem.Mol) -> bool:
    """Return True if a molecule has all atoms and bonds whose numbers are in a field."""
    atoms, bonds = written.GetNumAtoms(), written.GetNumBonds()
    if field["points"] is not None:
        return field["points"].rstrip(";").count(";") == atoms - 1
    if field["labels"] is not None:
        return _ESCAPE.sub("", field["labels"]).count(";") < atoms
    if field["kind"] is None:
        return True
    most = {"a": [atoms], "w": [atoms, bonds]}.get(field["kind"][0], [bonds])
    return all(
        len(numbers) == len(most) and all(n < limit for n, limit in zip(numbers, most, strict=True))
        for numbers in _numbers(field)
    )


def _check_drawn(field: re.Match[str], written: Chem.Mol) -> None:
    """Raise ValueError if wedges are drawn where the SMILES has no mark, or wavy bonds at one."""
    for number, _ in _numbers(field):
        atom = written.GetAtomWithIdx(number)
        is_marked = atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED
        if field["kind"] in _WAVY and any(b.GetBondTypeAsDouble() == 2 for b in atom.GetBonds()):
            is_marked |= any(b.GetBondDir() != Chem.BondDir.NONE for b in atom.GetBonds())
        if is_marked == (field["kind"] in _WAVY):
            drawn = "a wavy bond at a mark" if is_marked else "a wedge at an atom without a mark"
            raise ValueError(f"{field[0][:40]!a} in the extension draws {drawn}")
