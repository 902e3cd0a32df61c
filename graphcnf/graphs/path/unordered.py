"""Graph model "unordered": a random depth-first order, several nodes per evaluation of blocks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from graphcnf.categorical.transformer import HIDDEN, Block, Cache
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.coded import RandomOrder
from graphcnf.graphs.model import GraphModel, graph_model
from graphcnf.graphs.path.model import PathModel
from graphcnf.graphs.path.network import PathNetwork, PathState
from graphcnf.graphs.path.support import LEVELS


def bridges(adjacency: Tensor) -> Tensor:
    """Return the edges of graphs (B, N, N) bool that lie on no ring, (B, N, N) bool.

    With a unit resistor on every edge, the effective resistance between the ends of a bridge is 1;
    between the ends of an edge on a ring of n nodes it is at most 1 - 1/n.
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
    and if there are none, a uniform one of the other edges. Place t goes to the candidate node i
    with the smallest number [b, i, t] of `uniforms` (B, N, N or more).

    Returns:
        The orders (B, N) long, padding last, and their log-probabilities (B,). New node i is old
        node `order[i]`.
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
    blocks. The other arguments are those of `PathNetwork`. Raises ValueError if `rounds` is less
    than 1.
    """

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
        self.by_distance = nn.Parameter(torch.zeros(heads, max_nodes))
        self.by_level = nn.Parameter(torch.zeros(heads, LEVELS))

    def attended(self, h, bias):
        """Return channels h (B, N, C) after attention; `bias` is (B, heads of all blocks, N, N)."""
        heads, number = self.last.heads, torch.arange(h.shape[1], device=h.device)
        own = bias[:, -heads:].masked_fill(number > self.first(number)[:, None], HIDDEN)
        return self.last(h, own, self.blocks(h, bias[:, :-heads]))

    def first(self, number):
        """Return the number of the first node in the round of node `number`."""
        return number // self.per_round * self.per_round

    def start(self, context):
        return RoundState(self, context.mask, context.conditions)


class RoundState(PathState):
    """`PathState` that evaluates the blocks once for all nodes of a round."""

    network: RoundNetwork

    def __init__(self, network: RoundNetwork, mask: Tensor, conditions: Tensor | None):
        super().__init__(network, mask, conditions)
        self.last_cache = Cache(1, mask, network.last.norm.weight)
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def attended(self, h: Tensor, bias: Tensor) -> Tensor:
        net = self.network
        number, rows, heads = len(bias) - 1, len(h), net.last.heads
        self.waiting.append((h, bias[..., :-heads].expand(-1, rows, -1)))
        if number == net.first(number):
            inputs = torch.stack([h[:rows] for h, _ in self.waiting])
            shape = len(inputs), number + 1, rows, bias.shape[-1] - heads
            biases = inputs.new_full(shape, HIDDEN)
            for one, (_, known) in zip(biases, self.waiting, strict=True):
                one[: len(known)] = known[:, :rows]
            self.waiting = []
            found = net.blocks.steps(inputs, biases, self.cache)
            self.last_cache.extend(0, *net.last.keys(found))
            self.last_cache.filled += len(found)
        seen = self.last_cache.filled
        known = self.last_cache.table[0, :, :seen, :rows]
        return net.last.step(h[None], bias[None, :seen, :, -heads:], lambda *_: known)[0]


@graph_model("unordered")
class UnorderedModel(RandomOrder, PathModel):
    """p(graph) along a random depth-first order of its nodes, by a `RoundNetwork`.

    The order is a latent, see `depth_first`; given the order, `bounds` is exact. The arguments are
    those of `PathModel`, but `network` are those of `RoundNetwork`. `bounds` and `encode` raise
    ValueError for a graph that `knows` rejects.
    """

    draw_order = staticmethod(depth_first)
    supports_fragments = takes_conditions = False
    parallel = True
    unknown = "a node with more edges than nodes of the training data have"
    network_classes = (RoundNetwork, PathNetwork)

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """Return the `measured` arguments, for all depth-first orders of the graphs."""
        starts = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)
        degrees = np.bincount((graphs.edges + starts[:, None]).flatten(), minlength=1)
        longest = max(int(graphs.node_counts.max()) - 1, 1)
        closures = [longest] * max(int(degrees.max()) - 1, 0) if longest > 1 else []
        return {"back": longest, "closures": closures, **PathModel.limits(graphs, **options)}

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return True for connected graphs whose nodes have few enough edges, (B,) bool."""
        few = (batch.adjacency.sum(-1) <= self.code.entries).all(1)
        return batch.connected() & few & batch.mask.any(1)

    log_prob_of_orders = GraphModel.log_prob_of_orders
