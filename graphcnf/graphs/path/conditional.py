"""Graphs that hold a fragment, drawn node by node with weights that make up for the force.

Every walk goes through the nodes of one graph. At each node the network's probabilities are known
before anything is drawn, so the probability of a step to each neighbouring node of the fragment is
known, and so is that of a free node within what is possible. One of these ways is chosen, and the
weight of the walk is multiplied by what was left to choose from: sequential importance sampling,
with resampling where the weights differ too much (Doucet, de Freitas & Gordon 2001, chapter 1). The
weights are proper for the probability that the model gives to a depth-first code together with the
place of the fragment in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graphcnf.flows.transform import Context
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.path.fragment import Fragment
from graphcnf.graphs.path.network import Nodes
from graphcnf.graphs.path.placement import FREE, Progress, Steps

BRANCH = 4
"""Free nodes in a branch, roughly: how many branches are still to come decides how often one is
begun. Without influence on what the weights aim at."""

EXPECTED = 3.0
"""Nats that the first node of a component costs where it is expected, at most."""

RESAMPLE = 0.03
"""Likely walks take the place of unlikely ones where the effective number of walks falls below this
share of them."""

FLATTEN = 0.3
"""Power of the weights by which walks are resampled; the rest of the weight stays with them."""

UNSEEN = 1.5
"""Nats that a node of the fragment costs as long as nothing is known."""

RARE = 0.01
"""Least preference for a way, where another one has 1."""


@dataclass
class Walks:
    """Graphs with a fragment, P of them.

    Attributes:
        graphs: The graphs.
        log_weights: Logs of their weights, -inf for a walk that came to a dead end, (P,) float64.
        came_from: After which node each node of the fragment came, see `Progress.source`, (P, U).
        prices: Log-probability of each node of the fragment given the step back, (P, U) float64.
        ancestor: Number of the walk that each one shares what was drawn with, (P,) long: walks of
            different ancestors are independent.
    """

    graphs: GraphBatch
    log_weights: Tensor
    came_from: Tensor
    prices: Tensor
    ancestor: Tensor


class Experience:
    """Proposal learnt from earlier walks, without influence on the target of the weights.

    Args:
        size: Number U of nodes of the fragment.
        device: Of the tables.

    Attributes:
        guide: Preferences for the order of the fragment's nodes, by `Progress.source` and node,
            (U + 2, U).
        costs: Expected log-probability of each node of the fragment, (U,): walks that have placed
            more of it than others are compared with them by it.
    """

    def __init__(self, size: int, device=None):
        self.counts = torch.zeros(size + 2, size, dtype=torch.float64, device=device)
        self.sums = self.counts.new_zeros(size)
        self.seen = 0.0

    @property
    def guide(self) -> Tensor:
        """See the class."""
        most = self.counts.amax(1, keepdim=True)
        table = torch.where(most > 0, self.counts / most.clamp(min=1e-9), 1.0)
        return table.clamp(min=RARE)

    @property
    def costs(self) -> Tensor:
        """See the class."""
        return (self.sums - UNSEEN) / (self.seen + 1)

    def prefer_order(self) -> None:
        """Begin with the nodes in the order of their numbers."""
        size = len(self.sums)
        number = torch.arange(size - 1, device=self.sums.device)
        self.counts[size, 0] += 1
        self.counts[number, number + 1] += 1

    def learn(self, walks: Walks) -> None:
        """Count the walks by their weights; what was learnt before counts half from now on."""
        if not torch.isfinite(walks.log_weights).any():
            return
        # Flattened: one walk with most of the weight would say nothing about the others.
        share = (walks.log_weights / 4).softmax(0)
        self.counts, self.sums, self.seen = self.counts / 2, self.sums / 2, self.seen / 2
        count, size = walks.came_from.shape
        node = torch.arange(size, device=share.device).expand(count, -1)
        index = walks.came_from.flatten(), node.flatten()
        self.counts.index_put_(
            index, share[:, None].expand(-1, size).flatten().contiguous(), accumulate=True
        )
        prices = torch.where(torch.isfinite(walks.prices), walks.prices, 0.0)
        self.sums = self.sums + share @ prices
        self.seen += 1


@dataclass
class _Drawn:
    """Categories of a node, and logs of what each variable was drawn from, (R, V) each."""

    x: Tensor
    masses: Tensor


class ConditionalWalk:
    """Draws graphs with a fragment from a model.

    Args:
        steps: `PathModel` of the model.
        fragment: What the graphs have to hold.
        temperature: Below 1 for more probable graphs.
    """

    def __init__(self, steps, fragment: Fragment, *, temperature: float = 1.0):
        self.steps, self.network = steps, steps.network
        self.fragment, self.temperature = fragment, temperature
        self.closures = steps.code.entries - 1
        self.fixed = bool((fragment.kinds.sum(1) == 1).all())

    @torch.no_grad()
    def draw(self, sizes: Tensor, experience: Experience, generator: torch.Generator) -> Walks:
        """Draw graphs.

        Args:
            sizes: Number of nodes of each of P graphs, (P,) long.
            experience: Of earlier walks with this fragment.
            generator: On the CPU.

        Raises:
            UserError: a size is too small for the fragment.
        """
        network = self.network
        device = network.initial.device
        count, largest = len(sizes), int(sizes.max())
        sizes = sizes.to(device)
        mask = torch.arange(largest, device=device) < sizes[:, None]
        state = network.start(Context(mask.clone()))
        progress = Progress(self.fragment, sizes, network.support)
        known = torch.zeros(
            count, largest, len(network.cardinalities), dtype=torch.long, device=device
        )
        self.generator = generator
        self.guide, costs = experience.guide, experience.costs
        log_weights = torch.zeros(count, dtype=torch.float64, device=device)
        place = torch.arange(count, device=device)
        ancestor = place.clone()
        codes, final, origin = known.clone(), log_weights.clone(), ancestor.clone()
        came_from, prices = progress.came_from.clone(), progress.prices.clone()
        for i in range(largest):
            step = state.step()
            assert step is not None
            order = step.at[0]
            hidden = step.hidden[order.argsort()]
            progress.look()
            log_weights = log_weights + self._step(hidden, i, progress, known)
            state.update(known[order, i])
            # Complete graphs and dead ends leave.
            log_weights = log_weights.masked_fill((sizes == i + 1) & ~progress.complete, -math.inf)
            ends = (sizes == i + 1) | torch.isinf(log_weights)
            at = place[ends]
            mask[at] = torch.arange(largest, device=device) < sizes[ends, None]
            codes[at] = known[ends]
            final[at], origin[at] = log_weights[ends], ancestor[ends]
            came_from[at], prices[at] = progress.came_from[ends], progress.prices[ends]
            rows = (~ends).nonzero()[:, 0]
            if not len(rows):
                break
            place = place[rows]
            ahead = (log_weights + progress.unplaced.double() @ costs)[rows]
            chosen = self._resample(ahead)
            if chosen is not None:
                mean = (FLATTEN * ahead).logsumexp(0) - math.log(len(rows))
                log_weights[rows] += mean - FLATTEN * ahead
                rows = rows[chosen]
            if chosen is not None or bool(ends.any()):
                known, log_weights, sizes = known[rows], log_weights[rows], sizes[rows]
                ancestor = ancestor[rows]
                progress.take(rows)
                state.take(rows)
            if self.fixed:
                # As long as only the fragment is there, nothing that was drawn is shared.
                alone = i < (~progress.unplaced).sum(1)
                ancestor = torch.where(alone, place, ancestor)
        return Walks(self.steps.code.decode(codes, mask), final, came_from, prices, origin)

    def _resample(self, log_weights: Tensor) -> Tensor | None:
        """Return the walks to go on with, (P,) long; None where the weights hardly differ."""
        if not torch.isfinite(log_weights).any():
            return None
        count, share = len(log_weights), log_weights.softmax(0)
        if float(1 / share.square().sum()) > RESAMPLE * count:
            return None
        # By a power of the weights, so that more than a few go on. Systematic resampling: one
        # uniform number, equal distances.
        share = (FLATTEN * log_weights).softmax(0)
        places = (torch.arange(count, device=share.device) + self._uniform(1)) / count
        below = share.cumsum(0)
        return torch.searchsorted(below, places * below[-1], right=True).clamp(max=count - 1)

    def _step(self, hidden: Nodes, i: int, progress: Progress, known: Tensor) -> Tensor:
        """Draw node i of every walk into `known`; the log of what the weights are to be times."""
        count = len(known)
        everyone = torch.arange(count, device=known.device)
        free = self._draw(hidden, everyone, progress.mask)
        back = free.x[:, 0]
        fits = progress.free_fits(back[:, None])[:, 0]
        log_free = free.masses.sum(1).masked_fill(~fits, -math.inf)

        parts, logs, choice = [], [], []
        forward = progress.steps(self.closures)
        if forward is not None:
            drawn = self._draw_steps(hidden, forward, progress)
            logs.append(drawn.masses.sum(1))
            # Every node of the fragment has to come some time, at much the same price: what counts
            # is when, which the step back says, and which of those that come after the same one.
            rest = drawn.masses[:, 1:].sum(1)
            rest = rest + self.guide[progress.source(forward), forward.node].log()
            same = forward.owner * (int(forward.back.max()) + 1) + forward.back
            choice.append(drawn.masses[:, 0] + rest - _logsumexp_by(same, rest))
            parts.append((forward, drawn))
        uniform = self._uniform(count)
        entry = progress.entries(back, uniform, self.guide, self.closures) if i == 0 or bool(
            progress.not_entered.any()
        ) else None  # fmt: skip
        if entry is not None:
            steps, among = entry
            drawn = self._draw_steps(hidden, steps, progress)
            # The step back came with the free node, from all that were possible.
            drawn.masses[:, 0] = free.masses[steps.owner, 0]
            own = drawn.masses.sum(1)
            logs.append(own + among)
            free_left = progress.free[steps.owner].double().clamp(min=1).log()
            impossible = torch.isinf(own)
            # Where the model expects something else it is better to wait.
            unlikely = (drawn.masses[:, 1:].sum(1) + EXPECTED).clamp(max=0)
            waiting = (drawn.masses[:, 0] - free_left + unlikely).masked_fill(impossible, -math.inf)
            choice.append(waiting)
            parts.append((steps, drawn))
        log_choice = log_free + self._begins(progress, back)

        owner = torch.cat([everyone, *(s.owner for s, _ in parts)])
        contributions = torch.cat([log_free, *logs])
        proposal = torch.cat([log_choice, *choice])
        total = _logsumexp_by(owner, proposal, count, every=True)
        gumbel = -torch.log(-torch.log(self._uniform(len(owner)).clamp(1e-300, 1 - 1e-16)))
        score = proposal + gumbel
        best = score.new_full((count,), -math.inf).scatter_reduce(0, owner, score, "amax")
        winner = ((score == best[owner]) & torch.isfinite(score)).nonzero()[:, 0]

        node = torch.full_like(everyone, FREE)
        enters = torch.zeros_like(fits)
        alive = progress.alive.clone()
        x = free.x.clone()
        more = torch.full_like(total, -math.inf)
        more[owner[winner]] = contributions[winner] - proposal[winner]
        more = torch.where(torch.isfinite(total), more + total, -math.inf)
        offset = count
        for steps, drawn in parts:
            inside = winner[(winner >= offset) & (winner < offset + len(steps.owner))] - offset
            rows = steps.owner[inside]
            x[rows] = drawn.x[inside]
            node[rows], enters[rows] = steps.node[inside], steps.enters[inside]
            alive[rows] = steps.alive[inside]
            progress.prices[rows, steps.node[inside]] = drawn.masses[inside, 1:].sum(1)
            offset += len(steps.owner)
        known[:, i] = x
        progress.add(x, node, enters, alive)
        return more

    def _begins(self, progress: Progress, back: Tensor) -> Tensor:
        """Log of how likely a free node is to be chosen after a node of the fragment, (P,)."""
        at = (progress.depth - back).clamp(min=0)[:, None]
        inside = ~progress.is_free.gather(1, at)[:, 0] & (progress.depth >= 0)
        socket = progress.socket_at.gather(1, at)[:, 0] > 0
        places = ((progress.room > 0) & (progress.level >= -1)).sum(1).clamp(min=1)
        branches = (progress.free / BRANCH).clamp(min=1.0)
        share = (branches / places).clamp(max=1.0).double().log()
        return torch.where(inside & ~socket & progress.unplaced.any(1), share, 0.0)

    def _draw_steps(self, hidden: Nodes, steps: Steps, progress: Progress) -> _Drawn:
        return self._draw(
            hidden,
            steps.owner,
            lambda previous, cardinality: progress.step_mask(steps, previous, cardinality),
            lambda previous: progress.narrow(steps, previous),
        )

    def _draw(self, hidden: Nodes, rows: Tensor, mask, drawn_one=None) -> _Drawn:
        """Draw all variables of the nodes of some rows, each from what is possible."""
        network = self.network
        part, inside = hidden[rows], torch.arange(len(rows), device=rows.device)
        previous: list[Tensor] = []
        masses = []
        for k, cardinality in enumerate(network.cardinalities):
            fits = mask(previous, cardinality)[inside]
            drawn = torch.zeros_like(rows)
            mass = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
            if len(inside):
                log_p = (network.logits(part) / self.temperature).double().log_softmax(-1)
                log_p = log_p.masked_fill(~fits, -math.inf)
                mass[inside] = log_p.logsumexp(-1)
                below = (log_p - mass[inside, None]).exp().nan_to_num(0.0).cumsum(-1)
                x = (self._uniform(len(below))[:, None] * below[:, -1:] >= below).sum(-1)
                # Where nothing is possible the walk has ended; any category will do.
                x = torch.where(torch.isinf(mass[inside]), 0, x.clamp(max=cardinality - 1))
                drawn[inside] = x
                if k + 1 < len(network.cardinalities):
                    part, kept = network.embed(part, x)
                    inside = inside if kept is None else inside[kept]
            previous.append(drawn)
            masses.append(mass)
            if drawn_one is not None:
                drawn_one(previous)
        return _Drawn(torch.stack(previous, 1), torch.stack(masses, 1))

    def _uniform(self, count: int) -> Tensor:
        drawn = torch.rand(count, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.network.initial.device)


def _logsumexp_by(
    group: Tensor, value: Tensor, count: int | None = None, *, every: bool = False
) -> Tensor:
    """Log of the summed exp of the values of a group: of each entry's group, or of every group."""
    count = int(group.max()) + 1 if count is None else count
    top = value.new_full((count,), -math.inf).scatter_reduce(0, group, value, "amax")
    level = torch.where(torch.isfinite(top), top, 0.0)
    total = value.new_zeros(count).index_add(0, group, (value - level[group]).exp())
    total = total.log() + level
    return total if every else total[group]
