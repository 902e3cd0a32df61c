"""Random graphs, all graphs of a few nodes, and small models of graphs."""

from itertools import combinations, product

import networkx as nx
import numpy as np
import torch
from couplings import perturb

from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.graphs.building import model_for_graphs
from graphcnf.graphs.path.depth_first import VariableRole
from graphcnf.graphs.path.paths import Path

SMALL = {"width": 16, "layers": 2, "heads": 2, "head_width": 8, "level_width": 4, "table_rows": 64}


def random_graph(random, most=12):
    """A random connected graph, numbered depth-first, with random categories."""
    n = int(random.integers(1, most + 1))
    graph = nx.random_labeled_tree(n, seed=int(random.integers(1 << 30)))
    for i, j in random.integers(0, n, (int(random.integers(0, 2 + n // 2)), 2)):
        if i != j:
            graph.add_edge(int(i), int(j))
    # Neighbours in random order: depth-first numberings of every kind.
    nodes = random.permutation(n).tolist()
    shuffled = nx.Graph()
    shuffled.add_nodes_from(nodes)
    shuffled.add_edges_from(random.permutation(np.array(graph.edges).reshape(-1, 2)).tolist())
    number = {v: k for k, v in enumerate(nx.dfs_preorder_nodes(shuffled, nodes[0]))}
    edges = [(number[i], number[j]) for i, j in shuffled.edges]
    return random.integers(0, 3, n), edges, random.integers(0, 2, len(edges))


def random_graphs():
    """4,000 random connected graphs of up to 12 nodes, 3 node and 2 edge categories."""
    random = np.random.default_rng(0)
    packed = PackedGraphs.from_lists(random_graph(random) for _ in range(4400))
    # Few have a node with more than three earlier neighbours: too few to test with.
    lower = GraphBatch.collate(packed).adjacency.tril(-1)
    usable = np.flatnonzero(lower.sum(-1).amax(-1).numpy() <= 3)
    return packed.subset(usable[:4000])


def random_batch(count, most, nodes=3, bonds=2, seed=0):
    """Random graphs of all sizes up to `most`, connected or not, in any order of nodes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, most + 1, (count,), generator=generator)
    sizes[0] = most
    mask = torch.arange(most) < sizes[:, None]
    types = torch.randint(nodes, (count, most), generator=generator)
    lower = torch.randint(bonds + 1, (count, most, most), generator=generator)
    lower = lower * (torch.rand(count, most, most, generator=generator) < 0.6)
    lower = lower.tril(-1)
    return GraphBatch(types, lower + lower.transpose(1, 2), mask).clear_padding()


def every_graph(nodes, types=1, bonds=1, connected=False):
    """All graphs of some nodes in every labelling, in parts as well unless `connected`."""
    graphs = []
    for kinds in product(range(bonds + 1), repeat=nodes * (nodes - 1) // 2):
        pairs = [p for p, k in zip(combinations(range(nodes), 2), kinds, strict=True) if k]
        for own in product(range(types), repeat=nodes):
            graphs.append((own, pairs, [k - 1 for k in kinds if k]))
    packed = PackedGraphs.from_lists(graphs)
    whole = GraphBatch.collate(packed).connected().numpy()
    return packed.subset(whole.nonzero()[0]) if connected else packed


def every_numbered_graph(nodes, types=1, bonds=1, closures=0):
    """All connected graphs of some nodes in every depth-first numbering, with so many closures."""
    found = [([], [0])]
    for node in range(1, nodes):
        found = [
            (edges + [(node, near) for near in (parent, *far)], [*path[: k + 1], node])
            for edges, path in found
            for k, parent in enumerate(path)
            for count in range(min(k, closures) + 1)
            for far in combinations(path[:k], count)
        ]
    return PackedGraphs.from_lists(
        (own, edges, kinds)
        for edges, _ in found
        for own in product(range(types), repeat=nodes)
        for kinds in product(range(bonds), repeat=len(edges))
    )


def build_model(graphs, *, node_categories=3, edge_categories=2, **extra):
    """A small GraphModel for graphs, away from its initialisation."""
    torch.manual_seed(0)
    sizes = {"node_categories": node_categories, "edge_categories": edge_categories}
    return perturb(model_for_graphs(graphs, **sizes, **SMALL, **extra)).eval()


def every_code(support, cardinalities, nodes):
    """All codes (M, nodes, V) of graphs that the support allows, by walking through all of it."""
    path = Path.start(1, nodes, support.pad)
    done = torch.zeros(1, 0, len(cardinalities), dtype=torch.long)
    for number in range(nodes):
        to_come = torch.full((len(done),), nodes - 1 - number)
        rows = torch.arange(len(done))
        new = support.new_nodes(path.levels.state, path.depth, to_come)
        for _ in cardinalities:
            # Where nothing is possible, `possible` would have all values.
            if new.variable.role is VariableRole.BACKTRACK:
                assert support.possible_backtracks(new).any(1).all(), "a dead end"
            assert new.pairs is None or new.pairs.flatten(1).any(1).all(), "a dead end"
            row, value = new.possible.nonzero(as_tuple=True)
            rows = rows[row]
            new = support.add(new[row], value)
        x = torch.stack(new.x, -1)
        done = torch.cat([done[rows], x[:, None]], 1)
        path = path.select(rows)
        path.add(number, x, support.states)
    return done
