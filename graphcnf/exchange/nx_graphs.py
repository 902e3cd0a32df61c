"""Convert graphs and molecules to and from graphs of networkx.

In networkx, each node and edge has one attribute, "label" (`LABEL`). In this package, graphs are
*packed*: all of them are stored in a few arrays, as `PackedGraphs`.

- A *category* is the type of a node or edge, a number from 0.
- The *label* is the category of the node or edge, a number.
- With a vocabulary of molecules it is the name of the category instead: "C", "N+" or "n" for atoms,
  "SINGLE" or "AROMATIC_DOUBLE" for bonds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import networkx as nx

from graphcnf.errors import UserError, type_of
from graphcnf.graphs.batch import PackedGraphs

if TYPE_CHECKING:
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

LABEL = "label"
"""Name of the attribute of nodes and of edges in networkx."""


def to_networkx(
    graphs: PackedGraphs, vocabulary: MoleculeVocabulary | None = None
) -> list[nx.Graph]:
    """Convert graphs to networkx.

    Args:
        vocabulary: To write names of categories as labels; None to write their numbers.
    """
    found = []
    for k in range(len(graphs)):
        nodes, edges, kinds = (array.tolist() for array in graphs.graph(k))
        graph = nx.Graph()
        for node, category in enumerate(nodes):
            name = category if vocabulary is None else vocabulary.atom_labels[category]
            graph.add_node(node, **{LABEL: name})
        for (i, j), category in zip(edges, kinds, strict=True):
            name = category if vocabulary is None else vocabulary.bonds[category]
            graph.add_edge(j, i, **{LABEL: name})
        found.append(graph)
    return found


def from_networkx(
    graphs: Iterable[nx.Graph], vocabulary: MoleculeVocabulary | None = None
) -> PackedGraphs:
    """Pack graphs of networkx, such as those of `to_networkx`.

    Args:
        graphs: The graphs, whose nodes and edges have the attribute "label". Nodes keep their
            order. Without a vocabulary, a missing label means category 0.
        vocabulary: Given if labels are names of categories; None if they are numbers.
    """
    known: Sequence[Any] = (None, None)
    if vocabulary is not None:
        names = vocabulary.atom_labels, vocabulary.bonds
        known = [{name: k for k, name in enumerate(part)} for part in names]
    return PackedGraphs.from_lists(_lists(number, g, *known) for number, g in enumerate(graphs))


def _lists(
    number: int, graph: nx.Graph, atoms: dict[str, int] | None, bonds: dict[str, int] | None
) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """Read a graph of networkx."""
    if not isinstance(graph, nx.Graph) or graph.is_directed() or graph.is_multigraph():
        raise UserError(f"graph {number} must be an nx.Graph, got {type_of(graph)}")
    places = {node: k for k, node in enumerate(graph)}
    nodes = [_category(number, name, atoms) for _, name in graph.nodes(data=LABEL, default=0)]
    edges = list(graph.edges(data=LABEL, default=0))
    kinds = [_category(number, name, bonds) for _, _, name in edges]
    return nodes, [(places[u], places[v]) for u, v, _ in edges], kinds


def _category(number: int, name: Any, known: dict[str, int] | None) -> Any:
    """Return the category that a node or edge of a graph has."""
    if known is not None and name not in known:
        raise UserError(f"graph {number} has the label {name!r}; known are {', '.join(known)}")
    return name if known is None else known[name]
