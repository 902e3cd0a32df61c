"""Networks of the colouring model: what a node's colour depends on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.graphs.attention import HIDDEN, TwoStreamBlock, two_streams
from graphcnf.graphs.features import (
    GraphContext,
    structure_context,
    structure_node_features,
    structure_pair_features,
)
from graphcnf.graphs.saturation import SaturationOrder
from graphcnf.graphs.sparse_attention import SparseBlock

NODE_FEATURES = structure_node_features()
PAIR_FEATURES = structure_pair_features() - 1
EDGE_WIDTH = 32


def coloring_context(
    adjacency: Tensor, mask: Tensor, dtype: torch.dtype = torch.float32
) -> GraphContext:
    """Features of the graph that do not depend on how its nodes are numbered."""
    context = structure_context(adjacency, mask, dtype)
    # The last channel tells which of two neighbours has the lower number.
    context.pair_features = context.pair_features[..., :-1]
    return context


class GraphEncoder(nn.Module):
    """Attention convolutions of torch_geometric over the edges of the bare graph.

    Args:
        width: Channels of a node.
        layers: Convolutions, each a `TransformerConv` in a `SparseBlock`.
        heads: Attention heads.
        inputs: Further channels of a node that go in, 0 for none.
    """

    def __init__(self, width: int, layers: int, heads: int, *, inputs: int = 0):
        super().__init__()
        self.enter = nn.Linear(NODE_FEATURES + inputs, width)
        # An edge knows the number of triangles that it is part of.
        self.edges = nn.Linear(2, EDGE_WIDTH)
        self.blocks = nn.ModuleList(SparseBlock(width, heads, 2, EDGE_WIDTH) for _ in range(layers))

    def forward(self, context: GraphContext, edges: Edges, inputs: Tensor | None = None) -> Tensor:
        """(B, N, width); `inputs` (B, N, inputs) where the encoder takes some."""
        dtype = self.enter.weight.dtype
        parts = [context.node_features.to(dtype), *([] if inputs is None else [inputs.to(dtype)])]
        h = self.enter(torch.cat(parts, -1)).flatten(0, 1)
        links = edges.adjacency.to(dtype)
        graph, target = edges.place(edges.target)
        triangles = (links @ links)[graph, target, edges.place(edges.source)[1]]
        channels = self.edges(torch.stack([torch.ones_like(triangles), triangles], -1))
        index = torch.stack([edges.source, edges.target])
        for block in self.blocks:
            h = block(h, h, index, channels)
        return h.unflatten(0, context.mask.shape)


class Edges:
    """Edges of a batch of graphs whose nodes are numbered throughout, B * N of them.

    Attributes:
        source: Where each edge comes from, (E,) long.
        target: Where it goes to, ascending, (E,) long; every edge is there in both directions.
    """

    def __init__(self, context: GraphContext):
        mask = context.mask
        self.nodes = mask.shape[1]
        self.adjacency = context.adjacency & mask[:, :, None] & mask[:, None, :]
        graph, target, source = self.adjacency.nonzero(as_tuple=True)
        self.source, self.target = graph * self.nodes + source, graph * self.nodes + target
        self.degree = self.adjacency.sum(-1).flatten()
        self.start = self.degree.cumsum(0) - self.degree

    def place(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """Graph and number within it."""
        return node // self.nodes, node % self.nodes

    def into(self, node: Tensor) -> tuple[Tensor, Tensor]:
        """Edges into each of the nodes (M,), repeats allowed.

        Returns:
            Which entry of `node` an edge goes into, and its source; (E',) long each.
        """
        degree = self.degree[node]
        which = torch.arange(len(node), device=node.device).repeat_interleave(degree)
        before = (degree.cumsum(0) - degree)[which]
        number = torch.arange(len(which), device=node.device) - before
        return which, self.source[self.start[node][which] + number]

    def joined(self, one: Tensor, other: Tensor) -> Tensor:
        """Whether there is an edge between nodes of the same graph, (...) bool."""
        graph, number = self.place(one)
        return self.adjacency[graph, number, self.place(other)[1]]


class ConvolutionNetwork(nn.Module):
    """Parameters for every node from the untransformed latents of all: for `Coupling`.

    Args:
        inputs: Latents of a node that the network sees.
        outputs: Parameters of a node.
        width: Channels.
        layers: Attention convolutions.
        heads: Attention heads.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int, layers: int, heads: int):
        super().__init__()
        self.encoder = GraphEncoder(width, layers, heads, inputs=inputs)
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))
        nn.init.zeros_(self.leave[-1].weight)
        nn.init.zeros_(self.leave[-1].bias)

    def forward(self, x: Tensor, *, mask=None, context: GraphContext) -> Tensor:
        """(B, N, inputs) to (B, N, outputs)."""
        return self.leave(self.encoder(context, Edges(context), x))


Seen = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""What nodes (E,) are like in the turns of the asked ones `which` (E,): colour (E,), whether they
have it already (E,), and how many neighbours of each colour they have by then (E, colours)."""


class Surroundings(nn.Module):
    """What a node sees around it when its turn comes: its neighbours, and theirs.

    Of a node that has its colour, that; of one that has none yet, which colours are around it. One
    or two convolutions bring this in, from the neighbours' neighbours to the neighbours and from
    those to the node.

    Args:
        colors: Number of colours.
        width: Channels of a node.
        heads: Attention heads.
        hops: 1 for the neighbours alone, 2.
    """

    def __init__(self, colors: int, width: int, heads: int, hops: int):
        super().__init__()
        self.colors, self.hops = colors, hops
        self.own = nn.Linear(colors, width)
        self.neighbour = nn.Linear(2 * colors + 1, width)
        self.near_edge = nn.Linear(2 * colors + 1, EDGE_WIDTH)
        self.near = SparseBlock(width, heads, 2, EDGE_WIDTH)
        if hops == 2:
            self.far_edge = nn.Linear(2 * colors + 3, EDGE_WIDTH)
            self.far = SparseBlock(width, heads, 2, EDGE_WIDTH)

    def forward(self, h: Tensor, asked: Tensor, edges: Edges, seen: Seen) -> Tensor:
        """Query stream (M, C) before the attention blocks.

        Args:
            h: Encoded nodes of all graphs, (B * N, C).
            asked: Nodes that are asked, (M,) long.
            edges: Of the graphs.
            seen: See `Seen`.
        """
        which, near = edges.into(asked)
        near_state = self._state(*seen(which, near)).to(h.dtype)
        pairs = h[near] + self.neighbour(near_state)
        if self.hops == 2:
            pair, far = edges.into(near)
            centre = asked[which[pair]]
            closeness = torch.stack([far == centre, edges.joined(centre, far)], -1)
            state = torch.cat([self._state(*seen(which[pair], far)), closeness], -1)
            index = torch.stack([far, pair])
            pairs = self.far(pairs, h, index, self.far_edge(state.to(h.dtype)))
        around = seen(torch.arange(len(asked), device=h.device), asked)[2] > 0
        index = torch.stack([torch.arange(len(which), device=h.device), which])
        x = h[asked] + self.own(around.to(h.dtype))
        return self.near(x, pairs, index, self.near_edge(near_state))

    def _state(self, known: Tensor, earlier: Tensor, counts: Tensor) -> Tensor:
        """(E, 2 colours + 1) bool."""
        has = F.one_hot(known.clamp(max=self.colors - 1), self.colors).bool()
        earlier = earlier[:, None]
        return torch.cat([has & earlier, (counts > 0) & ~earlier, earlier], -1)


class ColoringNetwork(nn.Module):
    """Two streams over the nodes in the order in which they are coloured.

    Attention convolutions encode the bare graph. When a node's turn comes, `Surroundings` shows it
    what is near it as it is then. Then the node attends to all nodes before it, with the distance
    in the graph as a bias. The query stream does not know the node's own colour, the content stream
    does.

    Args:
        colors: Number of colours.
        width: Channels of a node.
        encoder_layers: Convolutions over the bare graph.
        layers: Attention blocks.
        heads: Attention heads.
        hops: See `Surroundings`.
        head_width: Hidden channels of the read-out.
    """

    def __init__(
        self,
        colors: int,
        *,
        width: int,
        encoder_layers: int,
        layers: int,
        heads: int,
        hops: int = 2,
        head_width: int = 64,
    ):
        super().__init__()
        self.cardinalities = [colors]
        self.heads = heads
        self.encoder = GraphEncoder(width, encoder_layers, heads)
        self.surroundings = Surroundings(colors, width, heads, hops)
        self.colors = nn.Embedding(colors + 1, width)
        self.pairs = nn.Linear(PAIR_FEATURES, layers * heads)
        self.blocks = nn.ModuleList(TwoStreamBlock(width, heads, 2) for _ in range(layers))
        self.leave = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, head_width), nn.GELU(),
            nn.Linear(head_width, colors),
        )  # fmt: skip
        nn.init.zeros_(self.leave[-1].weight)
        nn.init.zeros_(self.leave[-1].bias)

    def read_out(self, h: Tensor, previous: list[Tensor]) -> Tensor:
        """Logits (B, M, colours) of the query stream; a node has one variable only."""
        return self.leave(h)

    def biases(self, context: GraphContext) -> Tensor:
        """Attention biases of all blocks, (B, layers * heads, N, N)."""
        pairs = context.pair_features.to(self.pairs.weight.dtype)
        return self.pairs(pairs).permute(0, 3, 1, 2)

    def streams_of(self, x: Tensor, context: GraphContext, rank: Tensor, counts: Tensor) -> Tensor:
        """Query stream (B, N, C) of all nodes in one pass.

        Args:
            x: Colours, (B, N) long.
            context: See `coloring_context`.
            rank: Turn of each node, (B, N) long.
            counts: Neighbours of each colour around every node before each turn,
                (B, turns, N, colours).
        """
        mask, nodes = context.mask, x.shape[1]
        edges = Edges(context)
        h = self.encoder(context, edges)
        turn = rank.flatten()
        asked = torch.arange(mask.numel(), device=mask.device)

        def seen(which: Tensor, node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            graph, number = edges.place(node)
            own = turn[asked[which]]
            at_turn = counts[graph, own.clamp(max=nodes - 1), number]
            return x.flatten()[node], turn[node] < own, at_turn

        asked = self.surroundings(h.flatten(0, 1), asked, edges, seen).unflatten(0, mask.shape)
        stack = torch.cat([asked + self.colors(x), asked], 1)
        return two_streams(self.blocks, stack, self.biases(context), rank, mask)

    def rounds(self, context: GraphContext) -> ColoringRounds:
        """The same node by node."""
        return ColoringRounds(self, context)


class ColoringRounds:
    """Streams of one node of every graph after the other, keys and values of the content kept.

    What is told of a node runs through the blocks together with what is asked next.
    """

    def __init__(self, network: ColoringNetwork, context: GraphContext):
        self.network, self.context = network, context
        batch, nodes = context.mask.shape
        self.edges = Edges(context)
        self.h = network.encoder(context, self.edges)
        self.bias = network.biases(context)
        self.rows = torch.arange(batch, device=self.h.device)
        head = self.h.shape[-1] // network.heads
        # The first column is `nothing`; what is told of no node goes to the last.
        shape = len(network.blocks), 2, batch, network.heads, nodes + 2, head
        self.keys = self.h.new_zeros(shape)
        for keys, block in zip(self.keys, network.blocks, strict=True):
            keys[:, :, :, :1] = block.nothing
        self.asked: Tensor | None = None
        self.told: tuple[Tensor, Tensor, Tensor] | None = None

    def ask(self, node: Tensor, known: Tensor, order: SaturationOrder) -> Tensor:
        """Query stream (B, 1, C) of `node` (B,), given the colours `known` (B, N)."""
        net, rows, nodes = self.network, self.rows, known.shape[1]

        def seen(which: Tensor, node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            there = self.edges.place(node)
            return known[there], order.rank[there] < nodes, order.counts[there]

        flat = rows * nodes + node
        asked = net.surroundings(self.h.flatten(0, 1), flat, self.edges, seen)[:, None]
        self.asked = asked
        # Only who had a turn before may be seen; a content sees itself, too.
        visible = self.context.mask & (order.rank < nodes)
        x, members = asked, node[:, None]
        if self.told is not None:
            content, members_told, column = self.told
            x, members = torch.cat([content, x], 1), torch.stack([members_told, node], 1)
        bias = self.bias[rows[:, None], :, members].transpose(1, 2)
        bias = F.pad(bias + HIDDEN * ~visible[:, None, None], (1, 0))
        for k, block in enumerate(net.blocks):
            normed = block.norm(x)
            if self.told is not None:
                for which, new in enumerate(block.keys_values(normed[:, :1])):
                    self.keys[k, which].transpose(1, 2)[rows, column] = new[:, :, 0].to(self.h)
            biases = bias[:, k * net.heads : (k + 1) * net.heads]
            x = block.attend(x, normed, *self.keys[k, :, :, :, :-1], biases)
        return x[:, -1:]

    def tell(self, node: Tensor, known: Tensor, real: Tensor) -> None:
        """Take the colour of `node` (B,), now known, where `real` (B,)."""
        content = self.asked + self.network.colors(known[self.rows, node])[:, None]
        column = torch.where(real, node + 1, known.shape[1] + 1)
        self.told = content, node, column
