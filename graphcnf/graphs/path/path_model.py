"""The graph model "path": an autoregressive flow over the codes of depth-first numbered graphs.

The *code* of a graph is V categories for each node (`DepthFirstCode`). A graph has one code for
each of its depth-first *node orders*. The model scores the code of the order that it is given;
`PathModel.log_prob` can add up the codes of several orders.
"""

from __future__ import annotations

import zlib
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphcnf.categorical.autoregressive import AutoregressiveFlow
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import GraphBatch, PackedGraphs, batches
from graphcnf.graphs.coded import CodedModel
from graphcnf.graphs.conditions import ConditionEmbedding
from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.network import PathNetwork
from graphcnf.graphs.path.support import Path, Support, limit_note
from graphcnf.graphs.record_blocks import BLOCK
from graphcnf.limits import LARGEST_ORDERS, check_integer
from graphcnf.torch_state import evaluated

# Probability with which `random_depth_first` deviates from the given order: at the first node, and
# at each branch.
DETOUR = 0.2


class PathModel(CodedModel):
    """p(graph) as a product over its nodes in depth-first order.

    Args:
        node_categories: Number of node categories.
        edge_categories: Number of edge categories.
        max_nodes: Largest number of nodes of a graph.
        back: Largest backtrack plus 1, see `DepthFirstCode`.
        closures: Largest length of the first, second, ... closure of a node, see `DepthFirstCode`.
        edge_weights: Weight of each edge category, see `Support`; 1 each if None.
        largest_sums: Limit on the sum of edge weights for each node category, see `Support`; None
            for no limit.
        conditions: Tables of the conditions, see `condition_statistics`; None for none.
        **network: Further arguments of `PathNetwork`.

    Raises:
        UserError: if `edge_weights` or `largest_sums` do not fit the categories.
    """

    architecture = "path"
    measured = ("back", "closures", "edge_weights", "largest_sums")
    rules = {"largest_sums": None}
    scores_unknown = True
    batch_size = BLOCK  # Complete graphs leave the batch, so sizes may differ within it.
    unknown = "a longer ring or branch than the model knows"
    network_classes: ClassVar[tuple[type[PathNetwork], ...]] = (PathNetwork,)

    def __init__(
        self,
        *,
        node_categories: int,
        edge_categories: int,
        max_nodes: int,
        back: int,
        closures: list[int],
        edge_weights: list[int] | None = None,
        largest_sums: list[int] | None = None,
        conditions: list[dict] | None = None,
        **network,
    ):
        super().__init__()
        categories = {"node_categories": node_categories, "edge_categories": edge_categories}
        self.code = DepthFirstCode(back, closures, **categories)
        weights = [1] * edge_categories if edge_weights is None else edge_weights
        support = Support(self.code, weights, largest_sums)
        network = {"max_nodes": max_nodes, "conditions": conditions, **network}
        probabilities = self.network_classes[0](self.code, support, **network)
        if conditions is not None:
            self.sizes = ConditionEmbedding(conditions, max_nodes + 1)
        self.flow = AutoregressiveFlow(probabilities)

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """Return the arguments that depend on the training graphs, by their names in `measured`.

        Args:
            graphs: Depth-first numbered graphs.
            **options: `node_categories`, `edge_categories`, `edge_weights` and `support` of
                `Support.limits`.

        Returns:
            "back", "closures", "edge_weights" and "largest_sums", arguments of the constructor.

        Raises:
            ValueError: if a graph is not connected or not numbered depth-first.
        """
        return {**DepthFirstCode.measure(graphs), **PathModel.limits(graphs, **options)}

    @staticmethod
    def limits(graphs: PackedGraphs, **options) -> dict:
        """Measure the limits on sums of edge weights in training graphs.

        Args:
            graphs: The training graphs.
            **options: `node_categories`, `edge_categories`, `edge_weights` and `support` of
                `Support.limits`.

        Returns:
            "edge_weights" and "largest_sums", as `Support.limits` returns them. If no graph has
            three nodes, "largest_sums" is None: `Support` refuses limits that allow no such graph.
        """
        limits = Support.limits(graphs, **options)
        if graphs.node_counts.max() < 3:
            limits["largest_sums"] = None
        return limits

    def knows(self, batch: GraphBatch) -> Tensor:
        return self.code.encode(batch)[1] & batch.mask.any(1)

    def notes(self, rules: bool) -> list[str]:
        return ["connected: by construction of the code of the connectivity.", limit_note(rules)]

    def fit_conditions(self, batch: GraphBatch) -> None:
        """Fit the `Contributions` of nodes and edges to the conditions of graphs, in place.

        Args:
            batch: Training graphs with all their conditions (no nan); the model takes conditions.
        """
        shares, support = self.network.shares, self.network.support
        assert shares is not None and batch.conditions is not None
        x, _ = self.code.encode(batch)
        path = Path.before_each(x, support.weights, support.pad)
        links = path.links(x.flatten(0, 1)).unflatten(0, batch.mask.shape)
        shares.fit(x, links, batch.mask, batch.conditions)

    @evaluated
    def log_prob(
        self, batch: GraphBatch, samples: int = 1, noise: Noise | None = None, *, orders: int = 1
    ) -> Tensor:
        """Return a lower bound on log p(graph | number of nodes), (B,) nats; -inf if it is 0.

        The probability of a graph is the sum over its codes. So the more orders are summed, the
        closer is the bound. Orders that differ by a symmetry of the graph have the same code, which
        counts once.

        Args:
            batch: B depth-first numbered graphs.
            samples: Without effect, since the bound of an order is exact.
            noise: Without effect.
            orders: Number of node orders whose probabilities are summed, up to 1,024: that of the
                batch, and random depth-first ones (`renumbered`), without gradients.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        if orders == 1:
            return super().log_prob(batch, samples, noise)
        with torch.no_grad():
            return self.log_prob_of_orders(batch.checked(self.config), orders)

    def log_prob_of_orders(self, batch: GraphBatch, count: int) -> Tensor:
        """Return the log of the summed probabilities of several node orders, see `log_prob`.

        Args:
            batch: B depth-first numbered graphs.
            count: Number of node orders, that of the batch included.

        Returns:
            (B,) nats.
        """
        graphs, owners = renumbered(batch.to_packed(), count)
        total = torch.full((len(batch),), -torch.inf, device=batch.mask.device)
        for chosen in batches(graphs.node_counts):
            part = GraphBatch.collate(graphs, chosen).to(batch.mask.device)
            owner = torch.from_numpy(owners[chosen]).to(batch.mask.device)
            if batch.conditions is not None:
                part.conditions = batch.conditions[owner]
            log_p: Any = sum(bound.value() for bound in self.bounds(part).values())
            total = total.to(log_p)
            for k in owner.unique().tolist():
                total[k] = torch.logaddexp(total[k], torch.logsumexp(log_p[owner == k], 0))
        return total


def random_depth_first(nodes: int, edges: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw a depth-first node order of a connected graph, close to the order of its node numbers.

    With probability `DETOUR` the first node is drawn instead of node 0, and at each branch the
    neighbours are shuffled. Orders close to the one of the training are the probable ones.

    Args:
        nodes: Number n of nodes.
        edges: Pairs of nodes, (m, 2).
        random: Random generator.

    Returns:
        The order, (n,) int64: new node i is old node `order[i]`.
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

    Args:
        graphs: Depth-first numbered graphs.
        count: Number of orders of each graph: the given one and `count` - 1 random depth-first
            ones, of which those that give the same numbered graph are left out.

    Returns:
        The renumbered graphs, and for each the index of its original in `graphs`, int64.
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
