"""Adapter of labelled graphs of networkx or torch-geometric, for `CategoricalModel`.

- A *label* is what a user's graph holds at a node or an edge, such as "C" or 6. The distinct labels
  in the training data are the *categories* of nodes and of edges, numbered from 0.
- *Data* is short for `torch_geometric.data.Data`. Its labels are `x` of nodes and `edge_attr` of
  edges, as integers or one-hot vectors.
- *Encoded* graphs are `graphcnf.graphs.batch.PackedGraphs` of categories.
- The flow is a `GraphModel`. Its *architecture* is the name under which
  `graphcnf.graphs.building` knows the class, such as "path" or "growth".
- The *node order* is how a model numbers the nodes of a graph: "canonical" by a rule that depends
  on the graph alone, "none" if the numbers do not matter to the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import torch
from torch.nn import functional as F

from graphcnf.chunks import chunked
from graphcnf.discrete.adapters import Adapter, Reasons, Vocabulary, distinct
from graphcnf.errors import UserError, type_of
from graphcnf.exchange.pyg import data_of, from_pyg, is_one_hot, listed
from graphcnf.graphs.batch import BATCH, GraphBatch, PackedGraphs
from graphcnf.graphs.building import model_class, model_for_graphs
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.isomorphism import canonicalise, order_check
from graphcnf.graphs.path.network import PathNetwork
from graphcnf.graphs.records import sample_records
from graphcnf.limits import LARGEST_ORDERS, check_integer

if TYPE_CHECKING:
    from torch_geometric.data import Data

MAX_LABELS = 255
"""Largest number of node labels, and of edge labels."""

NETWORK = {"width": 96, "layers": 3, "head_width": 64, "table_rows": 1024}
"""Default sizes of a `PathNetwork`, smaller than for molecules."""

ONE_HOT = "one-hot "
"""Beginning of an entry of `GraphAdapter.names` for vectors as labels; their length follows."""

Triple = tuple[list[Any], list[Any], list[Any]]
"""A graph of n nodes and m edges as lists, in the order of the user's object: n node labels, m
edges as pairs of node numbers from 0, each edge once, and m edge labels. Labels are what the user's
graph holds (for Data, integers), not yet categories; all are 0 where it has none."""


@dataclass
class GraphAdapter(Adapter):
    """Adapter of labelled graphs for a `GraphModel`; `GraphAdapter.of` builds it.

    Attributes:
        nodes: Label of each node category 0, 1, ...
        edges: Label of each edge category 0, 1, ...
        source: Type of the training graphs: "networkx" for `nx.Graph`, "data" for Data.
        names: Where labels are, two items: of nodes, then of edges. For networkx the name of the
            attribute. For Data the number of dimensions of `x` or `edge_attr`, 1 or 2, or "one-hot
            C" for vectors (n, C). None if there are no labels.
        numbering: Fingerprint of the canonical order (`order_check`) of the igraph version with
            which the model was fitted. Other versions may number nodes otherwise.
    """

    kind, exact = "graphs", False
    flow_class = GraphModel
    headline = "bits_per_node"
    settings = {"batch_size": 32}
    patience = 4
    fixed = (
        "graphs",
        "node_categories",
        "edge_categories",
        "code",
        "max_nodes",
        "connected",
        "planar",
    )

    nodes: list[Any]
    edges: list[Any]
    source: str
    names: list[Any]
    architecture: str = "path"
    numbering: str = ""

    @property
    def model(self) -> type[GraphModel]:
        """Class of the graph model with the name `architecture`."""
        return model_class(self.architecture)

    @property
    def order(self) -> str:
        """Node order of the model, such as "canonical" or "none"."""
        return self.model.node_orders[0]

    @property
    def arguments(self) -> tuple[Callable[..., Any], ...]:
        """Functions and classes whose keyword arguments users may set with `fit(network={...})`."""
        return model_for_graphs, *self.model.options()

    @classmethod
    def of(
        cls,
        graphs: Sequence[Any],
        node_label: str | None = None,
        edge_label: str | None = None,
        architecture: str = "path",
    ) -> GraphAdapter:
        """Build the adapter for training graphs, whose labels become the categories.

        Args:
            node_label: Attribute of nodes in networkx that holds the label; None to take the only
                one, if there is any.
            edge_label: Attribute of edges in networkx that holds the label; None to take the only
                one, if there is any.
        """
        names: list[Any]
        graphs = graphs_in(graphs)
        if isinstance(graphs[0], nx.Graph):
            known = [graph for graph in graphs if isinstance(graph, nx.Graph)]
            names = [
                node_label or _only([d for g in known for _, d in g.nodes(data=True)], "node"),
                edge_label or _only([d for g in known for _, _, d in g.edges(data=True)], "edge"),
            ]
            source = "networkx"
        else:
            if node_label or edge_label:
                raise UserError("node_label and edge_label are for networkx; Data has x, edge_attr")
            names = [
                next((_form(t) for g in graphs if (t := getattr(g, name, None)) is not None), None)
                for name in ("x", "edge_attr")
            ]
            source = "data"
        triples = cls([], [], source, names, architecture).triples(graphs)
        nodes, edges = (distinct(v for triple in triples for v in triple[k]) for k in (0, 2))
        for what, found in (("node", nodes), ("edge", edges)):
            if len(found) > MAX_LABELS:
                raise UserError(f"{len(found)} {what} labels, at most {MAX_LABELS} are learned")
        return cls(nodes, edges, source, names, architecture, order_check())

    def triples(self, graphs: Sequence[Any]) -> list[Triple]:
        """Read labels and edges of graphs: labels of nodes, pairs of node numbers, labels of edges.

        Labels are 0 if the graphs have none.
        """
        graphs = graphs_in(graphs)
        if not isinstance(graphs, list | tuple):
            wanted = "nx.Graph" if self.source == "networkx" else "torch_geometric.data.Data"
            raise UserError(f"got {type_of(graphs)}; this model takes a list of {wanted}")
        read = self._of_networkx if self.source == "networkx" else self._of_data
        triples = []
        for number, graph in enumerate(graphs):
            try:
                triples.append(read(graph))
            except (ValueError, TypeError) as error:
                raise UserError(f"graph {number}: {_reason(error)}") from None
        return triples

    def encode(self, graphs: Sequence[Any], flow: GraphModel | None = None) -> tuple[Any, Reasons]:
        """Encode graphs, and leave out those that cannot be encoded.

        Nodes are renumbered in the canonical order, if the node order of the model is "canonical".
        Graphs that are not connected are left out, unless the model can draw such graphs.

        With a `flow`, graphs to which it gives probability 0, such as those of an unseen size, are
        left out as well.
        """
        ordered = self.order == "canonical"
        if ordered and self.numbering != order_check():
            raise UserError(
                "this model was fitted with a version of igraph that numbers graphs otherwise: it "
                "still draws, but cannot score given graphs; fit anew"
            )
        in_pieces = not (ordered or PathNetwork in self.model.options())
        vocabularies = {"node": Vocabulary(self.nodes), "edge": Vocabulary(self.edges)}
        parts: list[PackedGraphs] = []
        reasons: Reasons = []
        for nodes, edges, labels in self.triples(graphs):
            reason, encoded = None, []
            for what, given in (("node", nodes), ("edge", labels)):
                encoded.append(vocabularies[what].encode(given))
                if -1 in encoded[-1]:
                    unknown = given[int((encoded[-1] < 0).argmax())]
                    reason = f"the {what} label {unknown!r}, which no training graph has"
            if not nodes:
                reason = "no nodes"
            if reason is None:
                try:
                    graph = PackedGraphs.from_lists([(encoded[0], edges, encoded[1])])
                    if in_pieces or GraphBatch.collate(graph).connected().all():
                        parts.append(canonicalise(graph) if ordered else graph)
                    else:
                        reason = 'not connected: network={"architecture": "growth"} learns these'
                except ValueError as error:
                    reason = _reason(error)
            reasons.append(reason)
        packed = PackedGraphs.concatenate(parts)
        if flow is None:
            return packed, reasons
        counts = packed.node_counts
        large = counts > flow.max_nodes
        unseen = flow.size_prior.probabilities()[counts.clip(max=flow.max_nodes)] == 0
        known = ~(large | unseen)
        for chosen in chunked(range(len(packed)), BATCH):
            known[chosen] &= flow.knows(GraphBatch.collate(packed, chosen)).numpy()
        numbers = [number for number, reason in enumerate(reasons) if reason is None]
        for k in np.flatnonzero(~known):
            reason = flow.why_unknown
            if unseen[k]:
                reason = f"{counts[k]} nodes, a size that no training graph has"
            if large[k]:
                reason = f"more than the {flow.max_nodes} nodes that the model knows"
            reasons[numbers[k]] = reason
        return packed.subset(known), reasons

    def decode(self, graphs: PackedGraphs) -> list[Any]:
        """Invert `encode`: turn encoded graphs into the type of the training data, with labels."""
        write = self._to_networkx if self.source == "networkx" else self._to_data
        found = []
        for k in range(len(graphs)):
            nodes, edges, bonds = graphs.graph(k)
            labels = [self.edges[category] for category in bonds]
            found.append(write([self.nodes[category] for category in nodes], edges, labels))
        return found

    def build(self, graphs: PackedGraphs, chosen: np.ndarray, /, **network) -> GraphModel:
        """Build an untrained model for the sizes and categories of all graphs, not only `chosen`.

        The keyword arguments are those of `graphcnf.graphs.building.model_for_graphs`.
        """
        options: dict[str, Any] = {
            "node_categories": len(self.nodes),
            "edge_categories": max(len(self.edges), 1),
            "architecture": self.architecture,
            "order": self.order,
            **({"support": False, **NETWORK} if PathNetwork in self.model.options() else {}),
            **network,
        }
        return model_for_graphs(graphs, **options)

    def sizes(self, graphs: PackedGraphs) -> np.ndarray:
        """Return the number of nodes of each of M encoded graphs, (M,) int64."""
        return graphs.node_counts

    def batch(self, graphs: PackedGraphs, chosen: np.ndarray) -> GraphBatch:
        """Gather some graphs in a padded batch."""
        return GraphBatch.collate(graphs, chosen)

    def log_prob(self, flow: GraphModel, batch: GraphBatch, orders: int = 1) -> torch.Tensor:
        """Return lower bounds on log-likelihoods of graphs, that of their size included, (B,) nats.

        More `orders` tighten the bound. They are the number of node orders of each graph whose
        probabilities are added; for a model without a node order, of draws of the bound whose
        exponentials are averaged.
        """
        check_integer("orders", orders, 1, LARGEST_ORDERS)
        options = {"orders": orders} if flow.ordered else {"samples": orders}
        value = flow.log_prob(batch.to_packed(), **options)
        return value + flow.size_prior.log_prob(batch.node_counts).cpu().double()

    def draw(
        self,
        flow: GraphModel,
        count: int,
        *,
        sizes: tuple[int, int] | None = None,
        **options: Any,
    ) -> PackedGraphs:
        """Draw graphs; with the same seed, a larger `count` only appends further ones.

        The options are `seed` and `temperature`. `sizes` are the lowest and highest number of
        nodes, by default those of the training data.
        """
        return sample_records(flow, range(count), size_range=sizes, **options)

    def _of_networkx(self, graph: nx.Graph) -> Triple:
        """Return labels and edges of a networkx graph, numbered as networkx lists them."""
        if not isinstance(graph, nx.Graph):
            raise TypeError(f"{type_of(graph)}, not an nx.Graph")
        if graph.is_directed() or graph.is_multigraph():
            raise TypeError(f"{type_of(graph)}: graphs are undirected and simple")
        node_label, edge_label = self.names
        number = {node: k for k, node in enumerate(graph)}
        nodes = [_label(d, node_label, f"node {v!r}") for v, d in graph.nodes(data=True)]
        edges = list(graph.edges(data=True))
        labels = [_label(d, edge_label, f"edge {u!r}-{v!r}") for u, v, d in edges]
        return nodes, [(number[u], number[v]) for u, v, _ in edges], labels

    def _of_data(self, data: Any) -> Triple:
        """Return labels and edges of a `Data`, each edge once."""
        from torch_geometric.data import Data

        if not isinstance(data, Data):
            raise TypeError(f"{type_of(data)}, not a torch_geometric.data.Data")
        count, data = data.num_nodes, copy(data)
        if data.edge_index is None:
            data.edge_index = torch.empty(2, 0, dtype=torch.long)
        if self.names[0] is None:
            data.x = data.edge_index.new_zeros(count)
        if self.names[1] is not None and data.edge_attr is None and data.edge_index.numel():
            raise ValueError("edge_attr is missing")
        nodes, edges, labels = from_pyg([data]).graph(0)
        return nodes.tolist(), edges.astype(int).tolist(), labels.tolist()

    def _to_networkx(self, nodes: list[Any], edges: np.ndarray, labels: list[Any]) -> nx.Graph:
        """Return a graph of networkx with the attributes in `names`."""
        node_label, edge_label = self.names
        graph = nx.Graph()
        for k, label in enumerate(nodes):
            graph.add_node(k, **({} if node_label is None else {node_label: label}))
        for (i, j), label in zip(edges.tolist(), labels, strict=True):
            graph.add_edge(j, i, **({} if edge_label is None else {edge_label: label}))
        return graph

    def _to_data(self, nodes: list[Any], edges: np.ndarray, labels: list[Any]) -> Data:
        """Return a graph as `Data`, with labels in the form that `names` says."""
        data = data_of(nodes, edges, labels)
        for name, axes in zip(("x", "edge_attr"), self.names, strict=True):
            if axes is None:
                del data[name]
            elif axes == 2:
                data[name] = data[name][:, None]
            elif isinstance(axes, str):
                data[name] = F.one_hot(data[name], int(axes.removeprefix(ONE_HOT))).float()
        if self.names[0] is None:
            data.num_nodes = len(nodes)
        return data

    def __str__(self) -> str:
        return f"graphs of {len(self.nodes)} node and {len(self.edges)} edge labels"


def graphs_in(graphs: Any) -> Any:
    """Turn a `Batch` or `Dataset` of torch-geometric into a list of graphs."""
    from torch_geometric.data import Batch, Dataset

    return listed(graphs) if isinstance(graphs, Batch | Dataset) else graphs


def _form(values: torch.Tensor) -> int | str:
    """Describe the shape of the labels of a `Data`, which drawn graphs get as well."""
    return f"{ONE_HOT}{values.shape[1]}" if is_one_hot(values) else values.dim()


def _reason(error: Exception) -> str:
    """Return the message of an error about a single graph, without "graph 0" in front."""
    return str(error).removeprefix("graph 0: ").removeprefix("graph 0 ")


def _label(data: dict[str, Any], name: str | None, where: str) -> Any:
    """Return the label of a node or an edge."""
    if name is None:
        return 0
    if name not in data:
        raise ValueError(f"{where} has no attribute {name!r}")
    hash(data[name])
    return data[name]


def _only(attributes: list[dict[str, Any]], what: str) -> str | None:
    """Find the attribute that holds the labels of all nodes, or of all edges."""
    names = sorted({str(name) for data in attributes for name in data})
    if len(names) > 1:
        raise UserError(
            f"{what}s have the attributes {', '.join(names)}: choose the label with "
            f"{what}_label={names[0]!r}"
        )
    return names[0] if names else None
