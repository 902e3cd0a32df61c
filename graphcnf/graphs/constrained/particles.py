"""Graphs that hold a fragment, drawn node by node with weights that make up for the force.

At each node the network's probabilities are known before anything is drawn, so the probability of a
step to each neighbouring node of the fragment is known, and so is that of a free node within what
is possible. One of these ways is chosen, and the weight of the walk is multiplied by what was left
to choose from: sequential importance sampling with resampling (Doucet, de Freitas & Gordon 2001,
chapter 1). The weights are proper for the probability that the model gives to a depth-first code
together with the place of the fragment in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graphcnf.flows.transform import Context
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.constrained.placement import FREE, Fragment, Progress, Steps
from graphcnf.graphs.path.network import Nodes

# Free nodes in a branch, roughly: how many branches are still to come decides how often one is
# begun. Without influence on what the weights aim at.
BRANCH = 4
EXPECTED = 3.0  # nats that the first node of a component costs where it is expected, at most
RESAMPLE = 0.03  # effective share of walks below which likely walks take the place of unlikely ones
# Power of the weights by which walks are resampled; the rest of the weight stays with them.
FLATTEN = 0.3
UNSEEN = 1.5  # nats that a node of the fragment costs as long as nothing is known
LEAST_PREFERENCE = 0.01  # least preference for a way, where another one has 1


@dataclass
class Particles:
    """Graphs with a fragment, P of them."""

    graphs: GraphBatch
    log_weights: Tensor  # -inf for a walk that came to a dead end, (P,) float64
    came_from: Tensor  # see `Progress`, (P, U)
    prices: Tensor  # see `Progress`, (P, U) float64
    # Number of the walk that each one shares what was drawn with, (P,) long: walks of different
    # ancestors are independent.
    ancestor: Tensor


class Proposal:
    """Proposal of walks with a fragment of U nodes, learnt from earlier ones."""

    def __init__(self, size: int, device=None):
        self.counts = torch.zeros(size + 2, size, dtype=torch.float64, device=device)
        self.sums = self.counts.new_zeros(size)
        self.seen = 0.0

    @property
    def guide(self) -> Tensor:
        """Preferences for the order of the nodes, by `Progress.source` and node, (U + 2, U)."""
        most = self.counts.amax(1, keepdim=True)
        table = torch.where(most > 0, self.counts / most.clamp(min=1e-9), 1.0)
        return table.clamp(min=LEAST_PREFERENCE)

    @property
    def costs(self) -> Tensor:
        """Expected log-probability of each node of the fragment, (U,), to compare walks by."""
        return (self.sums - UNSEEN) / (self.seen + 1)

    def prefer_order(self) -> None:
        """Begin with the nodes in the order of their numbers."""
        size = len(self.sums)
        number = torch.arange(size - 1, device=self.sums.device)
        self.counts[size, 0] += 1
        self.counts[number, number + 1] += 1

    def learn(self, walks: Particles) -> None:
        """Count the walks by their weights; what was learnt before counts half from now on."""
        if not torch.isfinite(walks.log_weights).any():
            return
        # Flattened: one walk with most of the weight would say nothing about the others.
        share = (walks.log_weights / 4).softmax(0)
        self.counts, self.sums, self.seen = self.counts / 2, self.sums / 2, self.seen / 2
        node = torch.arange(len(self.sums), device=share.device).expand_as(walks.came_from)
        each = share[:, None].expand_as(node).contiguous()
        self.counts.index_put_((walks.came_from, node), each, accumulate=True)
        self.sums = self.sums + share @ walks.prices.masked_fill(~walks.prices.isfinite(), 0.0)
        self.seen += 1


class ParticleSampler:
    """Sampler of graphs that contain a fragment, from a `PathModel` at a temperature."""

    def __init__(self, steps, fragment: Fragment, *, temperature: float = 1.0):
        self.steps, self.network = steps, steps.network
        self.fragment, self.temperature = fragment, temperature
        self.fixed = bool((fragment.categories.sum(1) == 1).all())

    @torch.no_grad()
    def draw(self, sizes: Tensor, proposal: Proposal, generator: torch.Generator) -> Particles:
        """Draw graphs of the numbers of nodes `sizes` (P,), with a generator on the CPU.

        Raises UserError where a size is too small for the fragment.
        """
        network, code = self.network, self.steps.code
        count, largest = len(sizes), int(sizes.max())
        sizes = sizes.to(network.initial.device)
        number = torch.arange(largest, device=sizes.device)
        mask = number < sizes[:, None]
        state = network.start(Context(mask.clone()))
        progress = Progress(self.fragment, sizes, network.support, code.entries - 1)
        known = sizes.new_zeros(count, largest, len(network.cardinalities))
        self.generator = generator
        self.guide, costs = proposal.guide, proposal.costs
        log_weights = torch.zeros_like(sizes, dtype=torch.float64)
        place = torch.arange(count, device=sizes.device)
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
            mask[at] = number < sizes[ends, None]
            for whole, part in (
                (codes, known),
                (final, log_weights),
                (origin, ancestor),
                (came_from, progress.came_from),
                (prices, progress.prices),
            ):
                whole[at] = part[ends]
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
        return Particles(code.decode(codes, mask), final, came_from, prices, origin)

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
        """Draw node i of every walk into `known`; return log factors of the weights, (P,)."""
        count = len(known)
        everyone = torch.arange(count, device=known.device)
        x, masses = self._draw(hidden, everyone, progress.mask)
        back = x[:, 0]
        fits = progress.free_fits(back[:, None])[:, 0]
        log_free = masses.sum(1).masked_fill(~fits, -math.inf)
        begins = self._begins(progress, back)
        # Ways on: steps, their categories and prices, factors of the weights, log proposals.
        parts: list[tuple[Steps, Tensor, Tensor, Tensor, Tensor]] = []
        forward = progress.steps()
        if forward is not None:
            own, drawn = self._draw_steps(hidden, forward, progress)
            # Every node of the fragment has to come some time, at much the same price: what counts
            # is when, which the step back says, and which of those that come after the same one.
            price = drawn[:, 1:].sum(1)
            rest = price + self.guide[progress.source(forward), forward.node].log()
            same = forward.owner * (int(forward.back.max()) + 1) + forward.back
            rest = drawn[:, 0] + rest - _logsumexp_by(same, rest, int(same.max()) + 1)[same]
            parts.append((forward, own, price, drawn.sum(1), rest))
        uniform, entry = self._uniform(count), None
        if i == 0 or bool(progress.not_entered.any()):
            entry = progress.entries(back, uniform, self.guide)
        if entry is not None:
            steps, among = entry
            own, drawn = self._draw_steps(hidden, steps, progress)
            # The step back came with the free node, from all that were possible.
            drawn[:, 0] = masses[steps.owner, 0]
            price, total = drawn[:, 1:].sum(1), drawn.sum(1)
            free_left = progress.free[steps.owner].double().clamp(min=1).log()
            # Where the model expects something else it is better to wait.
            waiting = drawn[:, 0] - free_left + (price + EXPECTED).clamp(max=0)
            waiting = waiting.masked_fill(torch.isinf(total), -math.inf)
            parts.append((steps, own, price, total + among, waiting))

        owner = torch.cat([everyone, *(part[0].owner for part in parts)])
        contributions = torch.cat([log_free, *(part[3] for part in parts)])
        proposal = torch.cat([log_free + begins, *(part[4] for part in parts)])
        total = _logsumexp_by(owner, proposal, count)
        gumbel = -torch.log(-torch.log(self._uniform(len(owner)).clamp(1e-300, 1 - 1e-16)))
        score = proposal + gumbel
        best = score.new_full((count,), -math.inf).scatter_reduce(0, owner, score, "amax")
        winner = ((score == best[owner]) & torch.isfinite(score)).nonzero()[:, 0]

        node, enters = torch.full_like(everyone, FREE), torch.zeros_like(fits)
        alive = progress.alive.clone()
        more = torch.full_like(total, -math.inf)
        more[owner[winner]] = contributions[winner] - proposal[winner]
        more = torch.where(torch.isfinite(total), more + total, -math.inf)
        offset = count
        for steps, own, price, *_ in parts:
            inside = winner[(winner >= offset) & (winner < offset + len(own))] - offset
            rows = steps.owner[inside]
            x[rows] = own[inside]
            node[rows], enters[rows] = steps.node[inside], steps.enters[inside]
            alive[rows] = steps.alive[inside]
            progress.prices[rows, steps.node[inside]] = price[inside]
            offset += len(own)
        known[:, i] = x
        progress.add(x, node, enters, alive)
        return more

    def _begins(self, progress: Progress, back: Tensor) -> Tensor:
        """Return logs of how likely a free node is chosen after one of the fragment, (P,)."""
        at = (progress.depth - back).clamp(min=0)[:, None]
        inside = ~progress.is_free.gather(1, at)[:, 0] & (progress.depth >= 0)
        socket = progress.attachments_at.gather(1, at)[:, 0] > 0
        places = ((progress.valence > 0) & (progress.level >= -1)).sum(1).clamp(min=1)
        branches = (progress.free / BRANCH).clamp(min=1.0)
        share = (branches / places).clamp(max=1.0).double().log()
        return torch.where(inside & ~socket & progress.unplaced.any(1), share, 0.0)

    def _draw_steps(self, hidden: Nodes, steps: Steps, progress: Progress) -> tuple[Tensor, Tensor]:
        def mask(previous, cardinality):
            if previous:
                progress.narrow(steps, previous)
            return progress.step_mask(steps, previous, cardinality)

        x, masses = self._draw(hidden, steps.owner, mask)
        progress.narrow(steps, list(x.unbind(1)))
        return x, masses

    def _draw(self, hidden: Nodes, rows: Tensor, mask) -> tuple[Tensor, Tensor]:
        """Draw the variables of nodes, with the log-mass of what `mask` allows, (R, V) each."""
        network = self.network
        part, inside = hidden[rows], torch.arange(len(rows), device=rows.device)
        previous: list[Tensor] = []
        masses = []
        for k, cardinality in enumerate(network.cardinalities):
            fits = mask(previous, cardinality)[inside]
            drawn = torch.zeros_like(rows)
            mass = torch.zeros_like(rows, dtype=torch.float64)
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
        return torch.stack(previous, 1), torch.stack(masses, 1)

    def _uniform(self, count: int) -> Tensor:
        drawn = torch.rand(count, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.network.initial.device)


def _logsumexp_by(group: Tensor, value: Tensor, count: int) -> Tensor:
    """Return the log of the summed exp of the values of each of `count` groups."""
    top = value.new_full((count,), -math.inf).scatter_reduce(0, group, value, "amax")
    level = torch.where(torch.isfinite(top), top, 0.0)
    return value.new_zeros(count).index_add(0, group, (value - level[group]).exp()).log() + level
