"""Rounds of proposals from the policy and from genetic operators, ranked by a surrogate.

A round is a function of the seed, its number, the scores so far and the policy's weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from rdkit.Chem.Scaffolds import MurckoScaffold

from graphcnf.errors import UserError
from graphcnf.limits import is_number
from graphcnf.molecules.codec import quiet
from graphcnf.optimization.genetics import offspring
from graphcnf.optimization.policy import Policy
from graphcnf.optimization.surrogate import Surrogate

RANK_SHARE = 0.01
"""Steepness of the replay: place k of K has the weight `1 / (RANK_SHARE K + k)`."""

FEWEST = 10
"""Scored molecules that a surrogate needs."""

POSITIVE = {"batch", "first", "every", "parents", "replay", "step_size", "sigma", "most_atoms"}


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search; the defaults were chosen on PMO tasks (docs/optimising.md).

    Attributes:
        batch: Molecules to score in a round.
        first: Molecules to score in the first round.
        every: Rounds from one turn of the policy to the next, in which it proposes and is trained:
            few large batches are cheaper than many small ones.
        sampled: Molecules drawn from the policy in its turn, per molecule of all rounds until the
            next one.
        bred: Offspring per molecule of the batch.
        parents: Best molecules that have offspring.
        replay: Best molecules that the policy learns from.
        steps: Training steps in a round with the policy.
        step_size: Molecules of a step.
        learning_rate: Learning rate of the policy.
        sigma: Nats that the best molecules gain over the prior.
        fitted: Molecules that the surrogate is fitted to, half of them the best ones; 0 for none.
        boldness: Standard deviations that are added to the surrogate's mean.
        per_scaffold: Most molecules of one scaffold among the best; 0 for any number.
        most_atoms: Heavy atoms of the largest offspring.
    """

    batch: int = 20
    first: int = 100
    every: int = 8
    sampled: float = 0.8
    bred: float = 4.0
    parents: int = 200
    replay: int = 200
    steps: int = 4
    step_size: int = 32
    learning_rate: float = 5e-4
    sigma: float = 60.0
    fitted: int = 1000
    boldness: float = 0.5
    per_scaffold: int = 0
    most_atoms: int = 80

    def __post_init__(self):
        for setting in fields(self):
            value, low = getattr(self, setting.name), 1 if setting.name in POSITIVE else 0
            if not (is_number(value) and low <= value < math.inf):
                raise UserError(f"{setting.name} must be a number ≥ {low}, got {value!r}")


@dataclass
class ReplayMemory:
    """Molecules, their sources and scores, in the order in which they were proposed.

    Attributes:
        per_scaffold: Most molecules of one scaffold among the best; 0 for any number.
        smiles: The molecules.
        sources: Source of each: "start", "model" or "genetic".
        scores: Score of each; NaN where it failed.
        known: Set of the molecules.
    """

    per_scaffold: int = 0
    smiles: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    _scaffolds: dict[int, str] = field(default_factory=dict)

    def add(self, smiles: str, source: str, score: float) -> None:
        """Append a molecule that is not there yet."""
        self.known.add(smiles)
        self.smiles.append(smiles)
        self.sources.append(source)
        self.scores.append(score)

    def __len__(self) -> int:
        return len(self.smiles)

    def best(self, count: int) -> np.ndarray:
        """Return the indices of the `count` best scores, best first, on ties the earlier first."""
        scores = np.array(self.scores)
        order = np.argsort(-scores, kind="stable")[: np.isfinite(scores).sum()]
        if not self.per_scaffold:
            return order[:count]
        chosen: list[int] = []
        seen: Counter[str] = Counter()
        for index in order.tolist():
            if len(chosen) == count:
                break
            scaffold = self._scaffold(index)
            seen[scaffold] += 1
            if seen[scaffold] <= self.per_scaffold:
                chosen.append(index)
        return np.array(chosen, dtype=np.int64)

    def _scaffold(self, index: int) -> str:
        if index not in self._scaffolds:
            with quiet():
                self._scaffolds[index] = MurckoScaffold.MurckoScaffoldSmiles(self.smiles[index])
        return self._scaffolds[index]


def rank_probabilities(count: int) -> np.ndarray:
    """Return probabilities (count,), best first (Tripp et al. 2020, arXiv 2006.09191)."""
    weights = 1 / (RANK_SHARE * count + np.arange(count)) if count > 1 else np.ones(count)
    return weights / weights.sum()


class Search:
    """Proposes molecules and learns from their scores.

    Args:
        policy: The model that proposes and learns.
        settings: See `SearchSettings`.
        seed: Seed of everything random.
        start: Molecules to propose first.

    Attributes:
        memory: Molecules that were scored.
        round: Number of the round.
    """

    def __init__(
        self, policy: Policy, settings: SearchSettings, seed: int, start: Sequence[str] = ()
    ):
        self.policy, self.settings, self.seed, self.start = policy, settings, seed, list(start)
        self.memory = ReplayMemory(settings.per_scaffold)
        self.round = 0
        self.surrogate = Surrogate() if settings.fitted else None

    def propose(self, count: int) -> list[tuple[str, str]]:
        """Return at most `count` molecules that were not scored yet, each with its source."""
        settings = self.settings
        waiting = [s for s in self.start if s not in self.memory.known]
        if waiting:
            return [(s, "start") for s in waiting[:count]]
        if not len(self.memory.best(1)):
            wanted = min(count, settings.first)
            return [(s, "model") for s in self._sampled(2 * wanted)[:wanted]]
        wanted = min(count, settings.batch)
        drawn = int(np.ceil(settings.sampled * settings.every * wanted))
        pool: dict[str, str] = {}
        if self.round % settings.every == 0:
            pool |= dict.fromkeys(self._sampled(drawn), "model")
        for smiles in self._bred(int(np.ceil(settings.bred * wanted))):
            pool.setdefault(smiles, "genetic")
        if not pool and self.round % settings.every:  # the operators have found all they can
            pool |= dict.fromkeys(self._sampled(drawn), "model")
        return [(s, pool[s]) for s in self._chosen(list(pool), wanted)]

    def learn(self, proposed: Sequence[tuple[str, str]], scores: Sequence[float]) -> None:
        """End the round.

        Args:
            proposed: Molecules and sources, as from `propose`.
            scores: Score of each; NaN where it failed.
        """
        for (smiles, source), score in zip(proposed, scores, strict=True):
            self.memory.add(smiles, source, score)
        if self.settings.steps and self.round % self.settings.every == 0:
            self._train()
        self.round += 1

    def _random(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.round, purpose))

    def _sampled(self, count: int) -> list[str]:
        """Return new molecules among `count` that the policy draws."""
        if not count:
            return []
        good = [self.memory.smiles[k] for k in self.memory.best(self.settings.replay)]
        drawn = self.policy.sample(count, self.policy.sizes(good), (self.seed, self.round, 1))
        return [s for s in drawn if s not in self.memory.known]

    def _bred(self, count: int) -> list[str]:
        """Return new molecules among `count` offspring of the best."""
        best = self.memory.best(self.settings.parents)
        pairs = self._random(2).choice(best, (2, count), p=rank_probabilities(len(best))).T
        found: dict[str, None] = {}
        for number, (first, second) in enumerate(pairs):
            child = offspring(
                self.memory.smiles[first], self.memory.smiles[second],
                (self.seed, self.round, 3, number), most_atoms=self.settings.most_atoms,
            )  # fmt: skip
            if child is not None and child not in self.memory.known:
                found[child] = None
        return list(found)

    def _chosen(self, pool: Sequence[str], wanted: int) -> list[str]:
        """Return the proposals of the highest upper confidence bound."""
        random = self._random(4)
        scored = self.memory.best(len(self.memory))
        if not self.surrogate or len(pool) <= wanted or len(scored) < FEWEST:
            return [pool[k] for k in random.permutation(len(pool))[:wanted]]
        half = self.settings.fitted // 2
        rest = scored[half:]
        if len(rest) > half:
            rest = rest[random.choice(len(rest), half, replace=False)]
        data = np.concatenate([scored[:half], rest])
        self.surrogate.fit(
            [self.memory.smiles[k] for k in data], np.array(self.memory.scores)[data]
        )
        mean, deviation = self.surrogate.predict(pool)
        order = np.argsort(-(mean + self.settings.boldness * deviation), kind="stable")
        return [pool[k] for k in order[:wanted]]

    def _train(self) -> None:
        """Train the policy on the best molecules, drawn by rank."""
        settings = self.settings
        best = self.memory.best(2 * settings.replay)
        learnable = self.policy.learnable([self.memory.smiles[k] for k in best])
        best = best[np.array(learnable, dtype=bool)][: settings.replay]
        if len(best) < 2:
            return
        scores = np.array(self.memory.scores)[best]
        # Rewards between those of a usual molecule, 0, and the best, 1, whatever the score's unit.
        first = [s for s in self.memory.scores[: settings.first] if np.isfinite(s)]
        span = scores.max() - np.median(first or [scores.min()])
        rewards = np.clip(1 - (scores.max() - scores) / max(span, 1e-9), 0, 1)
        random, p = self._random(5), rank_probabilities(len(best))
        size = min(settings.step_size, len(best))
        for _ in range(settings.steps):
            rows = random.choice(len(best), size, p=p, replace=False)
            self.policy.update([self.memory.smiles[best[k]] for k in rows], rewards[rows])
