"""Other depth-first numberings of a graph, and with them more of its probability.

A model of canonically numbered graphs leaves some probability to other numberings of the same
graph. Each has a code of its own, and the graph's probability is the sum over its codes.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.record_blocks import batches

DETOUR = 0.2
"""Probability of leaving the given order at a branch, or of another first node."""


def random_depth_first(
    nodes: int, edges: np.ndarray, random: np.random.Generator, detour: float = DETOUR
) -> np.ndarray:
    """Return a depth-first order of a connected graph, close to the order that it has.

    Args:
        nodes: Number of nodes.
        edges: Each edge once, (m, 2).
        random: Where the numbers come from.
        detour: Probability of another first node than node 0, and at each branch of shuffling the
            neighbours instead of taking the lowest number first. With 1, every depth-first order
            can come out.

    Returns:
        New node i is old node `order[i]`, (n,) int64.
    """
    around: list[list[int]] = [[] for _ in range(nodes)]
    for i, j in np.asarray(edges, dtype=np.int64).reshape(-1, 2).tolist():
        around[i].append(j)
        around[j].append(i)
    first = int(random.integers(nodes)) if random.random() < detour else 0
    order, seen, stack = [], [False] * nodes, [first]
    while stack:
        node = stack.pop()
        if seen[node]:
            continue
        seen[node] = True
        order.append(node)
        branches = sorted(n for n in around[node] if not seen[n])
        if len(branches) > 1 and random.random() < detour:
            random.shuffle(branches)
        stack += reversed(branches)
    return np.array(order, dtype=np.int64)


def renumbered(graphs: PackedGraphs, count: int, seed: int) -> tuple[PackedGraphs, np.ndarray]:
    """Each graph as it is, and in the distinct ones among `count - 1` random numberings.

    The numberings of a larger `count` begin with those of a smaller one.

    Returns:
        The graphs, and the number of the graph that each of them is.
    """
    lists, owners = [], []
    for k in range(len(graphs)):
        types, edges, bonds = graphs.graph(k)
        # A function of the graph, whatever it is batched with.
        content = zlib.crc32(b"".join(part.tobytes() for part in (types, edges, bonds)))
        random = np.random.default_rng((seed, content))
        known = set()
        for draw in range(count):
            order = np.arange(len(types))
            if draw:
                order = random_depth_first(len(types), edges, random)
            place = np.argsort(order)
            pairs = np.sort(place[edges.astype(np.int64)], 1)[:, ::-1]
            rank = np.lexsort((-pairs[:, 1], pairs[:, 0]))
            graph = types[order], pairs[rank], bonds[rank]
            key = tuple(part.tobytes() for part in graph)
            if key not in known:
                known.add(key)
                lists.append(graph)
                owners.append(k)
    return PackedGraphs.from_lists(lists), np.array(owners)


def log_prob_of_orders(steps, batch: GraphBatch, count: int, seed: int = 0) -> Tensor:
    """Log of the summed probabilities of several numberings of each graph, (B,) nats.

    Args:
        steps: `PathModel`.
        batch: Depth-first numbered graphs.
        count: Numberings to try, the given one included; see `renumbered`.
        seed: Of the others.
    """
    graphs, owners = renumbered(batch.to_packed(), count, seed)
    total = torch.full((len(batch),), -torch.inf, device=batch.mask.device)
    for chosen in batches(graphs.node_counts):
        part = GraphBatch.collate(graphs, chosen).to(batch.mask.device)
        if batch.conditions is not None:
            part.conditions = batch.conditions[
                torch.from_numpy(owners[chosen]).to(batch.mask.device)
            ]
        # A longer step back or closure than the code has: such a numbering has probability 0.
        known = steps.code.knows(part)
        if not known.any():
            continue
        part = part[known]
        log_p = sum(bound.value() for bound in steps.bounds(part).values())
        owner = torch.from_numpy(owners[chosen]).to(known.device)[known]
        total = total.to(log_p)
        for k in owner.unique().tolist():
            more = torch.logsumexp(log_p[owner == k], 0)
            total[k] = torch.logaddexp(total[k], more)
    return total
