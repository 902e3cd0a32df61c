"""The graph model "growth": graphs of any kind, node by node, each with its edges to earlier nodes.

- The *code* of a graph has V *variables* for each node (`RowCode`): its category, and one variable
  for each earlier node, which says whether there is an edge to it and of which category.
- The *new node* of a partly drawn graph is the one whose variables are being decided. The nodes
  before it are complete: they have all their edges to each other. The *joined* nodes are those to
  which the new node has an edge so far.
- *Features* of a possible edge, from the new node to an earlier one, are small counts that help to
  predict whether there is an edge, such as the degree of the earlier node.
- An edge is *open* if it lies in fewer than two triangles. In triangulations of the plane each edge
  lies in at most two, so that new nodes attach to open edges. Features count open edges apart.
- The *pieces* of a new node are its edges minus the open edges among the joined nodes. With joined
  nodes 1, 2, 3 and open edges 1-2 and 2-3 they are 3 - 2 = 1: one chain. Several chains give more.
- The *node order* is drawn at random (`graphcnf.graphs.random_order`), by `most_edges_first`.

M partly drawn graphs, or R of them, are treated at a time. H are the channels of the output head of
edges, C those of the attention blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import AutoregressiveNetwork, InSequence, Step
from graphcnf.categorical.autoregressive_flow import AutoregressiveFlow
from graphcnf.categorical.transformer import MASKED, Transformer, zero_init
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


def most_edges_first(
    adjacency: Tensor, sizes: Tensor, uniforms: Tensor, nearly_complete: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw random node orders by maximum cardinality search, so that partial graphs are compact.

    The next node is always one with the most edges to earlier nodes (Tarjan & Yannakakis 1984). Of
    these it is one with the most edges between its earlier neighbours, and of these, with
    `nearly_complete`, one that has all its edges to earlier nodes, or all but one. If several nodes
    are left, all are equally likely.

    Orders are (B, N) long, padding last; their log-probabilities (B,) nats. The t-th node of graph
    b is the possible node i with the smallest `uniforms[b, i, t]`.
    """
    batch, nodes = adjacency.shape[:2]
    rows, links = torch.arange(batch, device=adjacency.device), adjacency.double()
    number = torch.arange(nodes, device=adjacency.device)
    waiting, order = number < sizes[:, None], []
    edges, among = (torch.zeros_like(waiting, dtype=torch.double) for _ in range(2))
    log_p = torch.zeros(batch, dtype=torch.double, device=adjacency.device)
    for t in range(nodes):
        score = edges * nodes**2 + among
        if nearly_complete:
            score = score + 0.5 * (links.sum(2) - edges <= 1)  # decides between equal nodes only
        score = score.masked_fill(~waiting, -1.0)
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
    """One-to-one map from graphs with numbered nodes to codes: V variables for each node.

    Variable 0 of node i is its category. Variable k is the category plus 1 of its edge to node
    i - k, or 0 if there is no edge or no such node. So a row of the adjacency matrix is read
    backwards, from the node just before.

    Examples:
        >>> from graphcnf.graphs import PackedGraphs
        >>> graphs = PackedGraphs.from_lists([([0, 1, 1], [(0, 1), (0, 2)], [0, 0])])
        >>> RowCode(3, node_categories=2, edge_categories=1).encode(GraphBatch.collate(graphs))[0]
        tensor([[[0, 0, 0],
                 [1, 1, 0],
                 [1, 0, 1]]])
    """

    def __init__(self, max_nodes: int, *, node_categories: int, edge_categories: int):
        self.cardinalities = [node_categories, *[edge_categories + 1] * (max_nodes - 1)]

    @staticmethod
    def part(k: int) -> str:
        """Return "nodes" for variable 0, the category of the node, and "edges" for the others."""
        return "edges" if k else "nodes"

    def encode(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Write graphs as codes."""
        number = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        far = number[:, None] - torch.arange(1, len(self.cardinalities), device=number.device)
        edges = batch.edge_labels.gather(2, far.clamp(min=0).expand(len(batch), -1, -1))
        x = torch.cat([batch.node_types[..., None], torch.where(far >= 0, edges, 0)], -1)
        return x, torch.ones_like(batch.mask[:, 0])

    def decode(self, x: Tensor, mask: Tensor) -> GraphBatch:
        """Read graphs from their codes; the inverse of `encode`."""
        x = torch.where(mask[..., None], x, 0)
        labels = edges_of(x)
        return GraphBatch(x[..., 0], labels + labels.mT, mask)


def edges_of(x: Tensor) -> Tensor:
    """Read the labels of edges out of codes, as the lower triangle of a matrix (B, N, N)."""
    number = torch.arange(x.shape[1], device=x.device)
    back = (number[:, None] - number).clamp(min=0)
    return x.gather(2, back.expand(len(x), -1, -1)).tril(-1)


class GrowingGraphs:
    """M partly drawn graphs of up to N nodes, each with a new node and the edges it has so far.

    At first the new nodes have no edges; `join` adds them, and keeps all counts up to date.

    Attributes:
        links: Adjacency matrices of the graphs without the new node, (M, N, N) bool.
        number: Number of the new node, and so of the nodes before it, (M,) long.
        open: Which edges of `links` lie in fewer than two triangles, (M, N, N) bool.
        joined: Nodes to which the new node has an edge, (M, N) bool.
        reached: For each node, the number of joined nodes to which it has an open edge, (M, N)
            long.
        edges: Number of edges of the new node, (M,) long.
        pieces: Number of edges of the new node minus the number of open edges among the joined
            nodes, (M,) long.
    """

    def __init__(self, links: Tensor, number: Tensor):
        self.links, self.open = links, links & (_shared(links, links) < 2)
        self.number = number
        self.joined = links.new_zeros(links.shape[:2])
        self.reached = number.new_zeros(links.shape[:2])
        self.edges, self.pieces = number.new_zeros(2, len(number))

    def join(self, at: Tensor, far: Tensor) -> None:
        """Add an edge from the new node to node `far`, in place, in the graphs `at`."""
        self.edges[at] += 1
        self.pieces[at] += 1 - self.reached[at, far]
        self.joined[at, far] = True
        self.reached[at] += self.open[at, far]

    def features(self, at: Tensor, far: Tensor) -> list[Tensor]:
        """Describe possible edges from new nodes to earlier ones by small counts.

        Returns:
            Seven features, (R,) long each:

            0. the degree of `far`;
            1. its number of open edges;
            2. the number of joined nodes that have an edge to `far`;
            3. the number of joined nodes that have an open edge to `far`;
            4. the number of paths of two open edges from a joined node to `far`, by way of a node
               with a smaller number than `far`;
            5. the number of edges of the new node so far;
            6. the pieces of the new node.
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
    """Count the shared neighbours of nodes."""
    return links.float() @ others.float()


@dataclass
class NewNodes:
    """Hidden state of M new nodes: all that the network knows when it decides their next variable.

    Attributes:
        grown: The partly drawn graphs, with the edges of their new nodes; updated in place. It may
            have more graphs than M: those whose new node is complete stay in it.
        nodes: Channels of the earlier nodes of B graphs, (B, N, 3 * H), in three parts of H. For
            the logits of an edge to an earlier node, its first part is added to the channels of the
            new node, and the second multiplies them. Once there is such an edge, the third part is
            added to `ends`.
        graph: Which of the B graphs of `nodes` each new node belongs to, (M,) long.
        at: Which of the graphs of `grown` each new node belongs to, (M,) long.
        h: Output of the attention blocks for the graphs without the new node, (M, C).
        own: Channels of the new nodes themselves, (M, H).
        ends: Sum of channels over the edges that each new node has so far, (M, H).
        decided: Number of variables decided so far, the same for all; the next one has this number.
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
    """Network that predicts the category of each node and then its edges to earlier nodes.

    Causal attention over the nodes encodes the graph so far. Its attention biases depend on whether
    two nodes have an edge, how many neighbours they share, and their distance in the order. The
    logits of an edge depend on channels of both nodes, on the edges of the new node so far, and on
    the features of the edge (`GrowingGraphs.features`).

    Args:
        connected: True if every node but the first must get an edge, in scoring and in drawing.
        planar: True if drawing drops edges that would make a graph non-planar. Scoring does not
            know this rule.
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
        """Embed complete nodes, with all their edges, as inputs (M, C) of the attention blocks."""
        joined = _within(edges, EDGES) * _size(PIECES) + _within(pieces, PIECES)
        h = self.types(x[:, 0]) + self.joined(joined) + self.position.weight[number]
        h = h + self.remaining((sizes - 1 - number).clamp(min=0))
        for kind, table in enumerate(self.back, 1):
            h = h + (x[:, 1:] == kind).to(table.dtype) @ table[1:]
        return h

    def biases(self, links: Tensor, shared: Tensor, back: Tensor) -> Tensor:
        """Return attention biases (M, I, J, layers * heads) of I nodes to J nodes in M graphs."""
        kind = links.long() * (SHARED + 1) + shared.long().clamp(max=SHARED)
        return self.by_distance.t()[back] + self.by_link.t()[kind]

    def new_nodes(self, grown: GrowingGraphs, nodes: Tensor, graph: Tensor, h: Tensor) -> NewNodes:
        """Return the hidden state of M new nodes before their first variable, the category."""
        own = self.as_graph(h)
        at = torch.arange(len(h), device=h.device)
        return NewNodes(grown, nodes, graph, at, h, own, torch.zeros_like(own))

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield the nodes of known graphs for scoring, each given the nodes before it.

        The attention blocks are evaluated once, for all nodes. But to count the features of its
        possible edges, each node needs a matrix (N, N) of the graph before it. To bound memory,
        a step has only as many nodes as have 2^24 matrix entries together (`CELLS`), at least one.
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
        bias = bias.masked_fill(number > number[:, None], MASKED)
        h = self.norm(self.blocks(self.dropout(h), bias))
        nodes = self.as_node(h)
        h = torch.cat([self.initial.expand(len(h), 1, -1).to(h), h[:, :-1]], 1)
        for k, (graph, node) in enumerate(parts):
            hidden = self.new_nodes(before(k), nodes, graph, h[graph, node])
            yield Step(graph, node, hidden)

    def growing(self, links: Tensor, graph: Tensor, node: Tensor) -> GrowingGraphs:
        """Cut M partly drawn graphs out of larger ones; a subclass may add further features."""
        part = torch.arange(links.shape[1], device=links.device) < node[:, None]
        return GrowingGraphs(links[graph] & part[:, None] & part[..., None], node)

    def describe(self, features: list[Tensor]) -> Tensor:
        """Embed the features of R possible edges, (R, H), for `logits`."""
        return self.counts(self._rows(features)).sum(1)

    def score(self, h: Tensor, features: list[Tensor]) -> Tensor:
        """Return the logits (R, 1 + edge categories) of possible edges; the first is no edge."""
        return self.edge(h)

    def start(self, context: Context) -> GrowthDrawing:
        assert context.mask is not None
        return GrowthDrawing(self, context.mask)

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
        """Find the embeddings of features in the table `counts`."""
        together = torch.zeros_like(features[0])
        for name, most in TOGETHER:
            together = together * (most + 1) + features[name].clamp(0, most)
        pairs = (_within(features[a], a) * _size(b) + _within(features[b], b) for a, b in COUNTED)
        return torch.stack([together, *pairs], -1) + self.starts

    def next_hidden(self, hidden: NewNodes, x: Tensor) -> tuple[NewNodes, Tensor | None]:
        """Go on from a decided variable of M new nodes to their next one.

        If the variable is an edge, it is added to `hidden.grown`, in place. A node that has decided
        about its edges to all earlier nodes is complete, and has no next variable.
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
        """Drop drawn edges that would make a graph non-planar, if the network is `planar`."""
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


def _size(feature: int) -> int:
    """Return the number of values that a feature has once `_within` has clamped it."""
    low, high = RANGES[feature]
    return high - low + 1


def _within(count: Tensor, feature: int) -> Tensor:
    """Clamp a feature to its range in `RANGES`, and subtract the lowest value of the range."""
    low, high = RANGES[feature]
    return count.clamp(low, high) - low


class GrowthDrawing:
    """B graphs that are being drawn node by node; updated in place.

    The graphs are sorted by size, the largest first, so that the M graphs that have another node
    are the first M (`InSequence`); all rows below are in this order.

    Attributes:
        order: Which node is next, and which graphs have it.
        cache: Keys and values of the attention blocks for all nodes so far.
        links: Adjacency matrices of the nodes so far, (B, N, N) bool.
        nodes: Channels of the nodes so far, as `NewNodes` has them, (B, N, 3 * H).
        grown: The unfinished graphs with their new nodes; set by `step`.
        x: Variables of the node before, (M, V) long; set by `update`.
    """

    grown: GrowingGraphs

    def __init__(self, network: GrowthNetwork, mask: Tensor):
        self.network, self.order = network, InSequence(mask)
        self.cache = network.blocks.cache(mask)
        batch, size = mask.shape
        self.links = mask.new_zeros(batch, size, size)
        self.nodes = network.initial.new_zeros(batch, size, 3 * network.head_width)

    def step(self) -> Step | None:
        """Go on to the next node of all unfinished graphs.

        The node before goes through the attention blocks only now: `update` has brought its edges.
        """
        if not self.order.advance():
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
        return self.order.make_step(net.new_nodes(self.grown, self.nodes, graph, h))

    def update(self, x: Tensor) -> None:
        """Receive the variables (M, V) of the node of the last `step`, and add its edges."""
        number = self.order.position
        edges = x[:, 1 : number + 1].flip(1) > 0
        self.links[: len(x), number, :number] = edges
        self.links[: len(x), :number, number] = edges
        self.x = x


class GrowthModel(RandomOrder[GrowthNetwork]):
    """Density of graphs of any kind, node by node with the edges to earlier nodes.

    The network is a `GrowthNetwork`. The node order is a latent variable, which `most_edges_first`
    draws; given the order, the probability of a graph is exact. `model_for_graphs(graphs,
    architecture="growth", ...)` builds it.

    Args:
        connected: True if every node but the first must get an edge: other graphs have probability
            0.
        planar: True if drawing drops edges that would make a graph non-planar. The density does not
            know this rule.
    """

    network_class: ClassVar[type[GrowthNetwork]] = GrowthNetwork
    code: RowCode
    architecture = "growth"
    measured_arguments = ("connected", "planar")
    rules_off = {"planar": False}
    redraw_check = "planarity check"
    why_unknown = "not connected, as all training graphs are"
    draw_order: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = staticmethod(
        most_edges_first
    )

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
        self.flow = AutoregressiveFlow(self.network_class(self.code, **network))

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """Measure the arguments of the constructor that depend on the training graphs."""
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
