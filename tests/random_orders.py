"""The two models whose order of nodes is a latent, and what their orders are by definition."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, permutations, product

import networkx as nx
import numpy as np
import small_graphs
import torch
from couplings import perturb
from frequencies import assert_frequencies

from graphcnf.flows import Noise
from graphcnf.graphs import GraphModel, PackedGraphs
from graphcnf.graphs.building import model_for_graphs
from graphcnf.graphs.node_by_node import most_edges_first
from graphcnf.graphs.random_order import depth_first

SMALL = {"width": 12, "layers": 2, "heads": 2, "head_width": 8}


@dataclass(frozen=True)
class Kind:
    """A model, and its orders.

    Attributes:
        build: Gives a small model, away from its initialisation, of graphs.
        order: Draws orders: of adjacencies, sizes and uniforms (B, N, N).
        search: Gives all orders of a networkx graph, by search.
        every_uniform: Uniforms (M, N, N) of all draws that give other orders, equally likely.
        edges: Of a graph with several orders.
        nodes: Of that graph.
        complete: Nodes of a complete graph for which n! orders are exact in float64.
    """

    build: Callable[..., GraphModel]
    order: Callable
    search: Callable[[nx.Graph], set[tuple[int, ...]]]
    every_uniform: Callable[[int], torch.Tensor]
    edges: list[tuple[int, int]]
    nodes: int
    complete: int


def unordered(graphs, **options):
    options = {"architecture": "unordered", "order": "none", "rounds": 4, **options}
    return small_graphs.build_model(graphs, **options)


def grown(graphs, node_categories=3, edge_categories=2, **options):
    torch.manual_seed(0)
    options = {"architecture": "growth", "order": "none", **SMALL, **options}
    model = model_for_graphs(
        graphs, node_categories=node_categories, edge_categories=edge_categories, **options
    )
    return perturb(model).eval()


def rings_first(graph):
    """All depth-first orders of a graph that follow the edges on rings first."""
    off_ring = set(map(frozenset, nx.bridges(graph)))

    def longer(order, stack):
        while stack and not set(graph[stack[-1]]) - set(order):
            stack = stack[:-1]
        if not stack:
            yield tuple(order)
            return
        ahead = set(graph[stack[-1]]) - set(order)
        on_ring = {v for v in ahead if frozenset((stack[-1], v)) not in off_ring}
        for v in on_ring or ahead:
            yield from longer([*order, v], [*stack, v])

    return {order for first in graph for order in longer([first], [first])}


def by_edges_and_triangles(graph):
    """All orders in which each node has the most edges to those before, then the most triangles."""

    def score(node, before):
        near = set(graph[node]) & set(before)
        return len(near), graph.subgraph(near).number_of_edges()

    def longer(order):
        rest = [v for v in graph if v not in order]
        if not rest:
            yield tuple(order)
        best = max((score(v, order) for v in rest), default=None)
        for v in rest:
            if score(v, order) == best:
                yield from longer([*order, v])

    return set(longer([]))


def uniforms_of(columns):
    found = [torch.tensor(one).T for one in product(*columns)]
    return torch.stack(found).double() / len(columns)


def uniforms_of_searches(nodes):
    columns = [list(permutations(range(nodes))) for _ in range(nodes - 2)]
    columns[0] = [tuple(np.roll(range(nodes), k)) for k in range(nodes)]
    last = [tuple(range(nodes)), tuple(range(nodes))[::-1]]
    return uniforms_of([*columns, last, [tuple(range(nodes))]])


def uniforms_of_growth(nodes):
    return uniforms_of([list(permutations(range(nodes)))] * (nodes - 1) + [[tuple(range(nodes))]])


KINDS = {
    "unordered": Kind(
        unordered, depth_first, rings_first, uniforms_of_searches,
        edges=[(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 5)], nodes=6, complete=9,
    ),
    "growth": Kind(
        grown, most_edges_first, by_edges_and_triangles, uniforms_of_growth,
        edges=[(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 4), (4, 5)], nodes=7, complete=23,
    ),
}  # fmt: skip


def complete_graph(nodes):
    pairs = list(combinations(range(nodes), 2))
    return PackedGraphs.from_lists([([0] * nodes, pairs, [0] * len(pairs))])


def as_networkx(batch, b):
    graph = nx.from_numpy_array(batch.adjacency[b].numpy())
    graph.remove_nodes_from([v for v in graph if not batch.mask[b, v]])
    return graph


def noise_of(uniforms):
    """A tape with these uniforms of the order as its first draw."""
    noise = Noise()
    noise.draws.append(uniforms)
    return noise


@torch.no_grad()
def probabilities(model, kind, batch):
    """Of graphs of one size: the mean of the bound's exponential over all draws of the order."""
    uniforms = kind.every_uniform(batch.mask.shape[1])
    draws = [model.log_prob(batch, noise=noise_of(u.expand(len(batch), -1, -1))) for u in uniforms]
    return torch.stack(draws).exp().mean(0)


def assert_counts_follow(p, batch, drawn):
    """Graphs that were drawn are those of a batch, each about as often as its probability says."""
    keys = [torch.cat([b.node_types, b.edge_labels.flatten(1)], 1) for b in (batch, drawn)]
    counts = (keys[0][:, None] == keys[1]).all(-1).sum(1)
    assert counts.sum() == len(drawn) and (p * len(drawn) > 20).sum() > 10
    assert_frequencies(counts, p)
