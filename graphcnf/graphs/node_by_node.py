"""The graph model "growth": graphs of any kind, node by node, each with its edges to earlier nodes.

- The *code* of a graph has V variables for each node (`RowCode`): its category, and one variable
  for each earlier node, which says whether there is an edge and of which category.
- The *new node* is the one whose variables are being decided; the *joined* nodes are the earlier
  ones to which it has an edge so far.
- An edge is *open* if it lies in fewer than two triangles. In graphs such as triangulations of the
  plane, where each edge lies in two triangles at most, new nodes attach to open edges; features of
  a possible edge therefore count open edges apart.
- The *pieces* of a new node are its edges minus the open edges among the joined nodes: 1 if a
  chain of open edges links all joined nodes, more if there are several such chains.
- The node order is random, a latent of the model (`RandomOrder`), drawn by `most_edges_first`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import (
    AutoregressiveFlow,
    AutoregressiveNetwork,
    InSequence,
    Step,
)
from graphcnf.categorical.transformer import HIDDEN, Transformer, zero_init
from graphcnf.flows.transform import Context
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.random_order import RandomOrder
from graphcnf.pretrained import keep_arguments

# Numbers of the features of a possible edge, see `GrowingGraphs.features`, and the range (lowest,
# highest value) to which each is clamped.
DEGREE, OPEN_DEGREE, COMMON, OPEN_COMMON, TWO_STEPS, EDGES, PIECES = range(7)
RANGES = ((0, 31), (0, 7), (0, 11), (0, 7), (0, 6), (0, 15), (-4, 7))
# Pairs of features that have one embedding for each pair of values.
COUNTED = (
    (DEGREE, OPEN_DEGREE),
    (EDGES, COMMON),
    (EDGES, OPEN_COMMON),
    (EDGES, TWO_STEPS),
    (EDGES, PIECES),
)
# Features that have one more embedding for each combination of their values, and the highest value
# to which each is clamped; the lowest is 0.
TOGETHER = (
    (OPEN_DEGREE, 4),
    (COMMON, 3),
    (OPEN_COMMON, 3),
    (TWO_STEPS, 3),
    (EDGES, 4),
    (PIECES, 2),
)
SHARED = 4  # largest number of shared neighbours that attention biases distinguish
CELLS = 2**24  # number of pairs of nodes whose features are computed at once


def most_edges_first(adjacency: Tensor, sizes: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw random orders of graphs (B, N, N) by maximum cardinality search.

    The next node is one with the most edges to earlier nodes (Tarjan & Yannakakis 1984) and, among
    these, with the most edges between its earlier neighbours, so that partial graphs are compact.
    Of several such nodes, all are equally likely.

    Args:
        adjacency: Edges, (B, N, N) bool.
        sizes: Number of nodes of each graph, (B,) long.
        uniforms: Uniform numbers, (B, N, N or more): the t-th node of graph b is the candidate i
            with the smallest `uniforms[b, i, t]`.

    Returns:
        The orders (B, N) long, padding last, and their log-probabilities, (B,) nats. New node i is
        old node `order[i]`.
    """
    batch, nodes = adjacency.shape[:2]
    rows, links = torch.arange(batch, device=adjacency.device), adjacency.double()
    number = torch.arange(nodes, device=adjacency.device)
    waiting, order = number < sizes[:, None], []
    edges, among = (torch.zeros_like(waiting, dtype=torch.double) for _ in range(2))
    log_p = torch.zeros(batch, dtype=torch.double, device=adjacency.device)
    for t in range(nodes):
        score = (edges * nodes**2 + among).masked_fill(~waiting, -1.0)
        # After the last node, padding.
        score[:, t] = torch.where(waiting.any(1), score[:, t], math.inf)
        candidates = score == score.amax(1, keepdim=True)
        node = uniforms[..., t].masked_fill(~candidates, 2.0).argmin(1)
        log_p = log_p - candidates.sum(1).double().log()
        order.append(node)
        waiting = waiting.clone()
        waiting[rows, node] = False
        linked = links[rows, node]
        visited = linked * (~waiting & (number < sizes[:, None]))
        among = among + linked * torch.einsum("bij,bj->bi", links, visited)
        edges = edges + linked
    return torch.stack(order, 1), log_p


class RowCode:
    """One-to-one map from numbered graphs to V categories per node.

    The variables of node i are its category, then the category plus 1 of the edge to each of the
    nodes i - 1, i - 2, ..., 0; 0 for no edge.

    Args:
        max_nodes: Largest number of nodes of a graph, V.
        node_categories: Number of node categories.
        edge_categories: Number of edge categories.

    Attributes:
        cardinalities: Number of values of each variable, V of them.
    """

    def __init__(self, max_nodes: int, *, node_categories: int, edge_categories: int):
        self.cardinalities = [node_categories, *[edge_categories + 1] * (max_nodes - 1)]

    @staticmethod
    def part(k: int) -> str:
        """Return what variable k of a node describes: "nodes" for k = 0, else "edges"."""
        return "edges" if k else "nodes"

    def encode(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Return the codes of graphs.

        Returns:
            Codes (B, N, V) long, 0 at padding, and whether each graph has a code, (B,) bool: always
            True.
        """
        number = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        far = number[:, None] - torch.arange(1, len(self.cardinalities), device=number.device)
        edges = batch.edge_labels.gather(2, far.clamp(min=0).expand(len(batch), -1, -1))
        x = torch.cat([batch.node_types[..., None], torch.where(far >= 0, edges, 0)], -1)
        return x, torch.ones_like(batch.mask[:, 0])

    def decode(self, x: Tensor, mask: Tensor) -> GraphBatch:
        """Return the graphs that have codes.

        Args:
            x: Codes, (B, N, V) long.
            mask: True for real nodes, (B, N) bool.
        """
        x = torch.where(mask[..., None], x, 0)
        labels = edges_of(x)
        return GraphBatch(x[..., 0], labels + labels.mT, mask)


def edges_of(x: Tensor) -> Tensor:
    """Read the edges of graphs out of their codes.

    Args:
        x: Codes, as `RowCode.encode` returns them: the category of each node, and a variable for
            its edge to each earlier node, (B, N, V) long.

    Returns:
        Entry [b, i, j] is the category plus 1 of the edge between nodes i and j of graph b, (B, N,
        N) long; 0 for no edge, and for j >= i.
    """
    number = torch.arange(x.shape[1], device=x.device)
    back = (number[:, None] - number).clamp(min=0)
    return x.gather(2, back.expand(len(x), -1, -1)).tril(-1)


class GrowingGraphs:
    """M partly drawn graphs of up to N nodes, each with a new node and the edges it has so far.

    Args:
        links: Adjacency matrices of the graphs without the new node, (M, N, N) bool.
        number: Number of nodes of each graph, and so the number of the new node, (M,) long.

    Attributes:
        links: Adjacency matrices of the graphs without the new node, (M, N, N) bool.
        open: Edges of `links` that lie in fewer than two triangles, (M, N, N) bool.
        number: Number of nodes of each graph, and so the number of the new node, (M,) long.
        joined: Nodes to which the new node has an edge, (M, N) bool.
        reached: Number of `joined` nodes with an open edge to each node, (M, N) long.
        edges: Number of edges of the new node, (M,) long.
        pieces: `edges` minus the number of open edges among `joined` nodes, (M,) long.
    """

    def __init__(self, links: Tensor, number: Tensor):
        self.links, self.open = links, links & (_shared(links, links) < 2)
        self.number = number
        self.joined = links.new_zeros(links.shape[:2])
        self.reached = number.new_zeros(links.shape[:2])
        self.edges, self.pieces = number.new_zeros(2, len(number))

    def join(self, at: Tensor, far: Tensor) -> None:
        """Add an edge to the new nodes of R graphs, in place.

        Args:
            at: Numbers of the graphs among the M, each at most once, (R,) long.
            far: The earlier node to which each new node gets an edge, (R,) long.
        """
        self.edges[at] += 1
        self.pieces[at] += 1 - self.reached[at, far]
        self.joined[at, far] = True
        self.reached[at] += self.open[at, far]

    def features(self, at: Tensor, far: Tensor) -> list[Tensor]:
        """Describe possible edges from new nodes to earlier ones.

        Args:
            at: Numbers of the R graphs among the M, (R,) long.
            far: The earlier node of each possible edge, (R,) long.

        Returns:
            Features, (R,) long each, in the order of `RANGES`: degree of `far`, and degree counting
            open edges only; number of `joined` nodes with an edge to `far`, and with an open edge;
            number of paths of two open edges from a joined node to `far` by way of a node before
            `far`; `edges` and `pieces`.
        """
        links, open_edges, reached = self.links[at, far], self.open[at, far], self.reached[at]
        before = torch.arange(links.shape[1], device=far.device) < far[:, None]
        return [
            links.sum(-1),
            open_edges.sum(-1),
            (links & self.joined[at]).sum(-1),
            reached.gather(1, far[:, None])[:, 0],
            (reached * (open_edges & before)).sum(-1),
            self.edges[at],
            self.pieces[at],
        ]


def _shared(links: Tensor, others: Tensor) -> Tensor:
    """Count the shared neighbours of nodes.

    Args:
        links: Rows of adjacency matrices, (M, I, N) bool.
        others: Adjacency matrices, (M, N, N) bool.

    Returns:
        Numbers of neighbours that node i of `links` and node j share, (M, I, N).
    """
    return links.float() @ others.float()


@dataclass
class NewNodes:
    """Hidden state of M new nodes whose variables are decided one after the other.

    Attributes:
        grown: The graphs and the edges of their new nodes, updated in place.
        nodes: Channels of earlier nodes in B graphs, (B, N, 3 * H): H for the logits of an edge to
            the node, H as factors of the new node's channels, and H to add to `ends` once there is
            an edge to the node.
        graph: Index into `nodes` of the graph of each new node, (M,) long.
        at: Index into `grown` of the graph of each new node, (M,) long.
        h: Output of attention for the partial graphs, (M, C).
        own: Channels of the new nodes in the output head of edges, (M, H).
        ends: Sum of channels over the edges so far, (M, H).
        decided: Number of variables decided so far.
    """

    grown: GrowingGraphs
    nodes: Tensor
    graph: Tensor
    at: Tensor
    h: Tensor
    own: Tensor
    ends: Tensor
    decided: int = 0


class GrowthNetwork(AutoregressiveNetwork):
    """Network of the category of each node and its edges to earlier nodes.

    Causal attention over the nodes encodes the partial graph, with biases by distance in the order,
    edges and shared neighbours. The logits of an edge depend on the channels of both nodes, on the
    edges of the new node so far, and on features of the partial graph (`GrowingGraphs.features`).

    Args:
        code: The variables of a node.
        max_nodes: Largest number of nodes of a graph.
        connected: True if every node but the first gets an edge.
        planar: True if drawing drops edges that would make a graph non-planar; the density does not
            include this rule.
        width: Channels C of a position.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        head_width: Hidden channels H of the output head of edges.
        dropout: Share of the channels that training leaves out.

    Attributes:
        starts: First rows in the table `counts` of the embedding of `TOGETHER`, then of `COUNTED`.
    """

    starts: Tensor

    def __init__(
        self,
        code: RowCode,
        *,
        max_nodes: int,
        connected: bool,
        planar: bool,
        width: int = 96,
        layers: int = 4,
        heads: int = 6,
        expansion: float = 3,
        head_width: int = 64,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.cardinalities, self.head_width = code.cardinalities, head_width
        self.max_nodes, self.connected, self.planar = max_nodes, connected, planar
        categories, kinds = code.cardinalities[0], max(code.cardinalities[1:], default=2)
        self.initial = nn.Parameter(0.2 * torch.randn(width))
        self.types = nn.Embedding(categories, width)
        self.position = nn.Embedding(max_nodes, width)
        self.remaining = nn.Embedding(max_nodes + 1, width)
        self.joined = nn.Embedding(_size(EDGES) * _size(PIECES), width)
        self.back = nn.Parameter(0.1 * torch.randn(kinds - 1, max_nodes, width))
        self.by_distance = nn.Parameter(torch.zeros(layers * heads, max_nodes))
        self.by_link = nn.Parameter(torch.zeros(layers * heads, 2 * (SHARED + 1)))
        self.blocks = Transformer(width, heads, expansion, layers, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.as_node = nn.Linear(width, 3 * head_width)
        self.as_graph = nn.Linear(width, head_width)
        self.node = zero_init(nn.Linear(width, categories))
        self.chosen = nn.Embedding(categories, head_width)
        self.label = nn.Embedding(kinds, head_width)
        self.distance = nn.Embedding(max_nodes, head_width)
        sizes = [math.prod(most + 1 for _, most in TOGETHER)]
        sizes += [_size(a) * _size(b) for a, b in COUNTED]
        self.counts = nn.Embedding(sum(sizes), head_width)
        self.register_buffer("starts", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)
        self.hidden = nn.ModuleList(nn.Linear(head_width, head_width) for _ in range(2))
        self.edge = zero_init(nn.Linear(head_width, kinds))
        nn.init.constant_(self.edge.bias[:1], 3.0)  # Most pairs have no edge.
        tables = [self.types, self.position, self.remaining, self.joined, self.distance]
        for table in [*tables, self.chosen, self.label, self.counts]:
            nn.init.normal_(table.weight, std=0.2)
        nn.init.zeros_(self.counts.weight[: sizes[0]])

    def inputs(
        self, x: Tensor, number: Tensor | int, sizes: Tensor, edges: Tensor, pieces: Tensor
    ) -> Tensor:
        """Embed nodes with all their edges, the input of attention.

        Args:
            x: Variables of M nodes, (M, V) long.
            number: Their numbers in their graphs, (M,) long, or an int for all.
            sizes: Numbers of nodes of their graphs, (M,) long.
            edges: Numbers of their edges to earlier nodes, (M,) long.
            pieces: Pieces of the nodes, as defined at the top of this module, (M,) long.

        Returns:
            Inputs, (M, C).
        """
        joined = _within(edges, EDGES) * _size(PIECES) + _within(pieces, PIECES)
        h = self.types(x[:, 0]) + self.joined(joined) + self.position.weight[number]
        h = h + self.remaining((sizes - 1 - number).clamp(min=0))
        for kind, table in enumerate(self.back, 1):
            h = h + (x[:, 1:] == kind).to(table.dtype) @ table[1:]
        return h

    def biases(self, links: Tensor, shared: Tensor, back: Tensor) -> Tensor:
        """Return attention biases of pairs of nodes.

        Args:
            links: True for pairs with an edge, (...) bool.
            shared: Numbers of shared neighbours, (...).
            back: Distances in the node order, (...) long.

        Returns:
            Biases, (..., layers * heads).
        """
        kind = links.long() * (SHARED + 1) + shared.long().clamp(max=SHARED)
        return self.by_distance.t()[back] + self.by_link.t()[kind]

    def new_nodes(self, grown: GrowingGraphs, nodes: Tensor, graph: Tensor, h: Tensor) -> NewNodes:
        """Return the hidden state of M new nodes before their first variable.

        Args:
            grown: The M graphs with their new nodes.
            nodes: Channels of earlier nodes in B graphs, see `NewNodes`, (B, N, 3 * H).
            graph: Index into `nodes` of the graph of each new node, (M,) long.
            h: Output of attention for the partial graphs, (M, C).
        """
        own = self.as_graph(h)
        at = torch.arange(len(h), device=h.device)
        return NewNodes(grown, nodes, graph, at, h, own, torch.zeros_like(own))

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield the nodes of complete graphs in several steps, with attention in one pass.

        Features take a matrix (N, N) for every node. To bound memory, a step has so many nodes that
        their matrices have up to `CELLS` entries.

        Args:
            x: Variables of the nodes, (B, N, V) long.
            context: Its mask (B, N) says which nodes are real.
        """
        mask = context.mask
        x = torch.where(mask[..., None], x, 0)
        size, sizes = mask.shape[1], mask.sum(1)
        labels = edges_of(x)
        earlier, links = labels > 0, labels + labels.mT > 0
        number = torch.arange(size, device=mask.device)

        each = [t.split(max(1, CELLS // size**2)) for t in mask.nonzero(as_tuple=True)]
        parts = list(zip(*each, strict=True))  # For each step, graphs and their new nodes.

        @lru_cache(maxsize=4)  # Not all steps: a large batch might not fit into memory.
        def before(step: int) -> GrowingGraphs:
            return self.growing(links, *parts[step])

        h = self.initial.new_zeros(*mask.shape, len(self.initial))
        for k, (graph, node) in enumerate(parts):
            joined = earlier[graph, node].float()
            among = before(k).open.tril(-1).float()
            edges = joined.sum(-1)
            pieces = edges - torch.einsum("mi,mij,mj->m", joined, among, joined)
            known = x[graph, node]
            inputs = self.inputs(known, node, sizes[graph], edges.long(), pieces.long())
            h = h.index_put((graph, node), inputs)
        back = (number[:, None] - number).clamp(min=0)
        bias = self.biases(earlier, _shared(earlier, links), back).movedim(-1, 1)
        bias = bias.masked_fill(number > number[:, None], HIDDEN)
        h = self.norm(self.blocks(self.dropout(h), bias))
        nodes = self.as_node(h)
        h = torch.cat([self.initial.expand(len(h), 1, -1).to(h), h[:, :-1]], 1)
        for k, (graph, node) in enumerate(parts):
            hidden = self.new_nodes(before(k), nodes, graph, h[graph, node])
            yield Step(graph, node, hidden)

    def growing(self, links: Tensor, graph: Tensor, node: Tensor) -> GrowingGraphs:
        """Return partly drawn graphs with their new nodes, of which nothing is decided.

        Args:
            links: Adjacency matrices of B graphs, (B, N, N) bool.
            graph: Which of these each of the M partly drawn graphs is a part of, (M,) long.
            node: Number of its new node; the nodes before are those of the part, (M,) long.
        """
        part = torch.arange(links.shape[1], device=links.device) < node[:, None]
        return GrowingGraphs(links[graph] & part[:, None] & part[..., None], node)

    def describe(self, features: list[Tensor]) -> Tensor:
        """Return the embedding of R possible edges by their features, (R, H).

        Args:
            features: As `GrowingGraphs.features` returns them, (R,) long each.
        """
        return self.counts(self._rows(features)).sum(1)

    def score(self, h: Tensor, features: list[Tensor]) -> Tensor:
        """Return the logits of R possible edges, (R, number of edge categories + 1).

        Args:
            h: Output of the hidden layers, (R, H).
            features: As `GrowingGraphs.features` returns them, (R,) long each.
        """
        return self.edge(h)

    def start(self, context: Context) -> GrowthState:
        assert context.mask is not None
        return GrowthState(self, context.mask)

    def logits(self, hidden: NewNodes) -> Tensor:
        if not hidden.decided:
            return super().logits(self.node(hidden.h))
        grown, at = hidden.grown, hidden.at
        far = grown.number[at] - hidden.decided
        node, gate, _ = hidden.nodes[hidden.graph, far].split(self.head_width, -1)
        own = hidden.own + hidden.ends
        h = own + node + own * gate + self.distance.weight[hidden.decided]
        features = grown.features(at, far)
        h = F.relu(h + self.describe(features))
        h = h + self.hidden[1](F.relu(self.hidden[0](h)))
        logits = super().logits(self.score(F.relu(h), features))
        if self.connected:
            needed = (far == 0) & (grown.edges[at] == 0)
            none = torch.arange(logits.shape[1], device=far.device) == 0
            logits = logits.masked_fill(needed[:, None] & none, -math.inf)
        return logits

    def _rows(self, features: list[Tensor]) -> Tensor:
        """Find the embeddings of features in the table `counts`.

        Args:
            features: Features of R possible edges, as `GrowingGraphs.features` returns them, (R,)
                long each.

        Returns:
            Numbers of rows of the table, (R, 1 + len(COUNTED)) long: the one of the features in
            `TOGETHER`, then one for each pair of features in `COUNTED`.
        """
        together = torch.zeros_like(features[0])
        for name, most in TOGETHER:
            together = together * (most + 1) + features[name].clamp(0, most)
        pairs = (_within(features[a], a) * _size(b) + _within(features[b], b) for a, b in COUNTED)
        return torch.stack([together, *pairs], -1) + self.starts

    def embed(self, hidden: NewNodes, x: Tensor) -> tuple[NewNodes, Tensor | None]:
        """Add a decided variable to the hidden state of M new nodes; edges are added to `grown`.

        After the edge to the first node, a new node is complete and leaves the step.

        Args:
            hidden: Hidden state of the M nodes.
            x: The variable of each, (M,) long.

        Returns:
            The hidden state of the next variable, and the indices (R,) of the nodes that have it.
        """
        grown, at, k, ends = hidden.grown, hidden.at, hidden.decided, hidden.ends
        own = hidden.own
        if k:
            new = x.nonzero()[:, 0]
            far = grown.number[at[new]] - k
            grown.join(at[new], far)
            node = hidden.nodes[hidden.graph[new], far, -self.head_width :]
            ends = ends.index_add(0, new, (node + self.label(x[new])).to(ends))
        else:
            own = own + self.chosen(x)
        kept = (grown.number[at] > k).nonzero()[:, 0]
        graph, h, own, ends = (tensor[kept] for tensor in (hidden.graph, hidden.h, own, ends))
        return NewNodes(grown, hidden.nodes, graph, at[kept], h, own, ends, k + 1), kept

    def settle(self, hidden: NewNodes, x: Tensor) -> Tensor:
        """Drop drawn edges that would make a graph non-planar, if the network is `planar`.

        Args:
            hidden: Hidden state of M new nodes.
            x: Categories drawn for their next variable, (M,) long.

        Returns:
            The categories, (M,) long, with 0 (no edge) for an edge that is dropped.
        """
        if not self.planar or not hidden.decided:
            return x
        import networkx as nx  # slow to import, and needed by this rule only

        grown, x = hidden.grown, x.clone()
        # The first edge of a node keeps the graph planar.
        for k in ((x > 0) & (grown.edges[hidden.at] > 0)).nonzero()[:, 0].tolist():
            at = hidden.at[k]
            number = int(grown.number[at])
            graph = nx.from_numpy_array(grown.links[at, :number, :number].cpu().numpy())
            joined = [*grown.joined[at].nonzero()[:, 0].tolist(), number - hidden.decided]
            graph.add_edges_from((number, node) for node in joined)
            if not nx.check_planarity(graph)[0]:
                x[k] = 0
        return x


def _size(name: int) -> int:
    """Return the number of distinct values that `_within` can give for a feature.

    Args:
        name: Number of the feature, such as `DEGREE`.
    """
    low, high = RANGES[name]
    return high - low + 1


def _within(count: Tensor, name: int) -> Tensor:
    """Clamp a feature to its range in `RANGES`, and subtract the lowest value of the range.

    Args:
        count: Values of the feature.
        name: Number of the feature, such as `DEGREE`.
    """
    low, high = RANGES[name]
    return count.clamp(low, high) - low


class GrowthState:
    """State of B partly drawn graphs, updated in place.

    Graphs are sorted by size, the largest first, so that complete ones are last and leave the
    batch; all rows below are in this order (`InSequence`).

    Attributes:
        network: The network.
        order: Which graphs have another node.
        cache: Keys and values of the attention for all nodes so far.
        links: Adjacency matrices so far, (B, N, N) bool.
        nodes: Channels of the nodes so far, see `NewNodes`, (B, N, 3 * H).
        grown: The graphs with their new nodes.
        x: Variables of the last node, (M, V) long.
    """

    grown: GrowingGraphs

    def __init__(self, network: GrowthNetwork, mask: Tensor):
        self.network, self.order = network, InSequence(mask)
        self.cache = network.blocks.cache(mask)
        batch, size = mask.shape
        self.links = mask.new_zeros(batch, size, size)
        self.nodes = network.initial.new_zeros(batch, size, 3 * network.head_width)

    def step(self) -> Step | None:
        """Go on to the next node of all unfinished graphs; None once all are complete.

        First the node before goes through the attention blocks, now that it has all its edges.
        """
        if not self.order.next():
            return None
        net = self.network
        count = self.order.count
        number = self.order.position
        links = self.links[:count, :number, :number]
        graph = torch.arange(count, device=links.device)
        h = net.initial.expand(count, -1)
        if number:  # attention of the last node, now that it has all its edges
            last, last_links = number - 1, links[:, number - 1 :]
            back = last - torch.arange(number, device=h.device)
            bias = net.biases(last_links, _shared(last_links, links), back)[:, 0]
            edges, pieces = self.grown.edges[:count], self.grown.pieces[:count]
            h = net.inputs(self.x[:count], last, self.order.sizes[:count], edges, pieces)
            h = net.norm(net.blocks.next_position(h, bias.transpose(0, 1), self.cache))
            self.nodes[:count, last] = net.as_node(h)
        self.grown = net.growing(links, graph, torch.full_like(graph, number))
        return self.order.step(net.new_nodes(self.grown, self.nodes, graph, h))

    def update(self, x: Tensor) -> None:
        """Append the node that `step` returned last to the M unfinished graphs.

        Args:
            x: Variables of the node: its category and its edges, (M, V) long.
        """
        number = self.order.position
        edges = x[:, 1 : number + 1].flip(1) > 0
        self.links[: len(x), number, :number] = edges
        self.links[: len(x), :number, number] = edges
        self.x = x


class GrowthModel(RandomOrder[GrowthNetwork]):
    """p(graph) node by node, each with its edges to earlier nodes, by a `GrowthNetwork`.

    The order is a latent, see `most_edges_first`; given the order, `bounds` is exact.

    Args:
        node_categories: Number of node categories.
        edge_categories: Number of edge categories.
        max_nodes: Largest number of nodes of a graph.
        connected: True if every node but the first gets an edge.
        planar: True if drawing drops edges that would make a graph non-planar.
        **network: Further arguments of `GrowthNetwork`.
    """

    network_classes = (GrowthNetwork,)
    code: RowCode
    architecture = "growth"
    measured_arguments = ("connected", "planar")
    rules_off = {"planar": False}
    redraw_check = "planarity check"
    why_unknown = "not connected, as all training graphs are"
    draw_order = staticmethod(most_edges_first)

    @keep_arguments
    def __init__(
        self,
        *,
        node_categories: int,
        edge_categories: int,
        max_nodes: int,
        connected: bool = True,
        planar: bool = False,
        **network,
    ):
        super().__init__()
        categories = {"node_categories": node_categories, "edge_categories": edge_categories}
        self.code = RowCode(max_nodes, **categories)
        network |= {"max_nodes": max_nodes, "connected": connected, "planar": planar}
        self.flow = AutoregressiveFlow(self.network_classes[0](self.code, **network))

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """Measure the arguments that depend on the training graphs.

        Args:
            graphs: The training graphs.
            **options: `support`: False for no planarity rule; others are ignored.

        Returns:
            "connected": True if all graphs are connected. "planar": True if all graphs are planar
            and `support` is not False.
        """
        import networkx as nx

        connected = all(bool(batch.connected().all()) for batch in GraphBatch.chunks(graphs))

        def planar(k: int) -> bool:
            types, edges, _ = graphs.graph(k)
            # Every non-planar graph has at least four independent cycles.
            few = connected and len(edges) - len(types) < 3
            return few or nx.check_planarity(nx.Graph(edges.tolist()))[0]

        checked = options.get("support", True) and all(map(planar, range(len(graphs))))
        return {"connected": connected, "planar": checked}

    def knows(self, batch: GraphBatch) -> Tensor:
        real = batch.mask.any(1)
        return real & batch.connected() if self.network.connected else real

    def sampling_notes(self, rules: bool) -> list[str]:
        notes = ["connected: every node but the first has an edge."] * self.network.connected
        if rules:
            notes.append("planar: edges that would make a graph non-planar are left out.")
        return notes
