"""Rounds of proposals: from the policy and from genetic operators, sifted by a surrogate.

A round is a function of the seed, its number, what was scored so far and the policy's weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from graphcnf.errors import UserError
from graphcnf.optimization.genetics import offspring
from graphcnf.optimization.memory import Memory, rank_probabilities
from graphcnf.optimization.policy import Policy
from graphcnf.optimization.surrogate import Surrogate

FEWEST = 10
"""Scored molecules below which a surrogate says nothing."""

POSITIVE = {"batch", "first", "every", "parents", "replay", "step_size", "sigma", "most_atoms"}


@dataclass(frozen=True)
class SearchSettings:
    """What a search does; the defaults were chosen on PMO tasks (docs/optimising.md).

    Attributes:
        batch: Molecules to score in a round.
        first: Molecules to score in the first round.
        every: The policy proposes and is trained in one of so many rounds: few large batches are
            cheaper than many small ones.
        sampled: Molecules drawn from the policy for each one that is asked for in those rounds.
        bred: Offspring for each one of the batch.
        parents: Best molecules that have offspring.
        replay: Best molecules that the policy learns from.
        steps: Training steps in a round with the policy.
        step_size: Molecules of a step.
        learning_rate: Of the policy.
        sigma: Nats that the best molecules gain over the prior.
        fitted: Molecules that the surrogate is fitted to, half of them the best ones; 0 for none.
        boldness: Standard deviations that count for a proposal.
        per_scaffold: Most molecules of one scaffold among the best; 0 for any number.
        most_atoms: Larger molecules are not asked for.
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
        for field in fields(self):
            value, low = getattr(self, field.name), 1 if field.name in POSITIVE else 0
            if not low <= value < math.inf:
                raise UserError(f"{field.name} must be a number from {low} on, not {value}")


class Search:
    """Proposes molecules and learns from their scores.

    Args:
        policy: Proposes and learns.
        settings: See `SearchSettings`.
        seed: Of everything random.
        start: Molecules to ask for first.
    """

    def __init__(
        self, policy: Policy, settings: SearchSettings, seed: int, start: Sequence[str] = ()
    ):
        self.start = list(start)
        self.policy, self.settings, self.seed = policy, settings, seed
        self.memory = Memory(settings.per_scaffold)
        self.round = 0
        self.surrogate = Surrogate() if settings.fitted else None
        self.sources: list[str] = []

    def propose(self, count: int) -> list[tuple[str, str]]:
        """Molecules that were not scored yet, at most `count`, and where each comes from."""
        settings = self.settings
        waiting = [s for s in self.start if s not in self.memory.known]
        if waiting:
            return [(s, "start") for s in waiting[:count]]
        first = not len(self.memory.best(1))
        wanted = min(count, settings.first if first else settings.batch)
        if first:
            found = self._sampled(2 * wanted)
            return [(s, "model") for s in found[:wanted]]
        pool: dict[str, str] = {}
        drawn = int(np.ceil(settings.sampled * settings.every * wanted))
        if self.round % settings.every == 0:
            pool |= dict.fromkeys(self._sampled(drawn), "model")
        for smiles in self._bred(int(np.ceil(settings.bred * wanted))):
            pool.setdefault(smiles, "genetic")
        if not pool and self.round % settings.every:  # the operators have found all they can
            pool |= dict.fromkeys(self._sampled(drawn), "model")
        chosen = self._sift(list(pool), wanted)
        return [(s, pool[s]) for s in chosen]

    def _sampled(self, count: int) -> list[str]:
        if not count:
            return []
        good = [self.memory.smiles[k] for k in self.memory.best(self.settings.replay)]
        sizes = self.policy.sizes(good)
        drawn = self.policy.sample(count, sizes, (self.seed, self.round, 1))
        return [s for s in drawn if s not in self.memory.known]

    def _bred(self, count: int) -> list[str]:
        best = self.memory.best(self.settings.parents)
        random = np.random.default_rng((self.seed, self.round, 2))
        p = rank_probabilities(len(best))
        mothers, fathers = random.choice(len(best), (2, count), p=p)
        found: dict[str, None] = {}
        for k in range(count):
            one, other = (self.memory.smiles[best[n]] for n in (mothers[k], fathers[k]))
            seed = self.seed, self.round, 3, k
            child = offspring(one, other, seed, most_atoms=self.settings.most_atoms)
            if child is not None and child not in self.memory.known:
                found[child] = None
        return list(found)

    def _sift(self, pool: Sequence[str], wanted: int) -> list[str]:
        random = np.random.default_rng((self.seed, self.round, 4))
        scored = self.memory.best(len(self.memory))
        if not self.surrogate or len(pool) <= wanted or len(scored) < FEWEST:
            return [pool[k] for k in random.permutation(len(pool))[:wanted]]
        half = self.settings.fitted // 2
        rest = scored[half:]
        if len(rest) > half:
            rest = rest[random.choice(len(rest), half, replace=False)]
        chosen = np.concatenate([scored[:half], rest])
        self.surrogate.fit(
            [self.memory.smiles[k] for k in chosen], np.array(self.memory.scores)[chosen]
        )
        mean, spread = self.surrogate.predict(pool)
        order = np.argsort(-(mean + self.settings.boldness * spread), kind="stable")
        return [pool[k] for k in order[:wanted]]

    def learn(self, scored: Sequence[tuple[str, str, float]]) -> None:
        """Take molecules with their source and score (NaN where there is none), and end the round.

        Args:
            scored: What `propose` gave, and the scores.
        """
        for smiles, source, score in scored:
            self.memory.add(smiles, score)
            self.sources.append(source)
        if self.settings.steps and self.round % self.settings.every == 0:
            self._train()
        self.round += 1

    def _train(self) -> None:
        best = self.memory.best(2 * self.settings.replay)
        smiles = [self.memory.smiles[k] for k in best]
        inside = self.policy.learnable(smiles)
        best = best[np.array(inside, dtype=bool)][: self.settings.replay]
        if len(best) < 2:
            return
        scores = np.array(self.memory.scores)[best]
        # Rewards by rank and value: 1 for the best, and a scale of their own for any score.
        span = scores.max() - np.median(
            [s for s in self.memory.scores[: self.settings.first] if np.isfinite(s)]
            or [scores.min()]
        )
        rewards = np.clip(1 - (scores.max() - scores) / max(span, 1e-9), 0, 1)
        random = np.random.default_rng((self.seed, self.round, 5))
        p = rank_probabilities(len(best))
        size = min(self.settings.step_size, len(best))
        for _ in range(self.settings.steps):
            rows = random.choice(len(best), size, p=p, replace=False)
            self.policy.update([self.memory.smiles[best[k]] for k in rows], rewards[rows])
