"""The graph model "pairs": GraphCNF as published, in one shot, with latents for each pair of nodes.

A batch has B graphs of N nodes; nodes beyond a graph's own number are *padding*. *Latents* are
continuous variables: D for each node, E for each pair of nodes. A graph is encoded in three
*steps*, each with a flow that transforms all latents so far:

1. "nodes" encodes the node categories as node latents, given all edges with their categories.
2. "edges" encodes the edge categories as latents of the *real edges*, the pairs that have an edge,
   given which pairs these are.
3. "adjacency" draws random latents for all other pairs, the *virtual edges*. Now all P =
   N (N - 1) / 2 pairs have latents, and nothing else need be known: a decoder tells from the
   latents of a pair whether its edge is real.

The latents after the third step are the *base latents*, whose density is standard logistic.
Sampling goes the other way, from base latents back to node categories. All networks see all nodes
and pairs at once, so that it takes the same number of evaluations for any graph.

(Lippe & Gavves 2021, arXiv 2006.09790, section 3 and appendix B.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.arguments import check
from graphcnf.categorical.categorical_flow import Bound
from graphcnf.categorical.learned_encodings import logistic_noise, make_encoding
from graphcnf.categorical.transformer import MASKED, ReadOut, Transformer, zero_init
from graphcnf.errors import UserError
from graphcnf.flows.base import StandardLogistic, logistic_log_density
from graphcnf.flows.composition import SequentialBijection
from graphcnf.flows.coupling import MixtureLogisticCoupling, coupling_stack, halves
from graphcnf.flows.linear import ActNorm, InvertibleLinear
from graphcnf.flows.transform import Bijection, Context, Noise, masked, sum_log_term
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.features import (
    MAX_COUNT,
    NODE_FEATURES,
    PAIR_FEATURES,
    GraphContext,
    graph_context,
)
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.pretrained import keep_arguments


@dataclass
class GraphLatents:
    """Latents of the nodes and of P listed pairs of nodes, which a flow transforms together.

    In the step "edges", the list has the pairs with an edge, and P is the largest number of edges
    of a graph of the batch. In the step "adjacency", it has all N (N - 1) / 2 pairs.

    Attributes:
        nodes: D latents of each node, (B, N, D).
        pairs: E latents of each pair, (B, P, E).
        node_mask: True for nodes that are no padding, (B, N) bool.
        pair_mask: True for pairs that are no padding, (B, P) bool.
        index: Numbers of the two nodes of each pair, the larger one first, (B, P, 2) long.
    """

    nodes: Tensor
    pairs: Tensor
    node_mask: Tensor
    pair_mask: Tensor
    index: Tensor


class NodesAndPairs(Bijection):
    """Bijection of `GraphLatents`: one bijection of tensors for the nodes, and one for the pairs.

    Args:
        nodes: Bijection of the node latents (B, N, D).
        pairs: Bijection of the pair latents (B, P, E).
        network: None for two bijections without a network, such as `ActNorm`. Otherwise both are
            couplings, and one network gives the parameters of both, so that nodes and pairs depend
            on each other. It is called as `network(nodes, context, pairs, latents)` with the
            untransformed channels of nodes and pairs, as a `PairNetwork` is.
        swap: With a network: the `swap` of both couplings, which says which channels they
            transform.
    """

    def __init__(self, nodes, pairs, network: nn.Module | None = None, *, swap: bool = False):
        super().__init__()
        self.nodes, self.pairs, self.network, self.swap = nodes, pairs, network, swap

    def _contexts(self, x: GraphLatents, context: Context) -> tuple[Context, Context]:
        """Return the contexts of both bijections."""
        if self.network is None:
            return replace(context, mask=x.node_mask), replace(context, mask=x.pair_mask)
        # The network sees the padding, too.
        nodes, pairs = masked(x.nodes, x.node_mask), masked(x.pairs, x.pair_mask)
        nodes = nodes.tensor_split([self.nodes.split], -1)[self.swap]
        pairs = pairs.tensor_split([self.pairs.split], -1)[self.swap]
        for_nodes, for_pairs = self.network(nodes, context, pairs, x)
        return Context(x.node_mask, for_nodes), Context(x.pair_mask, for_pairs)

    def forward(self, x, context=Context()):
        for_nodes, for_pairs = self._contexts(x, context)
        nodes, first = self.nodes(x.nodes, for_nodes)
        pairs, second = self.pairs(x.pairs, for_pairs)
        return replace(x, nodes=nodes, pairs=pairs), first + second

    def inverse_and_logdet(self, z, context=Context()):
        for_nodes, for_pairs = self._contexts(z, context)
        nodes, first = self.nodes.inverse_and_logdet(z.nodes, for_nodes)
        pairs, second = self.pairs.inverse_and_logdet(z.pairs, for_pairs)
        return replace(z, nodes=nodes, pairs=pairs), first + second


class _Given(nn.Module):
    """Network of a coupling whose parameters are computed already: the features of its context."""

    def forward(self, x, context):
        return context.features


def joint_flow(network, *, couplings: int, dims: tuple, mixtures: tuple) -> SequentialBijection:
    """Build the flow of the latents of nodes and pairs, for the steps "edges" and "adjacency".

    Each block is an actnorm, an invertible linear map and a coupling. `network(node_in, node_out,
    pair_in, pair_out)` builds the network of a block, mostly a `PairNetwork`. `dims` and `mixtures`
    are two numbers: for nodes and for pairs.
    """
    layers: list[Bijection] = []
    for k in range(couplings):
        sizes, parts = [], []
        for dim, count in zip(dims, mixtures, strict=True):
            split, swap, fixed = halves(dim, k)
            sizes += [fixed, (dim - fixed) * (3 * count + 2)]
            parts.append(MixtureLogisticCoupling(_Given(), split=split, swap=swap, mixtures=count))
        layers += [
            NodesAndPairs(*map(ActNorm, dims)),
            NodesAndPairs(*map(InvertibleLinear, dims)),
            NodesAndPairs(parts[0], parts[1], network(*sizes), swap=swap),
        ]
    return SequentialBijection(*layers)


def all_pairs(mask: Tensor) -> tuple[Tensor, Tensor]:
    """List all pairs of nodes (1, 0), (2, 0), (2, 1), ..., (B, P, 2); and say which are real."""
    batch, nodes = mask.shape
    index = torch.tril_indices(nodes, nodes, -1, device=mask.device).t()
    return index.expand(batch, -1, -1), mask[:, index[:, 0]] & mask[:, index[:, 1]]


def dense(values: Tensor, index: Tensor, nodes: int) -> Tensor:
    """Put values of listed pairs into a symmetric matrix (B, N, N, ...), 0 elsewhere."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    i, j = index.unbind(-1)
    out = values.new_zeros(len(values), nodes, nodes, *values.shape[2:])
    out[rows, i, j] = out[rows, j, i] = values
    return out


def of_pairs(values: Tensor, index: Tensor) -> Tensor:
    """Read the values of listed pairs of nodes from a matrix over all nodes."""
    rows = torch.arange(len(index), device=index.device)[:, None]
    return values[rows, index[..., 0], index[..., 1]]


class PairNetwork(nn.Module):
    """Network that gives the parameters of couplings: those of nodes and, on demand, of pairs.

    Computed by attention over the nodes. Each pair of nodes has a small hidden vector, which
    acts on the nodes in two ways: as an attention bias, and as a message that is summed over the
    pairs of a node. What is known of the graph (`GraphContext`) enters as features of nodes, and as
    attention biases and features of pairs.

    Args:
        ordered: True if the network sees node numbers: each node its own, attention biases and
            pairs the difference of two. False for a network that is equivariant to renumbering.
        reach: Largest difference of node numbers that is told from larger ones; used if `ordered`.
    """

    def __init__(
        self,
        node_in: int,
        node_out: int,
        pair_in: int = 0,
        pair_out: int = 0,
        *,
        node_features: int = 0,
        pair_features: int = 0,
        ordered: bool,
        max_nodes: int,
        width: int = 64,
        pair_width: int = 16,
        layers: int = 2,
        heads: int = 8,
        reach: int = 24,
    ):
        super().__init__()
        self.ordered, self.reach = ordered, reach
        self.nodes = nn.Linear(node_in + node_features, width)
        self.size = nn.Embedding(max_nodes + 1, width)
        self.position = nn.Embedding(max_nodes, width) if ordered else None
        biases = layers * heads
        self.relative = nn.Parameter(torch.zeros(biases, 2 * reach + 1)) if ordered else None
        # A constant would cancel in the softmax.
        self.relations = nn.Linear(pair_features, biases, bias=False) if pair_features else None
        self.blocks = Transformer(width, heads, 2, layers)
        self.node_out = nn.Sequential(nn.LayerNorm(width), zero_init(ReadOut(width, node_out)))
        self.pair_in = pair_in
        if pair_in:
            ends = 2 * pair_width if ordered else pair_width
            self.pairs = nn.Linear(pair_in + pair_features, pair_width)
            self.pair_position = nn.Embedding(reach + 1, pair_width) if ordered else None
            self.ends = nn.Linear(width, ends, bias=False)
            self.mix = nn.Sequential(nn.GELU(), nn.Linear(pair_width, pair_width), nn.GELU())
            self.pair_bias = nn.Linear(pair_width, biases)
            self.message = nn.Linear(pair_width, width)
            self.late_ends = nn.Linear(width, ends, bias=False)
            self.late = nn.Sequential(nn.GELU(), nn.Linear(pair_width, 2 * pair_width), nn.GELU())
            self.pair_out = zero_init(ReadOut(2 * pair_width, pair_out))

    def _from_ends(self, linear: nn.Linear, h: Tensor, index: Tensor) -> Tensor:
        """Return channels of pairs (B, P, E): the sum of linear maps of both nodes."""
        rows = torch.arange(len(h), device=h.device)[:, None]
        later, earlier = linear(h).chunk(2, -1) if self.ordered else (linear(h),) * 2
        return later[rows, index[..., 0]] + earlier[rows, index[..., 1]]

    def forward(self, nodes: Tensor, context: GraphContext, pairs=None, latents=None):
        """Compute the parameters of nodes and, with pairs, those of pairs as well."""
        mask = context.mask
        count = mask.shape[1]
        number = torch.arange(count, device=mask.device)
        if context.features is not None:
            nodes = torch.cat([nodes, context.features.to(nodes.dtype)], -1)
        h = self.nodes(nodes) + self.size(mask.sum(1))[:, None]
        biases = len(self.blocks) * self.blocks.heads
        bias = torch.zeros(1, biases, 1, 1, device=mask.device, dtype=h.dtype)
        if self.position is not None and self.relative is not None:
            h = h + self.position(number)
            steps = (number[:, None] - number).clamp(-self.reach, self.reach) + self.reach
            bias = bias + self.relative[:, steps]
        if self.relations is not None:
            bias = bias + self.relations(context.adjacency.to(h.dtype)).permute(0, 3, 1, 2)
        bias = bias.masked_fill(~mask[:, None, None, :], MASKED)
        if not self.pair_in:
            return self.node_out(self.blocks(h, bias))
        index, keep = latents.index, latents.pair_mask[..., None]
        if context.adjacency is not None:
            pairs = torch.cat([pairs, of_pairs(context.adjacency, index).to(pairs.dtype)], -1)
        e = self.pairs(pairs) + self._from_ends(self.ends, h, index)
        if self.pair_position is not None:
            distance = (index[..., 0] - index[..., 1]).clamp(0, self.reach)
            e = e + self.pair_position(distance)
        e = self.mix(e)
        between = dense(self.pair_bias(e) * keep, index, count)
        bias = bias + between.permute(0, 3, 1, 2)
        # Messages of the pairs of a node, scaled to be of order 1.
        messages = (self.message(e) * keep).repeat(1, 2, 1)
        ends = index.transpose(1, 2).flatten(1)
        pooled = messages.new_zeros(h.shape)
        pooled = pooled.scatter_add(1, ends[..., None].expand_as(messages), messages)
        h = self.blocks(h + 0.2 * pooled, bias)
        late = self.late(e + self._from_ends(self.late_ends, h, index))
        return self.node_out(h), self.pair_out(late)


# Latents of real and of virtual edges start apart. If they overlap at first, training collapses:
# the decoder returns its prior, and samples have no edges.
START_DISTANCE = 1.5
START_LOG_SCALE = -1.4


class VirtualEdges(nn.Module):
    """Latents of virtual edges, and the decoder that tells real from virtual edges.

    *Real* edges are the pairs of nodes that have an edge, *virtual* edges all other pairs; P are
    the pairs that a method gets of each graph.

    - The latents of real edges, which the step "edges" gives, are moved by a learned affine map,
      z * scale + shift. It starts with the scale e^-1.4 and the shift -1.5.
    - The latents of virtual edges are drawn from a logistic density q(z), which starts with the
      same scale and the mean 1.5. So both kinds start apart: where they overlap at first, training
      collapses to graphs without edges.
    - The decoder's logit of "the edge is real", given z, is a linear map plus a small network.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.real_shift = nn.Parameter(torch.full((dim,), -START_DISTANCE))
        self.real_log_scale = nn.Parameter(torch.full((dim,), START_LOG_SCALE))
        self.shift = nn.Parameter(torch.full((dim,), START_DISTANCE))
        self.log_scale = nn.Parameter(torch.full((dim,), START_LOG_SCALE))
        self.linear = nn.Linear(dim, 1)
        nn.init.constant_(self.linear.weight, -4.0 / dim)
        nn.init.zeros_(self.linear.bias)
        self.network = nn.Sequential(nn.Linear(dim, 32), nn.GELU(), zero_init(nn.Linear(32, 1)))

    def to_joint(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Move latents of real edges by the affine map; with its log-determinant, (B, P) nats."""
        moved = z * self.real_log_scale.exp() + self.real_shift
        return moved, self.real_log_scale.sum().expand(z.shape[:-1])

    def from_joint(self, z: Tensor) -> Tensor:
        """Undo `to_joint`."""
        return (z - self.real_shift) * (-self.real_log_scale).exp()

    def draw(self, like: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Draw latents (B, P, E) of virtual edges from q(z), with log q(z), (B, P) nats."""
        base = logistic_noise(like.shape, like, noise)
        log_q = logistic_log_density(base) - self.log_scale
        return base * self.log_scale.exp() + self.shift, log_q.sum(-1)

    def logit(self, z: Tensor) -> Tensor:
        """Return log p(real edge|z) - log p(virtual edge|z) of pairs, (B, P) nats."""
        return (self.linear(z) + self.network(z)).squeeze(-1)


class PairsModel(GraphModel):
    """GraphCNF in one shot; if `order` is "none", invariant to renumbering.

    In three steps, node categories become node latents, edge categories become latents of real
    edges, and all other pairs get latents of virtual edges, which a binary decoder tells from real
    ones (Lippe & Gavves 2021, arXiv 2006.09790, section 3 and appendix B).

    `model_for_graphs(graphs, architecture="pairs", ...)` builds it.

    Args:
        order: "canonical" if graphs are numbered canonically, and the networks may see the node
            numbers; "none" if the numbers must have no effect.
        nodes: Arguments of the step "nodes", by name: "couplings", the number of blocks of its flow
            (default 3), and arguments of `PairNetwork` such as "width". None for the defaults.
        edges: The same for the step "edges" (default 3 couplings).
        adjacency: The same for the step "adjacency" (default 6 couplings).
        encoding: How latents encode node and edge categories: "mixture", "linear", "variational" or
            "argmax", see `make_encoding`.
        node_dim: Number D of latents of a node; without effect for "argmax", where the number of
            categories determines it.
        pair_dim: Number E of latents of a pair; without effect for "argmax".
    """

    architecture = "pairs"
    stochastic = True
    node_orders = ("canonical", "none")

    @keep_arguments
    def __init__(
        self,
        *,
        node_categories: int,
        edge_categories: int,
        max_nodes: int,
        order: str,
        nodes: dict | None = None,
        edges: dict | None = None,
        adjacency: dict | None = None,
        encoding: str = "mixture",
        node_dim: int | None = 6,
        pair_dim: int | None = 2,
        node_mixtures: int = 8,
        pair_mixtures: int = 8,
    ):
        super().__init__()
        self.edge_categories = edge_categories
        if encoding == "argmax":
            # The number of categories determines the number of latents.
            node_dim = pair_dim = None
        self.node_encoding = make_encoding(encoding, node_categories, node_dim)
        self.edge_encoding = make_encoding(encoding, edge_categories, pair_dim)
        node_dim, pair_dim = self.node_encoding.latent_dim, self.edge_encoding.latent_dim
        if min(node_dim, pair_dim) < 2:
            raise UserError(
                f"encoding {encoding!r} gives nodes {node_dim} and edges {pair_dim} latents, but "
                "couplings need at least 2 each (node_dim, pair_dim)"
            )
        self.virtual = VirtualEdges(pair_dim)
        self.base = StandardLogistic()
        given: dict[str, Any] = {"ordered": self.ordered, "max_nodes": max_nodes}
        structure = {**given, "node_features": NODE_FEATURES}
        structure["pair_features"] = PAIR_FEATURES - (not self.ordered)
        typed = dict(structure)
        typed["node_features"] += edge_categories * (MAX_COUNT + 1)
        typed["pair_features"] += edge_categories
        nodes, edges, joint = (dict(step or {}) for step in (nodes, edges, adjacency))
        number = [step.pop("couplings", k) for step, k in ((nodes, 3), (edges, 3), (joint, 6))]
        for name, step in (("nodes", nodes), ("edges", edges), ("adjacency", joint)):
            check(name, step, PairNetwork)
        self.nodes = coupling_stack(
            partial(PairNetwork, **typed, **nodes),
            channels=node_dim,
            couplings=number[0],
            mixtures=node_mixtures,
        )
        sizes = {"dims": (node_dim, pair_dim), "mixtures": (node_mixtures, pair_mixtures)}
        network = partial(PairNetwork, **structure, **edges)
        self.edges = joint_flow(network, couplings=number[1], **sizes)
        network = partial(PairNetwork, **given, **joint)
        self.adjacency = joint_flow(network, couplings=number[2], **sizes)

    def _context(self, labels: Tensor, mask: Tensor, categories: int = 0) -> Context:
        """Return the features of graphs, by `graph_context`, in the type of the weights."""
        dtype = self.virtual.shift.dtype
        return graph_context(labels, mask, categories, dtype, ordered=self.ordered)

    def _run(self, batch: GraphBatch, noise: Noise | None):
        """Encode a batch of graphs, and map the latents through all three steps."""
        mask = batch.mask
        node = self.node_encoding.encode(batch.node_types, Context(mask, noise=noise))
        z, node_term = self.nodes(
            node.z, self._context(batch.edge_labels, mask, self.edge_categories)
        )

        index, pair_mask = all_pairs(mask)
        kinds = of_pairs(batch.edge_labels, index)
        edges, real, place = _edges(kinds > 0, index)
        edge_types = (of_pairs(batch.edge_labels, edges) - 1).clamp(min=0)
        edge = self.edge_encoding.encode(edge_types, Context(real, noise=noise))
        joint, edge_term = self.edges(
            GraphLatents(z, edge.z, mask, real, edges), self._context(batch.adjacency, mask)
        )

        moved, log_det = self.virtual.to_joint(joint.pairs)
        pairs, log_q = self.virtual.draw(moved.new_zeros(*index.shape[:2], moved.shape[-1]), noise)
        is_real = (kinds > 0) & pair_mask
        pairs = pairs.index_put((real.nonzero()[:, 0], place[real]), moved[real])
        pairs = torch.where(pair_mask[..., None], pairs, 0)
        logit = self.virtual.logit(pairs)
        log_p = F.logsigmoid(torch.where(is_real, logit, -logit))
        right = ((logit > 0) == is_real) & pair_mask
        z, adjacency_term = self.adjacency(
            GraphLatents(joint.nodes, pairs, mask, pair_mask, index), GraphContext(mask)
        )
        total = pair_mask.sum(1).clamp(min=1)
        accuracy = torch.where(pair_mask.any(1), right.sum(1) / total, 1.0)
        base = self.base.log_prob(z.nodes, mask) + self.base.log_prob(z.pairs, pair_mask)
        bounds = {
            "nodes": Bound.of(node_term, node),
            "edges": Bound.of(edge_term, edge),
            "adjacency": Bound(
                base + adjacency_term + sum_log_term(log_det, real),
                sum_log_term(log_p, pair_mask),
                sum_log_term(log_q, pair_mask & ~is_real),
                accuracy,
            ),
        }
        return z, bounds

    def terms(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """Draw the bound on log p(graph | number of nodes) once, as a sum of three terms."""
        return self._run(batch, noise)[1]

    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to base latents."""
        z = self._run(batch, noise)[0]
        return {"nodes": z.nodes, "pairs": z.pairs}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        _, pair_mask = all_pairs(mask)
        draw: dict[str, Any] = {"device": mask.device, "dtype": self.virtual.shift.dtype}
        draw["generator"], shape = generator, (*mask.shape, self.node_encoding.latent_dim)
        nodes = self.base.sample(shape, mask=mask, **draw)
        shape = (*pair_mask.shape, self.edge_encoding.latent_dim)
        return {"nodes": nodes, "pairs": self.base.sample(shape, mask=pair_mask, **draw)}

    def from_latents(
        self, latents: Latents, mask: Tensor, *, temperature=1.0, generator=None
    ) -> GraphBatch:
        index, pair_mask = all_pairs(mask)
        z = GraphLatents(
            temperature * latents["nodes"], temperature * latents["pairs"], mask, pair_mask, index
        )
        joint = self.adjacency.inverse(z, GraphContext(mask))
        is_real = (self.virtual.logit(joint.pairs) > 0) & pair_mask
        edges, real, place = _edges(is_real, index)
        at_edges = joint.pairs.gather(1, place[..., None].expand(-1, -1, joint.pairs.shape[-1]))
        moved = torch.where(real[..., None], self.virtual.from_joint(at_edges), 0)
        adjacency = dense(real, edges, mask.shape[1])
        known = replace(joint, pairs=moved, pair_mask=real, index=edges)
        known = self.edges.inverse(known, self._context(adjacency, mask))
        types = self.edge_encoding.decode(known.pairs, Context(real))
        labels = dense(torch.where(real, types + 1, 0), edges, mask.shape[1])
        nodes = self.nodes.inverse(known.nodes, self._context(labels, mask, self.edge_categories))
        return GraphBatch(self.node_encoding.decode(nodes, Context(mask)), labels, mask)


def _edges(is_real: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Select the real edges among all pairs of nodes, padded to the largest number E of a graph."""
    most = max(int(is_real.sum(1).max()), 1) if is_real.numel() else 0
    place = is_real.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    real = is_real.gather(1, place)
    return index.gather(1, place[..., None].expand(-1, -1, 2)), real, place
