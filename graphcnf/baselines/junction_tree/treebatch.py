"""Trees of a batch in flat arrays, and what a network is told of attachments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from graphcnf.baselines.junction_tree.assembly import TreeCode
from graphcnf.baselines.junction_tree.clusters import Site
from graphcnf.baselines.junction_tree.vocabulary import Vocabulary

NEVER = 10_000
"""Nodes that a cluster would add where it cannot be attached at all."""


def _long(values, device, *shape: int) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64).reshape(-1, *shape), device=device)


@dataclass
class TreeBatch:
    """Junction trees, one after the other; M clusters in all.

    Attributes:
        label: Of the clusters, (M,).
        graph: Which graph each is of, (M,).
        parent: The parent's place, -1 for the first cluster of a graph, (M,).
        remaining: Nodes to come before each cluster, (M,).
        levels: Places of the clusters at each depth, from the first clusters on.
        siblings: Rows (cluster, an earlier child of its parent), (S, 2).
        turns: Rows of `TreeCode.turns`, the cluster as a place: (R, 4).
        heard: Rows (turn, a child before it), (H, 2).
    """

    label: Tensor
    graph: Tensor
    parent: Tensor
    remaining: Tensor
    levels: list[Tensor]
    siblings: Tensor
    turns: Tensor
    heard: Tensor

    @classmethod
    def of(cls, codes: Sequence[TreeCode], device) -> TreeBatch:
        """Build the batch from the codes of some graphs."""
        label: list[int] = []
        depth: list[int] = []
        turns: list[tuple[int, int, int, int]] = []
        graph, parent, remaining = [], [], []
        siblings, heard = [], []
        for number, code in enumerate(codes):
            first = len(label)
            children: list[list[int]] = [[] for _ in code.labels]
            for k, above in enumerate(code.parents):
                depth.append(0 if above < 0 else depth[first + above] + 1)
                parent.append(-1 if above < 0 else first + above)
                if above >= 0:
                    siblings += [(first + k, first + other) for other in children[above]]
                    children[above].append(k)
            for cluster, before, more, left in code.turns():
                heard += [(len(turns), first + child) for child in children[cluster][:before]]
                turns.append((first + cluster, before, int(more), left))
            label += code.labels
            graph += [number] * len(code.labels)
            remaining += code.remaining
        level = np.array(depth)
        return cls(
            _long(label, device), _long(graph, device), _long(parent, device),
            _long(remaining, device),
            [_long(np.flatnonzero(level == d), device) for d in range(level.max() + 1)],
            _long(siblings, device, 2), _long(turns, device, 4), _long(heard, device, 2),
        )  # fmt: skip


@dataclass
class Sites:
    """Attachments to choose from; E choices with O options in all.

    Attributes:
        parent: Label of the cluster that is there, (E,).
        shared: Rows (choice, node of that cluster, label and node of what shares it), (S, 4).
        option: Rows (choice, two nodes of the parent, label and two nodes of the child), (O, 6);
            where one node is shared it stands there twice.
        chosen: Place of what was chosen in `option`, (E,).
    """

    parent: Tensor
    shared: Tensor
    option: Tensor
    chosen: Tensor

    @classmethod
    def of(cls, choices: Sequence[tuple], device) -> Sites:
        """Build it from rows (labels of parent and child, attached, options, chosen)."""
        parent, shared, chosen = [], [], []
        option: list[tuple[int, ...]] = []
        for number, (above, label, attached, options, wanted) in enumerate(choices):
            parent.append(above)
            shared += [(number, v, *other) for v, other in attached]
            chosen.append(len(option) + wanted)
            option += [(number, *_twice(a), label, *_twice(b)) for a, b in options]
        return cls(
            _long(parent, device), _long(shared, device, 4), _long(option, device, 6),
            _long(chosen, device),
        )  # fmt: skip


def _twice(site: Site) -> Site:
    return (site[0], site[-1])


class Tables(nn.Module):
    """The vocabulary as tensors.

    Attributes:
        size: Nodes of each cluster, (V,).
        node: Number of each node of a cluster among all nodes of all clusters, the same for
            equivalent ones, (V, A); 0 where there is none.
        bonds: 1 + category of the edges, (V, A, A).
        adds: Least number of nodes that cluster j adds when attached to cluster i, (V, V).
    """

    size: Tensor
    node: Tensor
    bonds: Tensor
    adds: Tensor

    def __init__(self, vocabulary: Vocabulary, node_categories: int):
        super().__init__()
        clusters, largest = vocabulary.clusters, np.array(vocabulary.largest_sums)
        size = np.array([len(c.types) for c in clusters])
        starts = size.cumsum() - size
        self.nodes = int(size.sum())
        node = np.zeros((len(clusters), size.max()), dtype=np.int64)
        bonds = np.zeros((len(clusters), size.max(), size.max()), dtype=np.int64)
        # What a node of a category can still take, and needs at least, in each cluster.
        takes = np.full((len(clusters), node_categories), -1)
        needs = np.full((len(clusters), node_categories), NEVER)
        ends = sorted({
            (c.types[i], k, c.types[j]) for c in clusters for (i, j), k in c.edges.items()
        })  # fmt: skip
        place = {end: k for k, end in enumerate(ends)}
        has = np.zeros((len(clusters), len(ends)), dtype=np.float32)
        for k, cluster in enumerate(clusters):
            node[k, : size[k]] = starts[k] + np.array(cluster.orbit)
            for v, t in enumerate(cluster.types):
                takes[k, t] = max(takes[k, t], largest[t] - cluster.sums[v])
                needs[k, t] = min(needs[k, t], cluster.sums[v])
            for (i, j), kind in cluster.edges.items():
                bonds[k, i, j] = kind + 1
                if size[k] > 2:
                    has[k, place[cluster.types[i], kind, cluster.types[j]]] = 1
        by_node = (needs[None] <= takes[:, None]).any(-1)
        by_node &= (size[:, None] > 1) | (size[None] > 1)
        adds = np.where(by_node, size - 1, NEVER)
        adds = np.where(has @ has.T > 0, size - 2, adds)
        for name, table in (("size", size), ("node", node), ("bonds", bonds), ("adds", adds)):
            self.register_buffer(name, torch.from_numpy(table), persistent=False)
