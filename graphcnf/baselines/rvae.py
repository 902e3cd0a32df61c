"""R-VAE: a graph VAE whose training penalises graphs that break rules of validity.

Ma, Chen & Xiao, NeurIPS 2018, arXiv 1809.02630. The model is here for comparison. `GraphVAE` is the
common base class of `RegularizedVAE` and of the JT-VAE (`graphcnf.baselines.jtvae`).

- A graph x has one or more *latent vectors* z with names, such as "graph". The prior p(z) is
  standard normal; q(z|x) is the posterior.
- In the R-VAE, nodes and edges are independent given z.
- The *penalties* measure how much graphs break rules, such as the largest sum of edge weights of a
  node (for molecules: the valence). Training computes them for graphs decoded from the prior, as
  probabilities of all categories.
- The *weight* of an edge belongs to its category; for molecules it is the bond order.

Differences from the paper: the number of nodes is given, and the decoder convolves over the
sequence of nodes instead of the adjacency matrix.

Shapes: B graphs, N nodes, D latents of a latent vector, W channels of a node.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.categorical_flow import Bound
from graphcnf.flows.base import StandardNormal
from graphcnf.flows.transform import Generators, Noise, draw_noise, log_term_dtype, masked
from graphcnf.graphs.batch import GraphBatch, Latents, PackedGraphs
from graphcnf.graphs.graph_model import GraphModel, Loss, likelihood_loss
from graphcnf.graphs.pairs import all_pairs, dense
from graphcnf.graphs.path.data_rules import measured_sums
from graphcnf.pretrained import keep_arguments

PRIOR = StandardNormal()  # density of the latents, p(z)


class Gaussian:
    """Normal posterior q(z|x) with independent latents.

    Args:
        parameters: (B, 2 D): the means, then for each latent a number r that stands for the
            logarithm of the standard deviation, 5 tanh(r / 5) - 2, between -7 and 3.
    """

    def __init__(self, parameters: Tensor):
        self.mean, raw = parameters.to(log_term_dtype(parameters)).chunk(2, -1)
        self.log_scale = 5 * torch.tanh(raw / 5) - 2

    def draw(self, noise: Noise | None = None) -> Tensor:
        """Draw z = mean + scale * e with standard normal e, (B, D); `noise` can repeat the draw."""
        u = draw_noise(noise, self.mean.shape, device=self.mean.device)
        e = torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)).to(self.mean)
        return self.mean + self.log_scale.exp() * e

    def bound(self, z: Tensor) -> Bound:
        """Return log p(z) - log q(z|x), one draw of minus the KL divergence from the prior."""
        zero = torch.zeros_like(z[:, 0])
        log_q = PRIOR.log_prob((z - self.mean) * (-self.log_scale).exp()) - self.log_scale.sum(-1)
        return Bound(PRIOR.log_prob(z), zero, log_q, torch.ones_like(zero))

    def expected_bound(self, weight: float) -> Bound:
        """Return -KL(q(z|x) | p(z)) times a weight: the expectation of `bound` over draws.

        A weight below 1 in training lets latents carry more information.
        """
        twice = self.mean.square() + (2 * self.log_scale).exp() - 1 - 2 * self.log_scale
        return Bound.exact(-weight * 0.5 * twice.sum(-1))


class GraphEncoder(nn.Module):
    """Network that computes features of nodes by message passing along edges.

    Each layer is h_i <- h_i + MLP(h_i, sum_k sum_{j in N_k(i)} W_k h_j), where N_k(i) are the
    neighbours of node i along edges of category k. The MLP normalises its input.

    Args:
        max_nodes: Largest number of nodes, for features that depend on the numbers of the nodes.
            None for features that do not depend on them.
    """

    def __init__(self, nodes: int, bonds: int, max_nodes: int | None, width: int, layers: int):
        super().__init__()
        self.edge_categories = bonds
        self.category = nn.Embedding(nodes, width)
        self.position = None if max_nodes is None else nn.Embedding(max_nodes, width)
        self.messages = nn.ModuleList(
            nn.Linear(width, bonds * width, bias=False) for _ in range(layers)
        )
        self.updates = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(2 * width),
                nn.Linear(2 * width, 2 * width),
                nn.GELU(),
                nn.Linear(2 * width, width),
            )
            for _ in range(layers)
        )

    def forward(
        self, node_types: Tensor, bonds: Tensor, mask: Tensor, known: Tensor | float = 0.0
    ) -> Tensor:
        """Return the features of the nodes, (B, N, W), 0 where masked.

        `bonds` are edge categories plus 1, 0 for no edge, (B, N, N) long; `known` is added to the
        input of the first layer, (B, N, W).
        """
        h = self.category(node_types) + known
        if self.position is not None:
            h = h + self.position.weight[: mask.shape[1]]
        edges = F.one_hot(bonds, self.edge_categories + 1)[..., 1:].flatten(2).to(h.dtype)
        for message, update in zip(self.messages, self.updates, strict=True):
            sent = message(h).unflatten(-1, (self.edge_categories, -1)).flatten(1, 2)
            h = h + update(torch.cat([h, edges @ sent.to(edges.dtype)], -1))
        return masked(h, mask)


class GraphVAE(GraphModel):
    """Base class of graph VAEs, with one or more latent vectors and a decoder of several terms.

    A subclass sets `dims` and defines `_posteriors` (q(z|x) of each latent vector) and
    `_likelihood` (named terms of log p(x|z)). If both need something that is computed once from the
    batch, it defines `_read`, too.

    Attributes:
        dims: `{name of a latent vector: number of its latents}`.
    """

    stochastic = True
    dims: dict[str, int]

    def _read(self, batch: GraphBatch) -> Any:
        """Return what the networks take in place of a batch; here the batch itself."""
        return batch

    def _posteriors(self, reading: Any) -> dict[str, Gaussian]:
        """Return the distributions q(z|x) of the latent vectors of a batch."""
        raise NotImplementedError

    def _likelihood(self, reading: Any, z: Latents) -> dict[str, Bound]:
        """Return the terms of log p(x|z) by name."""
        raise NotImplementedError

    def terms(
        self, batch: GraphBatch, noise: Noise | None = None, weight: float | None = None
    ) -> dict[str, Bound]:
        """Draw the terms of the bound on log p(graph | number of nodes).

        Args:
            noise: Records the random numbers of z, or repeats recorded ones; None for new ones.
            weight: For training: a number, by which the KL divergence, then computed exactly
                instead of drawn, is multiplied. None for the bound itself.
        """
        reading, latents, z = self._read(batch), {}, {}
        for name, posterior in self._posteriors(reading).items():
            z[name] = posterior.draw(noise)
            if weight is None:
                latents[name] = posterior.bound(z[name])
            else:
                latents[name] = posterior.expected_bound(weight)
        return {**latents, **self._likelihood(reading, z)}

    def to_latents(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Encode graphs to the means of q(z|x)."""
        posteriors = self._posteriors(self._read(batch))
        return {name: posterior.mean for name, posterior in posteriors.items()}

    def base_sample(self, mask: Tensor, generator: Generators = None) -> Latents:
        """Draw latent vectors from the prior, for `from_latents`."""
        dtype = next(self.parameters()).dtype
        options = {"generator": generator, "device": mask.device, "dtype": dtype}
        return {k: PRIOR.sample((len(mask), dim), **options) for k, dim in self.dims.items()}


class RegularizedVAE(GraphVAE):
    """The R-VAE as a graph model: a variational autoencoder with penalties for breaking rules.

    `measure` finds `edge_weights`, `largest_sums` and `edge_ends` in training data.

    Args:
        edge_weights: Weight of each edge category; for molecules, the bond order.
        edge_ends: Which edges occur in the training data: triples (edge category, category of the
            one node, category of the other), each in both directions.
        largest_sums: Largest sum of edge weights of each node category; None for no limit.
        multiplier: Factor of the penalties, which are added to the loss in nats.
    """

    architecture = "rvae"
    measured_arguments = ("edge_weights", "edge_ends", "largest_sums")
    rules_off = {"largest_sums": None}

    weights: Tensor
    sums: Tensor
    strange: Tensor

    @keep_arguments
    def __init__(
        self,
        *,
        node_categories: int,
        edge_categories: int,
        max_nodes: int,
        edge_weights: list[int],
        edge_ends: list[list[int]],
        largest_sums: list[int] | None = None,
        latent_dim: int = 128,
        width: int = 96,
        pair_width: int = 64,
        encoder_layers: int = 3,
        decoder_layers: int = 3,
        multiplier: float = 1.0,
    ):
        super().__init__()
        self.dims, self.multiplier = {"graph": latent_dim}, multiplier
        sizes = node_categories, edge_categories, max_nodes
        self.encoder = GraphEncoder(*sizes, width, encoder_layers)
        # A matrix for each node number, so that the latents keep the order of the nodes.
        self.read_out = nn.Parameter(torch.randn(max_nodes, width, 4 * width) * width**-0.5 / 4)
        self.posterior = nn.Sequential(nn.GELU(), nn.Linear(4 * width, 2 * latent_dim))
        self.hidden = nn.Linear(latent_dim, 4 * width)
        self.size = nn.Embedding(max_nodes + 1, 4 * width)
        nn.init.normal_(self.size.weight, std=0.1)
        self.places = nn.Linear(4 * width, max_nodes * width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(decoder_layers))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, 5, padding=2) for _ in range(decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.nodes = nn.Linear(width, node_categories)
        self.ends = nn.Linear(width, 2 * pair_width)
        self.distance = nn.Embedding(max_nodes, pair_width)
        self.mixed = nn.Linear(pair_width, pair_width)
        self.edges = nn.Linear(pair_width, edge_categories + 1)

        strange = torch.ones(edge_categories, node_categories, node_categories)
        if edge_ends:
            strange[tuple(torch.tensor(edge_ends).T)] = 0
        self.limited = largest_sums is not None
        sums = largest_sums or [0] * node_categories
        for name, table in (("weights", edge_weights), ("sums", sums), ("strange", strange)):
            table = torch.as_tensor(table, dtype=torch.float32)
            self.register_buffer(name, table, persistent=False)

    @staticmethod
    def measure(graphs: PackedGraphs, **options: Any) -> dict[str, Any]:
        """Measure from training data the arguments of the constructor that the penalties need."""
        first = np.repeat(graphs.node_starts[:-1], graphs.edge_counts)
        a, b = (graphs.node_types[first + end].astype(int) for end in graphs.edges.T)
        edges = graphs.edge_types.astype(int)
        rows = np.concatenate([np.stack([edges, a, b], 1), np.stack([edges, b, a], 1)])
        ends = np.unique(rows, axis=0).tolist()
        return {**measured_sums(graphs, **options), "edge_ends": ends}

    def _posteriors(self, batch: GraphBatch) -> dict[str, Gaussian]:
        h = self.encoder(batch.node_types, batch.edge_labels, batch.mask)
        summed = torch.einsum("bnw,nwc->bc", h, self.read_out[: h.shape[1]])
        return {"graph": Gaussian(self.posterior(summed))}

    def _matrices(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decode latent vectors to the probabilities of all nodes and edges."""
        hidden = F.gelu(self.hidden(z) + self.size(mask.sum(1)))
        h = self.places(hidden).unflatten(-1, (self.max_nodes, -1))[:, : mask.shape[1]]
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            there = masked(norm(h), mask)
            h = h + F.gelu(convolution(there.transpose(1, 2)).transpose(1, 2))
        h = self.norm(h)
        later, earlier = self.ends(h).chunk(2, -1)
        i, j = torch.tril_indices(mask.shape[1], mask.shape[1], -1, device=mask.device)
        pair = F.gelu(later[:, i] + earlier[:, j] + self.distance(i - j))
        logits = self.nodes(h), self.edges(pair + F.gelu(self.mixed(pair)))
        nodes, pairs = (part.to(log_term_dtype(part)).log_softmax(-1) for part in logits)
        return nodes, pairs

    def _likelihood(self, batch: GraphBatch, z: Latents) -> dict[str, Bound]:
        nodes, pairs = self._matrices(z["graph"], batch.mask)
        index, pair_mask = all_pairs(batch.mask)
        later, earlier = index[0].T
        bounds = {}
        for name, log_p, value, real in (
            ("nodes", nodes, batch.node_types, batch.mask),
            ("edges", pairs, batch.edge_labels[:, later, earlier], pair_mask),
        ):
            own = log_p.gather(-1, value[..., None])[..., 0]
            right = ((log_p.argmax(-1) == value) & real).sum(1) / real.sum(1).clamp(min=1)
            total = torch.where(real, own, 0).sum(1)
            zero = torch.zeros_like(total)
            bounds[name] = Bound(zero, total, zero, torch.where(real.any(1), right, 1.0))
        return bounds

    def training_loss(self, batch: GraphBatch, *, beta: float = 1.0) -> Loss:
        """Return the negative bound, plus `multiplier` times the penalties of drawn graphs.

        In training mode, as many graphs as the batch has, of the same numbers of nodes, are decoded
        from latents of the prior. So the metrics `bits_*` of training are not those of `terms`.
        """
        return likelihood_loss(self, batch, self._penalized if self.training else self.terms, beta)

    def _penalized(self, batch: GraphBatch) -> dict[str, Bound]:
        terms, mask = self.terms(batch, weight=1.0), batch.mask
        nodes, pairs = self._matrices(self.base_sample(mask)["graph"], mask)
        index, real = all_pairs(mask)
        edges = dense(masked(pairs.exp()[..., 1:], real), index, mask.shape[1])
        penalties = self.penalties(masked(nodes.exp(), mask), edges, mask)
        paid: Any = self.multiplier * sum(penalties.values())
        return {**terms, "penalties": Bound.exact(-paid)}

    def penalties(self, nodes: Tensor, edges: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return how much graphs, given as probabilities of their categories, break the rules.

        Args:
            edges: Probabilities of the K edge categories of each pair of nodes, (B, N, N, K),
                symmetric; 0 where masked and on the diagonal. The rest to 1 is the probability of
                no edge.

        Returns:
            Three penalties, (B,) each, from 0 for a graph that keeps the rules. "valence" is the
            excess of the expected sum of edge weights over the expected largest sum, summed over
            nodes. "connectivity" is the number of nodes that a node does not reach, averaged over
            nodes. "ends" is the expected number of edges whose category and node categories are not
            in `edge_ends`.
        """
        excess = (edges @ self.weights).sum(2) - (nodes @ self.sums if self.limited else math.inf)
        # A node is reached with the smallest edge probability on the best path. (Powers of the
        # adjacency matrix would count paths: many improbable ones outweigh a certain one.)
        eye = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        reached, length = torch.where(eye, 1.0, edges.sum(-1)), 1
        while length < mask.shape[1] - 1:
            longer = torch.minimum(reached[:, :, :, None], reached[:, None])
            reached, length = longer.amax(2), 2 * length
        real = mask[:, :, None] & mask[:, None, :]
        apart = torch.where(real, 1 - reached, 0).sum((1, 2)) / mask.sum(1)
        unfit = (nodes[:, None] @ self.strange) @ nodes[:, None].transpose(2, 3)
        unfit = 0.5 * (unfit * edges.permute(0, 3, 1, 2)).sum((1, 2, 3))
        return {"valence": F.relu(excess).sum(1), "connectivity": apart, "ends": unfit}

    def from_latents(
        self,
        latents: Latents,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        generator: Generators = None,
    ) -> GraphBatch:
        """Decode latents to the most probable graphs."""
        nodes, pairs = self._matrices(temperature * latents["graph"], mask)
        bonds = dense(pairs.argmax(-1), all_pairs(mask)[0], mask.shape[1])
        return GraphBatch(nodes.argmax(-1), bonds, mask).clear_padding()
