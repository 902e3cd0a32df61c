"""Graph model "path": an autoregressive flow over the code of a depth-first numbered graph."""

from __future__ import annotations

import zlib
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphcnf.categorical.autoregressive import AutoregressiveFlow
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.coded import CodedModel
from graphcnf.graphs.model import graph_model
from graphcnf.graphs.networks import ConditionEmbedding
from graphcnf.graphs.path.code import AtomCode
from graphcnf.graphs.path.network import PathNetwork
from graphcnf.graphs.path.support import Path, Support, limit_note
from graphcnf.graphs.record_blocks import BLOCK, batches

DETOUR = 0.2  # probability of another first node, and at each branch of another order


@graph_model("path")
class PathModel(CodedModel):
    """p(graph) as a product over its nodes in depth-first order.

    `back` and `closures` are arguments of `AtomCode`; `edge_weights` (bond orders; 1 each when
    None) and `largest_sums` of `Support`; `network` are those of `PathNetwork`. `conditions` are
    `condition_tables`.
    """

    measured = ("back", "closures", "edge_weights", "largest_sums")
    rules = {"largest_sums": None}
    supports_fragments = takes_conditions = True
    batch_size = BLOCK  # Complete graphs leave the batch, so sizes may differ within it.
    unknown = "a longer ring or branch than the model knows"
    network_classes: ClassVar[tuple[type[PathNetwork], ...]] = (PathNetwork,)

    def __init__(
        self,
        *,
        node_categories: int,
        bond_categories: int,
        max_nodes: int,
        back: int,
        closures: list[int],
        edge_weights: list[int] | None = None,
        largest_sums: list[int] | None = None,
        conditions: list[dict] | None = None,
        **network,
    ):
        super().__init__()
        categories = {"node_categories": node_categories, "bond_categories": bond_categories}
        self.code = AtomCode(back, closures, **categories)
        weights = [1] * bond_categories if edge_weights is None else edge_weights
        support = Support(self.code, weights, largest_sums)
        network = {"max_nodes": max_nodes, "conditions": conditions, **network}
        probabilities = self.network_classes[0](self.code, support, **network)
        # The number of nodes also depends on the conditions.
        self.sizes = None if conditions is None else ConditionEmbedding(conditions, max_nodes + 1)
        self.flow = AutoregressiveFlow(probabilities)

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """Return the `measured` arguments; `options` are those of `Support.limits`."""
        return {**AtomCode.measure(graphs), **PathModel.limits(graphs, **options)}

    @staticmethod
    def limits(graphs: PackedGraphs, **options) -> dict:
        """Return `Support.limits`, without a limit on sums if no graph has three nodes."""
        limits = Support.limits(graphs, **options)
        if graphs.node_counts.max() < 3:
            limits["largest_sums"] = None
        return limits

    def knows(self, batch: GraphBatch) -> Tensor:
        return self.code.knows(batch)

    def notes(self, rules: bool) -> list[str]:
        return ["connected: by construction of the code of the connectivity.", limit_note(rules)]

    def size_logits(self, conditions: Tensor) -> Tensor:
        return super().size_logits(conditions) if self.sizes is None else self.sizes(conditions)

    def fit_conditions(self, batch: GraphBatch) -> None:
        """Fit `Contributions` of nodes and edges to the graphs of a batch with conditions."""
        shares, support = self.network.shares, self.network.support
        assert shares is not None and batch.conditions is not None
        x = self.code.encode(batch)
        path = Path.before_each(x, support.weights, support.pad)
        links = path.links(x.flatten(0, 1)).unflatten(0, batch.mask.shape)
        shares.fit(x, links, batch.mask, batch.conditions)

    def log_prob_of_orders(self, batch: GraphBatch, count: int) -> Tensor:
        """Return the log of the summed probabilities of `count` numberings, (B,) nats.

        Different numberings have different codes, and the probability of a graph is the sum over
        its codes.
        """
        graphs, owners = renumbered(batch.to_packed(), count)
        total = torch.full((len(batch),), -torch.inf, device=batch.mask.device)
        for chosen in batches(graphs.node_counts):
            part = GraphBatch.collate(graphs, chosen).to(batch.mask.device)
            owner = torch.from_numpy(owners[chosen]).to(batch.mask.device)
            if batch.conditions is not None:
                part.conditions = batch.conditions[owner]
            # A numbering with a longer step back or closure than the code has has probability 0.
            known = self.knows(part)
            part, owner = part[known], owner[known]
            if not len(part):
                continue
            log_p: Any = sum(bound.value() for bound in self.bounds(part).values())
            total = total.to(log_p)
            for k in owner.unique().tolist():
                total[k] = torch.logaddexp(total[k], torch.logsumexp(log_p[owner == k], 0))
        return total


def random_depth_first(nodes: int, edges: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a depth-first order of a connected graph that stays close to the given one, (n,) int64.

    With probability `DETOUR` the first node is drawn, and at each branch the neighbours are
    shuffled. New node i is old node `order[i]`.
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
    """Return graphs in distinct numberings, and the index of the original of each.

    For each graph there is the given numbering, and up to `count - 1` random depth-first ones.
    """
    lists, owners = [], []
    for k in range(len(graphs)):
        types, edges, bonds = graphs.graph(k)
        # Seeded by the graph, so that its numberings do not depend on the batch.
        content = zlib.crc32(b"".join(part.tobytes() for part in (types, edges, bonds)))
        random = np.random.default_rng((0, content))
        known = set()
        for draw in range(count):
            order = random_depth_first(len(types), edges, random) if draw else np.arange(len(types))
            pairs = np.sort(np.argsort(order)[edges], 1)[:, ::-1]
            rank = np.lexsort((-pairs[:, 1], pairs[:, 0]))
            graph = types[order], pairs[rank], bonds[rank]
            key = tuple(part.tobytes() for part in graph)
            if key not in known:
                known.add(key)
                lists.append(graph)
                owners.append(k)
    return PackedGraphs.from_lists(lists), np.array(owners)
