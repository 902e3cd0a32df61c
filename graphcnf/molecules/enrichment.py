"""What share of some molecules have a feature: a pattern of atoms, or a property in a range."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from rdkit import Chem
from rdkit.Chem import Descriptors

from graphcnf.errors import UserError
from graphcnf.molecules.codec import quiet
from graphcnf.molecules.properties import PROPERTIES

_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Feature:
    """Something that each molecule has, has not, or has a certain amount of.

    Attributes:
        name: What a table calls it.
        value: Its value for a molecule: 1.0 or 0.0 for what it has or has not.
        share: Whether it is of the latter kind, so that a mean of values is a share.
    """

    name: str
    value: Callable[[Chem.Mol], float]
    share: bool

    def mean(self, smiles: Iterable[str]) -> float:
        """Mean over molecules, NaN without any; those without a finite value do not count."""
        with quiet():
            values = np.array([self.value(Chem.MolFromSmiles(s)) for s in smiles], dtype=float)
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else math.nan


def has_pattern(smarts: str) -> Feature:
    """Whether a molecule has a substructure.

    Raises:
        UserError: RDKit does not read the SMARTS.
    """
    with quiet():
        pattern = Chem.MolFromSmarts(smarts)
    if pattern is None or not pattern.GetNumAtoms():
        raise UserError(f"not a SMARTS that RDKit accepts: {smarts[:80]!r}")
    return Feature(smarts, lambda mol: float(mol.HasSubstructMatch(pattern)), share=True)


def has_element(symbol: str) -> Feature:
    """Whether a molecule has an atom of an element, such as "Si"."""
    return Feature(
        f"with {symbol}",
        lambda mol: float(any(atom.GetSymbol() == symbol for atom in mol.GetAtoms())),
        share=True,
    )


def has_property(text: str) -> Feature:
    """A property by name, or whether it is in a range: "logp", "qed>=0.6", "tpsa<140".

    Raises:
        UserError: There is no such property, or the text says something else.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(?:(<=|>=|<|>)\s*(\S+)\s*)?", text)
    functions = {name.lower(): f for name, f in Descriptors.descList} | PROPERTIES
    if found is None or found[1].lower() not in functions:
        raise UserError(
            f"no property {text[:40]!r}: write {', '.join(PROPERTIES)} or one of RDKit's "
            "descriptors (BertzCT, ...), alone or with a bound, as qed>=0.6"
        )
    function = functions[found[1].lower()]
    if found[2] is None:
        return Feature(text.strip(), function, share=False)
    try:
        bound = float(found[3])
    except ValueError:
        raise UserError(f"{text!r}: {found[3]!r} is no number") from None
    sign = _SIGNS[found[2]]
    return Feature(text.strip(), lambda mol: float(sign(function(mol), bound)), share=True)
