"""The vocabulary of clusters, and the ways in which one can be attached to another."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from graphcnf.baselines.junction_tree.clusters import Cluster, Neighbours, Site, junction_tree
from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.packed import PackedGraphs

MEASURED = 1000
"""Graphs that are unpacked at once."""


def neighbours_of(batch: GraphBatch) -> list[tuple[list[int], Neighbours]]:
    """Node categories and edges of each graph of a batch.

    Neighbours come in ascending order, which decides between rings of the same size: a vocabulary
    is measured on the same junction trees that graphs are encoded by.
    """
    sizes, types = batch.sizes.tolist(), batch.node_types.tolist()
    around: list[Neighbours] = [[{} for _ in range(n)] for n in sizes]
    g, i, j = (batch.bonds > 0).nonzero(as_tuple=True)
    kinds = batch.bonds[g, i, j].tolist()
    for graph, v, w, kind in zip(g.tolist(), i.tolist(), j.tolist(), kinds, strict=True):
        around[graph][v][w] = kind - 1
    return [(types[k][:n], around[k]) for k, n in enumerate(sizes)]


@dataclass
class Vocabulary:
    """Clusters by number, and which of them a part of a graph is.

    Args:
        clusters: The clusters.
        edge_weights: Weight of each edge category.
        largest_sums: Largest sum of edge weights of each node category.
    """

    clusters: list[Cluster]
    edge_weights: list[int]
    largest_sums: list[int]
    _alike: dict = field(default_factory=lambda: defaultdict(list), repr=False)
    _known: dict = field(default_factory=dict, repr=False)
    _attachments: dict = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for number, cluster in enumerate(self.clusters):
            self._register(number, cluster)

    def __len__(self) -> int:
        return len(self.clusters)

    def _register(self, number: int, cluster: Cluster) -> None:
        sums = [0] * len(cluster.types)
        for (i, _), kind in cluster.edges.items():
            sums[i] += self.edge_weights[kind]
        cluster.sums = tuple(sums)
        self._alike[self._invariant(cluster)].append(number)

    @staticmethod
    def _invariant(cluster: Cluster) -> tuple:
        ends = sorted(
            (cluster.types[i], k, cluster.types[j]) for (i, j), k in cluster.edges.items()
        )
        return tuple(sorted(cluster.types)), tuple(ends)

    @classmethod
    def from_lists(cls, rows: list[list[list[int]]], weights, sums) -> Vocabulary:
        """Build it from rows [node categories, i, j and category of each edge in one list]."""
        clusters = []
        for types, flat in rows:
            triples = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
            edges: dict[Site, int] = {pair: k for i, j, k in triples for pair in ((i, j), (j, i))}
            clusters.append(Cluster(tuple(types), edges))
        return cls(clusters, list(weights), list(sums))

    def to_lists(self) -> list[list[list[int]]]:
        """Inverse of `from_lists`."""
        return [
            [list(c.types), [v for (i, j), k in c.edges.items() if i < j for v in (i, j, k)]]
            for c in self.clusters
        ]

    @classmethod
    def measure(cls, graphs: PackedGraphs, weights: list[int], sums: list[int]) -> Vocabulary:
        """All clusters of a set of graphs.

        Raises:
            UserError: if a graph is in several pieces.
        """
        vocabulary = cls([], weights, sums)
        for start in range(0, len(graphs), MEASURED):
            part = range(start, min(start + MEASURED, len(graphs)))
            each = neighbours_of(GraphBatch.collate(graphs, part))
            for k, (types, neighbours) in zip(part, each, strict=True):
                tree = junction_tree(neighbours)
                if tree is None:
                    raise UserError(f"graph {k} is in several pieces, which have no junction tree")
                for nodes in tree.clusters:
                    vocabulary.find(types, neighbours, nodes, add=True)
        return vocabulary

    def find(
        self, types, neighbours: Neighbours, nodes: tuple[int, ...], add: bool = False
    ) -> tuple[int, tuple[int, ...]] | None:
        """Return the number of the cluster of some nodes of a graph, and the matching of nodes.

        Args:
            types: Node categories of the graph.
            neighbours: Its edges.
            nodes: The nodes.
            add: Whether a new cluster becomes one of the vocabulary; otherwise it gives None.
        """
        place = {v: k for k, v in enumerate(nodes)}
        edges: dict[Site, int] = {
            (place[v], place[w]): kind
            for v in nodes
            for w, kind in neighbours[v].items()
            if w in place
        }
        key = tuple(types[v] for v in nodes), tuple(sorted(edges.items()))
        if key not in self._known:
            found = self._search(Cluster(key[0], edges), add)
            if found is None:
                return None
            self._known[key] = found
        number, order = self._known[key]
        return number, tuple(nodes[k] for k in order)

    def _search(self, cluster: Cluster, add: bool):
        alike = self._alike[self._invariant(cluster)]
        for number in alike:
            order = next(self.clusters[number].onto(cluster), None)
            if order is not None:
                return number, order
        if not add:
            return None
        self.clusters.append(cluster)
        self._register(len(self.clusters) - 1, cluster)
        return len(self.clusters) - 1, tuple(range(len(cluster.types)))

    def attachments(
        self, parent: int, child: int, fixed: tuple[int, ...], free: tuple[int, ...], most: int
    ) -> list[tuple[Site, Site]]:
        """Ways to attach a cluster to another, one of each that are equivalent.

        Args:
            parent: Number of the cluster that is in the graph.
            child: Number of the cluster to come.
            fixed: Nodes of the parent that other clusters share, ascending.
            free: What the sum of edge weights of each node of the parent may grow by.
            most: Nodes that may be added.

        Returns:
            Pairs (site of the parent, site of the child): nodes of the one become those of the
            other. Sums of edge weights stay at most the largest.
        """
        key = parent, child, fixed, free, most
        if key not in self._attachments:
            if len(self._attachments) > 200_000:
                self._attachments.clear()
            self._attachments[key] = self._fits(*key)
        return self._attachments[key]

    def _fits(self, parent, child, fixed, free, most) -> list[tuple[Site, Site]]:
        host, guest = self.clusters[parent], self.clusters[child]
        found = set()
        keep = [s for s in host.symmetries if all(s[v] == v for v in fixed)]
        places: list[Site] = [(v,) for v in range(len(host.types))]
        if len(host.types) > 2:
            places += [(i, j) for i, j in host.edges if i < j]
        for site in guest.sites:
            if len(guest.types) - len(site) > most:
                continue
            for place in places:
                if len(place) == len(site) and self._fit(host, guest, place, site, free):
                    found.add(min(self._image(s, guest, place, site) for s in keep))
        return sorted(found)

    def _fit(self, host: Cluster, guest: Cluster, place: Site, site: Site, free) -> bool:
        shared = 0
        if len(site) == 2:
            kind = guest.edges[site]
            if host.edges[place] != kind:
                return False
            shared = self.edge_weights[kind]
        return all(
            host.types[a] == guest.types[b] and guest.sums[b] - shared <= free[a]
            for a, b in zip(place, site, strict=True)
        )

    def canonical(
        self, parent: int, child: int, fixed: tuple[int, ...], place: Site, site: Site
    ) -> tuple[Site, Site]:
        """Return the attachment in `attachments` that is equivalent to a given one."""
        host, guest = self.clusters[parent], self.clusters[child]
        keep = [s for s in host.symmetries if all(s[v] == v for v in fixed)]
        return min(self._image(s, guest, place, site) for s in keep)

    @staticmethod
    def _image(symmetry: Site, guest: Cluster, place: Site, site: Site) -> tuple[Site, Site]:
        moved = tuple(symmetry[v] for v in place)
        if moved[0] > moved[-1]:
            moved, site = moved[::-1], site[::-1]
        return moved, guest.representative(site)
