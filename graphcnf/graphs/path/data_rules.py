"""What the model "path" measures in training graphs: how long codes are, and what edges nodes have.

- The *code* of a graph (`DepthFirstCode`) has a largest backtrack and largest lengths of closures.
- Categories may be *merged*: environments do not tell them apart, and each has a *representative*,
  the first category that it is merged with.
- The edges of nodes are limited by their *environments* (`Environments`: a node's category, and
  those of its edges and neighbours), or by the largest *sum of edge weights* at a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.path.depth_first import earlier_edges
from graphcnf.graphs.path.node_states import (
    NEIGHBOUR_BASE,
    Environment,
    Environments,
    packed_neighbour,
    unpacked_neighbour,
)


def measured_code(graphs: PackedGraphs) -> dict[str, Any]:
    """Return the smallest "back" and "closures" of `DepthFirstCode` for the given graphs."""
    later = np.repeat(graphs.node_starts[:-1], graphs.edge_counts) + graphs.edges.max(1)
    most = int(np.bincount(later).max(initial=1))
    back = torch.tensor(0)
    longest = torch.zeros(most, dtype=torch.long)
    for batch in GraphBatch.chunks(graphs):
        backtrack, lengths, _ = earlier_edges(batch.adjacency, batch.mask, most)
        back = back.maximum(backtrack.amax())
        longest = longest.maximum(lengths.amax((0, 1)))
    return {"back": int(back) + 1, "closures": longest[1:].tolist()}


def measured_sums(
    graphs: PackedGraphs,
    *,
    node_categories: int,
    edge_categories: int,
    edge_weights: list[int] | None = None,
    support: bool = True,
    **others: Any,
) -> dict[str, list[int] | None]:
    """Measure the limits on sums of edge weights in training graphs.

    Returns:
        "edge_weights", and "largest_sums", the largest sum of edge weights at a node of each
        category (0 for a category that does not occur), or None.
    """
    weights = [1] * edge_categories if edge_weights is None else list(edge_weights)
    if not support:
        return {"edge_weights": weights, "largest_sums": None}
    weight = np.asarray(weights)[graphs.edge_types]
    first = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)
    sums = np.zeros(len(graphs.node_types), dtype=np.int64)
    for end in graphs.edges.T:
        np.add.at(sums, first + end, weight)
    largest = np.zeros(node_categories, dtype=np.int64)
    np.maximum.at(largest, graphs.node_types, sums)
    return {"edge_weights": weights, "largest_sums": largest.tolist()}


def measured_rules(
    graphs: PackedGraphs,
    *,
    merged: tuple[list[int], list[int]] | None = None,
    support: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Measure what edges the nodes of training graphs have.

    Returns:
        Arguments of `support_with_rules`: "edge_weights", "largest_sums" and "environments". The
        last two are None if no graph has three nodes: limits that allow no such graph are refused.
    """
    support = support and bool(graphs.node_counts.max() >= 3)
    sums: dict[str, Any] = measured_sums(graphs, support=support and merged is None, **options)
    environments = None
    if merged is not None and support:
        environments = with_those_of(Environments(*merged), graphs).arguments()
    return {**sums, "environments": environments}


def with_those_of(known: Environments, graphs: PackedGraphs) -> Environments:
    """Return known environments together with those of all nodes of some graphs."""
    both = Environments(known.node_representatives, known.edge_representatives)
    both.known = known.known | set(_found(known, graphs)[0])
    return both


def are_known(known: Environments, graphs: PackedGraphs) -> np.ndarray:
    """Find graphs all of whose nodes have known environments.

    Nodes of merged categories are not told apart.
    """
    found, number = _found(known, graphs)
    whole = set(known.merged(known.known))
    unknown = np.array([e not in whole for e in known.merged(found)], dtype=bool)[number]
    owner = np.repeat(np.arange(len(graphs)), graphs.node_counts)
    return np.bincount(owner, unknown, len(graphs)) == 0


def neighbours_of(known: Environments, node: int) -> list[int]:
    """Return which categories (representatives) are known beside a node of some category."""
    around = (part for own, part in known.known if own == node)
    return sorted({unpacked_neighbour(packed)[1] for part in around for packed in part})


def has_part(
    known: Environments, node: int, around: Iterable[tuple[int, int]], further: int = 0
) -> bool:
    """Return whether some known environment of a node contains given edges, and further ones.

    Edges are given by the representatives of their category and of the neighbour's;
    `further` is the least number of others, 0 if the given ones may be all.
    """
    part = Counter(packed_neighbour(edge + 1, other) for edge, other in around)
    size = part.total() + further
    return any(own == node and len(k) >= size and part <= Counter(k) for own, k in known.known)


def _found(
    environments: Environments, graphs: PackedGraphs
) -> tuple[list[Environment], np.ndarray]:
    """Return the environments of the nodes of graphs."""
    nodes = np.asarray(environments.node_representatives)
    edges = np.asarray(environments.edge_representatives)
    category = graphs.node_types.astype(np.int64)
    ends = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)[:, None] + graphs.edges
    node = np.concatenate([ends[:, 0], ends[:, 1]])
    other = nodes[category[np.concatenate([ends[:, 1], ends[:, 0]])]]
    neighbour = packed_neighbour(np.tile(edges[graphs.edge_types] + 1, 2), other)
    order = np.lexsort((neighbour, node))
    node, neighbour = node[order], neighbour[order]
    degrees = np.bincount(node, minlength=len(category))
    table = np.full((len(category), 1 + int(degrees.max(initial=0))), -1, dtype=np.int64)
    table[:, 0] = category
    starts = np.cumsum(degrees) - degrees
    table[node, 1 + np.arange(len(node)) - starts[node]] = neighbour
    number = table[:, 0]
    base = (NEIGHBOUR_BASE + 1) ** 2  # larger than a packed neighbour plus 1
    for column in table.T[1:]:
        number = np.unique(number * base + column + 1, return_inverse=True)[1]
    _, place, number = np.unique(number, return_index=True, return_inverse=True)
    rows = table[place].tolist()
    return [(row[0], tuple(k for k in row[1:] if k >= 0)) for row in rows], number
