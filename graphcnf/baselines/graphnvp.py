"""GraphNVP: a flow of all edges of a graph, then a flow of its nodes given the edges.

Madhawa et al. 2019, arXiv 1905.11600. The model is here for comparison.

- The *edge value* of a pair of nodes is 0 for no edge, else the edge category plus 1.
- A *vector with noise* encodes a category: its one-hot vector plus uniform noise.
- The *adjacency tensor* holds such a vector for the edge value of each pair of nodes. Edges have no
  direction: of the pairs (i, j) and (j, i), only the one with i > j holds data, the other is 0.
- *Column* j of the adjacency tensor holds the pairs of node j and the later nodes i > j.
- A *coupling* transforms one column, or one node, by a shift and a scale that a network computes
  from all other columns or nodes.

Differences from the paper: a pair of nodes is one variable; columns and nodes that are already
drawn enter a coupling as categories, without noise; the couplings share the layers that read the
tensor.

Shapes: B graphs, N nodes, R edge categories, M node categories.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.categorical_flow import Bound
from graphcnf.categorical.encoding import Encoded, Encoding
from graphcnf.categorical.transformer import zero_init
from graphcnf.errors import UserError
from graphcnf.flows.base import StandardNormal
from graphcnf.flows.mixture_of_logistics import bounded_log_scale
from graphcnf.flows.transform import (
    Bijection,
    Context,
    Generators,
    Noise,
    draw_noise,
    log_term_dtype,
    masked,
    sum_log_term,
    zero_log_term,
)
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.features import GraphContext
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.pretrained import keep_arguments

NOISE = 0.9  # width c of the noise, in the papers of GraphNVP and GraphAF


class OneHotDequantization(Encoding):
    """Encoding `z = onehot(x) + c u`, c = 0.9, u uniform in [0, 1)^K: `log q(z|x) = -K log c`.

    Each category fills a cube of side c = 0.9 (`NOISE`). The cubes of different categories are
    disjoint, and the largest entry of z gives the category, so log p(x|z) = 0. The density p(z)
    that a flow puts outside of the cubes is lost. So the mean of log p(z) + K log c is a lower
    bound on log p(x). Madhawa et al. 2019, arXiv 1905.11600.

    Examples:
        >>> encoding = OneHotDequantization(3)
        >>> encoded = encoding.encode(torch.tensor([[2, 0]]))
        >>> encoding.decode(encoded.z).tolist()
        [[2, 0]]
    """

    def __init__(self, categories: int):
        super().__init__()
        self.cardinalities = self.latent_dim = int(categories)

    def encode(self, x, context=Context()):
        x = masked(x, context.mask)
        one_hot = F.one_hot(x, self.cardinalities).to(self.like)
        u = draw_noise(context.noise, one_hot.shape, device=x.device)
        z = one_hot + NOISE * u.to(one_hot)
        log_q = torch.full_like(z[..., 0], -self.cardinalities * math.log(NOISE))
        return Encoded.of_variables(
            z, torch.zeros_like(log_q), log_q, self.decode(z) == x, context.mask
        )

    def decode(self, z, context=Context(), *, sample=False):
        """Return the categories of latents: the index of the largest of the K entries."""
        return masked(z.argmax(-1), context.mask)


def relations(bonds: Tensor, categories: int, dtype: torch.dtype) -> Tensor:
    """Return the adjacency matrices of the edge categories side by side, (B, N, R N).

    Entry [b, i, r N + j] is 1 if nodes i and j have an edge of category r, else 0. `bonds` are edge
    values, (B, N, N) long.
    """
    one_hot = F.one_hot(bonds, categories + 1)[..., 1:].to(dtype)
    return one_hot.movedim(-1, 2).flatten(2)


class RelationalConvolution(nn.Module):
    """Layer `h_i <- h_i + relu(W_0 h_i + sum over r and neighbours j in N_r(i) of W_r h_j)`.

    h_i are the features of node i, and N_r(i) its neighbours along edges of category r.
    Schlichtkrull et al. 2018, arXiv 1703.06103. The paper divides by the number of neighbours; here
    the term h_i, a residual connection, makes that unnecessary.
    """

    def __init__(self, width: int, categories: int):
        super().__init__()
        self.categories = categories
        self.own = nn.Linear(width, width)
        # Without a bias: absent nodes, whose state is 0, must send 0.
        self.send = nn.Linear(width, categories * width, bias=False)

    def forward(self, h: Tensor, adjacency: Tensor) -> Tensor:
        """Update the features of nodes by those of their neighbours.

        Absent nodes must have features 0. `adjacency` is as `relations` returns it, (B, N, R N).
        """
        own = self.own(h)
        sent = torch.stack(self.send(h).chunk(self.categories, -1), 1)  # (B, R, N, ..., width)
        received = adjacency.to(sent.dtype) @ sent.flatten(1, 2).flatten(2)
        return h + F.relu(own + received.view_as(own))


class OneByOne(Bijection):
    """Base of flows that transform columns or nodes one at a time: `z_k = exp(s) (x_k + t)`.

    The shift t and log-scale s of column or node k come from a network that reads all the others:
    the data of those with smaller numbers, and the latents of those with larger numbers. So
    `forward` (data to latents) goes from the last to the first, and the inverse from the first to
    the last. A subclass defines `_couple`, which does both.
    """

    def forward(self, x, context=Context()):
        return self._couple(x.to(log_term_dtype(x)), context, inverse=False)

    def inverse_and_logdet(self, z, context=Context()):
        return self._couple(z.to(log_term_dtype(z)), context, inverse=True)

    def _couple(self, x: Tensor, context: Context, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """Transform all parts, in one direction or the other."""
        raise NotImplementedError


def _move(
    x: Tensor, shift: Tensor, log_scale: Tensor, real: Tensor, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Transform one part of a `OneByOne` by the outputs of its network."""
    shift, log_scale = shift - NOISE / 2, bounded_log_scale(log_scale) + math.log(2)
    z = x * torch.exp(-log_scale) - shift if inverse else (x + shift) * torch.exp(log_scale)
    return masked(z, real), sum_log_term(-log_scale if inverse else log_scale, real)


def _categories(x: Tensor, real: Tensor) -> Tensor:
    """Remove the noise from one-hot vectors."""
    return masked(F.one_hot(x.argmax(-1), x.shape[-1]).to(x), real)


class ColumnCouplings(OneByOne):
    """Flow of the adjacency tensor (B, N * N, channels): one coupling for each column but the last.

    The pair of nodes (i, j) is entry N i + j of the second dimension. Column j holds the pairs with
    i = j + 1, ..., N - 1, so the last column holds none. All other entries are 0 (`later_pairs`).

    Args:
        channels: Number R + 1 of edge values.
        width: Channels of the first and of the second hidden layer.
    """

    def __init__(self, max_nodes: int, channels: int, width: tuple[int, int]):
        super().__init__()
        first, second = width
        columns = range(max_nodes - 1)
        # First layer: for known edges (without the category "no edge"), and for latents.
        self.known = nn.Parameter(torch.empty(len(columns), max_nodes * (channels - 1), first))
        self.latent = nn.Parameter(torch.empty(len(columns), max_nodes * channels, first))
        nn.init.normal_(self.known, std=max_nodes**-0.5)
        nn.init.normal_(self.latent, std=1 / (max_nodes * channels))
        self.biases = nn.Parameter(torch.zeros(max_nodes, first))
        self.sizes = nn.Embedding(max_nodes + 1, first)
        nn.init.normal_(self.sizes.weight, std=0.1)
        self.hidden = nn.ModuleList(nn.Linear(first, second) for _ in columns)
        # A smaller graph uses the first of these outputs, for nodes j + 1, j + 2, ...
        self.leave = nn.ModuleList(
            zero_init(nn.Linear(second, (max_nodes - 1 - j) * 2 * channels)) for j in columns
        )
        ends = 2 * channels, 2 * channels
        self.edges = nn.ModuleList(zero_init(nn.Linear(*ends)) for _ in columns)
        self.alone = nn.Parameter(torch.zeros(len(columns), max_nodes, 2 * channels))

    def _couple(self, x, context, *, inverse):
        n, channels = context.mask.shape[1], x.shape[2]
        real = later_pairs(context.mask).unflatten(1, (n, n)).transpose(1, 2)
        columns = list(masked(x.unflatten(1, (n, n)).transpose(1, 2), real).unbind(1))
        known = self.known[:, : n * (channels - 1)].to(x).unbind(0)
        latent = self.latent[:, : n * channels].to(x).unbind(0)

        # Input that column j gives to the other columns, and its edges at each node.
        def as_data(j):
            edges = _categories(columns[j], real[:, j])[..., 1:]
            own = F.one_hot(torch.tensor(j, device=x.device), n).to(x)
            return edges.flatten(1) @ known[j], edges + own[:, None] * edges.sum(1, keepdim=True)

        def as_latents(j):
            return torch.tanh(columns[j]).flatten(1) @ latent[j], 0.0

        before, after = (as_latents, as_data) if inverse else (as_data, as_latents)
        inputs = [before(j) for j in range(n - 1)]
        h = sum((part for part, _ in inputs), self.sizes(context.mask.sum(1)).to(x))
        used = sum((part for _, part in inputs), x.new_zeros(len(x), n, channels - 1))
        log_det = zero_log_term(x)
        for j in range(n - 1) if inverse else reversed(range(n - 1)):
            h, used = h - inputs[j][0], used - inputs[j][1]
            column, later = columns[j][:, j + 1 :], real[:, j, j + 1 :]
            column, term = _move(column, *self._parameters_of(j, h, used), later, inverse)
            columns[j], log_det = F.pad(column, (0, 0, j + 1, 0)), log_det + term
            own, edges = after(j)
            h, used = h + own, used + edges
        return torch.stack(columns, 2).flatten(1, 2), log_det

    def _parameters_of(self, j: int, h: Tensor, used: Tensor) -> list[Tensor]:
        """Return the parameters of the coupling of column j."""
        later = used.shape[1] - 1 - j
        h = F.relu(self.hidden[j](F.relu(h + self.biases[j].to(h))))
        width = self.alone.shape[2]
        weight, bias = (self.leave[j].get_parameter(name) for name in ("weight", "bias"))
        out = F.linear(h, weight[: later * width], bias[: later * width])
        alone = 1 - used.sum(-1, keepdim=True).clamp(max=1)
        seen = torch.cat([used, alone], -1)
        pair = torch.cat([seen[:, j + 1 :], seen[:, j, None].expand(-1, later, -1)], -1)
        out = out.unflatten(1, (later, width)) + self.edges[j](pair)
        out = out + alone[:, j + 1 :] * self.alone[j, :later].to(h)
        return out.chunk(2, -1)


class NodeCouplings(OneByOne):
    """Flow of the nodes given the edges, (B, N, channels): one coupling for each node.

    The coupling of a node reads all other nodes and the edges.
    """

    def __init__(self, max_nodes: int, channels: int, categories: int, width: int, layers: int):
        super().__init__()
        self.places = nn.Embedding(max_nodes, width)
        self.sizes = nn.Embedding(max_nodes + 1, width)
        self.convolutions = nn.ModuleList(
            RelationalConvolution(width, categories) for _ in range(layers)
        )
        self.known = nn.Linear(channels, width)
        self.latent = nn.Linear(channels, width)
        self.leave = nn.Sequential(
            nn.Linear((categories + 2) * width, 2 * width),
            nn.ReLU(),
            zero_init(nn.Linear(2 * width, 2 * channels)),
        )

    def _couple(self, x, context, *, inverse):
        mask, n = context.mask, x.shape[1]
        h = self.places.weight[:n] + self.sizes(mask.sum(1))[:, None]
        for convolution in self.convolutions:
            h = convolution(masked(h, mask), context.adjacency)

        def as_data(nodes, of, real):
            return masked(F.relu(of + self.known(_categories(nodes, real))), real)

        def as_latents(nodes, of, real):
            return masked(F.relu(of + self.latent(nodes)), real)

        before, after = (as_latents, as_data) if inverse else (as_data, as_latents)
        x = masked(x, mask)
        states = list(before(x, h, mask).split(1, 1))
        nodes, h, real = list(x.split(1, 1)), h.split(1, 1), mask.split(1, 1)
        neighbours = context.adjacency.unflatten(2, (-1, n)).to(x)
        log_det = zero_log_term(x)
        for i in range(n) if inverse else reversed(range(n)):
            others = torch.cat([*states[:i], torch.zeros_like(states[i]), *states[i + 1 :]], 1)
            near = (neighbours[:, i] @ others).flatten(1)
            mean = others.sum(1) / mask.sum(1, keepdim=True)
            out = self.leave(torch.cat([h[i][:, 0], near, mean], -1))
            nodes[i], term = _move(nodes[i], *out[:, None].chunk(2, -1), real[i], inverse)
            log_det = log_det + term
            states[i] = after(nodes[i], h[i], real[i])
        return torch.cat(nodes, 1), log_det


class GraphNVPModel(GraphModel):
    """GraphNVP as a graph model: log p(adjacency tensor) + log p(nodes | adjacency tensor).

    The terms of `bounds` are "adjacency" and "nodes". Nothing keeps drawn graphs connected, or the
    edges of a node within what the training data have.

    Args:
        width: Channels of both hidden layers in the couplings of the adjacency tensor.
    """

    architecture = "graphnvp"
    stochastic = True

    @keep_arguments
    def __init__(
        self,
        *,
        node_categories: int,
        edge_categories: int,
        max_nodes: int,
        width: tuple[int, int] = (384, 192),
        node_width: int = 64,
        layers: int = 3,
    ):
        super().__init__()
        if not isinstance(width, list | tuple) or len(width) != 2:
            raise UserError(f"width must be two numbers of channels, got {width!r}")
        self.node_encoding = OneHotDequantization(node_categories)
        self.pair_encoding = OneHotDequantization(edge_categories + 1)
        self.base = StandardNormal()
        self.pairs = ColumnCouplings(max_nodes, edge_categories + 1, width)
        self.nodes = NodeCouplings(max_nodes, node_categories, edge_categories, node_width, layers)

    def _given(self, bonds: Tensor, mask: Tensor) -> GraphContext:
        """Return the context of the couplings of nodes."""
        categories = self.pair_encoding.latent_dim - 1
        like = self.node_encoding.like
        return GraphContext(mask, adjacency=relations(bonds, categories, like.dtype))

    def _run(self, batch: GraphBatch, noise: Noise | None) -> tuple[Latents, dict[str, Bound]]:
        """Encode graphs to base latents, with the terms of the bound."""
        pair_mask = later_pairs(batch.mask)
        pair = self.pair_encoding.encode(
            batch.edge_labels.flatten(1), Context(pair_mask, noise=noise)
        )
        pairs, pair_term = self.pairs(pair.z, Context(batch.mask))
        node = self.node_encoding.encode(batch.node_types, Context(batch.mask, noise=noise))
        nodes, node_term = self.nodes(node.z, self._given(batch.edge_labels, batch.mask))
        bounds = {
            "adjacency": Bound.of(self.base.log_prob(pairs, pair_mask) + pair_term, pair),
            "nodes": Bound.of(self.base.log_prob(nodes, batch.mask) + node_term, node),
        }
        return {"pairs": pairs, "nodes": nodes}, bounds

    def terms(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        return self._run(batch, noise)[1]

    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents."""
        return self._run(batch, noise)[0]

    def base_sample(self, mask: Tensor, generator: Generators = None) -> Latents:
        dtype, pair_mask = self.node_encoding.like.dtype, later_pairs(mask)
        draw = partial(self.base.sample, generator=generator, device=mask.device, dtype=dtype)
        pairs = draw((*pair_mask.shape, self.pair_encoding.latent_dim), mask=pair_mask)
        nodes = draw((*mask.shape, self.node_encoding.latent_dim), mask=mask)
        return {"pairs": pairs, "nodes": nodes}

    def from_latents(
        self,
        latents: Latents,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        generator: Generators = None,
    ) -> GraphBatch:
        """Decode base latents to graphs, edges first; a category is that of the largest entry."""
        pairs = self.pairs.inverse(temperature * latents["pairs"], Context(mask))
        later = self.pair_encoding.decode(pairs, Context(later_pairs(mask)))
        later = later.unflatten(1, (mask.shape[1], -1))
        bonds = later + later.transpose(1, 2)
        nodes = self.nodes.inverse(temperature * latents["nodes"], self._given(bonds, mask))
        return GraphBatch(self.node_encoding.decode(nodes, Context(mask)), bonds, mask)


def later_pairs(mask: Tensor) -> Tensor:
    """Return which entries of the adjacency tensor hold data: pairs of a node and an earlier one.

    Entry N i + j of (B, N N) is True if i > j and both nodes are real.
    """
    return (mask[:, :, None] & mask[:, None]).tril(-1).flatten(1)
