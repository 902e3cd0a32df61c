"""GraphAF: an autoregressive flow that draws a graph node by node, and edge by edge.

Shi et al., ICLR 2020, arXiv 2001.09382. The model is here for comparison.

- Nodes are numbered in *breadth-first order* (`breadth_first_order`). First the category of a node
  is drawn, then its edges to earlier nodes.
- The *window* of a node is the last `window` nodes before it. A node can have edges to earlier
  nodes of its window only.
- The *edge value* of a pair of nodes is 0 for no edge, else the edge category plus 1.
- A *vector with noise* encodes a category: its one-hot vector plus uniform noise
  (`OneHotDequantization`). The model draws such a vector as `x = mu + exp(s) z` with normal z; a
  network computes the mean mu and the log-scale s.
- The *sub-graph before* a node has all earlier nodes with their edges. It is what the network sees.
- The *weight* of an edge belongs to its category; in molecules it is the bond order.
- The *valency check* of the paper is a rule of sampling, not part of the density: an edge that
  gives a node more than its largest sum of edge weights is drawn again.

Differences from the paper: the number of nodes is given. Edges of the same node that were drawn
before enter as a running sum, so that the terms of all its edges are computed at once.

Shapes: B graphs, N nodes, W channels (`width`), R edge categories, M node categories.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.baselines.graphnvp import OneHotDequantization, RelationalConvolution, relations
from graphcnf.categorical.categorical_flow import Bound
from graphcnf.categorical.transformer import zero_init
from graphcnf.errors import UserError
from graphcnf.flows.base import StandardNormal, draw_normal
from graphcnf.flows.mixture_of_logistics import bounded_log_scale
from graphcnf.flows.transform import (
    Context,
    Generators,
    Noise,
    log_term_dtype,
    masked,
    sum_log_term,
)
from graphcnf.graphs.batch import GraphBatch, Latents, PackedGraphs
from graphcnf.graphs.graph_model import GraphModel, Loss, likelihood_loss
from graphcnf.graphs.path.data_rules import measured_sums
from graphcnf.pretrained import keep_arguments


def breadth_first_order(batch: GraphBatch) -> Tensor:
    """Return a breadth-first order of the nodes of each graph, (B, N) long; padding stays last.

    The search starts at node 0, and visits the neighbours of a node in the order of their numbers.
    In a graph that is not connected, it goes on with the first node that is left.

    Examples:
        >>> from graphcnf.graphs.batch import PackedGraphs
        >>> path = PackedGraphs.from_lists([([0] * 4, [(1, 0), (2, 1), (3, 0)], [0] * 3)])
        >>> breadth_first_order(GraphBatch.collate(path)).tolist()
        [[0, 1, 3, 2]]
    """
    mask, adjacency = batch.mask, batch.adjacency
    graphs, nodes = mask.shape
    at = torch.arange(graphs, device=mask.device)
    # Nodes without a rank yet have rank N; padding has its place.
    rank = torch.where(mask, nodes, torch.arange(nodes, device=mask.device))
    found = torch.zeros(graphs, dtype=torch.long, device=mask.device)
    for turn in range(nodes):
        fresh = (found == turn)[:, None] & mask & (rank == nodes)
        root = fresh & (fresh.cumsum(1) == 1)
        rank = torch.where(root, turn, rank)
        found = found + root.sum(1)
        here = (rank == turn).long().argmax(1)
        new = adjacency[at, here] & (rank == nodes)
        rank = torch.where(new, found[:, None] + new.cumsum(1) - 1, rank)
        found = found + new.sum(1)
    return rank.argsort(1)


DRAWS = 50  # number of draws after which the valency check leaves an edge out

# Initial means and log-scales: most entries of one-hot vectors with noise lie in [0, 0.9), with
# standard deviations of 0.26 and more.
MIDDLE, LOG_SCALE = 0.5, -1.0


class SubGraph(NamedTuple):
    """Features by which nodes and their edges are drawn: of S nodes in each of B graphs.

    Attributes:
        whole: One vector for each sub-graph, (B, S, W).
        nodes: One vector for each node of the window, (B, S, window, W), the node with the smallest
            number first. Entries before node 0 have no meaning.
        sent: Message of each node of the window to the new node, for each value that the edge
            between them can have, (B, S, window, R + 1, W). The message of value 0, no edge, is 0.
    """

    whole: Tensor
    nodes: Tensor
    sent: Tensor


def along(sent: Tensor, categories: Tensor) -> Tensor:
    """Select the message that belongs to the edge value of each pair of nodes, (..., W)."""
    index = categories[..., None, None].expand(*categories.shape, 1, sent.shape[-1])
    return sent.gather(-2, index).squeeze(-2)


def _perceptron(width: int, outputs: int) -> nn.Sequential:
    """Return a network with a hidden layer, whose outputs start at 0."""
    leave = zero_init(nn.Linear(width, outputs))
    return nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), leave)


def _mean_and_log_scale(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Turn outputs of a network into parameters of a normal distribution of a one-hot vector."""
    mean, log_scale = parameters.to(log_term_dtype(parameters)).chunk(2, -1)
    return mean + MIDDLE, bounded_log_scale(log_scale + LOG_SCALE)


def _from_normal(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return `mean + exp(log_scale) z`, the vector that belongs to normal latents."""
    return mean.to(z) + torch.exp(log_scale.to(z)) * z


class GraphAFModel(GraphModel):
    """GraphAF as a graph model: log p(graph) as a sum over nodes and edges in breadth-first order.

    The terms of `bounds` are "nodes" and "edges".

    Args:
        edge_weights: Weight of each edge category (for molecules: bond orders); 1 each if None.
        largest_sums: Largest sum of edge weights of each node category, for the valency check; None
            to draw without it. It is not part of the density.
        window: Number of earlier nodes to which a node may have edges (published: 12).
        rows: Number of nodes of each graph whose terms a training step computes, to save time; None
            for all.
    """

    architecture = "graphaf"
    stochastic = True
    measured_arguments = ("edge_weights", "largest_sums")
    rules_off = {"largest_sums": None}
    redraw_check = "valency check"

    weights: Tensor
    sums: Tensor

    @keep_arguments
    def __init__(
        self,
        *,
        node_categories: int,
        edge_categories: int,
        max_nodes: int,
        edge_weights: list[int] | None = None,
        largest_sums: list[int] | None = None,
        window: int = 12,
        width: int = 64,
        layers: int = 3,
        rows: int | None = None,
    ):
        super().__init__()
        self.rows, self.window, self.edge_categories = rows, window, edge_categories
        self.why_unknown = f"a bond between atoms more than {window} apart in breadth-first order"
        self.node_encoding = OneHotDequantization(node_categories)
        self.edge_encoding = OneHotDequantization(edge_categories + 1)
        self.base = StandardNormal()
        self.old, self.new = (nn.Embedding(node_categories, width) for _ in range(2))
        self.back = nn.Embedding(window + 2, width)
        self.to_come = nn.Embedding(max_nodes + 1, width)
        self.convolutions = nn.ModuleList(
            RelationalConvolution(width, edge_categories) for _ in range(layers)
        )
        self.ask = nn.Linear(width, width)
        self.send = nn.Linear(width, edge_categories * width, bias=False)
        self.node = _perceptron(width, 2 * node_categories)
        self.edge = _perceptron(width, 2 * (edge_categories + 1))
        for embedding in (self.old, self.new, self.back, self.to_come):
            nn.init.normal_(embedding.weight, std=0.3)
        weights = edge_weights or [1] * edge_categories
        if len(weights) != edge_categories:
            raise UserError(f"edge_weights must be {edge_categories} numbers, got {weights}")
        if largest_sums is not None and len(largest_sums) != node_categories:
            raise UserError(f"largest_sums must be {node_categories} numbers, got {largest_sums}")
        self.checks_valency = largest_sums is not None
        self.register_buffer("weights", torch.tensor([0, *weights]), persistent=False)
        self.register_buffer("sums", torch.tensor(largest_sums or []), persistent=False)

    @staticmethod
    def measure(graphs: PackedGraphs, **options: Any) -> dict[str, Any]:
        """Measure from training data the arguments that the valency check needs."""
        return measured_sums(graphs, **options)

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return which graphs the model can represent: those without edges beyond the window."""
        far = batch.permute(breadth_first_order(batch)).adjacency.tril(-self.window - 1)
        return ~far.flatten(1).any(1)

    def before(self, types: Tensor, adjacency: Tensor, sizes: Tensor, rows: Tensor) -> SubGraph:
        """Compute the features of the sub-graphs before some nodes of each graph.

        Args:
            types: Node categories, (B, N) long, in breadth-first order.
            adjacency: Adjacency matrices of the R edge categories side by side, as `relations`
                returns them, (B, N, R N).
        """
        number = torch.arange(types.shape[1], device=rows.device)[:, None]
        back = rows[:, None] - number  # (B, N, S)
        seen = back > 0
        h = self.old(types)[:, :, None] + self.back(back.clamp(0, self.window + 1))
        h = masked(h, seen)
        for convolution in self.convolutions:
            h = masked(convolution(h, adjacency), seen)
        whole = h.sum(1) / rows.clamp(min=1)[..., None]
        whole = whole + self.to_come((sizes[:, None] - rows).clamp(min=0))
        last = rows[..., None] + torch.arange(-self.window, 0, device=rows.device)
        graph = torch.arange(len(rows), device=rows.device)[:, None, None]
        row = torch.arange(rows.shape[1], device=rows.device)[:, None]
        # Entries before the first node are not used.
        nodes = h[graph, last.clamp(0, types.shape[1] - 1), row]
        sent = self.send(nodes).unflatten(-1, (-1, nodes.shape[-1]))
        return SubGraph(whole, nodes, F.pad(sent, (0, 0, 1, 0)))

    def of_node(self, before: SubGraph) -> tuple[Tensor, Tensor]:
        """Return mean and log-scale of the next node's vector with noise, (B, S, M) each."""
        return _mean_and_log_scale(self.node(before.whole))

    def queries(self, before: SubGraph, types: Tensor) -> Tensor:
        """Return features (B, S, window, W) of each pair of a new node and a node of its window."""
        return self.ask(before.nodes) + (before.whole + self.new(types))[:, :, None]

    def of_edge(self, query: Tensor, received: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return mean and log-scale of each edge's one-hot vector with noise, (..., R + 1) each.

        Args:
            query: As `queries` returns them, (..., W).
            received: For each pair, the sum of the messages along those edges of the new node that
                are drawn before, (..., W); see `SubGraph.sent`. 0 for the first edge of a node.
        """
        return _mean_and_log_scale(self.edge(query + received))

    def _window(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the window of each node."""
        number = torch.arange(mask.shape[1], device=mask.device)
        ends = number[:, None] + torch.arange(-self.window, 0, device=mask.device)
        return ends.clamp(min=0), mask[..., None] & (ends >= 0)

    def _run(
        self, batch: GraphBatch, noise: Noise | None, rows: Tensor, share: Tensor | float
    ) -> tuple[Latents, dict[str, Bound]]:
        """Compute the terms of some nodes of each graph, and of the edges to nodes before them."""
        mask = batch.mask
        ends, real = self._window(mask)
        number = torch.arange(mask.shape[1], device=mask.device)
        bonds = torch.where(real, batch.edge_labels[:, number[:, None], ends], 0)
        node = self.node_encoding.encode(batch.node_types, Context(mask, noise=noise))
        context = Context(real.flatten(1), noise=noise)
        edge = self.edge_encoding.encode(bonds.flatten(1), context)
        adjacency = relations(batch.edge_labels, self.edge_categories, node.z.dtype)
        before = self.before(batch.node_types, adjacency, batch.node_counts, rows)

        at = torch.arange(len(mask), device=mask.device)[:, None]
        queries = self.queries(before, batch.node_types[at, rows])
        messages = along(before.sent, bonds[at, rows])
        received = messages.cumsum(2) - messages
        edge_z, latents, bounds = edge.z.unflatten(1, bonds.shape[1:]), {}, {}
        for name, encoded, x, there, (mean, log_scale) in (
            ("nodes", node, node.z, mask, self.of_node(before)),
            ("edges", edge, edge_z, real, self.of_edge(queries, received)),
        ):
            x, there = x[at, rows], there[at, rows]
            z = masked((x - mean.to(x)) * torch.exp(-log_scale.to(x)), there)
            log_flow = self.base.log_prob(z, there) - sum_log_term(log_scale, there)
            latents[name] = z
            bounds[name] = Bound.of(share * log_flow, encoded)
        return latents, bounds

    def _all_rows(
        self, batch: GraphBatch, noise: Noise | None
    ) -> tuple[Latents, dict[str, Bound], Tensor]:
        """Compute the latents and the terms of the bound of all nodes and edges."""
        order = breadth_first_order(batch)
        rows = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return *self._run(batch.permute(order), noise, rows, 1.0), order

    def terms(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        return self._all_rows(batch, noise)[1]

    def training_loss(self, batch: GraphBatch, *, beta: float = 1.0) -> Loss:
        terms = self._terms_of_random_rows if self.rows else self.terms
        return likelihood_loss(self, batch, terms, beta)

    def _terms_of_random_rows(self, batch: GraphBatch) -> dict[str, Bound]:
        """Estimate `terms` by those of `rows` random nodes, times (number of nodes) / `rows`."""
        assert self.rows is not None
        sizes = batch.node_counts[:, None]
        # Stratified: one node from each of `rows` equal parts of the order.
        u = torch.rand(len(batch), self.rows, device=sizes.device)
        part = torch.arange(self.rows, device=sizes.device)
        rows = ((part + u) / self.rows * sizes).long().clamp(max=sizes - 1)
        ordered = batch.permute(breadth_first_order(batch))
        return self._run(ordered, None, rows, batch.node_counts / self.rows)[1]

    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents in breadth-first order."""
        latents, _, order = self._all_rows(batch, noise)
        return {**latents, "order": order}

    def base_sample(self, mask: Tensor, generator: Generators = None) -> Latents:
        real, dtype = self._window(mask)[1], self.node_encoding.like.dtype
        draw = partial(self.base.sample, generator=generator, device=mask.device, dtype=dtype)
        nodes = draw((*mask.shape, self.node_encoding.latent_dim), mask=mask)
        bonds = draw((*real.shape, self.edge_encoding.latent_dim), mask=real)
        order = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        return {"nodes": nodes, "edges": bonds, "order": order}

    def redraw(
        self, category: Tensor, free: Tensor, mean: Tensor, log_scale: Tensor, generator: Generators
    ) -> Tensor:
        """Apply the valency check to drawn edges: draw those that are too heavy again.

        An edge is drawn again up to 50 times (`DRAWS`); one that is still too heavy becomes 0, no
        edge.

        Args:
            free: Largest edge weight that both nodes of the edge still allow, (B,).
        """
        # If no edge fits, further draws are useless.
        category = torch.where(free < self.weights[1:].min(), 0, category)
        for _ in range(DRAWS):
            rows = (self.weights[category] > free).nonzero()[:, 0]
            if not len(rows):
                break
            own = generator
            if generator is not None and not isinstance(generator, torch.Generator):
                own = [generator[row] for row in rows.tolist()]
            shape = len(rows), mean.shape[1]
            z = draw_normal(shape, generator=own, device=mean.device, dtype=mean.dtype)
            again = _from_normal(z, mean[rows], log_scale[rows]).argmax(-1)
            category = category.index_copy(0, rows, again)
        return torch.where(self.weights[category] > free, 0, category)

    def from_latents(
        self,
        latents: Latents,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        generator: Generators = None,
    ) -> GraphBatch:
        """Decode base latents to graphs, node by node.

        The category of a node or edge is the index of the largest of its K dequantized entries.
        """
        z = {name: temperature * latents[name] for name in ("nodes", "edges")}
        graphs, nodes = mask.shape
        types = mask.new_zeros(graphs, nodes, dtype=torch.long)
        bonds = mask.new_zeros(graphs, nodes, nodes, dtype=torch.long)
        kept, sizes = mask.clone(), mask.sum(1)
        for i in range(nodes):
            # Includes node i, still without edges, so that the first sub-graph is not empty.
            known = bonds[:, : i + 1, : i + 1]
            adjacency = relations(known, self.edge_categories, z["nodes"].dtype)
            row = torch.full_like(sizes, i)[:, None]
            before = self.before(types[:, : i + 1], adjacency, sizes, row)
            x = _from_normal(z["nodes"][:, i], *(part[:, 0] for part in self.of_node(before)))
            types[:, i] = torch.where(kept[:, i], x.argmax(-1), 0)

            queries = self.queries(before, types[:, i : i + 1])[:, 0]
            received = torch.zeros_like(queries[:, 0])
            for j in range(max(i - self.window, 0), i):
                w = j - i + self.window
                mean, log_scale = self.of_edge(queries[:, w], received)
                bond = _from_normal(z["edges"][:, i, w], mean, log_scale).argmax(-1)
                bond = torch.where(kept[:, i], bond, 0)
                if self.checks_valency:
                    used = self.weights[bonds[:, [i, j]]].sum(-1)
                    free = (self.sums[types[:, [i, j]]] - used).amin(-1)
                    spread = log_scale + math.log(temperature)
                    bond = self.redraw(bond, free, mean, spread, generator)
                bonds[:, i, j] = bonds[:, j, i] = bond
                received = received + along(before.sent[:, 0, w], bond)
            if self.checks_valency and i:
                # As published: a node without an edge ends the graph.
                ends = ~(bonds[:, i] > 0).any(1)
                kept[:, i:] &= ~ends[:, None]
                types[:, i] = torch.where(ends, 0, types[:, i])
        graph = GraphBatch(types, bonds, kept)
        return graph.permute(latents["order"].argsort(1))
