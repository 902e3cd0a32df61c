"""Draw molecules that contain a fragment, from the model given the fragment.

It is used by `MoleculeFlow.grow` and the command `graphcnf grow`, and by analogues. The nouns:

- *Fragment*: atoms and bonds that every molecule must contain, with its attachment points; see
  `graphcnf.design.fragments`.
- *Particle*: a graph that is drawn with the fragment in it. Its *weight* is the probability of the
  graph under the model, divided by the probability with which the sampler proposed it.
- *Round*: the particles that are drawn together, usually `ROUND`; or as many samples of the model.
- *Group*: the valid molecules of a round that descend from one particle by resampling. They share
  new atoms, so they are not independent.
- *Search*: an iterator over distinct molecules that ends with an error if nothing new is found for
  long: `Growth`, or a sampler of analogues.

There are two ways to draw, and the first round decides between them:

1. If the fragment is common in the model's own samples, these are drawn, and those that contain the
   fragment are yielded.
2. Otherwise particles are drawn: sequential importance sampling with rejection control (Liu, Chen &
   Wong 1998). A molecule is *accepted* with the probability min(1, weight / threshold).

A search may find several molecules for each one that is yielded. This is the *likeliest* so far,
the one with the highest log-probability per atom under the model; the others wait.

All rounds share the threshold, so a round without probable molecules gives none. Molecules whose
weight exceeds the threshold come too seldom, and these are mostly the larger ones. So the weights
are first multiplied by a factor per atom, the *tilt*. It gives the accepted molecules the mean
number of atoms that all weighted particles have.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from rdkit import Chem

from graphcnf.chemistry.alerts import Given
from graphcnf.chemistry.filters import NO_FILTERS, Filters, Funnel
from graphcnf.chemistry.properties import conditions_of
from graphcnf.chemistry.standardize import protonation_hash
from graphcnf.design.additions import AddedLimits, Range
from graphcnf.design.enlargement import with_fragment
from graphcnf.design.fragments import TASKS, MoleculeFragment, read_fragment
from graphcnf.design.particles import Particles, ParticleSampler
from graphcnf.errors import UserError
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.path.path_model import PathModel
from graphcnf.graphs.records import condition_row, one_thread
from graphcnf.limits import (
    MOST_CANDIDATES,
    PARTICLES,
    check_integer,
    check_seed,
    check_temperature,
)
from graphcnf.molecules import codec
from graphcnf.molecules.molecule_model import MoleculeModel
from graphcnf.molecules.validity import strict
from graphcnf.molecules.vocabulary import MoleculeVocabulary
from graphcnf.torch_state import evaluation_mode

ROUND, TRIAL, LARGEST = 256, 64, 2048
"""`ROUND`: particles in a round. `TRIAL`: particles in a trial round before, by which the sampler
learns in which orders of its atoms the model draws the fragment. Where samples of the model are
drawn instead, a round has twice as many as the last one, from `ROUND` up to `LARGEST`, since more
at once take less time each."""

ROUNDS, PATIENCE = 16, 8
"""Last rounds that determine the threshold; consecutive rounds without a new molecule after which
the search ends."""

FINETUNE = "graphcnf finetune macrocycles.smi"
"""Command by which a model learns of larger rings."""

MOST_LEFT_OUT = 1000
"""Consecutive molecules that cannot have a fragment's stereo marks after which a search ends."""

WAITING = 1000
"""Largest number of molecules that have been found and not yielded, since others are likelier."""

CHECKED, COST = 128, 5
"""Samples of the model in which the fragment is looked for at first; and how many samples of the
model may be drawn in place of one particle. So many take up to 1.5 times as long as the particle,
but the molecules among them that contain the fragment are exact draws."""

TILT = 0.5
"""Largest factor for the weight of a molecule per atom, in nats; see `size_tilt`."""

GOLDEN = (math.sqrt(5) - 1) / 2
"""Golden ratio: its first n multiples, modulo 1, are spread evenly over [0, 1) for every n."""


def check_grows(model: GraphModel) -> None:
    """Check that a model draws atom by atom, as fragments and analogues need it."""
    if not isinstance(model, PathModel):
        raise UserError(
            'growing, analogues and optimisation need a model that draws atom by atom ("path")'
        )


def known_rings(model: GraphModel) -> tuple[int, str]:
    """Return the size of the largest trained ring, 0 for none, and how to learn of larger ones."""
    known = 1 + max(model.config["closures"], default=-1)
    return known, (
        f"the model has seen rings of up to {known} atoms: for larger ones, or more of the large "
        f"ones, fine-tune it on macrocycles ({FINETUNE})"
    )


class Result(NamedTuple):
    """A molecule that a search has found.

    Attributes:
        smiles: Its canonical SMILES, without stereo marks unless the function `found` drew them.
        graph: Its graph of n atoms and m bonds, as arrays or lists: atom categories (n,), bonds as
            pairs of atom numbers (m, 2) and bond categories (m,).
        log_weight: From `Growth`: logarithm of its importance weight in nats, where the weights of
            all particles of its round that are this molecule are summed; a sample of the model has
            the weight 1. From `NearAnalogs`: its log-probability in nats.
        ancestor: Number of the particle of the round from which it descends by resampling. Results
            of one round with the same ancestor share new atoms, so they are not independent.
    """

    smiles: str
    graph: tuple[Any, Any, Any]
    log_weight: float
    ancestor: int = 0


class Part(NamedTuple):
    """The fragment that the particles of a round contain, with its sampler.

    Most searches use the same one in every round. Analogues with a retained scaffold vary it.

    Attributes:
        sizes: Probability of each number of atoms of a molecule: entry n is that of n atoms.
    """

    fragment: MoleculeFragment
    sizes: np.ndarray
    sampler: ParticleSampler


class Growth:
    """Sampler of molecules with a fragment; iterate over `molecules()`.

    For a fixed number of molecules see `MoleculeFlow.grow`.

    Args:
        atoms: Range of the number of heavy atoms; None for all that the model draws and that have
            room for the fragment.
        particles: Particles drawn for each molecule that is accepted, 1 to 256 (`ROUND`). With 1,
            every valid one is accepted, whatever its weight.
        properties: Target values such as `{"logp": 2.5}` of the model's conditions.
        given: What the user gave, for structural alerts; None for the fragment.
        likeliest: Molecules found for each one that is yielded, the one with the highest
            log-probability per atom; 1 to yield all.

    Attributes:
        drawn: Number of particles, or of samples of the model, drawn so far.
        placed: Number of these that contain the whole fragment.
        valid: Number of these that are also valid molecules.
        outcomes: Counter of the valid molecules by the filter that refused them, `{refusal:
            number}`; the key "" counts those that pass. See `Filters.refusal`.
        common: True if samples of the model are taken instead of particles, since enough of them
            contain the fragment. All of these have the same weight. None before the first round.
    """

    checks_samples = True  # whether samples of the model may contain the fragment by themselves
    advice = "ask for fewer or for other sizes"

    def __init__(
        self,
        model: GraphModel,
        vocabulary: MoleculeVocabulary,
        fragment: MoleculeFragment,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        atoms: tuple[int, int] | None = None,
        particles: int = PARTICLES,
        filters: Filters = NO_FILTERS,
        properties: Mapping[str, float] | None = None,
        given: Given | None = None,
        likeliest: int = 1,
    ):
        check_grows(model)
        check_integer("particles", particles, 1, ROUND)
        check_integer("likeliest", likeliest, 1, MOST_CANDIDATES)
        check_temperature(temperature)
        check_seed(seed)
        self.model, self.vocabulary = model, vocabulary
        self.seed, self.temperature, self.particles = seed, temperature, particles
        self.likeliest = likeliest
        wanted = conditions_of(model, properties or {})
        self.condition_values = None if wanted is None else condition_row(wanted).to(model.device)
        filters.check_sizes(model.max_nodes)
        self._funnel = Funnel(filters, PATIENCE, given or Given(fragment.kept_atoms))
        self.outcomes = self._funnel.outcomes
        self.drawn = self.placed = self.valid = 0
        self.text, self.marked = fragment.text, fragment.marked
        self._check_rings(fragment)
        self._whole = self._part(fragment, atoms)
        self.common: bool | None = None if self.checks_samples else False
        self._yielded: list[int] = []  # numbers of atoms
        # By round: log-weights and mean numbers of atoms of groups of molecules that share new
        # atoms, (2, groups).
        self._groups: list[np.ndarray] = []

    def _check_rings(self, fragment: MoleculeFragment) -> None:
        """Check that the model knows rings as large as those that a fragment closes."""
        closed = fragment.fragment.closed_ring
        if not closed:
            return
        known, cure = known_rings(self.model)
        if closed > known:
            raise UserError(
                f"{fragment.text[:80]!r} closes a ring of {closed} or more atoms, but {cure}"
            )
        self.advice += f"; {cure}"

    def molecules(self) -> Generator[Result]:
        """Yield new molecules; two that differ in their protonation alone count as the same."""
        found: Iterator[Result] = self._funnel.distinct(map(self._accepted, count()))
        for one in self._likeliest(found) if self.likeliest > 1 else found:
            self._yielded.append(len(one.graph[0]))
            yield one
        advice = self.advice if self.valid else "the model cannot grow from it"
        raise UserError(f"{self.text[:80]!r}: {self._funnel.ending(size=ROUND)}; {advice}")

    @property
    def found(self) -> int:
        """Number of distinct molecules found so far, of which the likeliest were yielded."""
        return len(self._funnel.seen)

    def _likeliest(self, found: Iterator[Result]) -> Iterator[Result]:
        """Yield the likeliest molecules of a search, one whenever `likeliest` more are found."""
        flow, waiting = MoleculeModel(self.model), []
        while True:
            new = list(islice(found, self.likeliest))
            with one_thread(self.model.device):
                nats = flow.log_prob([one.smiles for one in new])
            waiting += [(nat / len(one.graph[0]), one) for nat, one in zip(nats, new, strict=True)]
            if not waiting:
                return
            waiting.sort(key=lambda pair: -pair[0])
            yield waiting.pop(0)[1]
            del waiting[WAITING:]

    def attempts(self, n: int) -> list[str | None]:
        """Draw n molecules for a benchmark, which counts failures and repetitions, too.

        There are no filters. An attempt draws `particles` particles and chooses one of them with a
        probability proportional to its weight. Samples of the model that happen to contain the
        fragment are never used.

        None where the chosen particle lacks a part of the fragment, or is no valid molecule.
        """
        part = self._whole
        if not part.sampler.seen:
            self._draw(part, 0, TRIAL)
        made: list[str | None] = []
        for number in count(1):
            if len(made) >= n:
                break
            made += self._attempts_of_round(part, number)
        return made[:n]

    def _attempts_of_round(self, part: Part, number: int) -> list[str | None]:
        """Draw a round of attempts, see `attempts`."""
        tries = ROUND // self.particles
        particles = self._draw(part, number, tries * self.particles)
        log_weights = particles.log_weights.cpu().numpy().reshape(tries, self.particles)
        random = np.random.default_rng((self.seed, number, 5))
        best = (log_weights + random.gumbel(size=log_weights.shape)).argmax(1)
        packed = particles.graphs.to_packed()
        made: list[str | None] = []
        for k in range(tries):
            known = None
            if np.isfinite(log_weights[k, best[k]]):
                known = self._molecule(part, packed.graph(k * self.particles + int(best[k])))
            made.append(known and known[0])
        return made

    def _accepted(self, number: int) -> list[tuple[int, Result]]:
        """Draw a round of particles, and accept some of its new molecules."""
        seen, found = self._funnel.seen, self._round(number).values()
        new = [one for one in found if protonation_hash(one.smiles) not in seen]
        return [(protonation_hash(one.smiles), one) for one in self._choose(new, number)]

    def accuracy(self) -> dict[str, float]:
        """Return how well the molecules so far represent the model given the fragment.

        {} if the molecules are samples of the model, which are exact, or before any was yielded:

        - "effective": effective sample size of all weighted particles, the number of independent
          molecules of equal weight that would determine a mean as well;
        - "atoms": mean number of atoms of the molecules yielded;
        - "atoms_weighted": weighted mean of all particles, an estimate of the model's. If it
          differs much from "atoms", the yielded molecules are biased in size.
        """
        if not self._groups or not self._yielded:
            return {}
        weights, mean = self._weighted()
        return {
            "effective": float(weights.sum() ** 2 / (weights**2).sum()),
            "atoms": float(np.mean(self._yielded)),
            "atoms_weighted": mean,
        }

    def _weighted(self) -> tuple[np.ndarray, float]:
        """Return the weights of the groups of all rounds, and the mean number of atoms."""
        log_weights, atoms = np.concatenate(self._groups, 1)
        weights = np.exp(log_weights - log_weights.max())
        return weights, float(weights @ atoms / weights.sum())

    def _part(self, fragment: MoleculeFragment, atoms: tuple[int, int] | None) -> Part:
        """Build the sampler of a fragment, and the size distribution of its molecules."""
        part, count, most = (fragment.fragment, len(fragment.fragment), self.model.max_nodes)
        grows = bool((part.valence + part.attachments).any())
        least = count + max(part.fewest_free, int(grows))
        low, high = atoms or (least, most if grows else least)
        if atoms is not None:
            self.model.size_prior.check_range(*atoms)
        added = fragment.added.atoms or (0, most)
        least, high = max(least, count + added[0]), min(high, most, count + added[1])
        low = max(low, least)
        if low > high:
            raise UserError(
                f"{fragment.text[:80]!r} has {count} atoms and needs {least} or more in all, but "
                f"molecules of up to {high} are drawn"
            )
        sizes = self.model.size_prior.probabilities((low, high), self.condition_values)
        part = part.to(self.model.device)
        sampler = ParticleSampler(
            with_fragment(self.model, part),
            part,
            temperature=self.temperature,
            condition_values=self.condition_values,
        )
        return Part(fragment, sizes, sampler)

    def _part_of(self, number: int) -> Part:
        """Return the fragment and sampler for a round; subclasses may vary it."""
        return self._whole

    def _accepts(self, smiles: str, molecule: Chem.Mol) -> bool:
        """Return True if a molecule with the fragment is wanted; subclasses may restrict it."""
        return True

    def _round(self, number: int) -> dict[str, Result]:
        """Draw a round of particles, or of samples of the model if the fragment is common."""
        part = self._part_of(number)
        if self.common is None:
            checked = self._samples(part, 0, CHECKED)
            holding = [self._molecule(part, graph) for graph in checked]
            self.common = sum(map(bool, holding)) * self.particles * COST >= CHECKED
        if not self.common and not part.sampler.seen:
            self._draw(part, 0, TRIAL)
        found: dict[str, Result] = {}
        count = min(ROUND << min(number, 20), LARGEST) if self.common else ROUND
        self.drawn += count
        if self.common:
            graphs = self._samples(part, number + 1, count)
            log_weights, ancestor = np.zeros(count), list(range(count))
            placed = np.arange(count)
        else:
            particles = self._draw(part, number + 1, ROUND)
            packed = particles.graphs.to_packed()
            graphs = [packed.graph(k) for k in range(ROUND)]
            log_weights, ancestor = particles.log_weights.cpu().numpy(), particles.ancestor.tolist()
            placed = np.flatnonzero(np.isfinite(log_weights))
            self.placed += len(placed)
        with codec.quiet():
            for k in placed:
                graph = graphs[k]
                known = self._molecule(part, graph)
                if known is None:
                    continue
                smiles, molecule, places = known
                self.valid += 1
                self.placed += self.common
                if not self._accepts(smiles, molecule):
                    continue
                if not self._funnel.passes(molecule):
                    continue
                weight = float(log_weights[k]) - (0.0 if self.common else math.log(places))
                if smiles in found:
                    weight = float(np.logaddexp(weight, found[smiles].log_weight))
                found[smiles] = Result(smiles, graph, weight, ancestor[k])
        return found

    def _molecule(
        self, part: Part, graph: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> tuple[str, Chem.Mol, int] | None:
        """Convert a graph to a molecule, if it is valid and contains the fragment."""
        with codec.quiet():
            smiles = strict(codec.graph_to_molecule(*graph, self.vocabulary))
            if smiles is None:
                return None
            molecule = Chem.MolFromSmiles(smiles)
            places = part.fragment.places(molecule)
        return (smiles, molecule, places) if places else None

    def _samples(
        self, part: Part, number: int, count: int
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Draw graphs from the model, whether or not they contain the fragment."""
        random = np.random.default_rng((self.seed, number, 4))
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        sizes = torch.from_numpy(self._sizes(part, number, count))
        rows = None if self.condition_values is None else self.condition_values.expand(count, -1)
        with one_thread(self.model.device):
            drawn = self.model.sample(
                sizes,
                temperature=self.temperature,
                generator=generator,
                condition_values=rows,
            )
        packed = drawn.to_packed()
        return [packed.graph(k) for k in range(count)]

    def _draw(self, part: Part, number: int, count: int) -> Particles:
        """Draw particles, and let the sampler of the part learn from them."""
        random = np.random.default_rng((self.seed, number))
        generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
        sizes = self._sizes(part, number, count)
        with one_thread(self.model.device):
            particles = part.sampler.draw(torch.from_numpy(sizes), generator)
        part.sampler.learn(particles)
        return particles

    def _sizes(self, part: Part, number: int, count: int) -> np.ndarray:
        """Return numbers of atoms for a draw, with the part's size distribution."""
        start = np.random.default_rng((self.seed, 0, 3)).random()
        places = (start + (number * count + np.arange(count)) * GOLDEN) % 1
        cumulative = np.cumsum(part.sizes)
        return np.searchsorted(cumulative, places * cumulative[-1], side="right")

    def _choose(self, found: list[Result], number: int) -> list[Result]:
        """Choose the accepted molecules of a round by rejection control, in random order."""
        random = np.random.default_rng((self.seed, number + 1, 1))
        if self.common:
            return [found[k] for k in random.permutation(len(found))]
        if self.particles == 1 or not found:
            return found
        # At most one of the molecules that share new atoms, so that all are independent.
        groups: dict[int, list[Result]] = {}
        for one in found:
            groups.setdefault(one.ancestor, []).append(one)
        weights = [np.array([one.log_weight for one in group]) for group in groups.values()]
        sums = np.array([np.logaddexp.reduce(own) for own in weights])
        atoms = np.array([
            np.exp(own - total) @ [len(one.graph[0]) for one in group]
            for own, total, group in zip(weights, sums, groups.values(), strict=True)
        ])  # fmt: skip
        self._groups.append(np.stack([sums, atoms]))
        # Accept one of `particles` particles, counting only those that are within the limits on
        # what is added and that pass the filters. Within very tight limits, where a round has fewer
        # than `particles`, accept one in a round: the search would take long otherwise.
        recent = self._groups[-ROUNDS:]
        within = max(self.valid / self.placed, self.particles / ROUND)
        passed = self.outcomes[""] / max(self.outcomes.total(), 1)
        count = within * passed * len(recent) * ROUND / self.particles
        log_weights, sizes = np.concatenate(recent, 1)
        tilt = size_tilt(log_weights, sizes, count, self._weighted()[1])
        threshold = log_threshold(log_weights + tilt * sizes, count)
        taken = []
        for group, weight in zip(groups.values(), sums + tilt * atoms, strict=True):
            if math.log(random.random()) < weight - threshold:
                ranks = [one.log_weight + random.gumbel() for one in group]
                taken.append(group[int(np.argmax(ranks))])
        return [taken[k] for k in random.permutation(len(taken))]


def log_threshold(log_weights: np.ndarray, count: float) -> float:
    """Return the threshold c at which `count` molecules are accepted on average.

    A molecule is accepted with the probability min(1, weight / exp(c)); c is chosen so that these
    probabilities sum to `count`.

    c in nats is -inf, which accepts all, if there are no more than `count` molecules.

    Examples:
        >>> round(math.exp(log_threshold(np.log([4.0, 1.0, 1.0]), 2)), 6)
        2.0
    """
    if count >= len(log_weights):
        return -math.inf
    w = np.sort(log_weights)
    # If the n largest terms are 1, the others have to sum to count - n.
    below = np.logaddexp.accumulate(w)[::-1]
    n = np.arange(min(len(w), math.ceil(count)))
    c = below[n] - np.log(count - n)
    return float(c[np.argmax(w[::-1][n] <= c)])


def size_tilt(log_weights: np.ndarray, atoms: np.ndarray, count: float, mean: float) -> float:
    """Find a factor exp(b * atoms) of the weights that gives accepted molecules a wanted size.

    The coefficient b is found by bisection between -0.5 and 0.5 (`TILT`). If no b in this range
    gives the mean, b is near the end of the range that comes closest.

    It is in nats per atom, positive if larger molecules must come more often than by their weights.

    Args:
        log_weights: Logarithms of the weights of G groups of molecules, nats.
        atoms: Mean number of atoms of each group.
        count: Mean number of groups to accept, as in `log_threshold`.
        mean: Wanted mean number of atoms of these.
    """
    low, high = -TILT, TILT
    for _ in range(12):
        middle = (low + high) / 2
        tilted = log_weights + middle * atoms
        taken = np.exp(np.minimum(tilted - log_threshold(tilted, count), 0))
        below = taken @ atoms < mean * taken.sum()
        low, high = (middle, high) if below else (low, middle)
    return middle


def grow(
    flow: MoleculeModel,
    fragment: str,
    n: int,
    *,
    task: str,
    stereo: bool,
    added_atoms: Range | None = None,
    added_rings: Range | None = None,
    added_rotatable: Range | None = None,
    alerts: str | Sequence[str] | None = None,
    filters: Filters = NO_FILTERS,
    likeliest: int | None = None,
    **options: Any,
) -> tuple[PackedGraphs, list[str | None]]:
    """Draw n distinct molecules that contain a fragment; it does the work of `MoleculeFlow.grow`.

    With `stereo`, marks of the fragment are kept and the others drawn; molecules that cannot have
    the kept marks are left out. For `task` see `graphcnf.design.fragments.TASKS`, for `alerts`
    `Filters.with_alerts`, for the rest `Growth`; `likeliest` is 4 for "link" by default.
    """
    added = AddedLimits(added_atoms, added_rings, added_rotatable)
    options["filters"] = filters.with_alerts(alerts)
    part = read_fragment(fragment, task, flow.vocabulary, added)
    options["likeliest"] = TASKS[task].likeliest if likeliest is None else likeliest
    return first_found(flow, Growth(flow.model, flow.vocabulary, part, **options), n, stereo)


def first_found(
    flow: MoleculeModel, search: Any, n: int, stereo: bool
) -> tuple[PackedGraphs, list[str | None]]:
    """Draw the first n molecules of a search, with stereo marks if wanted.

    The model is in evaluation mode meanwhile.
    """
    check_integer("n", n)
    with evaluation_mode(flow.model):
        first = list(islice(found(flow, search, stereo), n))
    return PackedGraphs.from_lists([one.graph for one in first]), [one.smiles for one in first]


def found(flow: MoleculeModel, search: Any, stereo: bool = True) -> Iterator[Result]:
    """Yield the molecules of a search, with stereo marks if the model has stereo.

    Marks that must be kept (those of the fragment, or of the molecule whose analogues are drawn)
    are kept, and the others are drawn given these. Molecules that cannot have the kept marks are
    left out.

    The search need only have `molecules()`, `seed`, `temperature` and `marked` (a `StereoTemplate`
    with the marks to keep, or None).
    """
    if not stereo or flow.stereo is None:
        yield from search.molecules()
        return
    left_out = 0
    for number, one in enumerate(search.molecules()):
        molecule = Chem.MolFromSmiles(one.smiles)
        (smiles,) = flow.stereo.marked(
            [Chem.MolToSmiles(molecule)],
            [molecule],
            seed=search.seed,
            first=number,
            temperature=search.temperature,
            template=search.marked,
        )
        if smiles is not None:
            yield one._replace(smiles=smiles)
        left_out = 0 if smiles is not None else left_out + 1
        if left_out == MOST_LEFT_OUT:
            raise UserError(
                f"{left_out:,} molecules in a row cannot have the stereo marks: leave some out"
            )
