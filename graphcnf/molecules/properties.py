"""Similarity of molecules, requirements on properties, features, and conditions of models.

`graphcnf.molecules.descriptors` names the properties and computes them.
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

from graphcnf.chunks import chunked, mapped
from graphcnf.errors import Unavailable, UserError, suggest
from graphcnf.molecules.codec import parse_smarts, quiet
from graphcnf.molecules.descriptors import COUNTS, PROPERTIES, RANGES

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
    """Return a function from a molecule to its Tanimoto similarity to `mol`, in [0, 1].

    Fingerprints are `ECFP4`: Morgan of radius 2, 2,048 bits, without chirality and counts.

    Args:
        mol: A sanitized molecule, as those that the function is called with.
    """
    own = ECFP4.GetFingerprint(mol)
    return lambda other: TanimotoSimilarity(own, ECFP4.GetFingerprint(other))


def similarities(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the Tanimoto similarities of all pairs of two sets of fingerprints.

    Two empty fingerprints have similarity 1.

    Args:
        left: Binary fingerprints, (M, bits) float32.
        right: Binary fingerprints, (N, bits) float32.

    Returns:
        Similarities, (M, N) float32.
    """
    shared = left @ right.T
    union = left.sum(1)[:, None] + right.sum(1) - shared
    return np.divide(shared, union, out=np.ones_like(shared), where=union > 0)


def parse_names(text: str) -> tuple[str, ...]:
    """Return the distinct property names in text such as "qed,sa", in their order.

    Args:
        text: Names of `PROPERTIES`, separated by commas.

    Raises:
        UserError: There is no such property, or RDKit cannot compute it here.
    """
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
    """Compute properties of a molecule.

    Args:
        mol: A sanitized molecule.
        names: Names in `PROPERTIES` or in `predictors`.
        predictors: Functions that predict further properties.

    Returns:
        `{name of a property: its value}`, an integer, or rounded to `DECIMALS` decimals.
    """
    values = {
        name: float(predictors[name]([mol])[0]) if name in predictors else PROPERTIES[name](mol)
        for name in names
    }
    return {k: v if isinstance(v, int) else round(v, DECIMALS) for k, v in values.items()}


def property_table(smiles: Sequence[str], names: Sequence[str], label: str = "") -> np.ndarray:
    """Compute properties of molecules, of many on all cores.

    Args:
        smiles: M valid SMILES.
        names: Names of P properties in `PROPERTIES`.
        label: Name of the progress bar; "" for none.

    Returns:
        (M, P) float64, rounded to `DECIMALS` decimals.
    """
    parts = chunked(smiles, CHUNK)
    few = len(parts) <= 2
    how: dict[str, Any] = {"workers": 1 if few else None, "label": "" if few else label}
    rows = mapped(partial(_rows, tuple(names)), parts, **how)
    return np.concatenate([np.empty((0, len(names))), *rows])


def _rows(names: tuple[str, ...], smiles: Sequence[str]) -> np.ndarray:
    """Return properties of molecules as `property_table` does, computed in this process.

    Args:
        names: Names of P properties.
        smiles: M valid SMILES.

    Returns:
        (M, P) float64.
    """
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
    """A comparison of properties and numbers, such as `qed > 0.6` or `200 <= weight < 500`.

    Attributes:
        parts: Numbers and names of properties, in turn with operators: ("qed", ">", 0.6).
    """

    parts: tuple[str | float, ...]

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read a chain of numbers and property names with `< <= > >= == !=` between them.

        Names are not checked: they may be those of predicted properties, see `check_names`.

        Args:
            text: The comparison, such as "qed > 0.6" or "200 <= weight < 500".

        Raises:
            UserError: The text is no such comparison, names no property, or no value of a property
                meets it.
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
        """Check that every property that is compared can be computed or predicted.

        Args:
            predictors: Functions that predict properties which cannot be computed, by name.

        Raises:
            UserError: A name is neither in `PROPERTIES` nor in `predictors`, or RDKit cannot
                compute the property here.
        """
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
        """Names of the properties that are compared."""
        return [term for term in self.parts[::2] if isinstance(term, str)]

    @property
    def pairs(self) -> list[tuple]:
        """Left side, operator and right side of each comparison, such as ("qed", ">", 0.6)."""
        return list(zip(self.parts[:-1:2], self.parts[1::2], self.parts[2::2], strict=True))

    def holds(self, mol: Chem.Mol, predictors: Predictors = NO_PREDICTORS) -> bool:
        """Return True if the comparison holds for a sanitized molecule.

        Args:
            mol: The molecule.
            predictors: Functions that predict properties that cannot be computed.
        """
        values = properties_of(mol, self.names, predictors)
        return all(_holds(pair, values) for pair in self.pairs)


def _holds(pair: tuple, values: Mapping[str, float]) -> bool:
    """Return True if a comparison (left side, operator, right side) holds.

    Args:
        pair: The comparison; its sides are numbers or names of properties.
        values: Values of the properties by name.
    """
    left, sign, right = pair
    sides = (values[side] if isinstance(side, str) else side for side in (left, right))
    return _OPERATORS[sign](*sides)


def check_possible(
    requirements: Sequence[Requirement], ranges: Mapping[str, tuple[float, float]] = RANGES
) -> None:
    """Raise `UserError` for requirements that exclude each other, as qed > 0.6 and qed < 0.5 do.

    Each property is looked at by itself; comparisons of two properties are left out. If any value
    meets all comparisons of a property with numbers, then one of these does: a number compared
    with, its neighbours by rounding, or an end of the range. So only these are tried.

    Args:
        requirements: Comparisons that are all to hold.
        ranges: Lowest and highest possible value of each property, as in `RANGES` or narrower.

    Raises:
        UserError: No value of a property in its range meets all comparisons, or a comparison of
            two numbers, as in `0.7 < 0.6 < qed`, is false.
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
    """Write the range of a property for a message.

    Args:
        low: Lowest value, -inf for none.
        high: Highest value, inf for none.

    Returns:
        Text such as " from 0 to 1" or " from 0 on"; "" if there is no lowest value.
    """
    if not math.isfinite(low):
        return ""
    return f" from {low} to {high}" if math.isfinite(high) else f" from {low} on"


@dataclass(frozen=True)
class Feature:
    """A number that is reported about molecules: presence of a substructure, or a property.

    Attributes:
        name: Name in tables.
        value: Function from a sanitized molecule to the number.
        share: True if values are 1.0 or 0.0, so that their mean is a share of molecules.
    """

    name: str
    value: Callable[[Chem.Mol], float]
    share: bool

    def mean(self, smiles: Iterable[str]) -> float:
        """Return the mean over valid SMILES; those without a finite value do not count.

        Args:
            smiles: SMILES that RDKit can read.

        Returns:
            The mean, or share of molecules if `share` is True; NaN if none has a finite value.
        """
        with quiet():
            values = np.array([self.value(Chem.MolFromSmiles(s)) for s in smiles], dtype=float)
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else math.nan


def has_pattern(smarts: str) -> Feature:
    """Return the feature "contains a substructure": 1.0 or 0.0.

    Raises:
        UserError: RDKit cannot read the SMARTS.
    """
    pattern = parse_smarts(smarts)
    return Feature(smarts, lambda mol: float(mol.HasSubstructMatch(pattern)), share=True)


def has_element(symbol: str) -> Feature:
    """Return the feature "contains an atom of an element": 1.0 or 0.0.

    Args:
        symbol: Symbol of the element, such as "Si".
    """
    number = Chem.GetPeriodicTable().GetAtomicNumber(symbol)
    return replace(has_pattern(f"[#{number}]"), name=f"with {symbol}")


def has_property(text: str) -> Feature:
    """Return the feature that text names.

    Args:
        text: A property, such as "logp", whose value is the feature; or a comparison, such as
            "qed>=0.6", for the feature 1.0 where it holds and 0.0 elsewhere.

    Raises:
        UserError: The text is neither.
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
    """Translate target values of properties to the conditions of a model.

    Args:
        model: The model.
        properties: `{property: target value}`.

    Returns:
        A value for each condition of the model in its order, None for a property without a target,
        as `sample_records` takes them; None if there are no targets.

    Raises:
        UserError: The model was not trained with a property, or a value is not possible.
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
    """Return a note for each condition more than 3 standard deviations from the training mean.

    A model draws molecules that miss such values, as it has seen hardly any.

    Args:
        conditions: Target value of each property, None for no target.
        tables: "name", "mean" and "deviation" of each property, `GraphModel.conditions`.

    Returns:
        Sentences for the user; [] if there is nothing to say.
    """
    return [
        f"{table['name']}={value:g} lies outside the training data, {away:.1f} standard deviations "
        f"from their mean {table['mean']:.4g}: molecules will miss it"
        for table, value in zip(tables, conditions, strict=True)
        if value is not None and (away := abs(value - table["mean"]) / table["deviation"]) > 3
    ]
