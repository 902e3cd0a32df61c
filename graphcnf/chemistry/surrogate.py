"""Surrogates of measured columns: models that predict what was measured of other molecules.

- *Measured column*: a column of a user's file whose values the package cannot compute, such as
  pIC50.
- *Surrogate* of a column: a Gaussian process that is fitted to the molecules with a value.
- *Members* of a surrogate: the molecules to which it is fitted.
- *Domain* of a surrogate: all molecules that are as similar to a member as members are to each
  other; outside of it, predictions are guesses.

Filters and choices among drawn candidates use surrogates. A model that was fine-tuned on a measured
column keeps the members and values of the column's surrogate in its metadata.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rdkit import Chem

from graphcnf.chemistry.descriptors import PROPERTIES
from graphcnf.chemistry.gaussian_process import GaussianProcess
from graphcnf.chemistry.properties import properties_of
from graphcnf.chunks import chunked
from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.limits import is_number
from graphcnf.molecules.codec import canonical_smiles
from graphcnf.molecules.molecule_model import MoleculeModel
from graphcnf.molecules.validity import CheckedMolecule

if TYPE_CHECKING:
    from graphcnf.graphs.graph_model import GraphModel

MEASURED = "measured"
"""Key of the surrogates' data in the metadata of a model: `Surrogate.to_dict` by column."""

NOISES = (1e-2, 0.1, 0.3, 1.0, 3.0)
"""Candidate variances of the noise: measurements have more of it than computed scores."""

EVIDENCE_SIZE = 1000
"""Largest number of molecules on which the evidence (the marginal likelihood of the values) of a
candidate kernel is computed."""

MOST = 3000
"""Members at most: time grows with the third power of their number."""

CHUNK = 500
"""Molecules that are predicted together."""

FOLDS = 5
"""Folds of the cross-validation."""

INTERVALS = (0.5, 0.8, 0.95)
"""Probabilities of the intervals by which predictions are checked."""

WITHIN = 0.95
"""Share of the members that lie in the domain, each seen from the others."""

USELESS = 0.1
"""Cross-validated R² up to which a column is said to be unpredictable."""

BOUNDS = {"mean": 0.0, "lower": -1.0, "upper": 1.0}
"""Standard deviations that are added to the mean of a prediction, by name of the bound."""


class Quality(NamedTuple):
    """How well a surrogate predicts members that it was not fitted to, by cross-validation.

    Arrays of the N members, (N,), in the unit of the column. The noise of measurements is part of
    the `deviations` of the predictions.
    """

    measured: np.ndarray
    predicted: np.ndarray
    deviations: np.ndarray

    @property
    def r2(self) -> float:
        """Coefficient of determination R²: 1 is perfect, 0 is no better than the mean value."""
        errors = ((self.measured - self.predicted) ** 2).sum()
        return 1 - float(errors / ((self.measured - self.measured.mean()) ** 2).sum())

    def covered(self, probability: float) -> float:
        """Return the share of measured values that lie in their predicted intervals, in [0, 1].

        The share should be about as large as `probability`, else the predicted deviations are
        wrong.
        """
        from scipy.stats import norm

        width = norm.ppf((1 + probability) / 2)
        return float((abs(self.measured - self.predicted) <= width * self.deviations).mean())

    def intervals(self) -> dict[str, float]:
        """Return the shares of measured values in predicted intervals of several probabilities."""
        return {f"{p:.0%}": self.covered(p) for p in INTERVALS}


@lru_cache(maxsize=8)
def _fitted(smiles: tuple[str, ...], values: tuple[float, ...]) -> GaussianProcess:
    """Fit a Gaussian process; the last eight are kept, so that equal surrogates share one."""
    return GaussianProcess(smiles, np.array(values), NOISES, EVIDENCE_SIZE)


@dataclass(frozen=True)
class Surrogate:
    """Prediction of a measured column, called as a function of molecules.

    `surrogate(molecules)` takes M sanitized RDKit molecules and returns their predicted values,
    (M,), in the unit of the column. Stereo marks do not count.

    Attributes:
        bound: What a call returns: "mean", or "lower" or "upper" by one standard deviation.
    """

    name: str
    smiles: tuple[str, ...]
    values: tuple[float, ...]
    bound: str = "mean"

    def __post_init__(self):
        if self.bound not in BOUNDS:
            raise UserError(f"bound must be {', '.join(BOUNDS)}, got {self.bound!r}")

    @classmethod
    def of_values(cls, name: str, values: Mapping[str, float], bound: str = "mean") -> Surrogate:
        """Return the surrogate of molecules with values.

        Of more than 3,000 molecules (`MOST`) it takes 3,000 random ones, always the same of equal
        `values`.
        """
        smiles = sorted(values)
        if len(smiles) > MOST:
            chosen = np.random.default_rng(0).permutation(len(smiles))[:MOST]
            smiles = [smiles[k] for k in sorted(chosen.tolist())]
        return cls(name, tuple(smiles), tuple(float(values[s]) for s in smiles), bound)

    @classmethod
    def of_data(cls, data: Any, column: str, bound: str = "mean") -> Surrogate:
        """Return the surrogate of a measured column; molecules without a value are left out."""
        values = data.targets[:, data.columns.index(column)]
        known = {s: v for s, v in zip(data.smiles, values.tolist(), strict=True) if v == v}
        return cls.of_values(column, known, bound)

    def to_dict(self) -> dict[str, Any]:
        """Return the surrogate's data as JSON values, which `give_surrogate` stores in a model."""
        span = [min(self.values), max(self.values)]
        return {"range": span, "smiles": list(self.smiles), "values": list(self.values)}

    @cached_property
    def identity(self) -> str:
        """SHA-256 (hexadecimal) of everything that determines the predictions of the surrogate."""
        parts = (self.name, self.bound, self.smiles, self.values)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def process(self) -> GaussianProcess:
        """The Gaussian process, fitted to the members when it is first asked for."""
        return _fitted(self.smiles, self.values)

    def __call__(self, molecules: Sequence[Chem.Mol]) -> np.ndarray:
        """Return the predicted values of M sanitized molecules, (M,)."""
        smiles = [canonical_smiles(mol) for mol in molecules]
        if not smiles:
            return np.empty(0)
        if not (shift := BOUNDS[self.bound]):
            return self.process.mean(smiles)
        mean, deviation = self.process.predict(smiles)
        return mean + shift * deviation

    def predictions(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the expected values of M molecules, (M,) float64, in the unit of the column.

        Unlike a call of the surrogate it takes SMILES, and ignores `bound`.
        """
        parts = [self.process.mean(part) for part in chunked(smiles, CHUNK)]
        return np.concatenate([np.empty(0), *parts])

    def quality(self) -> Quality:
        """Measure how well the surrogate predicts, by cross-validation.

        The members are divided into 5 random folds (`FOLDS`). The values of each fold are predicted
        by a Gaussian process that is fitted to the other folds.
        """
        values, count = np.array(self.values), len(self.values)
        fold = np.random.default_rng(0).permutation(count) % FOLDS
        predicted, deviations = np.empty(count), np.empty(count)
        for k in range(FOLDS):
            inside, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
            smiles = [self.smiles[j] for j in rest]
            process = GaussianProcess(smiles, values[rest], NOISES, EVIDENCE_SIZE)
            mean, deviation = process.predict([self.smiles[j] for j in inside])
            predicted[inside] = mean
            deviations[inside] = np.hypot(deviation, process.noise_deviation)
        return Quality(values, predicted, deviations)

    def nearest(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the similarity of each molecule to the nearest member other than itself.

        These are Tanimoto similarities of circular (Morgan) fingerprints; -inf without another
        member.
        """
        found = self.process.similarities(smiles)
        own = np.array(smiles)[:, None] == np.array(self.smiles)
        return np.where(own, -math.inf, found).max(1)

    @cached_property
    def least_similarity(self) -> float:
        """Lowest similarity to the nearest member of a molecule in the domain, in [0, 1].

        It is chosen so that 95 % of the members (`WITHIN`) lie in the domain, each compared with
        the other members.
        """
        return float(np.quantile(self.nearest(self.smiles), 1 - WITHIN))

    def outside(self, smiles: Sequence[str]) -> float:
        """Return the share of molecules outside the domain, in [0, 1]; NaN without molecules."""
        if not len(smiles):
            return math.nan
        return float((self.nearest(smiles) < self.least_similarity).mean())


def sentence(surrogate: Surrogate, quality: Quality) -> str:
    """Say for the user how well a surrogate predicts, and whether it is of use at all.

    A second sentence warns if R² is at most 0.1 (`USELESS`).
    """
    covered = ", ".join(f"{share:.0%} in that of {p}" for p, share in quality.intervals().items())
    found = (
        f"surrogate of {surrogate.name}, {len(surrogate.values):,} molecules: cross-validated R² "
        f"{quality.r2:.2f}; of the values lie in the predicted interval {covered}"
    )
    if quality.r2 > USELESS:
        return found
    return (
        f"{found}. {surrogate.name} cannot be predicted from these molecules: a choice by the "
        "surrogate is hardly better than a random one"
    )


def surrogates_of(model: GraphModel) -> dict[str, Surrogate]:
    """Return the surrogates that `give_surrogate` has stored in a model."""
    found = {}
    for name, stored in dict(model.metadata.get(MEASURED, {})).items():
        try:
            smiles, values = tuple(stored["smiles"]), tuple(stored["values"])
            right = len(smiles) == len(values) >= 2 and len(smiles) <= MOST
            right = right and all(isinstance(text, str) for text in smiles)
            right = right and all(is_number(v) and math.isfinite(v) for v in values)
        except (KeyError, TypeError):
            right = False
        if not right:
            raise UserError(f"the model's data of the surrogate of {name!r} are damaged")
        found[name] = Surrogate(str(name), smiles, values)
    return found


def give_surrogate(model: GraphModel, surrogate: Surrogate) -> None:
    """Store the data of a surrogate in the metadata of a model, in place, to be saved with it."""
    known = dict(model.metadata.get(MEASURED, {}))
    model.metadata[MEASURED] = {**known, surrogate.name: surrogate.to_dict()}


def draw_nearest(
    model: MoleculeModel,
    records: range,
    best_of: int = 1,
    *,
    targets: Sequence[float | None] | None,
    seed: int,
    stereo: bool = False,
    temperature: float = 1.0,
    atoms: tuple[int, int] | None = None,
) -> tuple[PackedGraphs, list[CheckedMolecule]]:
    """Draw records, each the one of `best_of` candidates that is nearest to the targets.

    The other arguments are those of `MoleculeModel.draw_records`.
    """
    candidates = range(records.start * best_of, records.stop * best_of)
    graphs, molecules = model.draw_records(
        candidates, seed=seed, temperature=temperature, atoms=atoms, targets=targets
    )
    if targets is not None and best_of > 1:
        smiles = [molecule.smiles for molecule in molecules]
        chosen = nearest(smiles, targets, model.model, best_of)
        graphs = graphs.subset(chosen)
        molecules = [molecules[k] for k in chosen]
    if stereo:
        molecules = model.with_marks(molecules, records.start, seed, temperature)
    return graphs, molecules


def nearest(
    smiles: Sequence[str | None], targets: Sequence[float | None], model: GraphModel, best_of: int
) -> np.ndarray:
    """Choose from each group of candidates the one whose properties are nearest to the targets.

    Distances are Euclidean, in standard deviations of the training data. An invalid molecule is
    infinitely far. Properties for which the model has a surrogate are predicted, others computed.

    Return indices into `smiles`, which has `best_of` candidates of each group in turn, None for
    invalid ones. Targets are those of `model.conditions`, None for no target.
    """
    surrogates, squares = surrogates_of(model), np.full(len(smiles), math.inf)
    valid = [k for k, text in enumerate(smiles) if text is not None]
    squares[valid] = 0.0
    molecules = [Chem.MolFromSmiles(smiles[k]) for k in valid]
    for table, target in zip(model.conditions, targets, strict=True):
        if target is not None:
            values = _values(molecules, table["name"], surrogates)
            squares[valid] += ((values - target) / table["deviation"]) ** 2
    rows = squares.reshape(-1, best_of)
    return np.arange(len(rows)) * best_of + rows.argmin(1)


def _values(
    molecules: Sequence[Chem.Mol], name: str, surrogates: dict[str, Surrogate]
) -> np.ndarray:
    """Compute or predict a property of molecules."""
    if name in surrogates:
        return surrogates[name](molecules)
    if name not in PROPERTIES:
        raise UserError(
            f"{name} can neither be computed nor predicted: give a file with values, --surrogate "
            f"FILE:{name}"
        )
    return np.array([properties_of(mol, [name])[name] for mol in molecules], dtype=float)
