"""Density of the colourings of a graph: a categorical flow over the nodes, given the edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from graphcnf.arguments import check
from graphcnf.categorical.autoregressive import AutoregressiveFlow
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
    """p(colours of the nodes | graph), with attention convolutions over the graph.

    There are three kinds of couplings:

    - "nodes" (`AutoregressiveCoupling`): one node after another in `SaturationOrder`. The bound is
      exact up to the margins of the intervals.
    - "waves": as "nodes", but a colour that a neighbour has gets the probability 0, unless
      neighbours have all colours (train on colourings without conflicts). All nodes with at most
      one colour left are decided at once, so the network is evaluated only where there is a choice.
    - "channels": ActNorm, invertible linear map and a mixture coupling, which transforms half of
      the latents of all nodes in parallel (Lippe & Gavves 2021, arXiv 2006.09790, section 4.2).

    In "nodes" and "waves" permuting the colours does not change the probability: if some colours
    are more frequent than others, use "channels". Node numbers break ties in the order of "nodes"
    and "waves"; "channels" does not depend on them.

    Args:
        colors: Number of colours.
        coupling: "nodes", "waves" or "channels".
        encoding: Name of the encoding, for "channels"; None for "mixture".
        latent_dim: Latents of a colour, for "channels"; None for the default of the encoding.
        encoding_options: Further arguments of the encoding, for "channels".
        couplings: Number of couplings, for "channels".
        mixtures: Components of the mixtures of a coupling, for "channels".
        width: Channels of a node in the networks.
        encoder_layers: Number of convolutions over the graph, for "nodes" and "waves".
        layers: Number of convolutions in each coupling, for "channels".
        heads: Attention heads of a convolution; must divide the width.
        ahead: Channels of `LookAhead`, for "nodes" and "waves".
        rounds: Rounds of `LookAhead`, 0 for none, for "nodes" and "waves".

    Attributes:
        coupling: "nodes", "waves" or "channels".
        couplings: Number of couplings of "channels".

    Raises:
        UserError: if an argument is out of range.
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
        """Number of colours."""
        return self.config["colors"]

    def bound(self, batch: GraphBatch, noise: Noise | None = None) -> Bound:
        """Draw the terms of a lower bound on log p(colours | graph).

        Args:
            batch: B graphs; their node types are the colours.
            noise: Tape of the random numbers, to repeat a draw.

        Returns:
            The terms, (B,) nats each: `log_flow + log_posterior - log_encoder` is a draw of it.

        Raises:
            ValueError: if a graph has no nodes or a self-loop, or a colour is out of range.
        """
        return self.flow.bound(batch.node_types, self._context(batch, noise=noise))

    @evaluated
    def log_prob(self, batch: GraphBatch, samples: int = 1, noise: Noise | None = None) -> Tensor:
        """Return lower bounds on log p(colours | graph).

        Args:
            batch: B graphs; their node types are the colours.
            samples: Number K of draws per graph, at least 1. The bound is the logarithm of the mean
                of their K importance weights (as in IWAE, Burda et al. 2016), tighter for larger K.
            noise: Tape of the random numbers, to repeat the draws.

        Returns:
            (B,) nats.

        Raises:
            ValueError: if a graph has no nodes or a self-loop, a colour is out of range, or
                `samples` is not positive.
        """
        context = self._context(batch, noise=noise)
        return self.flow.log_prob(batch.node_types, context, samples=samples)

    def training_loss(
        self, batch: GraphBatch, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss of a batch, and metrics.

        Args:
            batch: Graphs; their node types are the colours.
            beta: Weight of log p(x|z).

        Returns:
            The negative bound in nats per node, a scalar; and pairs (sum over graphs, number of
            graphs): `bits_per_node` (at beta = 1), `accuracy` (share of nodes whose most probable
            colour under p(x|z) is the encoded one) and, in evaluation mode, `validity` (share of
            graphs whose drawn colouring has no conflict).
        """
        bound, nodes = self.bound(batch), batch.node_counts
        loss = -bound.value(beta).sum() / nodes.sum()
        with torch.no_grad():
            count = torch.tensor(float(len(batch)), device=loss.device)
            bits = (-bound.value() / (nodes * math.log(2))).sum()
            metrics = {"bits_per_node": (bits, count), "accuracy": (bound.correct.sum(), count)}
            if not self.training:
                colors = self.sample(batch)
                valid = conflicts(colors, batch.adjacency, batch.mask) == 0
                metrics["validity"] = (valid.sum(), count)
        return loss, metrics

    @torch.no_grad()
    def sample(self, batch: GraphBatch, *, temperature: float = 1.0, generator=None) -> Tensor:
        """Draw a colouring of every graph; the colours that a batch has are ignored.

        Args:
            batch: B graphs of at most N nodes.
            temperature: Below 1 for more probable colourings.
            generator: None, a torch generator, or a list of one numpy generator per graph.

        Returns:
            The colour of each node, (B, N) long, 0 where masked.

        Raises:
            ValueError: if a graph has no nodes or a self-loop.
        """
        context = self._context(batch, temperature=temperature, generator=generator)
        return self.flow.sample(len(batch), context=context)

    @torch.no_grad()
    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Tensor:
        """Encode colourings to base latents.

        Args:
            batch: B graphs; their node types are the colours.
            noise: Tape of the random numbers, to repeat a draw.

        Returns:
            Latents, (B, N, D), 0 where masked; D is 1 with "nodes" and "waves".

        Raises:
            ValueError: if a graph has no nodes or a self-loop, or a colour is out of range.
        """
        return self.flow.encode(batch.node_types, self._context(batch, noise=noise))

    @torch.no_grad()
    def decode(self, z: Tensor, batch: GraphBatch) -> Tensor:
        """Decode base latents to colours of graphs.

        Args:
            z: Base latents, (B, N, D).
            batch: B graphs, whose colours (`node_types`) are ignored.

        Returns:
            (B, N) long; 0 where masked.

        Raises:
            ValueError: if a graph has no nodes or a self-loop.
        """
        return self.flow.decode(z, self._context(batch))

    def _context(self, batch: GraphBatch, **draw) -> GraphContext:
        """Return what the flow is told about graphs: mask, edges and features of the nodes.

        Args:
            batch: The graphs.
            **draw: Further fields of the context, such as `temperature`.

        Raises:
            ValueError: if a graph has no nodes or a self-loop.
        """
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
    """Count the edges between nodes of the same colour.

    Args:
        colors: Colours, (B, N) long.
        adjacency: Edges, (B, N, N) bool, symmetric.
        mask: Real nodes, (B, N) bool.

    Returns:
        (B,) long; 0 for a proper colouring.
    """
    equal = (colors[:, :, None] == colors[:, None, :]) & adjacency
    equal = equal & mask[:, :, None] & mask[:, None, :]
    return equal.sum((1, 2)) // 2


def from_networkx(
    graphs: Sequence[nx.Graph], colorings: Sequence[Mapping[Any, int]] | None = None
) -> GraphBatch:
    """Batch undirected networkx graphs, numbered in the order of their nodes.

    Args:
        graphs: The graphs.
        colorings: For each graph a map from nodes to colours 0, 1, ...; None for colour 0
            everywhere.

    Raises:
        UserError: for directed graphs, multigraphs, empty graphs, self-loops, nodes without a
            colour, and more than 255 nodes or colours.
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
