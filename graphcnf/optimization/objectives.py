"""Goals of an optimisation: one or several objectives, joined by a mean.

An objective is a score (a name, a Python function, `FILE.py:FUNCTION` or a MolScore configuration),
a map from its value to [0, 1], and a weight. A `Goal` can be sent to another process whatever its
scores are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import numbers
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rdkit import Chem

from graphcnf.compute.files import LARGEST_TEXT, read_file, read_json
from graphcnf.errors import UserError
from graphcnf.limits import is_number
from graphcnf.optimization import scores

SHAPES = ("clip", "target", "at_least", "at_most")
"""Maps to [0, 1], of which an objective may have one; all but `clip` need a `width`."""

KEYS = {"score", "name", "weight", "width", *SHAPES}
"""Keys of every objective; scores with parameters have those beside them."""

COLUMNS = ("call", "record", "smiles", "score", "source", "error")
"""Columns of a table of results that no objective may be called like."""

Function = Callable[[Chem.Mol, str], Any]


class NotANumber(ValueError):
    """A score that is no finite number."""


@dataclass(frozen=True)
class Objective:
    """One objective of a goal.

    Attributes:
        name: Column of its value.
        function: Score of a molecule, which it takes as RDKit's object and as SMILES.
        desirability: Map from the score to its worth, in [0, 1] unless it is the identity.
        weight: Weight of the worth in the mean.
    """

    name: str
    function: Function
    desirability: Callable[[float], float]
    weight: float

    @classmethod
    def of_table(cls, table: Mapping[str, Any], where: str, folder: Path) -> Objective:
        """Return the objective in a table.

        Args:
            table: See `Goal`.
            where: Place of the table, for errors.
            folder: Folder that `FILE.py:FUNCTION` is relative to.

        Raises:
            UserError: The table is wrong; the message begins with `where`.
        """
        score = table.get("score")
        parameters = scores.PARAMETERS.get(score, ()) if isinstance(score, str) else ()
        for key in table:
            if key not in KEYS and key not in parameters:
                known = ", ".join(sorted({*KEYS, *parameters}))
                raise UserError(f"{where}: unknown key {key!r}; known are {known}")
        weight = table.get("weight", 1)
        if not is_number(weight) or not 0 <= weight < math.inf:
            raise UserError(f"{where}: weight must be a number ≥ 0, got {weight!r}")
        given = {key: table[key] for key in parameters if key in table}
        try:
            function = _function(score, given, folder)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        default = score if isinstance(score, str) else getattr(score, "__name__", None)
        name = str(table.get("name", default) or "score").rpartition(":")[2]
        name = f"{name}_value" if name in COLUMNS else name
        return cls(name, function, desirability(table, where), float(weight))


@dataclass
class Goal:
    """Objectives and the mean that joins them.

    Attributes:
        tables: One table per objective: `score`, its parameters (see `scores`), one of `SHAPES`,
            `weight` (1) and `name`.
        mean: "geometric" or "arithmetic".
        source: Place of the tables, for errors.
        folder: Folder that `FILE.py:FUNCTION` is relative to.

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
            raise UserError(f"{self.source}: mean must be {known}, got {self.mean!r}")
        self.objectives  # noqa: B018  (errors come now)

    @classmethod
    def of(cls, score: str | Callable | Goal | Mapping | Sequence[Mapping]) -> Goal:
        """Return the goal that a person gives.

        Args:
            score: A function; a table or several; or text: a name in `scores.PLAIN`,
                `FILE.py:FUNCTION`, `FILE.toml` with a table `objective` for each objective and a
                `mean`, or `molscore:CONFIG.json`.

        Raises:
            UserError: It is none of them.
        """
        if isinstance(score, Goal):
            return score
        if isinstance(score, str):
            if score.startswith("molscore:"):
                return _molscore_goal(Path(score.removeprefix("molscore:")))
            if score.endswith(".toml"):
                return _goal_of_file(Path(score))
            return cls([{"score": score}], source="--score")
        if isinstance(score, Mapping):
            score = [score]
        return cls([{"score": score}] if callable(score) else score)

    @cached_property
    def objectives(self) -> list[Objective]:
        """The objectives, made anew in every process."""
        made: dict[str, Objective] = {}
        for number, table in enumerate(self.tables, 1):
            where = f"{self.source} {number}" if len(self.tables) > 1 else self.source
            objective = Objective.of_table(table, where, self.folder)
            if objective.name in made:
                raise UserError(f"{where}: a second {objective.name!r}: give it another name")
            made[objective.name] = objective
        if not any(objective.weight > 0 for objective in made.values()):
            raise UserError(f"{self.source}: no weight is above 0")
        return list(made.values())

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "objectives"}

    def __call__(self, mol: Chem.Mol, smiles: str) -> tuple[float, dict[str, float]]:
        """Return the score of a molecule, and the value of each objective.

        Raises:
            NotANumber: A score returned something else.
            Exception: A score raised it.
        """
        values = {o.name: _number(o.function(mol, smiles)) for o in self.objectives}
        worth = [o.desirability(values[o.name]) for o in self.objectives]
        if len(worth) == 1:
            return worth[0], values
        weights = [o.weight for o in self.objectives]
        return scores.MEANS[self.mean](worth, weights), values

    @cached_property
    def identity(self) -> str:
        """Fingerprint that goals share if they score alike, as far as their code and values tell.

        A function counts with its source and the plain values that are bound to it, and an object
        that is called with its attribute `identity` where it has one. Taken once: an object may
        count its calls.
        """
        parts = [self.mean]
        for table in self.tables:
            for key, value in sorted(table.items()):
                shown = _score_identity(value, self.folder) if key == "score" else repr(value)
                parts.append(f"{key}={shown}")
            parts.append("")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def goal_of_table(table: Mapping[str, Any], source: str, folder: Path = Path()) -> Goal:
    """Return the goal in a table with `objective`, a list of tables, and `mean`.

    Raises:
        UserError: The table has another key, or one of its objectives is wrong.
    """
    for key in table:
        if key not in ("mean", "objective"):
            raise UserError(f"{source}: unknown key {key!r}; known are mean and [[objective]]")
    mean = table.get("mean", "geometric")
    return Goal(table.get("objective", []), mean, f"{source}: objective", folder)


def _goal_of_file(path: Path) -> Goal:
    try:
        table = tomllib.loads(read_file(path, LARGEST_TEXT).decode())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: brackets within brackets without end") from None
    return goal_of_table(table, str(path), path.parent)


def desirability(table: Mapping[str, Any], where: str) -> Callable[[float], float]:
    """Return the map to [0, 1] in an objective's table; the identity where it has none.

    The shapes are those of GuacaMol (Brown et al. 2019, arXiv 1811.09621, section 7): a straight
    line between two values, and Gaussians `exp(-(x - target)^2 / (2 width^2))` with one or two
    flanks.

    Args:
        table: Has at most one of `SHAPES`: `clip = [low, high]`, 0 at `low` (which may be the
            larger one) and 1 at `high`; or `target`, `at_least` or `at_most` with a `width`.
        where: Place of the table, for errors.

    Raises:
        UserError: There is more than one shape, or its numbers are wrong.
    """
    given = [name for name in SHAPES if name in table]
    if not given:
        if "width" in table:
            raise UserError(f"{where}: width needs one of target, at_least, at_most")
        return float
    if len(given) > 1:
        raise UserError(f"{where}: {' and '.join(given)} exclude each other")
    (shape,) = given
    centre, width = table[shape], table.get("width")
    if shape == "clip":
        if not (isinstance(centre, list) and len(centre) == 2 and all(map(_finite, centre))):
            raise UserError(f"{where}: clip must be [low, high], two numbers, got {centre!r}")
        low, high = centre
        if low == high:
            raise UserError(f"{where}: the ends of clip must differ, both are {low!r}")
        return lambda value: min(max((value - low) / (high - low), 0.0), 1.0)
    if not _finite(centre):
        raise UserError(f"{where}: {shape} must be a number, got {centre!r}")
    if width is None or not _finite(width) or width <= 0:
        raise UserError(f"{where}: {shape} needs a width greater than 0, got {width!r}")
    if shape == "at_least":
        return lambda value: scores.gaussian(min(value, centre), centre, width)
    if shape == "at_most":
        return lambda value: scores.gaussian(max(value, centre), centre, width)
    return lambda value: scores.gaussian(value, centre, width)


def _finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)


def _number(value: Any) -> float:
    """Return a score as a float; raise `NotANumber` for anything but one finite number."""
    with suppress(ValueError, RuntimeError):  # several numbers in an array or a tensor
        value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, numbers.Real):
        shown = repr(value)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        raise NotANumber(f"the score is {shown}, not a number")
    if not math.isfinite(value):
        raise NotANumber(f"the score is {float(value)}, not a finite number")
    return float(value)


def _function(score: Any, given: Mapping[str, Any], folder: Path) -> Function:
    """Return the function of a score.

    Args:
        score: A name, `FILE.py:FUNCTION`, or a function.
        given: Parameters of a named score.
        folder: Folder that the file is relative to.
    """
    if callable(score):
        return _adapted(score)
    if not isinstance(score, str):
        raise UserError(f"score must be a name or FILE.py:FUNCTION, got {score!r}")
    if score in scores.PLAIN:
        return _adapted(scores.PLAIN[score])
    if score in scores.MAKERS:
        for key, value in given.items():
            if not isinstance(value, str):
                raise UserError(f"{key} must be text, got {value!r}")
        try:
            return _adapted(scores.MAKERS[score](**given))
        except TypeError:
            key = scores.PARAMETERS[score][0]
            raise UserError(f"{score} needs {key!r}, in an [[objective]] of a .toml file") from None
    path, colon, name = score.rpartition(":")
    if not colon or not path.endswith(".py"):
        known = ", ".join([*scores.PLAIN, *scores.MAKERS])
        raise UserError(f"no score {score!r}: give FILE.py:FUNCTION or one of {known}")
    return _adapted(_loaded(folder / path, name))


def _adapted(function: Callable) -> Function:
    """Return a function of a molecule and its SMILES that passes on one of them.

    Args:
        function: Takes SMILES if its first parameter is called `smiles` or annotated as str, else
            an RDKit molecule.
    """
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):  # built in
        first = None
    if first is not None and (
        first.annotation in (str, "str") or first.name in ("smiles", "smi", "smiles_string")
    ):
        return lambda mol, smiles: function(smiles)
    return lambda mol, smiles: function(mol)


def _loaded(path: Path, name: str) -> Callable:
    """Return a function of a Python file."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"graphcnf_score_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The file may import modules that lie beside it.
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{path}: {type(error).__name__}: {line}") from None
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{path} has no function {name!r}")
    return function


class MolScoreFunction:
    """Score of a MolScore configuration: docking, QSAR and others.

    Thomas et al. 2024, J. Cheminform. 16, 64. The package and what its configurations need are
    installed by the user; every process makes a `MolScore` of its own, in a temporary folder.

    Args:
        config: The JSON file.
    """

    __name__ = "molscore"

    def __init__(self, config: Path):
        self.config = config.resolve()
        self.identity = f"molscore {hashlib.sha256(read_file(self.config)).hexdigest()}"
        self._scorer: Any = None

    def __getstate__(self):
        return {**self.__dict__, "_scorer": None}

    def __call__(self, smiles: str) -> float:
        """Return the score of a SMILES."""
        if self._scorer is None:
            from molscore import MolScore

            folder = tempfile.mkdtemp(prefix="graphcnf-molscore-")
            self._scorer = MolScore(
                model_name="graphcnf", task_config=str(self.config), output_dir=folder
            )
        return self._scorer.score([smiles], flt=True, score_only=True)[0]


def _molscore_goal(path: Path) -> Goal:
    try:
        read_json(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None
    if importlib.util.find_spec("molscore") is None:
        raise UserError("molscore:CONFIG needs the package molscore: pip install molscore")
    return Goal([{"score": MolScoreFunction(path), "name": "molscore"}], source=f"{path}")


def _score_identity(score: Any, folder: Path) -> str:
    """Return text that tells a score from others: source, and the plain values bound to it."""
    if isinstance(score, partial):
        bound = _shown((score.args, *sorted(score.keywords.items())))
        return _score_identity(score.func, folder) + bound
    if callable(score):
        if isinstance(known := getattr(score, "identity", None), str):
            return known
        named = score if hasattr(score, "__qualname__") else type(score)
        try:
            source = inspect.getsource(named)
        except (OSError, TypeError):
            source = f"{named.__module__}.{named.__qualname__}"
        return source + _shown(_bound(score))
    if isinstance(score, str) and ".py:" in score:
        path = folder / score.rpartition(":")[0]
        return f"{score} {hashlib.sha256(read_file(path)).hexdigest()}"
    return repr(score)


def _bound(function: Any) -> tuple:
    """Return the values that a function or an object is called with, besides its arguments."""
    if inspect.ismethod(function):
        return _bound(function.__self__)
    if not inspect.isfunction(function):
        return tuple(sorted(getattr(function, "__dict__", {}).items()))
    cells = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a cell that is filled later
            cells.append(cell.cell_contents)
    keywords = sorted((function.__kwdefaults__ or {}).items())
    return (function.__defaults__, *cells, *keywords)


def _shown(value: Any) -> str:
    """Return numbers and text, also in tuples; of what may change during a search, the type."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    if isinstance(value, frozenset):
        return f"{{{', '.join(sorted(map(_shown, value)))}}}"
    return f"<{type(value).__qualname__}>"
