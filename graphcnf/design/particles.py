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
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphcnf.design.missing import MissingEdges, MissingOnPaths
from graphcnf.errors import UserError
from graphcnf.flows.transform import Context
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.path.depth_first import (
    BACKTRACK,
    CATEGORY,
    COMMON_VARIABLES,
    LENGTHS,
    PARENT_EDGE,
    DepthFirstCode,
    Variable,
    VariableRole,
)
from graphcnf.graphs.path.network import NodeHidden
from graphcnf.graphs.path.node_states import UNKNOWN

FREE = -1  # in place of a fragment node's number: a node that is not part of the fragment
UNPLACED, LEFT = -1, -2  # sentinel path levels: not placed yet, already off the path
MANY_RINGS = 1 << 20  # in place of a limit on the number of rings where there is none


@dataclass
class GraphFragment:
    """U nodes and E edges that every graph must contain, and where free nodes may be attached.

    `graphcnf.design.fragments.make_fragment` makes it of a molecule's fragment.

    Attributes:
        categories: True for the categories that each node may have, (U, node categories) bool.
        edges: Numbers of the two nodes of each edge, (E, 2) long.
        structures: True for the labels that each edge may have in each of S structures, (S, E, edge
            categories + 1) bool. A graph must agree with at least one structure.
        valence: Free degree of each node, (U,) long.
        attachments: Number of attachments of each node, (U,) long; they come in addition to its
            free degree.
        plain: True for the labels that edges between fragment nodes and free nodes may have, (edge
            categories + 1,) bool.
        rings: True if free nodes may close rings over fragment nodes.
        acyclic: True if free nodes may close no rings at all.
        new_rings: Fewest and most rings that free nodes close.
        free_nodes: True for the categories that free nodes may have, (node categories,) bool; None
            for all.
        free_edges: True for the labels that edges of free nodes to their parents may have, (edge
            categories + 1,) bool; None for all.
        symmetries: Permutations of the nodes that leave the fragment as it is, a group, (G, U)
            long. None for the identity alone.
        edge_between: Number of the edge between two nodes, -1 for none, (U, U) long.
        adjacency: True for two nodes with an edge, (U, U) bool.
        component: Number of the component of each node, (U,) long.
        components: Number of components.
        images: The symmetries, or the identity alone, (G, U) long.
    """

    categories: Tensor
    edges: Tensor
    structures: Tensor
    valence: Tensor
    attachments: Tensor
    plain: Tensor
    rings: bool = False
    acyclic: bool = False
    new_rings: tuple[int, int] = (0, MANY_RINGS)
    free_nodes: Tensor | None = None
    free_edges: Tensor | None = None
    symmetries: Tensor | None = None

    def __post_init__(self) -> None:
        size = len(self.categories)
        self.edge_between = self.edges.new_full((size, size), -1)
        for number, (i, j) in enumerate(self.edges.tolist()):
            self.edge_between[i, j] = self.edge_between[j, i] = number
        self.adjacency = self.edge_between >= 0
        component = torch.arange(size, device=self.edges.device)
        for _ in range(size):
            near = torch.where(self.adjacency, component, size).amin(-1)
            component = torch.minimum(component, near)
        self.component = component.unique(return_inverse=True)[1]
        self.components = int(self.component.max()) + 1
        identity = torch.arange(size, device=self.edges.device)[None]
        self.images = identity if self.symmetries is None else self.symmetries

    def __len__(self) -> int:
        return len(self.categories)

    def to(self, device: Any) -> GraphFragment:
        """Return the fragment with every tensor on a device.

        Args:
            device: A `torch.device`, or its name.
        """
        values = (getattr(self, f.name) for f in fields(self))
        moved: list[Any] = [v.to(device) if isinstance(v, Tensor) else v for v in values]
        return type(self)(*moved)

    def start(self, sizes: Tensor, missing: MissingEdges) -> Progress:
        """Return P particles without nodes; subclasses return their own class of `Progress`.

        `ParticleSampler.draw` calls it once for each draw.

        Args:
            sizes: Number of nodes of each graph, (P,) long.
            missing: Tables of what nodes in each state still need, for this fragment and a model.

        Returns:
            The particles, which `ParticleSampler.draw` advances node by node.

        Raises:
            UserError: A graph is too small for the fragment.
        """
        return Progress(sizes, missing)

    @property
    def fewest_free(self) -> int:
        """Least number of free nodes in any graph that contains the fragment."""
        return max(int(self.attachments.sum()) - self.components + 1, int(self.components > 1))

    @property
    def entries(self) -> int:
        """Largest number of entries to count with: 1, or 0 if there are several components.

        With several components, it is not known beforehand how many of them are below free nodes.
        """
        return 1 if self.components == 1 else 0

    @property
    def closed_ring(self) -> int:
        """Size of the largest ring that free nodes cannot avoid to close; here 0, for none.

        `LinkedFragment`, whose free nodes must join all attachments, overrides it.
        """
        return 0


@dataclass
class Placements:
    """R possible placements of fragment nodes as the next nodes of particles.

    A particle may have several of these, or none. K is the number of closures that a node may have,
    and S the number of structures of the fragment.

    Attributes:
        owner: Index of the particle, (R,) long.
        node: Number of the fragment node, (R,) long.
        back: Backtrack to the parent, in levels, (R,) long: 0 if the parent is the last node of the
            particle, and for the first node of a graph.
        lengths: Lengths of the closures, 0 for none, (R, K) long.
        edges: Numbers of the fragment's edges that the placement draws: column 0 the edge to the
            parent, column k that of closure k; -1 for an edge that the fragment lacks, (R, 1 + K)
            long.
        enters: True for entries, which have no parent in the fragment, (R,) bool.
        alive: True for structures that agree with all edges of the particle so far, (R, S) bool.
            Edges of the placement itself count once their labels are drawn, by `Progress.narrow`.
    """

    owner: Tensor
    node: Tensor
    back: Tensor
    lengths: Tensor
    edges: Tensor
    enters: Tensor
    alive: Tensor


class Progress:
    """The P particles of a draw, and which fragment nodes each of them has placed.

    `ParticleSampler.draw` calls `update_tables`, chooses the next node of each particle by `mask`,
    `placements` and `entries`, and adds it by `add`, until the graphs are complete.

    Further nouns:

    - A structure is *alive* while all edges of the graph agree with it.
    - A *detour* is a free node below a fragment node that still has fragment neighbours to come.
    - The *rings* of a particle are those that its free nodes have closed so far.

    Args:
        sizes: Number of nodes of each graph, (P,) long.
        missing: Tables of what nodes in each state still need, for a fragment and a model.

    Attributes:
        free: Number of free nodes to come, (P,) long.
        depth: Level of the last node on the path, -1 before the first node, (P,) long.
        at: Number of the fragment node at each level of the path, -1 (`FREE`) for a free node, (P,
            levels) long, with as many levels as the largest graph has nodes, plus 1.
        level: Level of each fragment node; -1 (`UNPLACED`) before it is placed, -2 (`LEFT`) once
            the path has stepped back above it, (P, U) long.
        valence: Free degree that each fragment node has left for free nodes, (P, U) long.
        attachments: Attachments that each fragment node has yet to get, (P, U) long.
        alive: True for structures that are alive, (P, S) bool.
        last: Fragment node that was placed last, U before the first, (P,) long.
        came_from: Fragment node that was placed before each placed one, as `source` numbers them,
            (P, U) long.
        log_probs: Log-probability of each placed fragment node given its backtrack, (P, U) nats.
        left: Sum of edge weights that each placed fragment node can still take by its category, (P,
            U) long.
        detours: Number of detours, (P,) long.
        symmetric: True for the symmetries of the fragment that map each placed node to itself, (P,
            G) bool.
        rings: Number of rings that free nodes have closed, (P,) long.
        whole: State that each fragment node will have with all its edges of the fragment and the
            edges to free nodes so far, in each of K different structures, (P, U, K) long.
        state: State of the node at each level, as `update_tables` got it, (P, levels) long.

    Raises:
        UserError: A graph is too small for the fragment.
    """

    # Attributes with a row for each particle.
    TABLES: tuple[str, ...] = (
        "free", "depth", "at", "level", "valence", "attachments", "alive", "last", "came_from",
        "log_probs", "left", "detours", "symmetric", "rings", "whole",
    )  # fmt: skip

    def __init__(self, sizes: Tensor, missing: MissingEdges):
        fragment, support = missing.fragment, missing.support
        least, count = len(fragment) + fragment.fewest_free, len(sizes)
        if bool((sizes < least).any()):
            raise UserError(f"graphs with this fragment have at least {least} nodes")
        self.fragment, self.support, self.weights = fragment, support, support.states.weights
        self.closures = len(support.code.closures)
        self.whole = missing.closed.expand(count, -1, -1).clone()
        self.free = sizes - len(fragment)
        self.depth = torch.full_like(sizes, -1)
        self.at = sizes.new_full((count, int(sizes.max()) + 1), FREE)
        self.level = sizes.new_full((count, len(fragment)), UNPLACED)
        self.valence = fragment.valence.expand(count, -1).clone()
        self.attachments = fragment.attachments.expand(count, -1).clone()
        self.alive = sizes.new_ones((count, len(fragment.structures)), dtype=torch.bool)
        self.last = torch.full_like(sizes, len(fragment))
        self.symmetric = sizes.new_ones((count, len(fragment.images)), dtype=torch.bool)
        self.came_from, self.left = torch.zeros_like(self.level), torch.zeros_like(self.level)
        self.log_probs = torch.zeros_like(self.level, dtype=torch.float64)
        self.detours, self.rings = torch.zeros_like(sizes), torch.zeros_like(sizes)
        # Least weight of each edge of the fragment in any structure, and of those between nodes.
        self.least = sizes.new_zeros(1)
        if len(fragment.edges):
            most = int(self.weights.max()) + 1
            self.least = torch.where(fragment.structures.any(0), self.weights, most).amin(-1)
        between = self.least[fragment.edge_between.clamp(min=0)]
        self.between = torch.where(fragment.adjacency, between, 0)

    def select(self, rows: Tensor) -> None:
        """Keep some particles, drop or repeat others, in place; for resampling and finished graphs.

        The tables of `update_tables` are not changed: call it again before the next node.

        Args:
            rows: Indices of the particles to go on with, which may repeat, (R,) long.
        """
        for name in self.TABLES:
            setattr(self, name, getattr(self, name)[rows])

    def source(self, placements: Placements) -> Tensor:
        """Return which fragment node was placed last before each placement: a row of `guide`.

        Args:
            placements: R placements.

        Returns:
            Number of the fragment node, (R,) long. For an entry, U if it starts the graph, else U +
            1.
        """
        enters = torch.where(self.depth[placements.owner] < 0, 0, 1) + len(self.fragment)
        return torch.where(placements.enters, enters, self.last[placements.owner])

    @property
    def unplaced(self) -> Tensor:
        """True for fragment nodes that are not placed yet, (P, U) bool."""
        return self.level == UNPLACED

    def attachable(self, row: Tensor, filled: Tensor | int) -> Tensor:
        """Return whether the fragment can still get free nodes as neighbours after the next node.

        Args:
            row: Index of the particle, (R,) long.
            filled: How many attachments the next node fills, (R,) long.

        Returns:
            (R,) bool. True if an attachment is left, or free degree at a fragment node that the
            path has not left.
        """
        here = (self.level != LEFT) & (self.valence > 0)
        return here.any(1)[row] | (self.need[row] > filled)

    @property
    def complete(self) -> Tensor:
        """True for particles with the whole fragment, all attachments and rings, (P,) bool."""
        placed = ~self.unplaced.any(1) & (self.attachments == 0).all(1)
        return placed & (self.rings >= self.fragment.new_rings[0])

    def entries_to_come(self) -> tuple[Tensor, Tensor]:
        """Return how many entries are to come in each particle, for the bounds of `MissingOnPaths`.

        Returns:
            - Number of entries to come, (P,) long.
            - True for particles in which that number is not known, (P,) bool.
        """
        waits = self.not_entered.any(1)
        return waits.long(), waits & (self.fragment.components > 1)

    def update_tables(self, state: Tensor) -> None:
        """Compute, from what is placed so far, what the next node of each particle may be.

        `ParticleSampler.draw` calls it before each node. `mask`, `placements`, `entries` and
        `free_fits` read the attributes that it sets; `add` and `select` do not update them.

        For the U fragment nodes, (P, U):

        - `not_entered`: no node of its component is placed yet, bool;
        - `enterable`: it may be the first node of its component that is placed, bool;
        - `is_first`: no symmetry in `symmetric` maps it to a node of a lower number, bool;
        - `log_alike`: logarithm of the number of nodes to which symmetries in `symmetric` map it;
        - `needed`: the least free degree for the edges that it has yet to get: edges of the
          fragment, each with the least weight that it may have, and attachments, long.

        For the levels of the path, (P, levels):

        - `is_free`: the node there is free, bool;
        - `attachments_at`, `valence_at`: attachments and free degree that the node has left, long;
        - `pending_at`: it is a fragment node with fragment neighbours to come, bool;
        - `grows_at`: it may get a free neighbour, bool;
        - `open_below`: it, a node above it or a fragment node to come may get one, bool;
        - `free_below`: it or a node above it on the path is free, bool;
        - `last_member`: level of the last fragment node down to it, -1 for none, long.

        For particles:

        - `floor`: lowest level that the parent of the next node may have, since the fragment node
          there is not finished; -1 if there is none, (P, 1) long;
        - `need`: number of free nodes that the attachments to come need at least, (P,) long.

        Args:
            state: State of the node at each level of the path, (P, W) long.
        """
        f = self.fragment
        self.state = F.pad(state, (0, self.at.shape[1] - state.shape[1]))
        unplaced = self.unplaced
        pending = (unplaced.float() @ f.adjacency.float()) > 0
        held = (self.level >= 0) & (pending | (self.attachments > 0))
        self.floor = torch.where(held, self.level, -1).amax(1, keepdim=True)
        member = self.at.clamp(min=0)
        self.is_free = self.at == FREE
        self.attachments_at = torch.where(self.is_free, 0, self.attachments.gather(1, member))
        self.valence_at = torch.where(self.is_free, 1 << 20, self.valence.gather(1, member))
        self.pending_at = ~self.is_free & pending.gather(1, member)
        self.grows_at = (self.attachments_at > 0) | (self.valence_at > 0)
        parts = [f.component == c for c in range(f.components)]
        entered = torch.stack([(~unplaced[:, part]).any(1) for part in parts], 1)
        self.not_entered = ~entered[:, f.component]
        # A component that is entered at an attachment fills it with the edge to the free parent.
        through = torch.stack([(f.attachments[part] > 0).any() for part in parts])
        self.need = (self.attachments.sum(1) - (~entered & through).sum(1)).clamp(min=0)
        # True for nodes at which a component can be entered from a free node.
        attaches = torch.isin(f.component, f.component[f.attachments > 0])
        takes = (self.attachments > 0) | ((self.valence > 0) & ~attaches)
        self.enterable = takes & self.not_entered
        # True for levels from which free nodes can still be reached after stepping back to them.
        number = torch.arange(self.at.shape[1], device=self.at.device)
        on_path = number <= self.depth[:, None]
        later = (unplaced & ((self.valence > 0) | (self.attachments > 0))).any(1, keepdim=True)
        self.open_below = (self.grows_at & on_path).cumsum(1).bool() | later
        self.free_below = (self.is_free & on_path).cumsum(1).bool()
        self.last_member = torch.where(~self.is_free & on_path, number, -1).cummax(1).values
        # Of nodes that symmetries map to each other only the first is placed, for all of them.
        own = torch.arange(len(f), device=f.images.device)
        self.is_first = torch.where(self.symmetric[..., None], f.images, len(f)).amin(1) == own
        stays = self.symmetric.double() @ (f.images == own).double()
        self.log_alike = (self.symmetric.sum(1, keepdim=True) / stays).log()
        # Free degree that each node needs for its edges to come.
        needed = unplaced.double() @ self.between.double()
        self.needed = needed.long() + self.attachments

    def free_fits(self, back: Tensor) -> Tensor:
        """Return from which backtracks a free node may be drawn, so that enough free nodes remain.

        Args:
            back: M backtracks, for each particle (P, M), or the same for all (1, M), long.

        Returns:
            (P, M) bool.
        """
        parent = self.depth[:, None] - back
        at = parent.clamp(min=0)
        attaches = (self.attachments_at.gather(1, at) > 0) & (parent >= 0)
        left = self.free[:, None] - (~attaches).long() - self.need[:, None]
        fits = self.grows_at.gather(1, at) | (parent < 0)
        return fits & (left >= 0) & (self.free[:, None] > 0)

    def mask(self, previous: list[Tensor], cardinality: int) -> Tensor:
        """Return which values the next variable of a free node may have.

        Args:
            previous: Values of the variables of this node that are drawn already, (P,) long each;
                [] for the first variable, the backtrack.
            cardinality: Number of values of the next variable.

        Returns:
            (P, cardinality) bool. A backtrack is also possible if only an entry can follow it.
        """
        value = torch.arange(cardinality, device=self.depth.device)[None]
        f, k, first = self.fragment, len(previous), self.depth[:, None] < 0
        role = Variable.at(k).role
        if role is VariableRole.CATEGORY and f.free_nodes is not None:
            return f.free_nodes.expand(len(first), -1)
        if role is VariableRole.CATEGORY or (role is VariableRole.CLOSING_EDGE and not f.rings):
            return torch.ones_like(first).expand(-1, cardinality)
        parent = self.depth[:, None] - (previous[BACKTRACK][:, None] if k else value)
        at = parent.clamp(min=0)
        if role is VariableRole.BACKTRACK:
            enters = self.enterable.any(1, keepdim=True) & self.is_free.gather(1, at)
            fits = self.free_fits(value) | enters
            return torch.where(first, value == 0, fits & (parent >= self.floor.clamp(min=0)))
        if k == 1:
            fitting = self.weights <= self.valence_at.gather(1, at)
            fitting = fitting if f.rings else fitting & f.plain
            single = f.plain & (self.weights == 1)
            fits = torch.where(self.attachments_at.gather(1, at) > 0, single, fitting)
            fits = fits | first | self.is_free.gather(1, at)
            return fits if f.free_edges is None else fits & (first | f.free_edges)
        if role is VariableRole.LENGTH:
            far = (parent + 1 - value).clamp(min=0)
            if f.acyclic:
                fits = first
            elif f.rings:
                fits = self.valence_at.gather(1, far) > 0
            else:
                fits = far > self.last_member.gather(1, at)
            made = torch.stack([torch.zeros_like(self.rings), *previous[LENGTHS]]).sign().sum(0)
            fits = fits & (self.rings + made < f.new_rings[1])[:, None]
            return fits | (value == 0) | first
        far = (parent + 1 - previous[-1][:, None]).clamp(min=0)
        return (self.weights <= self.valence_at.gather(1, far)) | (previous[-1][:, None] == 0)

    def placements(self) -> Placements | None:
        """Return all placements of fragment nodes that have a fragment neighbour on the path.

        The parent and the closures of such a node follow from its neighbours on the path. The first
        nodes of components are found by `entries` instead. Call `update_tables` before, after the
        last `add` or `select`.

        Returns:
            R placements, several for some particles, none for others; None if R is 0.
        """
        f, width = self.fragment, self.closures + 1
        parts: list[list[Tensor]] = []
        wanted = self.free > 0
        waits = self.not_entered.any(1)
        for node in self.unplaced.any(0).nonzero()[:, 0].tolist():
            around = f.adjacency[node].nonzero()[:, 0]
            if not len(around):
                continue
            level, order = self.level[:, around].sort(1, descending=True)
            top = level[:, :1]
            at = top.clamp(min=0)
            # Nodes that come later must still find a node with free degree.
            going = self.open_below.gather(1, at)[:, 0] | (self.valence[:, node] > 0)
            going |= self.attachments[:, node] > 0
            entering = self.free_below.gather(1, at)[:, 0] | wanted & going
            fits = self.unplaced[:, node] & (top >= 0)[:, 0] & (top >= self.floor)[:, 0]
            fits &= self.is_first[:, node]
            fits &= (going | ~wanted) & (entering | ~waits)
            placed = level >= 0
            fits &= placed.sum(1) <= width
            rows = fits.nonzero()[:, 0]
            if not len(rows):
                continue
            level, placed, order = level[rows], placed[rows], order[rows]
            lengths = torch.where(placed, level[:, :1] + 1 - level, 0)
            edges = torch.where(placed, f.edge_between[node][around][order], -1)
            pad = (0, max(width - lengths.shape[1], 0))
            lengths, edges = F.pad(lengths, pad)[:, 1:width], F.pad(edges, pad, value=-1)[:, :width]
            back, none = self.depth[rows] - level[:, 0], torch.zeros_like(rows, dtype=torch.bool)
            own = torch.full_like(rows, node)
            parts.append([rows, own, back, lengths, edges, none, self.alive[rows]])
        return Placements(*map(torch.cat, zip(*parts, strict=True))) if parts else None

    def entries(
        self, back: Tensor, uniform: Tensor, guide: Tensor, ahead: MissingOnPaths
    ) -> tuple[Placements, Tensor] | None:
        """Choose, in each particle that allows it, a fragment node that begins a component here.

        Args:
            back: Backtrack to the parent, a free node; ignored for the first node of a graph, (P,)
                long.
            uniform: Numbers in [0, 1) that decide among the possible nodes, (P,).
            guide: Unnormalized probabilities of the nodes (columns) by `source` (rows), (U + 2, U).
            ahead: Bounds of what the nodes on the paths still need.

        Returns:
            - R placements, at most one for each particle.
            - Minus the log-probability with which each was chosen, (R,) nats.

            None if no particle allows an entry.
        """
        f, first = self.fragment, self.depth < 0
        parent = torch.where(first, -1, self.depth - back)
        everyone = torch.arange(len(back), device=back.device)
        takes = torch.where(first[:, None], self.not_entered, ahead.enterable(everyone, parent))
        takes &= self.is_first
        rows = takes.any(1).nonzero()[:, 0]
        if not len(rows):
            return None
        size = len(f)
        share = guide[torch.where(first[rows], size, size + 1)] * takes[rows]
        below = share.cumsum(1)
        node = (uniform[rows, None] * below[:, -1:] >= below).sum(1)
        number = torch.arange(1, size + 1, device=rows.device)
        node = node.minimum((takes[rows] * number).amax(1) - 1)
        chance = share.gather(1, node[:, None])[:, 0] / below[:, -1]
        placements = Placements(
            owner=rows,
            node=node,
            back=torch.where(first[rows], 0, back[rows]),
            lengths=rows.new_zeros(len(rows), self.closures),
            edges=rows.new_full((len(rows), self.closures + 1), -1),
            enters=torch.ones_like(rows, dtype=torch.bool),
            alive=self.alive[rows],
        )
        return placements, -chance.log()

    def placement_mask(
        self, placements: Placements, previous: list[Tensor], cardinality: int
    ) -> Tensor:
        """Return which values the next variable of each placement may have.

        Args:
            placements: R placements.
            previous: Values of the variables of these nodes that are drawn already, (R,) long each.
            cardinality: Number of values of the next variable.

        Returns:
            (R, cardinality) bool. Backtrack and lengths have one possible value.
        """
        value = torch.arange(cardinality, device=self.depth.device)[None]
        k, f = len(previous), self.fragment
        role, number = Variable.at(k)
        if role is VariableRole.BACKTRACK:
            return value == placements.back[:, None]
        if role is VariableRole.LENGTH:
            return value == placements.lengths[:, number - 1, None]
        if role is VariableRole.CATEGORY:
            return self._leave_enough(placements, previous, f.categories[placements.node])
        edge = placements.edges[:, number]
        fits = (value == 0).expand(len(edge), -1)
        if len(f.edges):
            options = f.structures[:, edge.clamp(min=0)]  # (S, R, C)
            options = (options & placements.alive.T[..., None]).any(0)
            fits = torch.where(edge[:, None] < 0, fits, options)
        if k == 1:
            single = f.plain & (self.weights == 1)
            by_valence = f.plain & (
                self.weights <= self.valence[placements.owner, placements.node][:, None]
            )
            attaches = self.attachments[placements.owner, placements.node][:, None] > 0
            entering = torch.where(attaches, single, by_valence & (value > 0))
            entering = torch.where(self.depth[placements.owner][:, None] < 0, value == 0, entering)
            fits = torch.where(placements.enters[:, None], entering, fits)
        return self._leave_enough(placements, previous, fits)

    def _leave_enough(self, placements: Placements, previous: list[Tensor], fits: Tensor) -> Tensor:
        """Remove values of a variable that leave too little valence for the edges to come.

        All their continuations have weight 0, so this only changes how many particles survive.

        Args:
            placements: R placements.
            previous: Values of their earlier variables, (R,) long each.
            fits: Values of the next variable that are possible otherwise, (R, C) bool.

        Returns:
            (R, C) bool.
        """
        # Without rules a node may get any edge in any state, and every attachment can be filled.
        if (self.support.states.after[1:] != UNKNOWN).all():
            return fits
        k, owner, node = len(previous), placements.owner, placements.node
        parent = self.depth[owner] - placements.back
        # An edge to a free node fills an attachment: to the parent where a component is entered, or
        # of a closure.
        number = Variable.at(k).edge_number
        edges = placements.edges[:, : 1 + number]
        joins = (edges[:, 1:] < 0) & (placements.lengths[:, :number] > 0)
        enters = placements.enters & (parent >= 0) & (self.attachments[owner, node] > 0)
        filled = enters.long() + joins.sum(1)
        rest = (self.between.sum(1) + self.fragment.attachments)[node] - filled
        rest = rest - torch.where(edges < 0, 0, self.least[edges.clamp(min=0)]).sum(1)
        sums = self.support.states.sums
        if k == 2:
            return fits & (sums - self.weights[previous[PARENT_EDGE]][:, None] >= rest[:, None])
        # Free degree of the node at the other end.
        up = torch.zeros_like(parent) if k == 1 else previous[-1] - 1
        other = self.at[owner].gather(1, (parent - up).clamp(min=0)[:, None])
        member = other.clamp(min=0)
        far = self.left[owner].gather(1, member) - self.needed[owner].gather(1, member)
        far = far + self.between[member[:, 0], node][:, None]
        enough = self.weights <= torch.where(other < 0, self.weights.max(), far)
        if k == 1:
            return fits & (placements.enters[:, None] | enough)
        own = sums[previous[CATEGORY]] - self.weights[previous[PARENT_EDGE]]
        for j in range(COMMON_VARIABLES, k, 2):
            own = own - self.weights[previous[j]]
        enough = enough & (self.weights <= (own - rest)[:, None])
        return fits & (enough | (previous[-1] == 0)[:, None])

    def narrow(self, placements: Placements, previous: list[Tensor]) -> None:
        """Rule out structures that contradict the variable drawn last, in place.

        Only a variable that is the label of an edge of the fragment can contradict a structure.

        Args:
            placements: R placements. Their `alive`, (R, S) bool, becomes False for structures with
                another label at this edge.
            previous: Values of the variables drawn so far, (R,) long each; the last one is new.
        """
        role, number = Variable.at(len(previous) - 1)
        is_edge = previous and role in (VariableRole.PARENT_EDGE, VariableRole.CLOSING_EDGE)
        if not is_edge or not len(self.fragment.edges):
            return
        edge = placements.edges[:, number]
        fits = self.fragment.structures[:, edge.clamp(min=0)]  # (S, R, C)
        chosen = previous[-1].expand(len(fits), -1)[..., None]
        placements.alive = placements.alive & (
            fits.gather(2, chosen)[..., 0].T | (edge < 0)[:, None]
        )

    def add(self, x: Tensor, node: Tensor, enters: Tensor, alive: Tensor) -> None:
        """Add the next node of each particle, in place; then call `update_tables` again.

        Args:
            x: Values of its V variables, in the order of `DepthFirstCode`, (P, V) long.
            node: Its number in the fragment, -1 (`FREE`) for a free node, (P,) long.
            enters: True for an entry, (P,) bool.
            alive: True for the structures of the fragment with which the particle, this node
                included, still agrees, (P, S) bool.
        """
        rows = torch.arange(len(x), device=x.device)
        first, free, member = self.depth < 0, node == FREE, node != FREE
        parent = torch.where(first, -1, (self.depth - x[:, 0]).clamp(min=0))
        own = self.support.states.sums[x[:, 2]]
        category = self.support.states.category[self.state]
        edges, lengths = DepthFirstCode.labels(x), DepthFirstCode.lengths(x)
        self._count_rings(parent, free, lengths[:, 1:])
        for edge, length in zip(edges.unbind(-1), lengths.unbind(-1), strict=True):
            real = ~first & (length > 0)
            level = (parent + 1 - length).clamp(min=0)
            far = self.at[rows, level]
            far = torch.where(real, far, FREE)
            # An edge from a fragment node to a free one fills an attachment, or else takes valence.
            self._use(free & (far != FREE), far, edge, x[:, 2])
            self._use(member & real & (far == FREE), node, edge, category[rows, level])
            own = own - self.weights[edge]
            ends = (far != FREE).nonzero()[:, 0]
            self.left[ends, far[ends]] -= self.weights[edge[ends]]
        detours = free & ~first & self.pending_at.gather(1, parent.clamp(min=0)[:, None])[:, 0]
        self.detours = self.detours + detours.long()
        self.free = self.free - free.long()
        self.level = torch.where(self.level > parent[:, None], LEFT, self.level)
        source = torch.where(enters, len(self.fragment) + (~first).long(), self.last)
        for table, value in ((self.left, own), (self.level, parent + 1), (self.came_from, source)):
            table[rows[member], node[member]] = value[member]
        self.last = torch.where(member, node, self.last)
        images = self.fragment.images[:, node.clamp(min=0)].T
        self.symmetric = self.symmetric & ((images == node[:, None]) | free[:, None])
        self.at[rows, parent + 1] = node
        self.depth = parent + 1
        self.alive = alive

    def _count_rings(self, parent: Tensor, free: Tensor, lengths: Tensor) -> None:
        """Count the rings that the next node of each particle closes, in place.

        Args:
            parent: Level of its parent, -1 for the first node, (P,) long.
            free: True for a free node, (P,) bool.
            lengths: Lengths of its closures, 0 for none, (P, K) long.
        """
        self.rings = self.rings + torch.where(free, (lengths > 0).sum(1), 0)

    def _use(self, which: Tensor, node: Tensor, edge: Tensor, other: Tensor) -> None:
        """Give fragment nodes an edge to a free node, in place.

        It is taken from attachments, or else from free degree.

        Args:
            which: Particles that get such an edge, (P,) bool.
            node: Fragment node at its other end, (P,) long.
            edge: Label of the edge, (P,) long.
            other: Category of the free node, (P,) long.
        """
        rows = which.nonzero()[:, 0]
        node, edge, other = node[rows], edge[rows], other[rows, None]
        whole = self.whole[rows, node]
        self.whole[rows, node] = self.support.states.after[whole, edge[:, None], other]
        attaches = self.attachments[rows, node] > 0
        self.attachments[rows, node] -= attaches.long()
        self.valence[rows, node] -= torch.where(attaches, 0, self.weights[edge])


# The constants below change proposals and resampling, not the target distribution of the weights.
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
        model: A `PathModel`.
        fragment: Nodes and edges that every graph contains.
        temperature: 1 for the model's own distribution; below 1 for more probable graphs.
        condition_values: Values of the model's conditions, each in its own unit, (1, conditions),
            NaN where unknown; None if the model has none.

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

        Args:
            particles: Particles that `draw` returned; nothing is learnt if all are dead ends.
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

        Args:
            sizes: Number of nodes of each graph, (P,) long.
            generator: Random generator of the CPU.

        Returns:
            P particles. Those that came to a dead end have the log-weight -inf.

        Raises:
            UserError: A size is too small for the fragment.
        """
        network, code = self.network, self.model.code
        count, largest = len(sizes), int(sizes.max())
        sizes = sizes.to(network.norm.weight.device)
        number = torch.arange(largest, device=sizes.device)
        mask = number < sizes[:, None]
        rows = None if self.condition_values is None else self.condition_values.expand(count, -1)
        drawing = network.start(Context(mask.clone(), condition_values=rows))
        progress = self.fragment.start(sizes, self.missing)
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
        """Choose the particles to go on with.

        Args:
            log_weights: Logarithms of the weights with `expected` added, (P,) nats.

        Returns:
            Indices of particles, which may repeat, (P,) long. None to go on with all: the weights
            are similar (an effective share of the particles above 0.03, `RESAMPLE`), or all are 0.
        """
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
        """Draw node i of every particle into `known` and `progress`, in place.

        Args:
            hidden: What the network knows of the P particles before node i.
            i: Number of the node.
            progress: The particles.
            known: Variables of all nodes, (P, nodes, V) long.
            guide: Preferences for the fragment node to place next (the property `guide`), (U + 2,
                U).

        Returns:
            Log factors of the weights, (P,) float64; -inf for a dead end.
        """
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
            entry = progress.entries(back, uniform, guide, ahead)
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
        """Return log factors by which a free node is proposed less often than the model draws it.

        Only a detour has a factor below 1: the learnt share of the fragment nodes at which the
        model draws one.

        Args:
            progress: The particles.
            back: Backtracks of the free nodes, (P,) long.

        Returns:
            (P,) float64, at most 0.
        """
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
        """Draw the variables of fragment nodes at their placements.

        `placements.alive` is narrowed to the structures that agree with the variables, in place.

        Args:
            hidden: What the network knows of the particles so far.
            placements: R placements.
            progress: The particles.
            ahead: What the nodes on their paths miss.

        Returns:
            - The values, (R, V) long.
            - For each variable the logarithm of the total probability of its possible values, given
              the values before, (R, V) float64 in nats; -inf if none is possible.
        """

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
        """Draw the V variables of the next node, among the values that are possible.

        Args:
            hidden: What the network knows of the particles so far.
            rows: Indices of the particles to draw for, (R,) long.
            mask: Function of the values of the earlier variables, (R,) long each, and the number of
                values of the next one; it returns which of these are possible, (R, values) bool.

        Returns:
            - The values, (R, V) long.
            - For each variable the logarithm of the total probability of its possible values, given
              the values before, (R, V) float64 in nats; -inf if none is possible.
        """
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
    """Return log(sum(exp(value))) over the values of each group.

    Args:
        group: Number of the group of each value, (M,) long.
        value: The values, (M,).
        count: Number of groups.

    Returns:
        (count,); -inf for a group without values.
    """
    top = value.new_full((count,), -math.inf).scatter_reduce(0, group, value, "amax")
    level = torch.where(torch.isfinite(top), top, 0.0)
    return value.new_zeros(count).index_add(0, group, (value - level[group]).exp()).log() + level
