"""What a molecule is worth: one or several objectives, joined by a mean.

An objective is a score (a name, a Python function, or `FILE.py:FUNCTION`), a map from its value to
[0, 1] and a weight. A `Goal` can be sent to another process whatever its scores are.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import numbers
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from rdkit import Chem

from graphcnf.compute.files import LARGEST_TEXT, read_file
from graphcnf.errors import UserError
from graphcnf.optimization import scores
from graphcnf.optimization.desirability import FORMS, desirability

KEYS = {"score", "name", "weight", "width", *FORMS}
"""What every objective may have; scores with parameters have those beside them."""

COLUMNS = ("call", "record", "smiles", "score", "source", "error")
"""Names that a table of results has already."""

Function = Callable[[Chem.Mol, str], Any]


@dataclass(frozen=True)
class Objective:
    """One objective of a goal.

    Attributes:
        name: Column of its value.
        function: Value of a molecule, given with its SMILES.
        desire: Map from the value to what it is worth.
        weight: Of that in the mean.
    """

    name: str
    function: Function
    desire: Callable[[float], float]
    weight: float


@dataclass
class Goal:
    """Objectives and how they are joined.

    Attributes:
        tables: One table per objective: `score`, what else that takes (see `scores`), a form of
            `desirability`, `weight` (1) and `name`.
        mean: "geometric" or "arithmetic".
        source: Named in errors.

    Raises:
        UserError: A table is wrong; the message names it.

    Examples:
        >>> goal = Goal([{"score": "qed"}, {"score": "logp", "clip": [6, 3], "weight": 2}])
        >>> value, parts = goal(Chem.MolFromSmiles("CCO"), "CCO")
        >>> round(value, 3), round(parts["qed"], 3)
        (0.741, 0.407)
    """

    tables: Sequence[Mapping[str, Any]]
    mean: str = "geometric"
    source: str = "objective"
    folder: Path = field(default_factory=Path)

    def __post_init__(self):
        tables = self.tables
        if not isinstance(tables, Sequence) or not all(isinstance(t, Mapping) for t in tables):
            raise UserError(
                f"{self.source}: objectives are tables, as [{{'score': 'qed'}}], in a file "
                "[[objective]]"
            )
        if not tables:
            raise UserError(f"{self.source}: no objective")
        if self.mean not in scores.MEANS:
            known = " or ".join(scores.MEANS)
            raise UserError(f"{self.source}: mean must be {known}, not {self.mean!r}")
        self.objectives  # noqa: B018  (errors come now)

    @classmethod
    def of(cls, score: str | Callable | Goal | Sequence[Mapping]) -> Goal:
        """A goal from what a person gives: see `parse_goal`; a function; tables; a goal.

        Raises:
            UserError: It is none of them.
        """
        if isinstance(score, Goal):
            return score
        if isinstance(score, str):
            return parse_goal(score)
        if isinstance(score, Mapping):
            score = [score]
        return cls([{"score": score}] if callable(score) else score)

    @cached_property
    def objectives(self) -> list[Objective]:
        """The objectives, made where they are used."""
        made: list[Objective] = []
        for number, table in enumerate(self.tables, 1):
            where = f"{self.source} {number}" if len(self.tables) > 1 else self.source
            objective = _objective(table, where, self.folder)
            if objective.name in {other.name for other in made}:
                raise UserError(f"{where}: a second {objective.name!r}: give it another name")
            made.append(objective)
        if not any(objective.weight > 0 for objective in made):
            raise UserError(f"{self.source}: no weight is above 0")
        return made

    def __getstate__(self):
        state = dict(self.__dict__)
        state.pop("objectives", None)
        return state

    def __call__(self, mol: Chem.Mol, smiles: str) -> tuple[float, dict[str, float]]:
        """The score of a molecule, and the value of each objective.

        Raises:
            NotANumber: A score returned something else.
            Exception: What a score raised.
        """
        values = {o.name: as_number(o.function(mol, smiles)) for o in self.objectives}
        worth = [o.desire(values[o.name]) for o in self.objectives]
        if len(worth) == 1:
            return worth[0], values
        weights = [o.weight for o in self.objectives]
        return scores.MEANS[self.mean](worth, weights), values

    @cached_property
    def identity(self) -> str:
        """Fingerprint: goals that score alike share it, as far as can be seen from outside.

        A function counts with its source and the plain values that are bound to it, and an object
        that is called with its attribute `identity` where it has one. Taken once: an object may
        count its calls.
        """
        parts = [self.mean]
        for table in self.tables:
            for key, value in sorted(table.items()):
                shown = _identity(value, self.folder) if key == "score" else repr(value)
                parts.append(f"{key}={shown}")
            parts.append("")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class NotANumber(ValueError):
    """A score is no finite number."""


def as_number(value: Any) -> float:
    """A score as a float.

    Raises:
        NotANumber: It is none, or not finite.
    """
    size = getattr(value, "size", 1)
    if callable(size):  # a tensor of torch
        size = getattr(value, "numel", size)()
    if hasattr(value, "item") and size == 1:
        value = value.item()
    if not isinstance(value, numbers.Real):
        shown = repr(value)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        raise NotANumber(f"the score is {shown}, not a number")
    if not math.isfinite(value):
        raise NotANumber(f"the score is {float(value)}, not a finite number")
    return float(value)


def parse_goal(text: str) -> Goal:
    """The goal that a word of the command line names.

    Args:
        text: A name in `scores.PLAIN`, `FILE.py:FUNCTION`, `FILE.toml` with a table `objective`
            for each objective and a `mean`, or `molscore:CONFIG.json`.

    Raises:
        UserError: There is no such score.
    """
    if text.startswith("molscore:"):
        from graphcnf.optimization.molscore import molscore_goal

        return molscore_goal(text.removeprefix("molscore:"))
    if text.endswith(".toml"):
        return read_goal(Path(text))
    return Goal([{"score": text}], source="--score")


def read_goal(path: Path) -> Goal:
    """The goal in a TOML file.

    Raises:
        UserError: The file is missing, or no goal.
    """
    try:
        table = tomllib.loads(read_file(path, LARGEST_TEXT).decode())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: brackets within brackets without end") from None
    return goal_of_table(table, str(path), path.parent)


def goal_of_table(table: Mapping[str, Any], source: str, folder: Path = Path()) -> Goal:
    """A goal from a table with `objective`, a list of tables, and `mean`.

    Raises:
        UserError: It has something else.
    """
    for key in table:
        if key not in ("mean", "objective"):
            raise UserError(f"{source}: unknown key {key!r}; known are mean and [[objective]]")
    mean = table.get("mean", "geometric")
    return Goal(table.get("objective", []), mean, f"{source}: objective", folder)


def _objective(table: Mapping[str, Any], where: str, folder: Path) -> Objective:
    score = table.get("score")
    parameters = scores.PARAMETERS.get(score, ()) if isinstance(score, str) else ()
    for key in table:
        if key not in KEYS and key not in parameters:
            known = ", ".join(sorted({*KEYS, *parameters}))
            raise UserError(f"{where}: unknown key {key!r}; known are {known}")
    weight = table.get("weight", 1)
    numeric = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not numeric or not 0 <= weight < math.inf:
        raise UserError(f"{where}: weight must be a number from 0 on, not {weight!r}")
    given = {key: table[key] for key in parameters if key in table}
    try:
        function = _function(score, given, folder)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    name = table.get("name", score if isinstance(score, str) else getattr(score, "__name__", None))
    name = str(name or "score").rpartition(":")[2]
    name = f"{name}_value" if name in COLUMNS else name
    return Objective(name, function, desirability(table, where), float(weight))


def _function(score: Any, given: Mapping[str, Any], folder: Path) -> Function:
    if callable(score):
        return _adapted(score)
    if not isinstance(score, str):
        raise UserError(f"score must be a name or FILE.py:FUNCTION, not {score!r}")
    if score in scores.PLAIN:
        plain = scores.PLAIN[score]
        return lambda mol, smiles: plain(mol)
    if score in scores.MAKERS:
        for key, value in given.items():
            if not isinstance(value, str):
                raise UserError(f"{key} must be text, not {value!r}")
        try:
            made = scores.MAKERS[score](**given)
        except TypeError:
            key = scores.PARAMETERS[score][0]
            raise UserError(f"{score} needs {key!r}, in an [[objective]] of a .toml file") from None
        return lambda mol, smiles: made(mol)
    path, colon, name = score.rpartition(":")
    if not colon or not path.endswith(".py"):
        known = ", ".join([*scores.PLAIN, *scores.MAKERS])
        raise UserError(f"no score {score!r}: give FILE.py:FUNCTION or one of {known}")
    return _adapted(_load(folder / path, name))


def _load(path: Path, name: str) -> Callable:
    """A function of a Python file."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    spec = spec_from_file_location(f"graphcnf_score_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    # The file may import what lies beside it.
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        line = " ".join(str(error).split())
        raise UserError(f"{path}: {type(error).__name__}: {line}") from None
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{path} has no function {name!r}")
    return function


def _adapted(function: Callable) -> Function:
    """With molecule and SMILES as arguments: a first parameter `smiles` or of type str gets text.

    Args:
        function: Takes an RDKit molecule or a SMILES.
    """
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):  # built in
        first = None
    text = first is not None and (
        first.annotation in (str, "str") or first.name in ("smiles", "smi", "smiles_string")
    )
    if text:
        return lambda mol, smiles: function(smiles)
    return lambda mol, smiles: function(mol)


def _identity(value: Any, folder: Path) -> str:
    if callable(value):
        if isinstance(known := getattr(value, "identity", None), str):
            return known
        if isinstance(value, partial):
            return _identity(value.func, folder) + _plain(value.args) + _named(value.keywords)
        named = value if hasattr(value, "__qualname__") else type(value)
        try:
            source = inspect.getsource(named)
        except (OSError, TypeError):
            source = f"{named.__module__}.{named.__qualname__}"
        return source + _bound(value)
    if isinstance(value, str) and ".py:" in value:
        path = folder / value.rpartition(":")[0]
        return f"{value} {hashlib.sha256(read_file(path)).hexdigest()}"
    return repr(value)


def _bound(value: Any) -> str:
    """The plain values that a function or an object is called with, besides its arguments."""
    if inspect.ismethod(value):
        return _bound(value.__self__)
    if inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        return _plain((value.__defaults__, *cells)) + _named(value.__kwdefaults__ or {})
    return _named(getattr(value, "__dict__", {}))


def _named(values: Mapping[str, Any]) -> str:
    return _plain(tuple(sorted((name, _plain(value)) for name, value in values.items())))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # it is filled later
        return False


def _plain(value: Any) -> str:
    """Numbers and text, also in tuples; of what may change in the course of a search, the type."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_plain, value))})"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(_plain, value)))}}}"
    return f"<{type(value).__qualname__}>"
