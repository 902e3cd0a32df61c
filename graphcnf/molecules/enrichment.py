"""What share of some molecules have a feature: a pattern of atoms, or a property in a range."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from graphcnf.molecules.properties import PROPERTIES
from graphcnf.molecules.selection import Requirement, check_name, described
from graphcnf.molecules.smiles import parse_smarts, quiet


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
    pattern = parse_smarts(smarts)
    return Feature(smarts, lambda mol: float(mol.HasSubstructMatch(pattern)), share=True)


def has_element(symbol: str) -> Feature:
    """Whether a molecule has an atom of an element, such as "Si"."""
    return Feature(
        f"with {symbol}",
        lambda mol: float(any(atom.GetSymbol() == symbol for atom in mol.GetAtoms())),
        share=True,
    )


def has_property(text: str) -> Feature:
    """A property by name, or whether it meets a requirement: "logp", "qed>=0.6", "tpsa<140".

    Raises:
        UserError: There is no such property, or the text says something else.
    """
    name = text.strip()
    if not set(name) & set("<>=!"):
        check_name(name)
        return Feature(name, PROPERTIES[name], share=False)
    wanted = Requirement.parse(text)
    return Feature(name, lambda mol: float(wanted.holds(described(mol, wanted.names))), share=True)
