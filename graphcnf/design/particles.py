"""Sample graphs that contain a fragment, by sequential importance sampling.

It is the sampler below `graphcnf.design.growing`, for graphs of any kind. The nouns:

- *Fragment*: U nodes and E edges that every graph must contain (`GraphFragment`). A *component* is
  a connected part of it.
- *Fragment nodes* are the nodes of a graph that belong to the fragment; all others are *free
  nodes*.
- *Particle*: a graph that is drawn node by node, in depth-first order. P particles are drawn at
  once.
- *Path*, from `graphcnf.graphs.path.depth_first`: the nodes from the first node of a graph to the
  node drawn last. The *level* of a node is its index on the path.
- *Variables* of a node: V integers that the network draws one after the other. They are the
  *backtrack* (how many levels to step back on the path to the node's parent), the label of the edge
  to the parent, the category of the node, and for each *closure* (further edge to a node on the
  path) its *length*, in levels, and its label. Length 0 means no further closure.
- *Label* of an edge: its category plus 1; 0 for no edge.
- *Weight* of an edge: a bond order in molecules. The *free degree* of a fragment node is the sum of
  the weights of the edges that it may still get.
- *Attachment*: an edge to a free node that a fragment node must get.
- *Structure*: the labels that each of the E edges of the fragment may have. A fragment has S of
  these, and a graph must agree with one; in molecules, each is a Kekulé structure.
- *Placement*: a fragment node as the next node of a particle, with its parent and closures.
- *Entry*: the placement of the first node of a component, below a free node or at the start.
- *State* of a node: a number for its category with the edges that it has so far
  (`graphcnf.graphs.path.node_states`).

Before each node, the network gives the probability of every possible placement, and of a free node.
The particle takes one of these, and its importance weight is multiplied by the ratio of the
probability under the model to that under the proposal (Doucet, de Freitas & Gordon 2001, chapter
1). If categories of fragment nodes are open, particles are also resampled. The weights are proper
for the model's probability of a depth-first code together with the position of the fragment in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphcnf.design.ahead import MissingOnPaths
from graphcnf.design.graph_fragment import FREE, GraphFragment, Placements
from graphcnf.design.linked import LinkedFragment, LinkedProgress
from graphcnf.design.missing import MissingEdges
from graphcnf.design.placing import Progress
from graphcnf.flows.transform import Context
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.path.network import NodeHidden

DETOURS = 0.2  # weight of the initial estimate of `Progress.detours`, which is 1
EXPECTED = 3.0  # the model expects a component here if its first node costs at most these nats
RESAMPLE = 0.03  # effective share of the particles below which they are resampled
FLATTEN = 0.3  # power of the weights for resampling; particles keep the rest of their weight
UNSEEN = 1.5  # initial estimate of the nats that a fragment node costs
LEAST_PREFERENCE = 0.01  # least preference for a node; the largest is 1


@dataclass
class Particles:
    """P graphs that contain a fragment, with their weights; what `ParticleSampler.draw` returns.

    Attributes:
        graphs: The graphs; those of dead ends are of no use.
        log_weights: Logarithms of the importance weights in nats, (P,) float64; -inf for a particle
            that came to a dead end, and so lacks a part of the fragment.
        came_from: For each fragment node the one that was placed before it; U for the first node of
            the graph, U + 1 for the first node of another component, (P, U) long.
        log_probs: Log-probability of placing each fragment node given its backtrack, in nats, (P,
            U) float64.
        detours: Number of free nodes below fragment nodes that still had fragment neighbours to
            come, (P,) long.
        ancestor: Number of the particle from which each descends by resampling, (P,) long.
            Particles with different ancestors are independent.
    """

    graphs: GraphBatch
    log_weights: Tensor
    came_from: Tensor
    log_probs: Tensor
    detours: Tensor
    ancestor: Tensor


class ParticleSampler:
    """Sampler of graphs that contain a fragment of U nodes; its proposals learn from its draws.

    `draw` gives weighted particles, and `learn` takes them to improve the next draw. The proposals
    only change how much the weights vary, not the distribution that the weighted particles stand
    for.

    Args:
        condition_values: Values of the model's conditions, (1, conditions), NaN where unknown.

    Attributes:
        missing: Tables of what nodes in each state still need.
        fixed: True if every fragment node has one possible category. Then particles are not
            resampled.
        seen: Total weight of the draws learnt from: the last counts 1, the one before it 1/2, and
            so on; 0 before the first.
    """

    def __init__(
        self,
        model: Any,
        fragment: GraphFragment,
        *,
        temperature: float = 1.0,
        condition_values: Tensor | None = None,
    ):
        self.condition_values = condition_values
        self.model, self.network = model, model.network
        self.fragment, self.temperature = fragment, temperature
        self.missing = MissingEdges(fragment, model.network.support)
        self.fixed = bool((fragment.categories.sum(1) == 1).all())
        size = len(fragment)
        # Statistics of the draws that were learnt from: by `Progress.source` and node, by node.
        self.counts = fragment.valence.new_zeros(size + 2, size, dtype=torch.float64)
        self.sums = self.counts.new_zeros(size)
        self.seen = self.detours = 0.0

    @property
    def guide(self) -> Tensor:
        """Learnt preferences for the fragment node to place next, in (0, 1], (U + 2, U).

        The row is the fragment node that was placed last, or U or U + 1 for an entry, as
        `Progress.source` returns it. The column is the node to place next. The largest entry of a
        row is 1, and all are 1 in a row of which nothing was learnt.
        """
        most = self.counts.amax(1, keepdim=True)
        table = torch.where(most > 0, self.counts / most.clamp(min=1e-9), 1.0)
        return table.clamp(min=LEAST_PREFERENCE)

    @property
    def expected(self) -> Tensor:
        """Log-probability of the placement of each fragment node, as learnt so far, (U,) nats.

        It is the weighted mean of `Particles.log_probs` over all draws that were given to `learn`,
        later draws counting more. Before the first of these it is -1.5 (`UNSEEN`) for every node,
        which goes on to count as one draw.

        When particles are resampled, it is added to the log-weight for each node that is still to
        be placed. Otherwise particles that have placed few fragment nodes, and so have paid little
        yet, would be preferred to those that have placed many.
        """
        return (self.sums - UNSEEN) / (self.seen + 1)

    def prefer_order(self) -> None:
        """Prefer to place fragment nodes in the order of their numbers, before anything is learnt.

        It counts as much as one call of `learn`. Use it for fragments that are numbered
        depth-first, such as the skeleton of a whole molecule, so that already the first draws are
        probable ones.
        """
        size = len(self.sums)
        number = torch.arange(size - 1, device=self.sums.device)
        self.counts[size, 0] += 1
        self.counts[number, number + 1] += 1

    def learn(self, particles: Particles) -> None:
        """Learn from weighted particles in which order the model draws the fragment nodes.

        After the call, what was learnt before it counts half.
        """
        if not torch.isfinite(particles.log_weights).any():
            return
        # Flattened, so that more than the few particles with most of the weight count.
        share = (particles.log_weights / 4).softmax(0)
        self.counts, self.sums, self.seen = self.counts / 2, self.sums / 2, self.seen / 2
        node = torch.arange(len(self.sums), device=share.device).expand_as(particles.came_from)
        each = share[:, None].expand_as(node).contiguous()
        self.counts.index_put_((particles.came_from, node), each, accumulate=True)
        self.sums = self.sums + share @ particles.log_probs.masked_fill(
            ~particles.log_probs.isfinite(), 0.0
        )
        self.detours = self.detours / 2 + float(share @ particles.detours.double())
        self.seen += 1

    @torch.no_grad()
    def draw(self, sizes: Tensor, generator: torch.Generator) -> Particles:
        """Draw graphs that contain the fragment, one particle for each size, with their weights.

        The graphs alone are draws of the proposal and not of the model. To estimate a mean over the
        model's graphs that contain the fragment, give each particle the weight `exp(log_weights)`,
        divided by the number of places at which its graph contains the fragment.

        If nodes of the fragment have several possible categories, particles are resampled on the
        way: one of low weight is replaced by a copy of another one, its size included, and both go
        on independently. Such particles have the same `ancestor`, and may end as equal graphs.

        A particle that came to a dead end has the log-weight -inf.
        """
        network, code = self.network, self.model.code
        count, largest = len(sizes), int(sizes.max())
        sizes = sizes.to(network.norm.weight.device)
        number = torch.arange(largest, device=sizes.device)
        mask = number < sizes[:, None]
        rows = None if self.condition_values is None else self.condition_values.expand(count, -1)
        drawing = network.start(Context(mask.clone(), condition_values=rows))
        kind = LinkedProgress if isinstance(self.fragment, LinkedFragment) else Progress
        progress = kind(sizes, self.missing)
        known = sizes.new_zeros(count, largest, len(network.cardinalities))
        self.generator = generator
        guide, expected = self.guide, self.expected
        log_weights = torch.zeros_like(sizes, dtype=torch.float64)
        place = torch.arange(count, device=sizes.device)
        ancestor = place.clone()
        learnt = ("came_from", "log_probs", "detours")
        particles = known, log_weights, ancestor, *(getattr(progress, name) for name in learnt)
        whole = [part.clone() for part in particles]
        for i in range(largest):
            step = drawing.step()
            assert step is not None
            order = step.rows
            hidden = step.hidden[order.argsort()]
            nodes = hidden.nodes
            progress.update_tables(nodes.state[:, network.support.pad :])
            log_weights = log_weights + self._step(hidden, i, progress, known, guide)
            drawing.update(known[order, i])
            # Complete graphs and dead ends leave the batch.
            lacking = (sizes == i + 1) & ~progress.complete
            log_weights = log_weights.masked_fill(lacking, -math.inf)
            ends = (sizes == i + 1) | torch.isinf(log_weights)
            mask[place[ends]] = number < sizes[ends, None]
            particles = known, log_weights, ancestor, *(getattr(progress, name) for name in learnt)
            for table, part in zip(whole, particles, strict=True):
                table[place[ends]] = part[ends]
            rows = (~ends).nonzero()[:, 0]
            if not len(rows):
                break
            place = place[rows]
            ahead = (log_weights + progress.unplaced.double() @ expected)[rows]
            chosen = None if self.fixed else self._resample(ahead)
            if chosen is not None:
                mean = (FLATTEN * ahead).logsumexp(0) - math.log(len(rows))
                log_weights[rows] += mean - FLATTEN * ahead
                rows = rows[chosen]
            if chosen is not None or bool(ends.any()):
                known, log_weights, sizes = known[rows], log_weights[rows], sizes[rows]
                ancestor = ancestor[rows]
                progress.select(rows)
                drawing.select(rows)
        codes, final, origin, came_from, log_probs, detours = whole
        graphs = code.decode(codes, mask)
        return Particles(graphs, final, came_from, log_probs, detours, origin)

    def _resample(self, log_weights: Tensor) -> Tensor | None:
        """Choose the particles to go on with."""
        if not torch.isfinite(log_weights).any():
            return None
        count, share = len(log_weights), log_weights.softmax(0)
        if float(1 / share.square().sum()) > RESAMPLE * count:
            return None
        # By a power of the weights, so that more than a few survive. Systematic resampling: one
        # uniform number, equal distances.
        share = (FLATTEN * log_weights).softmax(0)
        places = (torch.arange(count, device=share.device) + self._uniform(1)) / count
        below = share.cumsum(0)
        return torch.searchsorted(below, places * below[-1], right=True).clamp(max=count - 1)

    def _step(
        self, hidden: NodeHidden, i: int, progress: Progress, known: Tensor, guide: Tensor
    ) -> Tensor:
        """Draw node i of every particle into `known` and `progress`, in place."""
        count = len(known)
        everyone = torch.arange(count, device=known.device)
        ahead = MissingOnPaths(self.missing, progress)

        def mask(previous, cardinality):
            fits = progress.mask(previous, cardinality)
            return fits & ahead.allowed(previous, cardinality)

        x, masses = self._draw(hidden, everyone, mask)
        back = x[:, 0]
        fits = progress.free_fits(back[:, None])[:, 0]
        log_free = masses.sum(1).masked_fill(~fits, -math.inf)
        preference = self._free_preference(progress, back)
        # Placements with their categories, log-probabilities given the step back, log-probabilities
        # and log proposals.
        parts: list[tuple[Placements, Tensor, Tensor, Tensor, Tensor]] = []
        forward = progress.placements()
        if forward is not None:
            own, drawn = self._draw_placements(hidden, forward, progress, ahead)
            # Every fragment node must come at some time, with about the same log-probability given
            # its step back. So placements compete by their steps back, and only those with the same
            # step back by log-probability and preference.
            log_p = drawn[:, 1:].sum(1)
            rest = log_p + guide[progress.source(forward), forward.node].log()
            same = forward.owner * (int(forward.back.max()) + 1) + forward.back
            rest = drawn[:, 0] + rest - _logsumexp_by(same, rest, int(same.max()) + 1)[same]
            # Where no placement with a step back is possible, the difference is NaN.
            rest = rest.masked_fill(torch.isinf(drawn.sum(1)), -math.inf)
            alike = progress.log_alike[forward.owner, forward.node]
            parts.append((forward, own, log_p, drawn.sum(1) + alike, rest))
        uniform, entry = self._uniform(count), None
        if i == 0 or bool(progress.enterable.any()):
            entry = progress.entries(back, uniform, guide, ahead.enterable)
        if entry is not None:
            placements, among = entry
            own, drawn = self._draw_placements(hidden, placements, progress, ahead)
            # The step back was drawn for the free node, from all that were possible.
            drawn[:, 0] = masses[placements.owner, 0]
            log_p, total = drawn[:, 1:].sum(1), drawn.sum(1)
            free_left = progress.free[placements.owner].double().clamp(min=1).log()
            # If the model expects something else here, the component had better come later.
            waiting = drawn[:, 0] - free_left + (log_p + EXPECTED).clamp(max=0)
            waiting = waiting.masked_fill(torch.isinf(total), -math.inf)
            among = among + progress.log_alike[placements.owner, placements.node]
            parts.append((placements, own, log_p, total + among, waiting))

        owner = torch.cat([everyone, *(part[0].owner for part in parts)])
        contributions = torch.cat([log_free, *(part[3] for part in parts)])
        proposal = torch.cat([log_free + preference, *(part[4] for part in parts)])
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
        for placements, own, log_p, *_ in parts:
            inside = winner[(winner >= offset) & (winner < offset + len(own))] - offset
            rows = placements.owner[inside]
            x[rows] = own[inside]
            node[rows], enters[rows] = placements.node[inside], placements.enters[inside]
            alive[rows] = placements.alive[inside]
            progress.log_probs[rows, placements.node[inside]] = log_p[inside]
            offset += len(own)
        known[:, i] = x
        progress.add(x, node, enters, alive)
        return more

    def _free_preference(self, progress: Progress, back: Tensor) -> Tensor:
        """Return log factors by which free nodes are proposed less often than drawn."""
        at = (progress.depth - back).clamp(min=0)[:, None]
        pending = progress.pending_at.gather(1, at)[:, 0] & (progress.depth >= 0)
        share = (self.detours + DETOURS) / (self.seen + DETOURS) / len(self.fragment)
        return torch.where(pending, math.log(min(share, 1.0)), 0.0).double()

    def _draw_placements(
        self,
        hidden: NodeHidden,
        placements: Placements,
        progress: Progress,
        ahead: MissingOnPaths,
    ) -> tuple[Tensor, Tensor]:
        """Draw the variables of fragment nodes at their placements."""

        def mask(previous, cardinality):
            progress.narrow(placements, previous)
            fits = progress.placement_mask(placements, previous, cardinality)
            return fits & ahead.placed(placements, previous) if len(previous) == 1 else fits

        x, masses = self._draw(hidden, placements.owner, mask)
        progress.narrow(placements, list(x.unbind(1)))
        return x, masses

    def _draw(
        self, hidden: NodeHidden, rows: Tensor, mask: Callable[[list[Tensor], int], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Draw the V variables of the next node, among the values that are possible."""
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
                # If nothing is possible the particle has ended; any category will do.
                x = torch.where(torch.isinf(mass[inside]), 0, x.clamp(max=cardinality - 1))
                drawn[inside] = x
                if k + 1 < len(network.cardinalities):
                    part, kept = network.next_hidden(part, x)
                    inside = inside if kept is None else inside[kept]
            previous.append(drawn)
            masses.append(mass)
        return torch.stack(previous, 1), torch.stack(masses, 1)

    def _uniform(self, count: int) -> Tensor:
        drawn = torch.rand(count, generator=self.generator, dtype=torch.float64)
        return drawn.to(self.network.norm.weight.device)


def _logsumexp_by(group: Tensor, value: Tensor, count: int) -> Tensor:
    """Return log(sum(exp(value))) over the values of each group."""
    top = value.new_full((count,), -math.inf).scatter_reduce(0, group, value, "amax")
    level = torch.where(torch.isfinite(top), top, 0.0)
    return value.new_zeros(count).index_add(0, group, (value - level[group]).exp()).log() + level
