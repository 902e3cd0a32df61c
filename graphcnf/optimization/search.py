"""Propose molecules to score, and learn from their scores: the method of `optimize`.

`graphcnf.optimization.run` makes a `Search`, and calls `propose` and `learn` by turns until the
budget is spent.

- A *round* is one such turn: some molecules are proposed, scored and learned from.
- The *policy* is a generative model that is trained on the best molecules so far
  (`graphcnf.optimization.policy`). It draws the first proposals, and more in every eighth round.
- *Offspring* are molecules bred from good ones by the crossover and mutation of genetic algorithms.
- The *surrogate* is a Gaussian process, fitted to the scores so far. It predicts the scores of
  drawn molecules and offspring, and chooses those that are proposed. So a round proposes few of the
  molecules that it makes.
- A *failed call* is one in which the score raised an error or returned no finite number.
- With *stereo*, stereoisomers count as different molecules. A *stereo element* is an atom or double
  bond that can have a stereo mark: "@", "@@", "/" or a backslash in SMILES.
- The *fragment* is a part, given by the user, that all proposed molecules contain.

What a round proposes is a function of the seed, the number of the round, the scores so far and the
policy's weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from random import Random
from typing import Annotated

import numpy as np
from mol_ga.graph_ga.gen_candidates import mutate, reproduce
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from graphcnf.arguments import check
from graphcnf.chemistry.alerts import Given
from graphcnf.chemistry.filters import NO_FILTERS, Filters
from graphcnf.chemistry.gaussian_process import GaussianProcess
from graphcnf.design.fragments import MoleculeFragment
from graphcnf.limits import Range
from graphcnf.molecules.codec import (
    MoleculeNotRepresentable,
    canonical_smiles,
    find_dropped,
    parse,
    quiet,
)
from graphcnf.optimization.policy import Policy
from graphcnf.stereo.marks import isomeric_smiles, split_stereo
from graphcnf.stereo.stereo_flow import StereoFlow
from graphcnf.torch_state import own_modes

MUTATION = 0.4
"""Share of the offspring that are mutations of one parent; the others have two parents."""

CHILD_MUTATION = 0.01
"""Probability that a child of two parents is mutated as well."""

ISOMERS = 0.03
"""Share of the offspring, in a search with stereo, that are a parent with one mark changed."""

RANK_SHARE = 0.01
"""Share of the molecules that is favoured when they are drawn by rank; see `rank_probabilities`."""

FEWEST = 10
"""Fewest scored molecules to which a surrogate is fitted; with fewer, proposals are chosen at
random."""

CLIPPED = 0.05
"""Quantile of the scores; lower ones are raised to it before the surrogate is fitted."""

Count = Annotated[int, Range(0, 1_000_000)]
Positive = Annotated[int, Range(1, 1_000_000)]
Number = Annotated[float, Range(0, 1_000_000)]


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search; the defaults were chosen on PMO tasks (docs/optimising.md).

    Attributes:
        first: Molecules that the policy draws for the first round, and for later ones as long as
            all scores are equal.
        every: The policy is trained in every `every`-th round (8: in rounds 0, 8, 16, ...), and
            draws molecules in these, since both are slow. In other rounds it draws molecules only
            if there are too few new offspring, or if no score tells which molecules are good.
        sampled: How many graphs the policy draws in such a round, as a multiple of the molecules
            that are scored until the next such round (`every * batch`).
        parents: So many of the best molecules can be parents.
        replay: So many of the best molecules are those from which the policy learns.
        sigma: Nats that a reward of 1 adds to the log-probability to which the policy is trained.
        fitted: Largest number of molecules to which the surrogate is fitted: half of them the best,
            half drawn from the rest. 0 for no surrogate: proposals are then chosen at random.
        boldness: Standard deviations that are added to the predicted score when proposals are
            chosen. Larger values prefer molecules about which the surrogate is uncertain.
        per_scaffold: Largest number of molecules of one scaffold among the best, to keep them
            diverse; 0 for any number.
    """

    batch: Positive = 20
    first: Positive = 100
    every: Positive = 8
    sampled: Number = 0.8
    bred: Number = 6.0
    parents: Positive = 200
    replay: Positive = 200
    steps: Count = 4
    step_size: Positive = 32
    learning_rate: Number = 5e-4
    sigma: Annotated[float, Range(1, 1_000_000)] = 60.0
    fitted: Count = 1000
    boldness: Number = 0.5
    per_scaffold: Count = 0
    most_atoms: Positive = 80

    def __post_init__(self):
        check("search", asdict(self), type(self))


def offspring(
    first: str, second: str, seed: tuple[int, ...], most_atoms: int = 80, *, stereo: bool = False
) -> str | None:
    """Breed a molecule: a crossover of two molecules, or a mutation of the first.

    The operators are those of the package mol_ga (Jensen 2019, Chem. Sci. 10, 3567; Tripp &
    Hernandez-Lobato 2023, arXiv 2310.09267).

    The child is a function of the seed and the parents; None if it is not one connected molecule
    without radicals, or has too many atoms.

    Args:
        stereo: True to keep the stereo marks of the parents' atoms. Some children are then the
            first parent with one mark changed (`isomer`).
    """
    random = Random(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
    with quiet():
        if stereo and random.random() < ISOMERS:
            return isomer(first, random)
        if random.random() < MUTATION:
            child = mutate(first, random)
        else:
            child = reproduce(first, second, CHILD_MUTATION, random)
        mol = None if child is None else Chem.MolFromSmiles(child)
        if mol is None or not 0 < mol.GetNumAtoms() <= most_atoms:
            return None
        radical = any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
        if radical or len(Chem.GetMolFrags(mol)) > 1:
            return None
        return isomeric_smiles(child) if stereo else canonical_smiles(mol)


def isomer(smiles: str, random: Random) -> str | None:
    """Change a molecule to a stereoisomer: set another mark at one random stereo element.

    The marks of its other stereo elements stay. None if the molecule has no stereo element.
    """
    one, marks = split_stereo(parse(smiles))
    if not marks:
        return None
    k = random.randrange(len(marks))
    other = 3 - marks[k] if marks[k] else random.randint(1, 2)
    return Chem.MolToSmiles(one.with_marks(one.canonical((*marks[:k], other, *marks[k + 1 :]))))


@dataclass
class ReplayMemory:
    """All scored molecules, in the order of the calls; the search chooses parents from the best.

    It also counts how often stereoisomers of one molecule had equal scores. This tells whether
    further isomers are worth a call (`tells_isomers`).

    Attributes:
        smiles: Canonical SMILES of the molecules, isomeric in a search with stereo.
        sources: Where each molecule comes from: "start" (given by the user), "model" (drawn by the
            policy) or "genetic" (offspring).
        scores: Score of each molecule; NaN for failed calls.
        graphs: `{SMILES without stereo marks: score}`, with the score of the first isomer that was
            added.
        isomers: `{True: number, False: number}` of molecules that are a further isomer of a known
            one. True counts those with the same score as the first isomer, False those with another
            score.
    """

    per_scaffold: int = 0
    smiles: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    graphs: dict[str, float] = field(default_factory=dict)
    isomers: Counter[bool] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.smiles)

    def add(self, smiles: str, source: str, score: float) -> None:
        """Append a molecule that is not in the memory yet."""
        self.known.add(smiles)
        self.smiles.append(smiles)
        self.sources.append(source)
        self.scores.append(score)
        if (graph := without_marks(smiles)) in self.graphs:
            first = self.graphs[graph]
            both_failed = math.isnan(score) and math.isnan(first)
            self.isomers[both_failed or score == first] += 1
        self.graphs.setdefault(graph, score)

    @property
    def tells_isomers(self) -> bool:
        """True while the score may distinguish stereoisomers: further isomers are worth a call.

        It becomes False once isomers with equal scores outnumber those with different scores by
        more than 1 % of all calls.
        """
        return self.isomers[True] <= self.isomers[False] + len(self) // 100

    def best(self, count: int) -> np.ndarray:
        """Return at most `count` indices of the molecules with the highest scores, best first.

        Failed calls are left out. Of one scaffold at most `per_scaffold` molecules are returned. Of
        equal scores the earlier one comes first.
        """
        scores = np.array(self.scores)
        order = np.argsort(-scores, kind="stable")[: np.isfinite(scores).sum()]
        if not self.per_scaffold:
            return order[:count]
        chosen: list[int] = []
        seen: Counter[str] = Counter()
        for index in order.tolist():
            scaffold = _scaffold(self.smiles[index])
            seen[scaffold] += 1
            if seen[scaffold] <= self.per_scaffold:
                chosen.append(index)
        return np.array(chosen[:count], dtype=np.int64)


@lru_cache(maxsize=100_000)
def without_marks(smiles: str) -> str:
    """Remove the stereo marks from a molecule: the same SMILES for all stereoisomers."""
    return canonical_smiles(parse(smiles)) if "stereo" in find_dropped(smiles) else smiles


@lru_cache(maxsize=100_000)
def _scaffold(smiles: str) -> str:
    """Return the SMILES of a molecule's Murcko scaffold: its rings and what links them."""
    with quiet():
        return MurckoScaffold.MurckoScaffoldSmiles(smiles)


def rank_probabilities(count: int) -> np.ndarray:
    """Return the probabilities with which ranked molecules are drawn: good ones more often.

    Rank k of K = `count`, from 0 for the best, has a probability proportional to `1 / (0.01 K +
    k)`. So the best 1 % (`RANK_SHARE`) are equally probable within a factor of 2. The weights are
    those of weighted retraining (Tripp et al. 2020, arXiv 2006.09191).
    """
    weights = 1 / (RANK_SHARE * count + np.arange(count)) if count > 1 else np.ones(count)
    return weights / weights.sum()


class Search:
    """Search that proposes molecules and learns from their scores, round by round.

    Call `propose`, score the molecules, and give the scores to `learn`; then begin the next round.

    Args:
        policy: Generative model that draws molecules; `learn` trains it in place.
        start: Canonical SMILES that are proposed first. The fragment and the filters do not apply
            to them.
        stereo: Model that draws stereo marks at the stereo elements of proposals; marks of the
            fragment, and marks that offspring inherit, are kept. None for a search without marks.

    Attributes:
        given: The molecules of `start` and the fragment. A reactive group that one of them has is
            no reason to reject a proposal.
        outcomes: How the molecules that contain the fragment fared with the filters, `{outcome:
            number of molecules}`. The outcome is "" if a molecule passed all filters, else the name
            of the first filter that it failed.
    """

    def __init__(
        self,
        policy: Policy,
        settings: SearchSettings,
        seed: int,
        start: Sequence[str] = (),
        fragment: MoleculeFragment | None = None,
        filters: Filters = NO_FILTERS,
        stereo: StereoFlow | None = None,
    ):
        self.fragment, self.filters, self.stereo = fragment, filters, stereo
        self.policy, self.settings, self.seed, self.start = policy, settings, seed, list(start)
        self.given = Given.of(self.start, fragment and fragment.kept_atoms)
        self.memory = ReplayMemory(settings.per_scaffold)
        self.outcomes = Counter[str]()
        self.round = 0

    @own_modes()
    def propose(self, count: int) -> list[tuple[str, str]]:
        """Propose new molecules to score in this round.

        First come the molecules of `start` that have no score. After these, only the policy
        proposes while no call has succeeded, or while at least `first` scores are known and all of
        them are equal. Otherwise the surrogate chooses among molecules of the policy and offspring.
        Neither memory nor policy is changed; `outcomes` counts what the filters said.

        The source is "start", "model" or "genetic"; [] if none was found.
        """
        settings = self.settings
        waiting = [s for s in self.start if s not in self.memory.known]
        if waiting:
            return [(s, "start") for s in waiting[:count]]
        if self._is_blind:
            wanted = min(count, settings.first)
            # Twice as many are drawn, since some may be invalid or known.
            molecules = self._sampled(2 * wanted)[:wanted]
            return self._marked([(s, "model") for s in molecules])
        wanted = min(count, settings.batch)
        drawn = math.ceil(settings.sampled * settings.every * wanted)
        pool: dict[str, str] = {}
        if self.round % settings.every == 0:
            pool |= dict.fromkeys(self._sampled(drawn), "model")
        for smiles in self._bred(math.ceil(settings.bred * wanted)):
            pool.setdefault(smiles, "genetic")
        # Genetic operators can run out of new molecules, and few offspring contain a fragment.
        least = wanted if self.fragment else 1
        if len(pool) < least and self.round % settings.every:
            pool |= dict.fromkeys(self._sampled(drawn), "model")
        return self._marked([(s, pool[s]) for s in self._chosen(list(pool), wanted)])

    @property
    def _is_blind(self) -> bool:
        """True if no score tells which molecules are good: `propose` then asks the policy alone."""
        scores = np.array(self.memory.scores)
        scores = scores[np.isfinite(scores)]
        return not len(scores) or (len(scores) >= self.settings.first and np.ptp(scores) == 0)

    def _marked(self, proposed: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Draw marks at all unmarked stereo elements of proposals, in a search with stereo."""
        if self.stereo is None:
            return proposed
        found: dict[str, str] = {}
        template, random = self.fragment and self.fragment.marked, self._random(6)
        for smiles, source in proposed:
            with quiet(), suppress(MoleculeNotRepresentable):
                one, marks = split_stereo(parse(smiles))
                given = one.kept_marks(template) if template else [(0,) * len(marks)]
                given = [tuple(g or c for g, c in zip(kept, marks, strict=True)) for kept in given]
                drawn = self.stereo.draw_given(one, given, random)
                if drawn is not None:
                    found.setdefault(Chem.MolToSmiles(one.with_marks(drawn)), source)
        return [(s, found[s]) for s in self._new(found)]

    @own_modes()
    def learn(self, proposed: Sequence[tuple[str, str]], scores: Sequence[float]) -> None:
        """Store the scores of a round's proposals, and end the round.

        In round 0, and then in every `every`-th round, it also trains the policy on the best
        molecules so far, unless `propose` still asks the policy alone.
        """
        for (smiles, source), score in zip(proposed, scores, strict=True):
            self.memory.add(smiles, source, score)
        if self.settings.steps and self.round % self.settings.every == 0 and not self._is_blind:
            self._train()
        self.round += 1

    def _random(self, purpose: int) -> np.random.Generator:
        """Return a random generator for one use in this round."""
        return np.random.default_rng((self.seed, self.round, purpose))

    def _sampled(self, count: int) -> list[str]:
        """Let the policy draw molecules."""
        if not count:
            return []
        seed = (self.seed, self.round, 1)
        if self.fragment:
            return self._new(self.policy.grow(count, self.fragment, seed))
        good = [self.memory.smiles[k] for k in self.memory.best(self.settings.replay)]
        if self._is_blind:  # a pattern is found sooner in large molecules, which have more of them
            good = sorted(good, key=lambda s: parse(s).GetNumAtoms())[-len(good) // 10 :]
        return self._new(self.policy.sample(count, self.policy.sizes(good), seed))

    def _new(self, molecules: Iterable[str]) -> list[str]:
        """Select the molecules that are worth a call of the score."""
        found = [s for s in molecules if s not in self.memory.known]
        if self.stereo is not None:
            found = [
                s for s in found if without_marks(s) not in self.memory.graphs or self._is_isomer(s)
            ]
        if not (self.fragment or self.filters):
            return found
        with quiet():
            return [s for s in found if self._is_wanted(Chem.MolFromSmiles(s))]

    def _is_isomer(self, smiles: str) -> bool:
        """Return True if a molecule is worth a call although an isomer of it has been scored."""
        with quiet(), suppress(MoleculeNotRepresentable):
            return self.memory.tells_isomers and all(split_stereo(parse(smiles))[1])
        return False

    def _is_wanted(self, mol: Chem.Mol) -> bool:
        """Return True if a molecule contains the fragment and passes the filters."""
        held = self.fragment is None or bool(self.fragment.match(mol))
        return held and not self._refusal(mol)

    def _refusal(self, mol: Chem.Mol) -> str:
        """Apply the filters to a molecule, and count the outcome in `outcomes`."""
        refusal = self.filters.refusal(mol, self.given)
        self.outcomes[refusal] += 1
        return refusal

    def _bred(self, count: int) -> list[str]:
        """Breed offspring of the best molecules."""
        best, smiles = self.memory.best(self.settings.parents), self.memory.smiles
        pairs = self._random(2).choice(best, (2, count), p=rank_probabilities(len(best))).T
        most_atoms, stereo = self.settings.most_atoms, self.stereo is not None
        children: dict[str | None, None] = {}
        for number, (first, second) in enumerate(pairs):
            seed = self.seed, self.round, 3, number
            child = offspring(smiles[first], smiles[second], seed, most_atoms, stereo=stereo)
            children[child] = None
        return self._new(s for s in children if s is not None)

    def _chosen(self, pool: Sequence[str], wanted: int) -> list[str]:
        """Choose the proposals with the highest upper confidence bounds of their scores."""
        random, memory = self._random(4), self.memory
        scored = memory.best(len(memory))
        if not self.settings.fitted or len(pool) <= wanted or len(scored) < FEWEST:
            return [pool[k] for k in random.permutation(len(pool))[:wanted]]
        half = max(1, self.settings.fitted // 2)
        rest = scored[half:]
        if len(rest) > half:
            rest = rest[random.choice(len(rest), half, replace=False)]
        data = np.concatenate([scored[:half], rest])
        smiles, scores = [memory.smiles[k] for k in data], np.array(memory.scores)[data]
        # Otherwise a penalty of, say, -1e6 would hide the differences of all other scores.
        scores = np.maximum(scores, np.quantile(scores, CLIPPED))
        mean, deviation = GaussianProcess(smiles, scores).predict(pool)
        order = np.argsort(-(mean + self.settings.boldness * deviation), kind="stable")
        return [pool[k] for k in order[:wanted]]

    def _train(self) -> None:
        """Train the policy for `steps` steps on the best molecules, drawn by rank."""
        settings, memory = self.settings, self.memory
        best = memory.best(2 * settings.replay)
        learnable = self.policy.learnable([memory.smiles[k] for k in best])
        best = best[np.array(learnable, dtype=bool)][: settings.replay]
        if len(best) < 2:
            return
        scores = np.array(memory.scores)[best]
        # Rewards do not depend on the score's unit: 0 for the first round's median, 1 for the best.
        first = [s for s in memory.scores[: settings.first] if np.isfinite(s)]
        span = scores.max() - np.median(first or [scores.min()])
        rewards = np.clip(1 - (scores.max() - scores) / max(span, 1e-9), 0, 1)
        random, p = self._random(5), rank_probabilities(len(best))
        size = min(settings.step_size, len(best))
        for _ in range(settings.steps):
            rows = random.choice(len(best), size, p=p, replace=False)
            self.policy.update([memory.smiles[best[k]] for k in rows], rewards[rows])
