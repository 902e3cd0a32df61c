"""Labelled graphs, as networkx or torch-geometric has them, numbered depth-first."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import torch

from graphcnf.discrete.tables import Reasons
from graphcnf.discrete.vocabulary import Vocabulary
from graphcnf.errors import UserError
from graphcnf.graphs import PackedGraphs
from graphcnf.graphs.orderings import canonicalise

if TYPE_CHECKING:
    from torch_geometric.data import Data

MOST = 255
"""Largest number of labels, of nodes and of edges."""

Triple = tuple[list, list, list]
"""Node labels, edges as pairs of node numbers, edge labels."""


class GraphCodec:
    """Connected graphs whose nodes and edges carry labels.

    Args:
        nodes: Labels of nodes.
        edges: Labels of edges.
        source: How graphs come and go: "networkx", with the names of the attributes that hold the
            labels, None where there are none; or "data", with the number of axes of `x` and of
            `edge_attr`, None where there is no such tensor.
        names: These two.
    """

    kind = "graphs"
    exact = False

    def __init__(self, nodes: Vocabulary, edges: Vocabulary, source: str, names: tuple):
        self.nodes, self.edges, self.source, self.names = nodes, edges, source, names

    @classmethod
    def of(
        cls, graphs: Sequence, node_label: str | None = None, edge_label: str | None = None
    ) -> GraphCodec:
        """Take the labels of some graphs.

        Args:
            graphs: `nx.Graph` or `Data` throughout.
            node_label: Attribute with the label of a node (networkx); the only one when None.
            edge_label: The same of an edge.

        Raises:
            UserError: if a graph is of another type, lacks a label, or has several where none was
                chosen.
        """
        names: tuple
        if isinstance(graphs[0], nx.Graph):
            known = [graph for graph in graphs if isinstance(graph, nx.Graph)]
            names = (
                node_label or _only([d for g in known for _, d in g.nodes(data=True)], "node"),
                edge_label or _only([d for g in known for _, _, d in g.edges(data=True)], "edge"),
            )
            source = "networkx"
        else:
            if node_label or edge_label:
                raise UserError("node_label and edge_label are for networkx; Data has x, edge_attr")
            names = tuple(
                next((t.dim() for g in graphs if (t := getattr(g, name, None)) is not None), None)
                for name in ("x", "edge_attr")
            )
            source = "data"
        empty = Vocabulary([])
        triples = cls(empty, empty, source, names).triples(graphs)
        codec = cls(
            Vocabulary.of(label for nodes, _, _ in triples for label in nodes),
            Vocabulary.of(label for _, _, edges in triples for label in edges),
            source,
            names,
        )
        for what, vocabulary in (("node", codec.nodes), ("edge", codec.edges)):
            if len(vocabulary) > MOST:
                raise UserError(f"{len(vocabulary)} {what} labels, at most {MOST} are learned")
        return codec

    @property
    def wanted(self) -> str:
        """What the model takes."""
        kind = "nx.Graph" if self.source == "networkx" else "torch_geometric.data.Data"
        return f"a list of {kind}"

    def triples(self, graphs: Sequence) -> list[Triple]:
        """Labels and edges.

        Raises:
            UserError: with the number of a graph of another type, or without a label.
        """
        if not isinstance(graphs, list | tuple):
            raise UserError(f"got a {type(graphs).__name__}; this model takes {self.wanted}")
        read = self._of_networkx if self.source == "networkx" else self._of_data
        triples = []
        for number, graph in enumerate(graphs):
            try:
                triples.append(read(graph))
            except (ValueError, TypeError) as error:
                raise UserError(f"graph {number}: {error}") from None
        return triples

    def encode(self, graphs: Sequence) -> tuple[PackedGraphs, Reasons]:
        """The graphs that are inside, in canonical depth-first order, and why others are outside.

        Raises:
            UserError: as `triples`.
        """
        packed, reasons = [], []
        for nodes, edges, labels in self.triples(graphs):
            types, bonds = self.nodes.codes(nodes), self.edges.codes(labels)
            reason = None
            for what, codes, given in (("node", types, nodes), ("edge", bonds, labels)):
                if (codes < 0).any():
                    unknown = given[int((codes < 0).argmax())]
                    reason = f"the {what} label {unknown!r}, which no training graph has"
            if reason is None:
                try:
                    graph = canonicalise(PackedGraphs.from_lists([(types, edges, bonds)]))
                except ValueError as error:
                    reason = str(error).removeprefix("graph 0: ").removeprefix("graph 0 ")
                else:
                    packed.append(graph)
            reasons.append(reason)
        return PackedGraphs.concatenate(packed), reasons

    def decode(self, graphs: PackedGraphs, seed: int) -> list:
        """Graphs as they came, with labels."""
        write = self._to_networkx if self.source == "networkx" else self._to_data
        return [write(*graphs.graph(k)) for k in range(len(graphs))]

    def _of_networkx(self, graph: nx.Graph) -> Triple:
        if not isinstance(graph, nx.Graph):
            raise TypeError(f"a {type(graph).__name__}, not a nx.Graph")
        if graph.is_directed() or graph.is_multigraph():
            raise TypeError(f"a {type(graph).__name__}: graphs are undirected and simple")
        node_label, edge_label = self.names
        number = {node: k for k, node in enumerate(graph)}
        nodes = [_label(d, node_label, f"node {v!r}") for v, d in graph.nodes(data=True)]
        edges = [
            ((number[u], number[v]), _label(d, edge_label, f"edge {u!r}-{v!r}"))
            for u, v, d in graph.edges(data=True)
        ]
        return nodes, [pair for pair, _ in edges], [label for _, label in edges]

    def _of_data(self, data: Data) -> Triple:
        from torch_geometric.data import Data

        if not isinstance(data, Data):
            raise TypeError(f"a {type(data).__name__}, not a torch_geometric.data.Data")
        nodes, data = data.num_nodes, copy(data)
        if data.edge_index is None:
            data.edge_index = torch.empty(2, 0, dtype=torch.long)
        if self.names[0] is None:
            data.x = data.edge_index.new_zeros(nodes)
        if self.names[1] is not None and data.edge_attr is None and data.edge_index.numel():
            raise ValueError("edge_attr is missing")
        nodes, edges, labels = PackedGraphs.from_data([data]).graph(0)
        return nodes.tolist(), edges.astype(int).tolist(), labels.tolist()

    def _to_networkx(self, nodes: np.ndarray, edges: np.ndarray, labels: np.ndarray) -> nx.Graph:
        node_label, edge_label = self.names
        graph = nx.Graph()
        for k, label in enumerate(self.nodes.decode(nodes)):
            graph.add_node(k, **({} if node_label is None else {node_label: label}))
        for (i, j), label in zip(edges.tolist(), self.edges.decode(labels), strict=True):
            graph.add_edge(j, i, **({} if edge_label is None else {edge_label: label}))
        return graph

    def _to_data(self, nodes: np.ndarray, edges: np.ndarray, labels: np.ndarray) -> Data:
        types = np.array(self.nodes.decode(nodes), dtype=np.uint8)
        bonds = np.array(self.edges.decode(labels), dtype=np.uint8)
        counts = np.array([len(nodes)]), np.array([len(edges)])
        data = PackedGraphs(counts[0], types, counts[1], edges, bonds)[0]
        for name, axes in zip(("x", "edge_attr"), self.names, strict=True):
            if axes is None:
                del data[name]
            elif axes == 2:
                data[name] = data[name][:, None]
        if self.names[0] is None:
            data.num_nodes = len(nodes)
        return data

    def __str__(self) -> str:
        return f"graphs of {len(self.nodes)} node and {len(self.edges)} edge labels"

    def to_json(self) -> dict:
        """The labels as JSON."""
        nodes, edges = self.nodes.to_json(), self.edges.to_json()
        return {
            "kind": self.kind, "nodes": nodes, "edges": edges, "source": self.source,
            "names": list(self.names),
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: dict) -> GraphCodec:
        """Inverse of `to_json`."""
        nodes, edges = (Vocabulary.from_json(content[name]) for name in ("nodes", "edges"))
        return cls(nodes, edges, content["source"], tuple(content["names"]))


def _label(data: dict[str, Any], name: str | None, where: str):
    if name is None:
        return 0
    if name not in data:
        raise ValueError(f"{where} has no attribute {name!r}")
    hash(data[name])
    return data[name]


def _only(attributes: list[dict], what: str) -> str | None:
    """The attribute that all have, None if there is none."""
    names = sorted({str(name) for data in attributes for name in data})
    if len(names) > 1:
        raise UserError(
            f"{what}s have the attributes {', '.join(names)}: choose the label with "
            f"{what}_label={names[0]!r}"
        )
    return names[0] if names else None
