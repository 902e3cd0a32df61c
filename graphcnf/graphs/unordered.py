"""The graph model "unordered": random depth-first node orders, and few evaluations of the network.

It draws a graph node by node along a depth-first order, as the model "path" does
(`graphcnf.graphs.path`), and differs from it in two ways:

- The *node order* is drawn at random, as a latent variable (`graphcnf.graphs.random_order`), so
  that the density does not depend on the numbering of the nodes (order-agnostic).
- Nodes are drawn in *rounds* of several nodes. The large attention blocks are evaluated once a
  round, for the nodes of the round before. Within a round, one more block is evaluated for each
  node. So drawing a graph of any size takes at most `rounds` evaluations of the large blocks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphcnf.categorical.autoregressive_flow import AutoregressiveFlow
from graphcnf.categorical.transformer import MASKED, Block, Cache, Transformer
from graphcnf.flows.transform import Context
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.path.data_rules import measured_rules
from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.network import PathDrawing, PathNetwork
from graphcnf.graphs.path.path_layers import AttentionBiases
from graphcnf.graphs.path.path_model import PathModel, support_with_rules
from graphcnf.graphs.random_order import RandomOrder, depth_first
from graphcnf.pretrained import keep_arguments


class RoundNetwork(PathNetwork):
    """`PathNetwork` whose attention blocks are evaluated once for several nodes of a graph.

    The nodes of a graph are cut into rounds of `max_nodes` / `rounds` nodes, rounded up. What costs
    time are the attention blocks:

    1. At the start of a round they are evaluated once, for all nodes of the round before.
    2. Within the round, nodes are still decided one after the other. The input of each, which
       describes the path before it, goes through one cheap further block only. This block attends
       to what step 1 gave for all rounds before.
    """

    blocks: Transformer

    def __init__(self, code, support, *, max_nodes: int, rounds: int = 16, **network):
        super().__init__(code, support, max_nodes=max_nodes, **network)
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        self.per_round = -(-max_nodes // rounds)
        block = self.blocks[0]
        assert isinstance(block, Block)
        width, keys, _, hidden = block.parts
        shared = keys < width
        self.last = Block(width, block.heads, hidden / width, block.dropout.p, shared)
        heads = (len(self.blocks) + 1) * block.heads
        self.biases = AttentionBiases(heads, max_nodes)

    def attend(self, h, bias):
        """Return the outputs of all blocks, for all nodes at once.

        `PathNetwork.steps` calls it to score known graphs. The last block sees of each node only
        what `RoundDrawing` knows when it draws that node, so that both give the same probabilities.
        """
        heads, number = self.last.heads, torch.arange(h.shape[1], device=h.device)
        # The last block sees the other blocks' outputs up to the first position of the round.
        last_bias = bias[:, -heads:].masked_fill(number > self.first(number)[:, None], MASKED)
        return self.last(h, last_bias, self.blocks(h, bias[:, :-heads]))

    def first(self, number):
        """Return which node begins the round of a node; with rounds of 3 nodes, 3 for node 5."""
        return number // self.per_round * self.per_round

    def start(self, context):
        return RoundDrawing(self, context)


class RoundDrawing(PathDrawing):
    """Graphs that are being drawn by a `RoundNetwork`, node by node; updated in place.

    It is a `PathDrawing` that collects the inputs of a round, and evaluates the blocks for all of
    them when the next round begins.

    Attributes:
        last_cache: Keys and values of the last block, made of the outputs of the other blocks.
        waiting: For each node of the round whose blocks have not been evaluated: its inputs (B, C),
            and its attention biases (nodes so far, B, heads without those of the last block).
    """

    network: RoundNetwork

    def __init__(self, network: RoundNetwork, context: Context):
        super().__init__(network, context)
        self.last_cache = Cache(1, context.mask, network.last.norm.weight[: network.last.parts[1]])
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def attend(self, h: Tensor, bias: Tensor) -> Tensor:
        net = self.network
        number, rows, heads = len(bias) - 1, len(h), net.last.heads
        self.waiting.append((h, bias[..., :-heads].expand(-1, rows, -1)))
        if number == net.first(number):
            inputs = torch.stack([h[:rows] for h, _ in self.waiting])
            shape = len(inputs), number + 1, rows, bias.shape[-1] - heads
            biases = inputs.new_full(shape, MASKED)
            for padded, (_, known) in zip(biases, self.waiting, strict=True):
                padded[: len(known)] = known[:, :rows]
            self.waiting = []
            outputs = net.blocks.next_positions(inputs, biases, self.cache)
            self.last_cache.extend(0, *net.last.keys_and_values(outputs))
            self.last_cache.filled += len(outputs)
        filled = self.last_cache.filled
        cached = self.last_cache.table[0, :, :filled, :rows]
        # As in `RoundNetwork.attend`: outputs up to the first position of the round.
        bias = bias[None, :filled, :, -heads:]
        return net.last.next_positions(h[None], bias, lambda *_: cached)[0]


class UnorderedModel(RandomOrder[RoundNetwork]):
    """Density of connected graphs along random depth-first node orders, by a `RoundNetwork`.

    The order is a latent variable, which `depth_first` draws; given the order, the probability of a
    graph is exact. `bounds` and `to_latents` raise ValueError for a graph that `knows` rejects.

    `model_for_graphs(graphs, architecture="unordered", ...)` builds it: `measure` finds the
    arguments from `back` to `environments` in the training graphs.

    The arguments up to `environments` are those of `PathModel`, the others of `RoundNetwork`.
    """

    architecture = "unordered"
    measured_arguments = PathModel.measured_arguments
    rules_off = PathModel.rules_off
    batch_size = PathModel.batch_size
    why_unknown = "a node with more edges than nodes of the training data have"
    network_class = RoundNetwork
    code: DepthFirstCode
    draw_order = staticmethod(depth_first)

    @keep_arguments
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
        environments: dict | None = None,
        **network,
    ):
        super().__init__()
        categories = {"node_categories": node_categories, "edge_categories": edge_categories}
        self.code = DepthFirstCode(back, closures, **categories)
        weights = [1] * edge_categories if edge_weights is None else edge_weights
        support = support_with_rules(self.code, weights, largest_sums, environments)
        round_network = RoundNetwork(self.code, support, max_nodes=max_nodes, **network)
        self.flow = AutoregressiveFlow(round_network)

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """Measure the arguments of the constructor that depend on the training graphs.

        `model_for_graphs` calls it. "back" and "closures" become so large that every depth-first
        order of the graphs can be written.
        """
        starts = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)
        degrees = np.bincount((graphs.edges + starts[:, None]).flatten(), minlength=1)
        longest = max(int(graphs.node_counts.max()) - 1, 1)
        closures = [longest] * max(int(degrees.max()) - 1, 0) if longest > 1 else []
        return {"back": longest, "closures": closures, **measured_rules(graphs, **options)}

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return which graphs the model can represent, (B,) bool.

        A graph must have a node and be connected, and no node may have more edges than the node of
        the training data that has the most.
        """
        few = (batch.adjacency.sum(-1) <= 1 + len(self.code.closures)).all(1)
        return batch.connected() & few & batch.mask.any(1)
