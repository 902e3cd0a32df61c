"""Several depth-first node orders of a graph, whose probabilities `PathModel.log_prob` adds.

The model "path" gives a probability to a graph in one node order, that of its *code*. The same
graph can be drawn in other orders as well, so that its probability is a sum over orders.
"""

from __future__ import annotations

import zlib

import numpy as np

from graphcnf.graphs.batch import PackedGraphs

# Probability with which `random_depth_first` deviates from the given order: at the first node, and
# at each branch.
DETOUR = 0.2


def random_depth_first(nodes: int, edges: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a depth-first node order of a connected graph, close to the order of its node numbers.

    The first node is node 0, and at each branch neighbours follow in the order of their numbers.
    But with the probability 0.2 (`DETOUR`) the first node is a random one, and with the same
    probability the neighbours at a branch are shuffled. The node numbers should be in the order of
    the training data, since the model finds orders that are close to it the most probable.
    """
    around: list[list[int]] = [[] for _ in range(nodes)]
    for i, j in edges.tolist():
        around[i].append(j)
        around[j].append(i)
    stack = [int(random.integers(nodes)) if random.random() < DETOUR else 0]
    order: list[int] = []
    while stack:
        node = stack.pop()
        if node in order:
            continue
        order.append(node)
        branches = sorted(n for n in around[node] if n not in order)
        if len(branches) > 1 and random.random() < DETOUR:
            random.shuffle(branches)
        stack += reversed(branches)
    return np.array(order, dtype=np.int64)


def renumbered(graphs: PackedGraphs, count: int) -> tuple[PackedGraphs, np.ndarray]:
    """Return graphs in several node orders each.

    These are the given order and `count` - 1 random depth-first ones, without those that give the
    same numbered graph; with each comes the index of its original.
    """
    lists, owners = [], []
    for k in range(len(graphs)):
        types, edges, kinds = graphs.graph(k)
        # Seeded by the graph, so that its orders do not depend on the batch.
        content = zlib.crc32(b"".join(part.tobytes() for part in (types, edges, kinds)))
        random = np.random.default_rng((0, content))
        known = set()
        for draw in range(count):
            order = random_depth_first(len(types), edges, random) if draw else np.arange(len(types))
            pairs = np.sort(np.argsort(order)[edges], 1)[:, ::-1]
            rank = np.lexsort((-pairs[:, 1], pairs[:, 0]))
            graph = types[order], pairs[rank], kinds[rank]
            key = tuple(part.tobytes() for part in graph)
            if key not in known:
                known.add(key)
                lists.append(graph)
                owners.append(k)
    return PackedGraphs.from_lists(lists), np.array(owners)
