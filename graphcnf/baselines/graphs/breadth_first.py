"""Breadth-first numbering of a batch of graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from graphcnf.graphs.batch import GraphBatch


def breadth_first_order(batch: GraphBatch) -> Tensor:
    """New node i is old node `order[b, i]`, (B, N) long; padding stays where it is.

    The walk starts at the first node, and visits the neighbours of a node by their old numbers. A
    graph in several pieces goes on with the first node that is left.

    Examples:
        >>> from graphcnf.graphs.packed import PackedGraphs
        >>> path = PackedGraphs.from_lists([([0] * 4, [(1, 0), (2, 1), (3, 0)], [0] * 3)])
        >>> breadth_first_order(GraphBatch.collate(path)).tolist()
        [[0, 1, 3, 2]]
    """
    mask, adjacency = batch.mask, batch.adjacency
    graphs, nodes = mask.shape
    at = torch.arange(graphs, device=mask.device)
    # Numbers that are not given yet are large; those of padding are its places.
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
