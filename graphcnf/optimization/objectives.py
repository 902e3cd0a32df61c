"""What an optimisation maximizes: scores of molecules, and goals that combine several scores.

`Goal.of` turns whatever a user gives as `score` into a goal. A search calls the goal once for each
proposed molecule.

- A *score* is a function that returns a number for a molecule, such as logP. It may have any unit.
- A *desirability* is a function that maps a score to [0, 1], 1 for the best.
- An *objective* is a score with a desirability and a weight.
- A *table* is how users write an objective: a dictionary, or `[[objective]]` in a TOML file, such
  as `{"score": "logp", "clip": [6, 3], "weight": 2}`.
- A *goal* is the weighted mean of the desirabilities of one or several objectives.
- A *parameter* of a score is text that makes a score of a family, such as the SMILES `to` of
  `similarity`. It stands in the table, too: `{"score": "similarity", "to": "CCO"}`.
- A *task* is a goal of a published benchmark, such as "qed" of PMO.
- An *identity* is a hash that differs between goals that differ. Stored scores of one goal are
  thereby not taken for those of another.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import numbers
import re
import runpy
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from rdkit import Chem
from rdkit.Chem import Descriptors
from rdkit.Chem.rdFingerprintGenerator import (
    GetAtomPairGenerator,
    GetMorganFeatureAtomInvGen,
    GetMorganGenerator,
)
from rdkit.DataStructs import TanimotoSimilarity

from graphcnf.chemistry import descriptors, properties
from graphcnf.compute.foreign import contained
from graphcnf.data_files import read_data
from graphcnf.errors import Unavailable, UserError, suggest
from graphcnf.file_reading import LARGEST_TEXT, expand_user, read_file
from graphcnf.limits import LARGEST_SCORE, is_number
from graphcnf.messages import described
from graphcnf.molecules.codec import UnparsableSmiles, parse, quiet
from graphcnf.optimization import SCORES

Score = Callable[[Chem.Mol], float]


def penalized_logp(mol: Chem.Mol) -> float:
    """Return logP minus SA score minus long-ring penalty, each standardised over ZINC250k.

    SA is the synthetic accessibility, from 1 (easy) to 10. The penalty is by how many atoms the
    longest ring exceeds 6. Source: Gomez-Bombarelli et al. 2018 (arXiv 1610.02415), with the means
    and standard deviations of Kusner et al. 2017 (arXiv 1703.01925). Rings are the smallest ones
    (SSSR). Published code takes a cycle basis of networkx instead, which gives another longest ring
    for 0.6 % of 4,000 molecules of ZINC250k (measured on 2026-11-29).
    """
    longest = max((len(ring) for ring in Chem.GetSSSR(mol)), default=0)
    logp = (descriptors.logp(mol) - 2.4570953396190123) / 1.434324401111988
    sa = (-descriptors.sa(mol) + 3.0525811293166134) / 0.8335207024513095
    cycle = (-max(longest - 6, 0) + 0.0485696876403053) / 0.2860212110245455
    return logp + sa + cycle


def bertz(mol: Chem.Mol) -> float:
    """Return the complexity index of Bertz (1981, J. Am. Chem. Soc. 103, 3599), ≥ 0, no unit."""
    return Descriptors.BertzCT(mol)


_GENERATORS: dict[str, Callable[..., Any]] = {
    "ECFP4": partial(GetMorganGenerator, radius=2),
    "ECFP6": partial(GetMorganGenerator, radius=3),
    "FCFP4": lambda **chirality: GetMorganGenerator(
        radius=2, atomInvariantsGenerator=GetMorganFeatureAtomInvGen(), **chirality
    ),
    "AP": partial(GetAtomPairGenerator, maxDistance=10),
}
CHIRAL = "-chiral"


def similarity(*, to: str, fingerprint: str = "ECFP4") -> Score:
    """Return a score: Tanimoto similarity to the molecule `to`, in [0, 1].

    All fingerprints but "PHCO" count how often a feature occurs.

    Args:
        to: SMILES of the reference molecule.
        fingerprint: "ECFP4", "ECFP6", "FCFP4", "AP" (atom pairs) or "PHCO" (pharmacophores), as in
            GuacaMol. With "-chiral" appended, as in "ECFP4-chiral", stereoisomers have different
            fingerprints; "PHCO" has no such variant.
    """
    try:
        with quiet():
            mol = parse(to)
    except UnparsableSmiles as error:
        raise UserError(str(error)) from None
    if fingerprint == "PHCO":
        # Slow to import.
        from rdkit.Chem.Pharm2D import Generate, Gobbi_Pharm2D

        of = partial(Generate.Gen2DFingerprint, sigFactory=Gobbi_Pharm2D.factory)
    elif (name := fingerprint.removesuffix(CHIRAL)) in _GENERATORS:
        chiral = name != fingerprint
        of = _GENERATORS[name](includeChirality=chiral).GetSparseCountFingerprint
    else:
        known = ", ".join([*_GENERATORS, "PHCO", f"ECFP4{CHIRAL}"])
        raise UserError(f"fingerprint must be one of {known}, got {fingerprint!r}")
    own = of(mol)
    return lambda mol: TanimotoSimilarity(own, of(mol))


def smarts(*, pattern: str) -> Score:
    """Return a score: 1 for molecules that match a SMARTS pattern, else 0.

    The pattern of carboxylic acids is "[#6](=O)[OX2H1]".
    """
    return properties.has_pattern(pattern).value


def formula(*, of: str) -> Score:
    """Return a score: closeness to a molecular formula such as C7H8N2O2, in [0, 1].

    This is the isomer score of GuacaMol, a geometric mean of several `gaussian` values. There is
    one for each element of the formula, which compares its number of atoms (width 1), and one for
    the total number of atoms (width 2). Hydrogens count.

    It is 1 for every isomer of the formula.
    """
    parts = re.findall(r"([A-Z][a-z]?)(\d*)", of)
    if not parts or "".join(map("".join, parts)) != of:
        raise UserError(f"not a formula such as C7H8N2O2: {of!r}")
    wanted: Counter[str] = Counter()
    for element, number in parts:
        _check_element(element)
        wanted[element] += int(number or 1)

    def score(mol: Chem.Mol) -> float:
        there = _composition(mol)
        values = [gaussian(there[element], number, 1.0) for element, number in wanted.items()]
        values.append(gaussian(there.total(), wanted.total(), 2.0))
        return geometric(values, np.ones(len(values)))

    return score


def count(*, element: str) -> Score:
    """Return a score: number of atoms of an element; "H" counts implicit hydrogens."""
    _check_element(element)
    return lambda mol: float(_composition(mol)[element])


def _composition(mol: Chem.Mol) -> Counter[str]:
    """Count the atoms of each element in a molecule, hydrogens included."""
    there = Counter(atom.GetSymbol() for atom in mol.GetAtoms())
    there["H"] += sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    return there


def _check_element(symbol: str) -> None:
    """Check that there is an element with a symbol."""
    try:
        with quiet():  # RDKit logs a stack trace
            Chem.GetPeriodicTable().GetAtomicNumber(symbol)
    except RuntimeError:
        raise UserError(f"no element {symbol!r}") from None


def gaussian(value: float, centre: float, width: float) -> float:
    """Score how near a value is to a wanted one: `exp(-(value - centre)^2 / (2 width^2))`.

    The score is 1 at the centre, and falls to exp(-1/2) = 0.61 at the distance `width`.
    """
    deviation = (value - centre) / width
    # No power, which would raise OverflowError far away.
    return math.exp(-0.5 * deviation * deviation)


def geometric(values: ArrayLike, weights: ArrayLike) -> float:
    """Return the weighted geometric mean: the product of `value^(weight / sum of weights)`.

    It is 0 if a number with a positive weight is 0 or negative.
    """
    values, weights = np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    if (values[weights > 0] <= 0).any():
        return 0.0
    return float(np.exp(np.average(np.log(np.maximum(values, 1e-300)), weights=weights)))


MEANS: dict[str, Callable[..., float]] = {
    "geometric": geometric,
    "arithmetic": lambda values, weights: float(np.average(values, weights=weights)),
}

SHAPES = ("clip", "target", "at_least", "at_most")
"""Keys of a table that choose its desirability function, see `desirability`."""

KEYS = {"score", "name", "weight", "width", *SHAPES}
"""Keys that every table may have; the parameters of its score may be further keys."""

COLUMNS = (
    "call", "record", "smiles", "score", "source", "cluster", "error",
    "route_solved", "route_steps", "route_score",
)  # fmt: skip
"""Columns that tables of results have anyway; an objective of such a name gets "_value" appended.
"""


class Objective(NamedTuple):
    """One objective of a goal, as it is built from a table.

    Attributes:
        name: Name of the column with its scores in tables of results.
        function: The score, called with a sanitized molecule and its SMILES.
        desirability: Map from the score to [0, 1]. If the table names none, it returns the score as
            it is.
    """

    name: str
    function: Callable[[Chem.Mol, str], Any]
    desirability: Callable[[float], float]
    weight: float


BENCHMARKS = {"pmo": ("pmo.toml",), "guacamol": ("pmo.toml", "guacamol.toml")}
"""For each benchmark, the files in this folder that hold its tasks."""

ONLY_PMO = ("isomers_c7h8n2o2", "qed", "drd2", "gsk3b", "jnk3")
"""Tasks in `pmo.toml` that belong to PMO but not to GuacaMol."""


def benchmark_tasks(suite: str) -> dict[str, dict[str, Any]]:
    """Return the tasks of a published benchmark, each as the content of a TOML file of a goal.

    Each is `{"objective": list of tables, "mean": "geometric" or "arithmetic"}`; "mean" may be
    missing from a task with a single objective. `Goal.of("pmo:qed")` makes a goal of a task.
    """
    tables: dict[str, dict[str, Any]] = {}
    for name in BENCHMARKS[suite]:
        tables |= tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return {k: v for k, v in tables.items() if suite == "pmo" or k not in ONLY_PMO}


@dataclass
class Goal:
    """Weighted mean of objectives; called with a molecule, it gives the number that is maximized.

    Users rarely build it: `Goal.of` makes one of a name, a function or a file. A goal can be
    pickled by cloudpickle, so that processes of their own can score molecules.

    Attributes:
        tables: One dictionary per objective. Its keys are `score`, which is a name in `SCORES`, a
            function or "FILE.py:FUNCTION"; the parameters of that score; at most one of `clip`,
            `target`, `at_least` and `at_most`, with `width` for the last three (see
            `desirability`); `weight` (1 if missing); and `name` (the score's own if missing).
        mean: How desirabilities are combined: "geometric" (0 if one of them is 0) or "arithmetic".
        source: Where the tables come from, such as a file's name; error messages begin with it.
        folder: Folder to which files named in the tables are relative.

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
        tables = self.tables if isinstance(self.tables, Sequence) else ()
        if not tables or not all(isinstance(table, Mapping) for table in tables):
            raise UserError(
                f"{self.source}: objectives must be tables such as [{{'score': 'qed'}}], written "
                "[[objective]] in a file"
            )
        if not isinstance(self.mean, str) or self.mean not in MEANS:
            raise UserError(f"{self.source}: mean must be {' or '.join(MEANS)}, got {self.mean!r}")
        self.objectives  # noqa: B018  (raises errors now)

    @classmethod
    def of(cls, score: ScoreLike) -> Goal:
        """Turn whatever a user gives as a score into a goal.

        Args:
            score: A function of a molecule or of a SMILES; one table or a list of tables; a goal;
                or one of these texts:
                - "qed": a name in `SCORES` whose score needs no parameter
                - "mine.py:function": a function in a Python file, which is run
                - "goal.toml": a file with a table `[[objective]]` for each objective and, if
                  wanted, `mean`
                - "surrogate:mine.csv:pIC50": the prediction of a column of measured values;
                  ":lower" or ":upper" may follow, for one standard deviation less or more
                - "molscore:CONFIG": a configuration file or preset of the package MolScore
                - "pmo:qed" or "guacamol:...": a task of a benchmark
        """
        if isinstance(score, Goal):
            return score
        if isinstance(score, Mapping):
            return cls([score])
        if callable(score):
            return cls([{"score": score}], source="score")
        if not isinstance(score, str):
            return cls(score)
        if score.endswith(".toml"):
            return cls._of_file(Path(score))
        suite, _, task = score.partition(":")
        if suite == "surrogate":
            return cls([_surrogate_table(task)], source="--score")
        if suite == "molscore":
            return cls([{"score": "molscore", "config": task}], source="--score")
        if suite not in BENCHMARKS:
            return cls([{"score": score}], source="--score")
        tables = benchmark_tasks(suite)
        if task not in tables:
            raise UserError(f"{suite} has no task {task!r}{suggest(task, list(tables))}")
        return cls(tables[task]["objective"], tables[task].get("mean", "geometric"), task)

    @classmethod
    def _of_file(cls, path: Path) -> Goal:
        """Read a goal from a TOML file: `mean`, and a table `[[objective]]` for each objective."""
        try:
            table = tomllib.loads(read_file(path, LARGEST_TEXT).decode())
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: {error}") from None
        if unknown := [key for key in table if key not in ("mean", "objective")]:
            raise UserError(f"{path}: unknown key {unknown[0]!r}; known: mean, [[objective]]")
        mean = table.get("mean", "geometric")
        return cls(table.get("objective", []), mean, f"{path}: objective", path.parent)

    @cached_property
    def objectives(self) -> list[Objective]:
        """Objectives of the goal, one for each of its tables, in the same order.

        They are built at the first access and not pickled: every process builds its own.
        """
        made: dict[str, Objective] = {}
        for number, table in enumerate(self.tables, 1):
            where = f"{self.source} {number}" if len(self.tables) > 1 else self.source
            try:
                objective = _objective(table, self.folder)
                if objective.name in made:
                    raise UserError(f"a second {objective.name!r}: give it another name")
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            made[objective.name] = objective
        if not any(objective.weight > 0 for objective in made.values()):
            raise UserError(f"{self.source}: no weight is above 0")
        return list(made.values())

    @property
    def is_chiral(self) -> bool:
        """True if a fingerprint of the goal distinguishes stereoisomers, as "ECFP4-chiral" does.

        Only the key `fingerprint` of the tables is looked at. A function of the user that
        distinguishes stereoisomers is not noticed.
        """
        prints = [str(table.get("fingerprint", "")) for table in self.tables]
        return any(name.endswith(CHIRAL) for name in prints)

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "objectives"}

    def __call__(self, mol: Chem.Mol, smiles: str) -> tuple[float, dict[str, float]]:
        """Score a molecule.

        Returns:
            The number to maximize, and `{name of an objective: its score}` with scores in their own
            units. The number is the weighted mean of the desirabilities. With a single objective it
            is the desirability itself, which may leave [0, 1] if the table names none.
        """
        # A copy for each, since a function may change its molecule.
        with contained:
            values = {o.name: _number(o.function(Chem.Mol(mol), smiles)) for o in self.objectives}
        mapped = [o.desirability(values[o.name]) for o in self.objectives]
        if len(mapped) == 1:
            return mapped[0], values
        return MEANS[self.mean](mapped, [o.weight for o in self.objectives]), values

    @cached_property
    def identity(self) -> str:
        """Hash of the goal, 16 hexadecimal digits, by which stored scores are known to be its own.

        It depends on the mean, all tables, the content of files that they name, and the source code
        of functions. It is computed once, since calls may change the state of a score that is an
        object.
        """
        parts = [self.mean]
        for table in self.tables:
            for key, value in sorted(table.items()):
                shown = _score_identity(value, self.folder) if key == "score" else repr(value)
                if is_path(key, value):
                    shown += hashlib.sha256(read_data(self.folder / value)).hexdigest()
                parts.append(f"{key}={shown}")
            parts.append("")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


ScoreLike = str | Callable[..., Any] | Goal | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""What users may give as a score; `Goal.of` says what each form means."""


def _objective(table: Mapping[str, Any], folder: Path) -> Objective:
    """Return the objective of a table."""
    score = table.get("score")
    function: Any = _named(score, folder) if isinstance(score, str) else score
    parameters = parameters_of(function) if isinstance(score, str) and score in SCORES else []
    known = {*KEYS, *parameters}
    if unknown := [key for key in table if key not in known]:
        raise UserError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    weight = table.get("weight", 1)
    if not (_is_finite(weight) and 0 <= weight <= LARGEST_SCORE):
        raise UserError(f"weight must be a number from 0 to {LARGEST_SCORE:g}, got {weight!r}")
    if parameters:
        given = {key: table[key] for key in parameters if key in table}
        if wrong := [key for key, value in given.items() if not isinstance(value, str)]:
            raise UserError(f"{wrong[0]} must be text, got {given[wrong[0]]!r}")
        signature = inspect.signature(function).parameters
        needed = [key for key in parameters if signature[key].default is inspect.Parameter.empty]
        if lacking := [key for key in needed if key not in given]:
            raise UserError(f"{score} needs {lacking[0]!r}, in an [[objective]] of a .toml file")
        for key in [key for key, value in given.items() if is_path(key, value)]:
            given[key] = str(folder / expand_user(given[key]))
        function = function(**given)
    if not callable(function):
        raise UserError(f"score must be a name or FILE.py:FUNCTION, got {score!r}")
    default = score if isinstance(score, str) else getattr(score, "__name__", None)
    name = str(table.get("name") or str(default or "score").rpartition(":")[2])
    name = f"{name}_value" if name in COLUMNS else name
    return Objective(name, _of_both(function), desirability(table), float(weight))


def _surrogate_table(text: str) -> dict[str, str]:
    """Return the table of an objective whose score is the prediction of a measured column."""
    rest, _, last = text.rpartition(":")
    bound, (file, _, column) = {}, (rest, "", last)
    if ":" in rest and last in ("mean", "lower", "upper"):
        bound, (file, _, column) = {"bound": last}, rest.rpartition(":")
    if not file or not column:
        raise UserError(f"surrogate:{text}: write surrogate:mine.csv:pIC50, a file and a column")
    return {"score": "surrogate", "file": file, "column": column, "name": column, **bound}


def is_path(key: str, value: Any) -> bool:
    """Return True if a parameter of a score names a file.

    Only "file" and "config" can name files; a config that does not end in ".json" is a preset of
    MolScore.
    """
    return key == "file" or (key == "config" and str(value).endswith(".json"))


def parameters_of(score: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that a score has in a table, besides `score` itself.

    A function whose arguments are keyword-only makes scores, and these arguments are the
    parameters. A plain function of a molecule has none.
    """
    with suppress(TypeError, ValueError):  # built in
        given = inspect.signature(score).parameters.values()
        return [one.name for one in given if one.kind is one.KEYWORD_ONLY]
    return []


def desirability(table: Mapping[str, Any]) -> Callable[[float], float]:
    """Return the map from a score to [0, 1] that a table chooses.

    The maps are those of GuacaMol (Brown et al. 2019, arXiv 1811.09621, section 7). A table has at
    most one of the keys `clip`, `target`, `at_least` and `at_most`:

    - `clip = [low, high]`: 0 at `low` and beyond, 1 at `high` and beyond, a straight line between.
      Where small scores are good, `low` is the larger number: `clip = [6, 3]`.
    - `target = t`, with `width = w`: the Gaussian `exp(-(x - t)^2 / (2 w^2))` of the score x.
    - `at_least = t`, with `width = w`: 1 for x >= t, below it the same Gaussian.
    - `at_most = t`, with `width = w`: 1 for x <= t, above it the same Gaussian.

    If the table has none of the keys, the function returns the score as it is.
    """
    given = [name for name in SHAPES if name in table]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other")
    if given in ([], ["clip"]) and "width" in table:
        raise UserError("width needs one of target, at_least, at_most")
    if not given:
        return float
    shape, centre, width = given[0], table[given[0]], table.get("width", 0)
    if shape == "clip":
        pair = isinstance(centre, list) and len(centre) == 2 and all(map(_is_finite, centre))
        if not pair or centre[0] == centre[1]:
            raise UserError(f"clip must be [low, high], two different numbers, got {centre!r}")
        low, high = centre
        return lambda value: min(max((value - low) / (high - low), 0.0), 1.0)
    if not _is_finite(centre):
        raise UserError(f"{shape} must be a number, got {centre!r}")
    if not (_is_finite(width) and width > 0):
        raise UserError(f"{shape} needs a width greater than 0, got {table.get('width')!r}")
    flank = {"at_least": min, "at_most": max}.get(shape, lambda value, centre: value)
    return lambda value: gaussian(flank(value, centre), centre, width)


def _is_finite(value: Any) -> bool:
    """Return True for a finite number, False for anything else."""
    return is_number(value) and math.isfinite(value)


def _number(value: Any) -> float:
    """Return a score as a float."""
    with suppress(ValueError, RuntimeError):  # several numbers in an array or a tensor
        value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, numbers.Real):
        raise Unavailable(f"the score is {value!r:.40}, not a number")
    if not math.isfinite(value):
        raise Unavailable(f"the score is {float(value)}, not a finite number")
    if abs(float(value)) > LARGEST_SCORE:
        raise Unavailable(f"the score is {float(value)}, not within ±{LARGEST_SCORE:g}")
    return float(value)


def _named(score: str, folder: Path) -> Callable[..., Any]:
    """Return the score that text stands for."""
    if score in SCORES:
        return SCORES[score]
    file, _, name = score.rpartition(":")
    if not file.endswith(".py"):
        raise UserError(f"no score {score!r}: give FILE.py:FUNCTION or one of {', '.join(SCORES)}")
    path = folder / file
    if not path.is_file():
        raise UserError(f"no file {path}")
    # The file may import modules from its folder, also later, in a function.
    place = str(path.parent.resolve())
    sys.path.insert(0, place)
    try:
        with contained:
            made = runpy.run_path(str(path), run_name=f"graphcnf_score_{path.stem}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UserError(f"{path}: {described(error)}") from None
    finally:
        sys.path.remove(place)
        if place not in sys.path:
            sys.path.append(place)
    if not callable(function := made.get(name)):
        raise UserError(f"{path} has no function {name!r}")
    return function


def _of_both(score: Callable[..., Any]) -> Callable[[Chem.Mol, str], Any]:
    """Return a function of a molecule and its SMILES that calls a score with one of them."""
    first = None
    with suppress(TypeError, ValueError):  # built in
        first = next(iter(inspect.signature(score).parameters.values()), None)
    if first is not None and (
        first.annotation in (str, "str") or first.name in ("smiles", "smi", "smiles_string")
    ):
        return lambda mol, smiles: score(smiles)
    return lambda mol, smiles: score(mol)


def _score_identity(score: Any, folder: Path) -> str:
    """Return text that differs between scores that differ."""
    if isinstance(score, str) and ".py:" in score:
        path = folder / score.rpartition(":")[0]
        return f"{score} {hashlib.sha256(read_data(path)).hexdigest()}"
    if isinstance(score, partial):
        named = _score_identity(score.func, folder)
        return named + _shown((score.args, *sorted(score.keywords.items())))
    if not callable(score):
        return repr(score)
    if isinstance(known := getattr(score, "identity", None), str):
        return known
    code = score if hasattr(score, "__qualname__") else type(score)
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):
        source = f"{code.__module__}.{code.__qualname__}"
    owner = score.__self__ if inspect.ismethod(score) else score
    if not inspect.isfunction(owner):
        return source + _shown(tuple(getattr(owner, "__dict__", {}).items()))
    bound: list[Any] = [owner.__defaults__, *(owner.__kwdefaults__ or {}).items()]
    for cell in owner.__closure__ or ():
        with suppress(ValueError):  # a cell that is filled later
            bound.append(cell.cell_contents)
    # Global variables that it reads, as in a notebook.
    names = [name for name in owner.__code__.co_names if name in owner.__globals__]
    bound += [(name, owner.__globals__[name]) for name in names]
    return source + _shown(tuple(bound))


def _shown(value: Any) -> str:
    """Return text by which a value that is bound to a score is recognised."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return f"<{type(value).__qualname__}>"
