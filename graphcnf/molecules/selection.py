"""Named properties of molecules, and what may be required of them."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from graphcnf.compute.parallel import Workers, chunked, parallel_map
from graphcnf.errors import UserError, suggest
from graphcnf.molecules.codec import parse_smarts, quiet
from graphcnf.molecules.optional import Unavailable
from graphcnf.molecules.properties import PROPERTIES

CHUNK = 1000
"""Molecules whose properties a process computes at a time."""

DECIMALS = 4
"""Of a property. Requirements are held against the rounded value, the one that is written."""

_OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def parse_names(text: str) -> tuple[str, ...]:
    """Names of properties with commas between them, each once.

    Raises:
        UserError: There is no such property, or it cannot be computed here.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        check_name(name)
    return names


def check_name(name: str) -> None:
    """See that a property can be computed.

    Raises:
        UserError: There is no such property, or it cannot be computed here.
    """
    if name not in PROPERTIES:
        raise UserError(f"no property {name!r}{suggest(name, list(PROPERTIES))}")
    try:
        described(Chem.MolFromSmiles("C"), [name])
    except Unavailable as error:
        raise UserError(f"{name}: {error}") from None


def described(mol: Chem.Mol, names: Iterable[str]) -> dict[str, float]:
    """Properties of a sanitized molecule, whole numbers or rounded to `DECIMALS`.

    Args:
        mol: The molecule.
        names: Keys of `PROPERTIES`.
    """
    values = {name: PROPERTIES[name](mol) for name in names}
    return {k: v if isinstance(v, int) else round(v, DECIMALS) for k, v in values.items()}


def property_table(
    smiles: Sequence[str], names: Sequence[str], workers: Workers = None, label: str = ""
) -> np.ndarray:
    """Properties of valid SMILES, (M, P) float64.

    Args:
        smiles: M of them.
        names: P keys of `PROPERTIES`.
        workers: Processes, or a cluster; None for one per core. Few molecules need none.
        label: What a progress bar says.
    """
    parts = [(tuple(names), part) for part in chunked(smiles, CHUNK)]
    few = len(parts) <= 2
    rows = parallel_map(_rows, parts, workers=1 if few else workers, label="" if few else label)
    return np.concatenate([np.empty((0, len(names))), *rows])


def _rows(task: tuple[tuple[str, ...], Sequence[str]]) -> np.ndarray:
    names, smiles = task
    with quiet():
        rows = [[*described(Chem.MolFromSmiles(s), names).values()] for s in smiles]
    return np.array(rows, dtype=np.float64).reshape(-1, len(names))


@dataclass(frozen=True)
class Requirement:
    """A comparison of properties and numbers, as `qed > 0.6` or `200 <= weight < 500`.

    Attributes:
        terms: Names of properties, and numbers.
        operators: What stands between them.
    """

    terms: tuple[str | float, ...]
    operators: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read `TERM OPERATOR TERM ...`.

        A term is a number or a name from `PROPERTIES`, an operator one of `< <= > >= == !=`.

        Raises:
            UserError: It is written otherwise, or names no property.
        """
        parts = [part.strip() for part in re.split(r"([<>]=?|[=!]=)", text)]
        names = [part for part in parts[::2] if not _NUMBER.fullmatch(part)]
        if len(parts) < 3 or not all(name.isidentifier() for name in names):
            raise UserError(
                f"{text!r} is no comparison with < <= > >= == !=: write 'qed > 0.6' or "
                "'200 <= weight < 500', and one option for each"
            )
        if not names:
            raise UserError(f"{text!r} names no property; known: {', '.join(PROPERTIES)}")
        for name in names:
            check_name(name)
        terms = tuple(part if part in names else float(part) for part in parts[::2])
        return cls(terms, tuple(parts[1::2]))

    def __str__(self) -> str:
        shown = [t if isinstance(t, str) else f"{t:.12g}" for t in self.terms]
        rest = zip(self.operators, shown[1:], strict=True)
        return " ".join([shown[0], *(f"{sign} {term}" for sign, term in rest)])

    @property
    def names(self) -> list[str]:
        """The properties that it needs."""
        return [term for term in self.terms if isinstance(term, str)]

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether it holds for these properties."""
        found = [values[term] if isinstance(term, str) else term for term in self.terms]
        return all(
            _OPERATORS[name](left, right)
            for name, left, right in zip(self.operators, found[:-1], found[1:], strict=True)
        )


class Selection:
    """What a molecule has to be like: it contains all patterns and meets all requirements.

    Args:
        requirements: See `Requirement.parse`.
        patterns: SMARTS.

    Raises:
        UserError: One of them cannot be read.

    Examples:
        >>> wanted = Selection(["qed > 0.6", "200 <= weight < 400"], ["c1ccncc1"])
        >>> wanted.accepts(Chem.MolFromSmiles("CCO"))
        False
    """

    def __init__(self, requirements: Sequence[str] = (), patterns: Sequence[str] = ()):
        self.requirements = [Requirement.parse(text) for text in requirements]
        self.patterns = [parse_smarts(text) for text in patterns]

    def accepts(self, mol: Chem.Mol) -> bool:
        """Whether a sanitized molecule is one."""
        if not all(mol.HasSubstructMatch(pattern) for pattern in self.patterns):
            return False
        return all(r.holds(described(mol, r.names)) for r in self.requirements)
