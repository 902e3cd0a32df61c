from itertools import combinations, product

import pytest

from graphcnf.graphs import PackedGraphs


@pytest.fixture(scope="session")
def every_graph():
    """Function that gives every depth-first numbered connected graph, edges of one category."""

    def graphs(nodes, *, categories=1, closures=0):
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
            (types, edges, [0] * len(edges))
            for edges, _ in found
            for types in product(range(categories), repeat=nodes)
        )

    return graphs
