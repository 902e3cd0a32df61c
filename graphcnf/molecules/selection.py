"""Named properties of molecules, requirements on them, and shares of molecules with a feature."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rdkit import Chem

from graphcnf.compute.parallel import Workers, chunked, parallel_map
from graphcnf.errors import UserError, suggest
from graphcnf.molecules.optional import Unavailable
from graphcnf.molecules.properties import COUNTS, PROPERTIES, RANGES
from graphcnf.molecules.smiles import parse_smarts, quiet

CHUNK = 1000
"""Molecules whose properties a process computes at a time."""

DECIMALS = 4
"""Decimals of a property. Requirements are held against the rounded value that is written."""

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
        for term, part in zip(terms, parts[::2], strict=True):
            if isinstance(term, float) and not math.isfinite(term):
                raise UserError(f"{text!r}: {part} is larger than any number; bounds are finite")
        found = cls(terms, tuple(parts[1::2]))
        check_possible([found])
        return found

    def __str__(self) -> str:
        shown = [t if isinstance(t, str) else f"{t:.12g}" for t in self.terms]
        rest = zip(self.operators, shown[1:], strict=True)
        return " ".join([shown[0], *(f"{sign} {term}" for sign, term in rest)])

    @property
    def pairs(self) -> list[tuple[str | float, str, str | float]]:
        """Left side, operator and right side of each comparison."""
        return list(zip(self.terms[:-1], self.operators, self.terms[1:], strict=True))

    @property
    def names(self) -> list[str]:
        """The properties that it needs."""
        return [term for term in self.terms if isinstance(term, str)]

    def holds(self, values: Mapping[str, float]) -> bool:
        """Return True if the comparison holds for these properties."""
        return all(
            _OPERATORS[sign](*(values[t] if isinstance(t, str) else t for t in (left, right)))
            for left, sign, right in self.pairs
        )


def check_possible(requirements: Sequence[Requirement]) -> None:
    """Raise `UserError` where no value of a property meets all requirements.

    Comparisons of a property with numbers count, within the range that it has (`RANGES`).
    """
    shown = " and ".join(map(str, requirements))
    bounds = {
        name: [*RANGES.get(name, (-math.inf, math.inf))] for r in requirements for name in r.names
    }
    for left, sign, right in (pair for r in requirements for pair in r.pairs):
        if isinstance(left, float) and isinstance(right, float):
            if not _OPERATORS[sign](left, right):
                raise UserError(f"{shown}: {left:g} {sign} {right:g} is never so")
        elif isinstance(left, str) != isinstance(right, str) and sign != "!=":
            is_upper = (sign[0] == "<") == isinstance(left, str)
            name, other = (left, right) if isinstance(left, str) else (right, left)
            name, bound = str(name), float(other)
            step = 1.0 if name in COUNTS else 10.0**-DECIMALS
            if sign in "<>":  # the next value that `described` gives
                bound += -step / 2 if is_upper else step / 2
            if sign == "==" or is_upper:
                bounds[name][1] = min(bounds[name][1], bound)
            if sign == "==" or not is_upper:
                bounds[name][0] = max(bounds[name][0], bound)
    for name, (low, high) in bounds.items():
        if name in COUNTS and math.isfinite(low) and math.isfinite(high):
            low, high = math.ceil(low), math.floor(high)
        if low > high:
            least, most = RANGES.get(name, (-math.inf, math.inf))
            known = f" from {least} to {most}" if math.isfinite(most) else f" from {least} on"
            known = known if math.isfinite(least) else ""
            raise UserError(f"{shown}: no value of {name}{known} meets this")


class Selection:
    """Requirements on molecules: patterns that they contain, and comparisons of properties.

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
        check_possible(self.requirements)
        self.patterns = [parse_smarts(text) for text in patterns]

    def accepts(self, mol: Chem.Mol) -> bool:
        """Return True if a sanitized molecule meets all requirements."""
        if not all(mol.HasSubstructMatch(pattern) for pattern in self.patterns):
            return False
        return all(r.holds(described(mol, r.names)) for r in self.requirements)


@dataclass(frozen=True)
class Feature:
    """A feature of molecules: a pattern of atoms, or a property.

    Attributes:
        name: Heading in a table.
        value: Value for a sanitized molecule; 1.0 or 0.0 for what it has or has not.
        share: Whether values are 1.0 or 0.0, so that their mean is a share of molecules.
    """

    name: str
    value: Callable[[Chem.Mol], float]
    share: bool

    def mean(self, smiles: Iterable[str]) -> float:
        """Return the mean over molecules with a finite value, NaN without any."""
        with quiet():
            values = np.array([self.value(Chem.MolFromSmiles(s)) for s in smiles], dtype=float)
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else math.nan


def has_pattern(smarts: str) -> Feature:
    """Return the feature of having a substructure.

    Raises:
        UserError: RDKit does not read the SMARTS.
    """
    pattern = parse_smarts(smarts)
    return Feature(smarts, lambda mol: float(mol.HasSubstructMatch(pattern)), share=True)


def has_element(symbol: str) -> Feature:
    """Return the feature of having an atom of an element, such as "Si"."""
    return Feature(
        f"with {symbol}",
        lambda mol: float(any(atom.GetSymbol() == symbol for atom in mol.GetAtoms())),
        share=True,
    )


def has_property(text: str) -> Feature:
    """Return a property as a feature, or a requirement: "logp", "qed>=0.6", "tpsa<140".

    Raises:
        UserError: There is no such property, or the text says something else.
    """
    name = text.strip()
    if not set(name) & set("<>=!"):
        check_name(name)
        return Feature(name, PROPERTIES[name], share=False)
    wanted = Requirement.parse(text)
    return Feature(name, lambda mol: float(wanted.holds(described(mol, wanted.names))), share=True)
