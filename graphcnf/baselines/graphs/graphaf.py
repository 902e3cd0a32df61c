"""GraphAF: atom by atom and bond by bond in breadth-first order, an autoregressive flow.

A node, and each edge from it to the last `window` nodes before it, is a one-hot vector with noise,
``x = mu + exp(s) z`` with normal ``z``; mu and s are functions of the sub-graph so far. Shi et al.,
*GraphAF: a Flow-based Autoregressive Model for Molecular Graph Generation*, ICLR 2020, arXiv
2001.09382.

What is different here. The number of nodes is given, where the published model stops by itself,
and the network knows how many are to come, and how far back in the order a node lies. The
convolution runs once for each node, over the nodes before it and their edges; the edges of the node
itself reach the later ones of them as one more relational layer, a running sum. So the terms of all
edges of a node are computed at once, and none sees itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphcnf.baselines.graphs.breadth_first import breadth_first_order
from graphcnf.baselines.graphs.one_hot import OneHotDequantization
from graphcnf.baselines.graphs.relational import relations
from graphcnf.baselines.graphs.sub_graph import SubGraphNetwork, along
from graphcnf.baselines.graphs.valency import ValencyCheck
from graphcnf.categorical.flow import Bound
from graphcnf.errors import UserError
from graphcnf.flows.base import Generators, StandardNormal
from graphcnf.flows.transform import Context, Noise, masked, sum_log_term
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.model import GraphModel, graph_model
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.path.support import Support


@graph_model("graphaf")
class GraphAFModel(GraphModel):
    """log p(graph) as a sum over its nodes and edges in breadth-first order.

    Args:
        node_categories: Number of node categories M.
        bond_categories: Number of edge categories R.
        max_nodes: Largest number of nodes.
        edge_weights: See `ValencyCheck`; 1 each when None.
        largest_sums: Those of the valency check of sampling; None for no check.
        window: How many nodes back an edge reaches (published: 12).
        width: Channels of the network.
        layers: Relational convolutions.
        rows: Nodes of each graph whose terms a training step computes; all of them when None.

    Raises:
        UserError: if the tables do not fit the categories.
    """

    measured = ("edge_weights", "largest_sums")
    rules = {"largest_sums": None}
    redraws = True

    def __init__(
        self,
        *,
        node_categories: int,
        bond_categories: int,
        max_nodes: int,
        edge_weights: list[int] | None = None,
        largest_sums: list[int] | None = None,
        window: int = 12,
        width: int = 64,
        layers: int = 3,
        rows: int | None = None,
    ):
        super().__init__()
        self.rows, self.window, self.kinds = rows, window, bond_categories
        self.node_encoding = OneHotDequantization(node_categories)
        self.edge_encoding = OneHotDequantization(bond_categories + 1)
        self.base = StandardNormal()
        self.network = SubGraphNetwork(
            node_categories, bond_categories, max_nodes, window=window, width=width, layers=layers
        )
        weights = edge_weights or [1] * bond_categories
        if len(weights) != bond_categories:
            raise UserError(f"edge_weights: {bond_categories} whole numbers, not {len(weights)}")
        if largest_sums is not None and len(largest_sums) != node_categories:
            raise UserError(f"largest_sums: {node_categories} whole numbers")
        self.check = None if largest_sums is None else ValencyCheck(weights, largest_sums)

    @staticmethod
    def measure(graphs: PackedGraphs, **options) -> dict:
        """The tables of the valency check; `options` are those of `Support.limits`."""
        return Support.limits(graphs, **options)

    def notes(self, rules: bool) -> list[str]:
        """Return a footnote on the valency check."""
        if not rules:
            return ["valency check: off."]
        return [
            "valency check: on. These are no raw samples: a bond that gives an atom more bonds "
            "than its category has in the data is drawn again up to 50 times, and an atom without "
            "a bond ends the molecule. Bits are those of the density without it."
        ]

    @property
    def unknown(self) -> str:
        """Reason why a graph is not known, where `knows` says so."""
        return f"a bond between atoms more than {self.window} apart in breadth-first order"

    def knows(self, batch: GraphBatch) -> Tensor:
        """Whether no edge reaches beyond the window in breadth-first order, (B,) bool."""
        number = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        far = (number[:, None] - number).abs() > self.window
        return ~(batch.permute(breadth_first_order(batch)).adjacency & far).flatten(1).any(1)

    def _window(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Far ends (N, window) of the edges of each node, and which there are, (B, N, window)."""
        number = torch.arange(mask.shape[1], device=mask.device)
        ends = number[:, None] + torch.arange(-self.window, 0, device=mask.device)
        return ends.clamp(min=0), mask[..., None] & (ends >= 0)

    def _run(self, batch: GraphBatch, noise: Noise | None, rows: Tensor, share: Tensor | float):
        """Latents of the nodes `rows` (B, S) of breadth-first numbered graphs, and the bound.

        What is computed of these nodes alone counts `share` times.
        """
        mask = batch.mask
        ends, real = self._window(mask)
        number = torch.arange(mask.shape[1], device=mask.device)
        kinds = torch.where(real, batch.bonds[:, number[:, None], ends], 0)
        node = self.node_encoding.encode(batch.node_types, Context(mask, noise=noise))
        context = Context(real.flatten(1), noise=noise)
        edge = self.edge_encoding.encode(kinds.flatten(1), context)
        adjacency = relations(batch.bonds, self.kinds, node.z.dtype)
        before = self.network.before(batch.node_types, adjacency, batch.sizes, rows)

        at = torch.arange(len(mask), device=mask.device)[:, None]
        asking = self.network.asking(before, batch.node_types[at, rows])
        messages = along(before.sent, kinds[at, rows])
        told = messages.cumsum(2) - messages
        latents, bounds = {}, {}
        for name, encoded, x, there, (mean, log_scale) in (
            ("nodes", node, node.z, mask, self.network.of_node(before)),
            ("bonds", edge, edge.z.unflatten(1, kinds.shape[1:]), real,
             self.network.of_edge(asking, told)),
        ):  # fmt: skip
            x, there = x[at, rows], there[at, rows]
            z = masked((x - mean.to(x)) * torch.exp(-log_scale.to(x)), there)
            log_flow = self.base.log_prob(z, there) - sum_log_term(log_scale, there)
            latents[name] = z
            bounds[name] = Bound.of(share * log_flow, encoded)
        return latents, bounds

    def _all_rows(self, batch: GraphBatch, noise: Noise | None):
        order = breadth_first_order(batch)
        rows = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return *self._run(batch.permute(order), noise, rows, 1.0), order

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """One draw of the terms of the bound on log p(graph | number of nodes).

        It is one of the density without the valency check.
        """
        return self._all_rows(batch, noise)[1]

    def estimate(self, batch: GraphBatch) -> dict[str, Bound]:
        """An estimate of `bounds` without bias, from `rows` nodes of each graph."""
        if self.rows is None:
            return self.bounds(batch)
        sizes = batch.sizes[:, None]
        # One node from each of as many equal parts of the order.
        u = torch.rand(len(batch), self.rows, device=sizes.device)
        part = torch.arange(self.rows, device=sizes.device)
        rows = ((part + u) / self.rows * sizes).long().clamp(max=sizes - 1)
        ordered = batch.permute(breadth_first_order(batch))
        return self._run(ordered, None, rows, batch.sizes / self.rows)[1]

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Latents of the base space in breadth-first order.

        Nodes (B, N, M), and bonds (B, N, window, R + 1), the farthest first; `order` (B, N) are the
        numbers that the nodes have in the batch, so that `decode` gives them back.
        """
        latents, _, order = self._all_rows(batch, noise)
        return {**latents, "order": order}

    def base_sample(self, mask: Tensor, generator: Generators = None) -> Latents:
        """Draw latents for graphs with real nodes `mask` (B, N)."""
        ends, real = self._window(mask)
        like = self.node_encoding.like
        kind = {"generator": generator, "device": mask.device, "dtype": like.dtype}
        nodes = self.base.sample((*mask.shape, self.node_encoding.latent_dim), mask=mask, **kind)
        bonds = self.base.sample((*real.shape, self.kinds + 1), mask=real, **kind)
        order = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        return {"nodes": nodes, "bonds": bonds, "order": order}

    def decode(
        self,
        latents: Latents,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        sample: bool = False,
        generator: Generators = None,
    ) -> GraphBatch:
        """Graphs of latents, node by node; each category is the largest entry.

        With the valency check, graphs may have fewer nodes than `mask` says. `temperature` scales
        latents; `sample` changes nothing.
        """
        z = {name: temperature * latents[name] for name in ("nodes", "bonds")}
        graphs, nodes = mask.shape
        types = mask.new_zeros(graphs, nodes, dtype=torch.long)
        bonds = mask.new_zeros(graphs, nodes, nodes, dtype=torch.long)
        kept, sizes = mask.clone(), mask.sum(1)
        for i in range(nodes):
            # The node itself is not seen yet, but there must be one for the first.
            adjacency = relations(bonds[:, : i + 1, : i + 1], self.kinds, z["nodes"].dtype)
            row = torch.full_like(sizes, i)[:, None]
            before = self.network.before(types[:, : i + 1], adjacency, sizes, row)
            x = _place(z["nodes"][:, i], *(part[:, 0] for part in self.network.of_node(before)))
            types[:, i] = torch.where(kept[:, i], x.argmax(-1), 0)

            asking = self.network.asking(before, types[:, i : i + 1])[:, 0]
            told = torch.zeros_like(asking[:, 0])
            for w, j in enumerate(range(i - self.window, i)):
                if j < 0:
                    continue
                mean, log_scale = self.network.of_edge(asking[:, w], told)
                kind = _place(z["bonds"][:, i, w], mean, log_scale).argmax(-1)
                kind = torch.where(kept[:, i], kind, 0)
                if self.check is not None:
                    room = self.check.room(types[:, [i, j]], bonds[:, [i, j]])
                    spread = (mean, log_scale + math.log(temperature))
                    kind = self.check.redraw(kind, room, *spread, generator)
                bonds[:, i, j] = bonds[:, j, i] = kind
                told = told + along(before.sent[:, 0, w], kind)
            if self.check is not None and i:
                # As published: a node without an edge ends the graph.
                ends = ~(bonds[:, i] > 0).any(1)
                kept[:, i:] &= ~ends[:, None]
                types[:, i] = torch.where(ends, 0, types[:, i])
        graph = GraphBatch(types, bonds, kept)
        return graph.permute(latents["order"].argsort(1))


def _place(z: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    return mean.to(z) + torch.exp(log_scale.to(z)) * z
