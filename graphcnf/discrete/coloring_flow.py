"""Distribution of the colourings of given graphs: a categorical flow over the nodes.

- A *colouring* gives each node of a graph a *colour*, a category 0 to K - 1. A *conflict* is an
  edge between nodes of the same colour; a colouring without conflicts is *proper*.
- B graphs are a `graphcnf.graphs.batch.GraphBatch` with up to N nodes each: its `node_types` (B, N)
  are the colours, its `adjacency` (B, N, N) the edges. The model learns p(colours | edges).
- *Latents* are D continuous numbers for each node, (B, N, D), which stand for its colour; *base
  latents* are what the flow makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from graphcnf.arguments import check
from graphcnf.categorical.autoregressive_flow import AutoregressiveFlow
from graphcnf.categorical.categorical_flow import Bound, CategoricalFlow
from graphcnf.categorical.learned_encodings import make_encoding
from graphcnf.discrete.coloring_network import ColoringNetwork, GraphConvolutions
from graphcnf.errors import UserError
from graphcnf.flows.coupling import coupling_stack
from graphcnf.flows.transform import Noise
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.features import GraphContext, walk_features
from graphcnf.limits import Range, is_integer
from graphcnf.pretrained import Pretrained, keep_arguments
from graphcnf.torch_state import evaluated

if TYPE_CHECKING:
    import networkx as nx


class ColoringFlow(Pretrained, nn.Module):
    """Distribution of colourings, p(colours of the nodes | graph), learned from coloured graphs.

    There are three kinds of couplings:

    - "nodes": one node after another is coloured, the one with the fewest colours left first
      (`SaturationOrder`). Probabilities are exact.
    - "waves": as "nodes", but a colour that a neighbour has gets the probability 0, unless
      neighbours have all colours. Train it on proper colourings. All nodes with at most one colour
      left are decided at once, so that the network is evaluated only where there is a choice.
      Probabilities are exact.
    - "channels": ActNorm, invertible linear map and a mixture coupling, which transforms half of
      the latents of all nodes in parallel (Lippe & Gavves 2021, arXiv 2006.09790, section 4.2).
      Log-probabilities are lower bounds.

    In "nodes" and "waves" permuting the colours does not change the probability: if some colours
    are more frequent than others, use "channels". In "nodes" and "waves" the numbers of the nodes
    break ties in the order; "channels" does not depend on the numbers.

    Args:
        coupling: "nodes", "waves" or "channels".
        encoding: Only for "channels": name of the encoding, see `make_encoding`; None for
            "mixture".
        latent_dim: Only for "channels": latents D of a node; None for the default of the encoding.
        encoding_options: Only for "channels": further arguments of the encoding by name.
        couplings: Only for "channels": number of couplings.
        mixtures: Only for "channels": components of the mixtures of a coupling.
        encoder_layers: Only for "nodes" and "waves": number of attention convolutions over the
            graph.
        layers: Only for "channels": number of attention convolutions in each coupling.
        heads: Attention heads of a convolution; must divide the width.
        ahead: Only for "nodes" and "waves": channels of the network `LookAhead`.
        rounds: Only for "nodes" and "waves": rounds of message passing in `LookAhead`; 0 to do
            without this network.
    """

    not_sizes: ClassVar[frozenset[str]] = frozenset({"separation"})  # of an encoding's means

    @keep_arguments
    def __init__(
        self,
        colors: int,
        *,
        coupling: Literal["nodes", "waves", "channels"] = "nodes",
        encoding: str | None = None,
        latent_dim: int | None = None,
        encoding_options: dict[str, Any] | None = None,
        couplings: int = 6,
        mixtures: int = 8,
        width: int = 64,
        encoder_layers: int = 3,
        layers: int = 3,
        heads: int = 8,
        ahead: int = 32,
        rounds: Annotated[int, Range()] = 6,
    ):
        super().__init__()
        self.flow: CategoricalFlow
        self.metadata: dict = {}
        self.coupling, self.couplings = coupling, couplings
        check("ColoringFlow", self.config, ColoringFlow)
        if width % heads:
            raise UserError(f"heads must divide the width, got {heads} and {width}")
        if coupling != "channels":
            if encoding not in (None, "interval") or latent_dim not in (None, 1):
                raise UserError(
                    f'coupling "{coupling}" takes the encoding "interval" with latent_dim 1 only'
                )
            network = ColoringNetwork(
                colors,
                width=width,
                encoder_layers=encoder_layers,
                heads=heads,
                ahead=ahead,
                rounds=rounds,
                waves=coupling == "waves",
            )
            self.flow = AutoregressiveFlow(network, single=True)
        else:
            encoding = "mixture" if encoding is None else encoding
            latents = make_encoding(encoding, colors, latent_dim, **(encoding_options or {}))
            conditioner = partial(GraphConvolutions, width=width, layers=layers, heads=heads)
            steps = coupling_stack(
                conditioner, channels=latents.latent_dim, couplings=couplings, mixtures=mixtures
            )
            self.flow = CategoricalFlow(latents, steps)

    @property
    def colors(self) -> int:
        """Number of colours K."""
        return self.config["colors"]

    def bound(self, batch: GraphBatch, noise: Noise | None = None) -> Bound:
        """Draw the terms of a lower bound on log p(colours | graph).

        The `noise` tape records or repeats random numbers. With "nodes" and "waves" the bound is
        log p itself.
        """
        return self.flow.bound(batch.node_types, self._context(batch, noise=noise))

    @evaluated
    def log_prob(self, batch: GraphBatch, samples: int = 1, noise: Noise | None = None) -> Tensor:
        """Return log p(colours | graph), (B,) nats: exact, or with "channels" a lower bound.

        The bound is the logarithm of the mean of `samples` importance weights (as in IWAE, Burda et
        al. 2016); more draws make it tighter.
        """
        context = self._context(batch, noise=noise)
        return self.flow.log_prob(batch.node_types, context, samples=samples)

    def training_loss(
        self, batch: GraphBatch, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss of a batch and its metrics; the training loop calls it.

        The loss is the negative bound in nats per node. Of the metrics, "bits_per_node" is the
        bound at beta = 1; "accuracy" the share of nodes whose most probable colour given their
        latents is the encoded one; "validity", in evaluation mode only, the share of graphs whose
        drawn colouring is proper.
        """
        bound, nodes = self.bound(batch), batch.node_counts
        loss = -bound.log_prob(beta).sum() / nodes.sum()
        with torch.no_grad():
            count = torch.tensor(float(len(batch)), device=loss.device)
            bits = (-bound.log_prob() / (nodes * math.log(2))).sum()
            metrics = {"bits_per_node": (bits, count), "accuracy": (bound.correct.sum(), count)}
            if not self.training:
                colors = self.sample(batch)
                valid = conflicts(colors, batch.adjacency, batch.mask) == 0
                metrics["validity"] = (valid.sum(), count)
        return loss, metrics

    @torch.no_grad()
    def sample(self, batch: GraphBatch, *, temperature: float = 1.0, generator=None) -> Tensor:
        """Draw a colouring of each graph, (B, N) long, 0 where masked.

        `generator` may be a list of one numpy generator per graph.
        """
        context = self._context(batch, temperature=temperature, generator=generator)
        return self.flow.sample(len(batch), context=context)

    @torch.no_grad()
    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Tensor:
        """Draw base latents (B, N, D) of colourings; `decode` maps them back.

        D is 1 with "nodes" and "waves".
        """
        return self.flow.encode(batch.node_types, self._context(batch, noise=noise))

    @torch.no_grad()
    def decode(self, z: Tensor, batch: GraphBatch) -> Tensor:
        """Decode base latents to colours of graphs, (B, N) long, 0 where masked."""
        return self.flow.decode(z, self._context(batch))

    def _context(self, batch: GraphBatch, **draw) -> GraphContext:
        """Return what the flow is told about graphs: mask, edges and features of the nodes."""
        batch = batch.clear_padding()
        for what, wrong in (
            ("no nodes", ~batch.mask.any(1)),
            ("an edge from a node to itself", batch.adjacency.diagonal(dim1=1, dim2=2).any(1)),
        ):
            if wrong.any():
                raise ValueError(f"graph {int(wrong.nonzero()[0])} of the batch has {what}")
        features = walk_features(batch.adjacency, next(self.parameters()).dtype)
        return GraphContext(batch.mask, features, adjacency=batch.adjacency, **draw)


def conflicts(colors: Tensor, adjacency: Tensor, mask: Tensor) -> Tensor:
    """Count the edges between nodes of the same colour in each graph, (B,) long."""
    equal = (colors[:, :, None] == colors[:, None, :]) & adjacency
    equal = equal & mask[:, :, None] & mask[:, None, :]
    return equal.sum((1, 2)) // 2


def from_networkx(
    graphs: Sequence[nx.Graph], colorings: Sequence[Mapping[Any, int]] | None = None
) -> GraphBatch:
    """Turn undirected networkx graphs, with or without colours, into a batch for `ColoringFlow`.

    Nodes are numbered as networkx lists them. Without `colorings`, which map nodes to colours, all
    get colour 0, for instance to draw colourings.
    """
    if colorings is not None and len(colorings) != len(graphs):
        raise UserError(f"{len(graphs)} graphs, but {len(colorings)} colourings")
    triples = []
    for place, graph in enumerate(graphs):
        if graph.is_directed() or graph.is_multigraph():
            kind = type(graph).__name__
            raise UserError(f"graph {place} is a {kind}: undirected simple graphs are needed")
        if not len(graph):
            raise UserError(f"graph {place} is empty: there is nothing to colour")
        loop = next((i for i, j in graph.edges if i == j), None)
        if loop is not None:
            raise UserError(f"graph {place}: node {loop!r} has an edge to itself")
        known: Mapping = dict.fromkeys(graph, 0) if colorings is None else colorings[place]
        colors: list[Any] = [known.get(node) for node in graph]
        for node, color in zip(graph, colors, strict=True):
            if not (is_integer(color) and color >= 0):
                raise UserError(
                    f"graph {place}: node {node!r} has the colour {color}, not 0, 1 ..."
                )
        numbers = {node: number for number, node in enumerate(graph)}
        edges = [(numbers[i], numbers[j]) for i, j in graph.edges]
        triples.append((colors, edges, [0] * len(edges)))
    try:
        return GraphBatch.collate(PackedGraphs.from_lists(triples))
    except (ValueError, OverflowError) as error:
        raise UserError(f"colours are 0 to 255, of at most 255 nodes: {error}") from None
