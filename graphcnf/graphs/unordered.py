"""The graph model "unordered": random depth-first node orders, and few evaluations of the network.

It differs from the model "path" in two ways. The node order is random, a latent of the model, so
that no order is preferred (order-agnostic). And nodes are drawn in *rounds* of several nodes: the
attention blocks are evaluated once per round, with the nodes of the rounds before, and only one
small block for each node. A *bridge* is an edge that lies on no ring.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphcnf.categorical.autoregressive import AutoregressiveFlow
from graphcnf.categorical.transformer import HIDDEN, Block, Cache, Transformer
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.path.data_rules import measured_rules
from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.network import PathNetwork, PathState
from graphcnf.graphs.path.path_layers import AttentionBiases
from graphcnf.graphs.path.path_model import PathModel, support_with_rules
from graphcnf.graphs.random_order import RandomOrder
from graphcnf.pretrained import keep_arguments


def bridges(adjacency: Tensor) -> Tensor:
    """Find the edges that lie on no ring.

    With a unit resistor on every edge, the effective resistance between the ends of a bridge is 1;
    between the ends of an edge on a ring of n nodes it is at most 1 - 1/n.

    Args:
        adjacency: Edges, (B, N, N) bool.

    Returns:
        True for bridges, (B, N, N) bool.
    """
    conductance = adjacency.double()
    # A small conductance from each node to the ground keeps the matrix invertible.
    grounded = torch.diag_embed(conductance.sum(1) + 1e-6) - conductance
    potential = torch.linalg.inv(grounded)
    itself = potential.diagonal(dim1=1, dim2=2)
    resistance = itself[:, :, None] + itself[:, None] - 2 * potential
    return adjacency & (resistance > 1 - 0.5 / adjacency.shape[1])


def depth_first(adjacency: Tensor, sizes: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw random depth-first orders of connected graphs (B, N, N), rings before branches.

    The first node is uniform. At a branch, the walk follows a uniform one of the edges on rings,
    and if there are none, a uniform one of the other edges: a ring is closed before branches grow.

    Args:
        adjacency: Edges, (B, N, N) bool.
        sizes: Number of nodes of each graph, (B,) long.
        uniforms: Uniform numbers, (B, N, N or more): the t-th node of graph b is the candidate i
            with the smallest `uniforms[b, i, t]`.

    Returns:
        The orders (B, N) long, padding last, and their log-probabilities, (B,) nats. New node i is
        old node `order[i]`.
    """
    batch, nodes = adjacency.shape[:2]
    rows, number = (torch.arange(n, device=adjacency.device) for n in (batch, nodes))
    on_ring = adjacency & ~bridges(adjacency)
    unvisited = number < sizes[:, None]
    candidates, depth = unvisited, torch.full_like(unvisited, -1, dtype=torch.long)
    order, level = [], torch.zeros_like(sizes)
    log_p = torch.zeros(batch, dtype=torch.double, device=adjacency.device)
    for t in range(nodes):
        # In a graph that is not connected, any unvisited node; after the last node, padding.
        rest = candidates.any(1, keepdim=True)
        candidates = torch.where(rest, candidates, unvisited)
        candidates = torch.where(candidates.any(1, keepdim=True), candidates, number == t)
        node = uniforms[..., t].masked_fill(~candidates, 2.0).argmin(1)
        log_p = log_p - candidates.sum(1).double().log()
        order.append(node)
        unvisited, depth = unvisited.clone(), depth.clone()
        unvisited[rows, node], depth[rows, node] = False, level
        # The walk goes on from the deepest visited node that has an edge to an unvisited one.
        ahead = adjacency & unvisited[:, None]
        last = torch.where(ahead.any(-1), depth, -1)
        level, current = last.max(1)
        level = level + 1
        candidates = ahead[rows, current] & (level > 0)[:, None]
        rings = candidates & on_ring[rows, current]
        candidates = torch.where(rings.any(1, keepdim=True), rings, candidates)
    return torch.stack(order, 1), log_p


class RoundNetwork(PathNetwork):
    """`PathNetwork` whose blocks are evaluated at most `rounds` times for a graph of any size.

    A round has `max_nodes` / `rounds` nodes, rounded up. At its start the blocks are evaluated for
    the nodes of the previous round. The nodes of a round are still decided one after the other: the
    input of each has the current path, and one more block attends to the outputs of the other
    blocks.

    Args:
        code: The variables of a node.
        support: Which values of the variables are possible.
        max_nodes: Largest number of nodes of a graph.
        rounds: Largest number of rounds.
        **network: Further arguments of `PathNetwork`.

    Raises:
        ValueError: if `rounds` is less than 1.
    """

    blocks: Transformer

    def __init__(self, code, support, *, max_nodes: int, rounds: int = 16, **network):
        super().__init__(code, support, max_nodes=max_nodes, **network)
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        self.per_round = -(-max_nodes // rounds)
        block = self.blocks[0]
        assert isinstance(block, Block)
        width, _, _, hidden = block.parts
        self.last = Block(width, block.heads, hidden / width, block.dropout.p)
        heads = (len(self.blocks) + 1) * block.heads
        self.biases = AttentionBiases(heads, max_nodes)

    def attend(self, h, bias):
        """Return the output of attention for all nodes, (B, N, C).

        Args:
            h: Inputs of the nodes, (B, N, C).
            bias: Attention biases, (B, heads of all blocks, N, N).
        """
        heads, number = self.last.heads, torch.arange(h.shape[1], device=h.device)
        # The last block sees the other blocks' outputs up to the first position of the round.
        last_bias = bias[:, -heads:].masked_fill(number > self.first(number)[:, None], HIDDEN)
        return self.last(h, last_bias, self.blocks(h, bias[:, :-heads]))

    def first(self, number):
        """Return the number of the first node in the round of a node.

        Args:
            number: Number of the node, an int or a long tensor.
        """
        return number // self.per_round * self.per_round

    def start(self, context):
        return RoundState(self, context.mask, None)


class RoundState(PathState):
    """`PathState` that evaluates the blocks once for all nodes of a round.

    Attributes:
        last_cache: Keys and values of the last block, made of the outputs of the other blocks.
        waiting: Inputs (B, C) and attention biases (N, B, heads) of the positions whose blocks have
            not been evaluated, one entry for each position.
    """

    network: RoundNetwork

    def __init__(self, network: RoundNetwork, mask: Tensor, conditions: Tensor | None):
        super().__init__(network, mask, conditions)
        self.last_cache = Cache(1, mask, network.last.norm.weight)
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def attend(self, h: Tensor, bias: Tensor) -> Tensor:
        net = self.network
        number, rows, heads = len(bias) - 1, len(h), net.last.heads
        self.waiting.append((h, bias[..., :-heads].expand(-1, rows, -1)))
        if number == net.first(number):
            inputs = torch.stack([h[:rows] for h, _ in self.waiting])
            shape = len(inputs), number + 1, rows, bias.shape[-1] - heads
            biases = inputs.new_full(shape, HIDDEN)
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
    """p(graph) along a random depth-first order of its nodes, by a `RoundNetwork`.

    The order is a latent, see `depth_first`; given the order, `bounds` is exact. `bounds` and
    `to_latents` raise ValueError for a graph that `knows` rejects.

    Args:
        node_categories: Number of node categories.
        edge_categories: Number of edge categories.
        max_nodes: Largest number of nodes of a graph.
        back: Largest backtrack plus 1, see `DepthFirstCode`.
        closures: Largest length of the first, second, ... closure of a node, see `DepthFirstCode`.
        edge_weights: Weight of each edge category, see `Support`; 1 each if None.
        largest_sums: Limit on the sum of edge weights for each node category, see `Support`; None
            for no limit.
        environments: Arguments of `Environments`, in place of `largest_sums`; None for none.
        **network: Further arguments of `RoundNetwork`.
    """

    architecture = "unordered"
    measured_arguments = PathModel.measured_arguments
    rules_off = PathModel.rules_off
    batch_size = PathModel.batch_size
    why_unknown = "a node with more edges than nodes of the training data have"
    network_classes = (RoundNetwork, PathNetwork)
    code: DepthFirstCode
    draw_order = staticmethod(depth_first)
    sampling_notes = PathModel.sampling_notes

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
        """Return the arguments that depend on the training graphs, the `measured_arguments`.

        `back` and `closures` allow every depth-first order of the graphs.

        Args:
            graphs: The training graphs.
            **options: As of `graphcnf.graphs.path.data_rules.measured_rules`.

        Returns:
            "back", "closures", "edge_weights", "largest_sums" and "environments", arguments of the
            constructor.
        """
        starts = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)
        degrees = np.bincount((graphs.edges + starts[:, None]).flatten(), minlength=1)
        longest = max(int(graphs.node_counts.max()) - 1, 1)
        closures = [longest] * max(int(degrees.max()) - 1, 0) if longest > 1 else []
        return {"back": longest, "closures": closures, **measured_rules(graphs, **options)}

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return True for each graph that the model can represent, (B,) bool.

        It has to be connected, and no node may have more edges than nodes of the training data.
        """
        few = (batch.adjacency.sum(-1) <= self.code.entries).all(1)
        return batch.connected() & few & batch.mask.any(1)
