"""Similarity of molecules, comparisons of properties, target values for conditional models.

- *Property*: a number of a molecule, such as logP. Those in `PROPERTIES` are computed
  (`graphcnf.chemistry.descriptors`). Others, such as a measured pIC50, are *predicted* by functions
  that the caller gives (`Predictors`).
- *Requirement*: a comparison such as "qed > 0.6" that a molecule must meet.
- *Feature*: a number that is averaged over molecules for a table: a property, or 1.0 and 0.0 for
  yes and no.
- *Condition*: a property with which a model was trained, so that it can draw molecules near a
  *target value* of it.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.DataStructs import TanimotoSimilarity

from graphcnf.chemistry.descriptors import COUNTS, PROPERTIES, RANGES
from graphcnf.chunks import chunked
from graphcnf.compute.parallel import parallel_map
from graphcnf.errors import Unavailable, UserError, suggest
from graphcnf.molecules.codec import parse_smarts, quiet

if TYPE_CHECKING:
    from graphcnf.graphs.graph_model import GraphModel

CHUNK = 1000
"""Molecules whose properties a process computes at a time."""

DECIMALS = 4
"""Decimals of a property. Requirements apply to the rounded value, which is the one written."""

ECFP4 = GetMorganGenerator(radius=2, fpSize=2048)
"""Morgan fingerprints of radius 2 in 2,048 bits, without chirality and counts."""


ANY = (-math.inf, math.inf)
"""Range of a property that is not computed."""

Predictors = Mapping[str, Callable[[Sequence[Chem.Mol]], np.ndarray]]
"""Functions that predict properties which cannot be computed, such as a measured pIC50, by the name
of the property. Each maps M sanitized molecules to their values, (M,)."""

NO_PREDICTORS: Predictors = {}


def similarity_to(mol: Chem.Mol) -> Callable[[Chem.Mol], float]:
    """Return a function that gives the Tanimoto similarity of any molecule to `mol`, in [0, 1].

    Fingerprints are `ECFP4`: Morgan of radius 2, 2,048 bits, without chirality and counts.
    """
    own = ECFP4.GetFingerprint(mol)
    return lambda other: TanimotoSimilarity(own, ECFP4.GetFingerprint(other))


def similarities(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the Tanimoto similarities (M, N) of two sets of fingerprints, (M, bits) and (N, bits).

    Two empty fingerprints have similarity 1.
    """
    shared = left @ right.T
    union = left.sum(1)[:, None] + right.sum(1) - shared
    return np.divide(shared, union, out=np.ones_like(shared), where=union > 0)


def parse_names(text: str) -> tuple[str, ...]:
    """Read property names in text such as "qed,sa", and check that RDKit can compute them."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in PROPERTIES:
            raise UserError(f"no property {name!r}{suggest(name, list(PROPERTIES))}")
        try:
            properties_of(Chem.MolFromSmiles("C"), [name])
        except Unavailable as error:
            raise UserError(f"{name}: {error}") from None
    return names


def properties_of(
    mol: Chem.Mol, names: Iterable[str], predictors: Predictors = NO_PREDICTORS
) -> dict[str, float]:
    """Compute or predict properties of a molecule.

    A name in both `PROPERTIES` and `predictors` is predicted. Counts are integers, other values
    rounded to 4 decimals (`DECIMALS`).
    """
    values = {
        name: float(predictors[name]([mol])[0]) if name in predictors else PROPERTIES[name](mol)
        for name in names
    }
    return {k: v if isinstance(v, int) else round(v, DECIMALS) for k, v in values.items()}


def property_table(smiles: Sequence[str], names: Sequence[str], label: str = "") -> np.ndarray:
    """Compute P properties of M valid SMILES, (M, P), rounded to 4 decimals (`DECIMALS`).

    More than 2,000 are divided among processes. A progress bar shows `label` if there is one.
    """
    parts = chunked(smiles, CHUNK)
    few = len(parts) <= 2
    how: dict[str, Any] = {"workers": 1 if few else None, "label": "" if few else label}
    rows = parallel_map(partial(_rows, tuple(names)), parts, **how)
    return np.concatenate([np.empty((0, len(names))), *rows])


def _rows(names: tuple[str, ...], smiles: Sequence[str]) -> np.ndarray:
    """Return properties of molecules as `property_table` does, computed in this process."""
    with quiet():
        rows = [[*properties_of(Chem.MolFromSmiles(s), names).values()] for s in smiles]
    return np.array(rows, dtype=np.float64).reshape(-1, len(names))


_OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Requirement:
    """A comparison that a molecule must meet, such as `qed > 0.6` or `200 <= weight < 500`.

    Attributes:
        parts: The comparison from left to right, numbers and names of properties in turn with
            operators: ("qed", ">", 0.6) or (200.0, "<=", "weight", "<", 500.0).
    """

    parts: tuple[str | float, ...]

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a chain of numbers and property names with `< <= > >= == !=` between them.

        A name need not be one of `PROPERTIES`, since it may be that of a predicted property; call
        `check_names` when the predictors are known.
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
        for part in parts[::2]:
            if part not in names and not math.isfinite(float(part)):
                raise UserError(f"{text!r}: {part} is larger than any number; bounds are finite")
        found = cls(tuple(float(p) if _NUMBER.fullmatch(p) else p for p in parts))
        check_possible([found])
        return found

    def check_names(self, predictors: Predictors = NO_PREDICTORS) -> None:
        """Check that every property in the comparison can be computed or predicted."""
        for name in self.names:
            if name in predictors:
                continue
            try:
                parse_names(name)
            except UserError as error:
                raise UserError(
                    f"{error}; to predict a measured column, give its file: --surrogate FILE:{name}"
                ) from None

    def __str__(self) -> str:
        return " ".join(p if isinstance(p, str) else f"{p:.12g}" for p in self.parts)

    @property
    def names(self) -> list[str]:
        """Names of the properties in the comparison, from left to right."""
        return [term for term in self.parts[::2] if isinstance(term, str)]

    @property
    def pairs(self) -> list[tuple]:
        """The single comparisons of a chain, each as (left side, operator, right side).

        `200 <= weight < 500` has two: (200.0, "<=", "weight") and ("weight", "<", 500.0).
        """
        return list(zip(self.parts[:-1:2], self.parts[1::2], self.parts[2::2], strict=True))

    def holds(self, mol: Chem.Mol, predictors: Predictors = NO_PREDICTORS) -> bool:
        """Return True if the comparison holds for a molecule.

        Values are rounded to 4 decimals (`DECIMALS`) first, as they are in files.
        """
        values = properties_of(mol, self.names, predictors)
        return all(_holds(pair, values) for pair in self.pairs)


def _holds(pair: tuple, values: Mapping[str, float]) -> bool:
    """Return True if a comparison (left side, operator, right side) holds."""
    left, sign, right = pair
    sides = (values[side] if isinstance(side, str) else side for side in (left, right))
    return _OPERATORS[sign](*sides)


def check_possible(
    requirements: Sequence[Requirement], ranges: Mapping[str, tuple[float, float]] = RANGES
) -> None:
    """Check that several comparisons do not exclude each other, as qed > 0.6 and qed < 0.5 do.

    Without this check, a search would wait forever for a molecule that meets all of them. Each
    property is looked at by itself, and comparisons of two properties are left out. Only a few
    values have to be tried: if any value meets all comparisons of a property with numbers, so does
    one of the numbers, one of their neighbours by rounding, or an end of the range.

    Properties without an entry in `ranges` may have any value.
    """
    shown = " and ".join(map(str, requirements))
    bounds: dict[str, list[tuple]] = {name: [] for r in requirements for name in r.names}
    for pair in (pair for r in requirements for pair in r.pairs):
        names = [side for side in pair[::2] if isinstance(side, str)]
        if not names and not _holds(pair, {}):
            raise UserError(f"{shown}: {pair[0]:g} {pair[1]} {pair[2]:g} is never so")
        if len(names) == 1:
            bounds[names[0]].append(pair)
    for name, pairs in bounds.items():
        low, high = ranges.get(name, ANY)
        decimals = 0 if name in COUNTS else DECIMALS
        numbers = [round(n, decimals) for p in pairs for n in p[::2] if not isinstance(n, str)]
        near = [round(n + k * 10**-decimals, decimals) for n in numbers for k in (-1, 0, 1)]
        tried = [value for value in (low, *near, high) if low <= value <= high]
        if not any(all(_holds(pair, {name: value}) for pair in pairs) for value in tried):
            raise UserError(f"{shown}: no value of {name}{_span(low, high)} meets this")


def _span(low: float, high: float) -> str:
    """Write the range of a property for a message."""
    if not math.isfinite(low):
        return ""
    return f" from {low} to {high}" if math.isfinite(high) else f" from {low} on"


@dataclass(frozen=True)
class Feature:
    """A number that is averaged over molecules for a table, such as logP or "contains fluorine".

    Attributes:
        share: True if the number is 1.0 for yes and 0.0 for no, so that the mean is a share.
    """

    name: str
    value: Callable[[Chem.Mol], float]
    share: bool

    def mean(self, smiles: Iterable[str]) -> float:
        """Return the mean of the feature over molecules; those without a finite value do not count.

        It is NaN if none counts.
        """
        with quiet():
            values = np.array([self.value(Chem.MolFromSmiles(s)) for s in smiles], dtype=float)
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else math.nan


def has_pattern(smarts: str) -> Feature:
    """Return the feature "contains a substructure": 1.0 or 0.0."""
    pattern = parse_smarts(smarts)
    return Feature(smarts, lambda mol: float(mol.HasSubstructMatch(pattern)), share=True)


def has_element(symbol: str) -> Feature:
    """Return the feature "contains an atom of an element": 1.0 or 0.0."""
    number = Chem.GetPeriodicTable().GetAtomicNumber(symbol)
    return replace(has_pattern(f"[#{number}]"), name=f"with {symbol}")


def has_property(text: str) -> Feature:
    """Return the feature that a text describes: a property, or whether a comparison holds.

    The text is a property such as "logp", or a comparison such as "qed>=0.6", 1.0 where it holds.
    """
    name = text.strip()
    if not set(name) & set("<>=!,"):
        parse_names(name)
        return Feature(name, PROPERTIES[name], share=False)
    wanted = Requirement.parse(text)
    wanted.check_names()
    return Feature(name, lambda mol: float(wanted.holds(mol)), share=True)


def conditions_of(
    model: GraphModel, properties: Mapping[str, float]
) -> tuple[float | None, ...] | None:
    """Translate target values of properties to a list in the order of a model's conditions.

    Such as {"logp": 2.5} to (None, 2.5) for a model of QED and logP; {} to None.
    """
    if not isinstance(properties, Mapping):
        raise UserError(f'properties must be a dict, {{"logp": 2.5}}, got {properties!r}')
    if not properties:
        return None
    known = [table["name"] for table in model.conditions]
    for name, value in properties.items():
        if not known:
            raise UserError(
                f"this model takes no properties: train one that does (zinc250k-properties), or "
                f"select with --require '{name} > ...'"
            )
        if name not in known:
            raise UserError(f"this model was not trained with {name!r}, but {', '.join(known)}")
        if not math.isfinite(value):
            raise UserError(f"{name} must be a number, not {value}")
        low, high = RANGES.get(name, ANY)
        if not low <= value <= high:
            raise UserError(f"{name} must be a number{_span(low, high)}, got {value:g}")
    return tuple(properties.get(name) for name in known)


def outside_training(
    conditions: Sequence[float | None], tables: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return a warning for each target value that the training data hardly ever reach.

    These are values more than 3 standard deviations from the mean of the training data. Molecules
    that a model draws miss such values.
    """
    return [
        f"{table['name']}={value:g} lies outside the training data, {away:.1f} standard deviations "
        f"from their mean {table['mean']:.4g}: molecules will miss it"
        for table, value in zip(tables, conditions, strict=True)
        if value is not None and (away := abs(value - table["mean"]) / table["deviation"]) > 3
    ]
