"""Junction trees of graphs: clusters, their attachments, and codes of graphs.

A cluster is an edge outside of rings, a ring, a union of rings that share more than two nodes, or a
single node where three or more clusters meet (Jin et al. 2018, arXiv 1802.04364, section 2.1 and
appendix A). Here, rings whose clusters would not form a tree (such as three rings around a node
that share edges pairwise) are one cluster, so that every connected graph has a junction tree.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from functools import cached_property, lru_cache
from itertools import islice, product

import networkx as nx
import numpy as np

from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.isomorphism import SAME, Neighbours, typed_graph

# Largest number of automorphisms of a cluster; rings of molecules have far fewer.
MOST_SYMMETRIES = 10_000
CHUNK = 1000  # number of graphs that are unpacked at once

Site = tuple[int, ...]
"""Nodes that a cluster shares with another: one, or both ends of an edge."""


def neighbours_of(batch: GraphBatch) -> list[tuple[list[int], Neighbours]]:
    """Return node categories and neighbours, in ascending order, of each graph.

    The order of the neighbours decides between rings of the same size.
    """
    sizes, types = batch.sizes.tolist(), batch.node_types.tolist()
    graphs: list[Neighbours] = [[{} for _ in range(n)] for n in sizes]
    g, i, j = (batch.bonds > 0).nonzero(as_tuple=True)
    categories = batch.bonds[g, i, j].tolist()
    for graph, v, w, category in zip(g.tolist(), i.tolist(), j.tolist(), categories, strict=True):
        graphs[graph][v][w] = category - 1
    return [(types[k][:n], graphs[k]) for k, n in enumerate(sizes)]


def rings(neighbours: Neighbours) -> list[set[int]]:
    """Return a cycle basis of short rings of a connected graph, as sets of nodes."""
    edges = [(v, w) for v, around in enumerate(neighbours) for w in around if v < w]
    covered: set[tuple[int, int]] = set()
    found = []
    for v, w in edges:
        ring = [] if (v, w) in covered else _shortest_ring(neighbours, v, w)
        if ring:
            found.append(set(ring))
            covered |= {(min(e), max(e)) for e in zip(ring, ring[1:] + ring[:1], strict=True)}
    if len(found) < len(edges) - len(neighbours) + 1:
        return [set(ring) for ring in nx.minimum_cycle_basis(nx.Graph(edges))]
    return found


def _shortest_ring(neighbours: Neighbours, v: int, w: int) -> list[int]:
    """Return the nodes, in order, of a shortest ring through edge (v, w); none for a bridge."""
    before, queue = {v: v}, deque([v])
    while queue and w not in before:
        here = queue.popleft()
        for there in neighbours[here]:
            if there not in before and (here, there) != (v, w):
                before[there] = here
                queue.append(there)
    ring = [w] if w in before else []
    while ring and ring[-1] != v:
        ring.append(before[ring[-1]])
    return ring


def junction_tree(neighbours: Neighbours) -> tuple[list[Site], list[int]] | None:
    """Return the clusters in depth-first order from node 0, and the index of the parent of each.

    A cluster is a tuple of nodes in ascending order; the parent of the first is -1. Returns None if
    the graph is not connected.
    """
    if len(neighbours) == 1:
        return [(0,)], [-1]
    cycles = _merged(rings(neighbours))
    clusters, tree = _spanning_tree(neighbours, cycles)
    while joined := _not_a_tree(neighbours, clusters, tree):
        cycles = _merged([*(ring for ring in cycles if not ring <= joined), joined])
        clusters, tree = _spanning_tree(neighbours, cycles)
    nodes = [tuple(sorted(cluster)) for cluster in clusters]
    if not nodes or len(set().union(*nodes)) != len(neighbours) or not nx.is_connected(tree):
        return None
    order: list[int] = []
    parents, stack = [], [(nodes.index(min(nodes)), -1)]
    while stack:
        cluster, parent = stack.pop()
        children = [child for child in tree[cluster] if child not in order]
        children.sort(key=nodes.__getitem__, reverse=True)
        stack += [(child, len(order)) for child in children]
        order.append(cluster)
        parents.append(parent)
    return [nodes[c] for c in order], parents


def _merged(cycles: list[set[int]]) -> list[set[int]]:
    """Merge rings that share more than two nodes."""
    done: list[set[int]] = []
    for ring in cycles:
        while joined := [other for other in done if len(other & ring) > 2]:
            done = [other for other in done if other not in joined]
            ring = ring.union(*joined)
        done.append(ring)
    return done


def _spanning_tree(neighbours: Neighbours, cycles: list[set[int]]) -> tuple[list[set], nx.Graph]:
    """Return all clusters, and a spanning tree of maximum overlap between them."""
    inside = [[k for k, ring in enumerate(cycles) if v in ring] for v in range(len(neighbours))]
    clusters = list(cycles)
    for v, around in enumerate(neighbours):
        for w in around:
            if v < w and not any(w in cycles[k] for k in inside[v] if k < len(cycles)):
                inside[v].append(len(clusters))
                inside[w].append(len(clusters))
                clusters.append({v, w})
    links = nx.Graph()
    links.add_nodes_from(range(len(clusters)))
    for v, own in enumerate(inside):
        edges = sum(k >= len(cycles) for k in own)
        if edges > 2 or (edges == 2 and len(own) > 2):
            links.add_edges_from(((k, len(clusters)) for k in own), weight=100)
            clusters.append({v})
        else:
            pairs = [(a, b) for a in own for b in own if a < b]
            links.add_weighted_edges_from((*p, len(clusters[p[0]] & clusters[p[1]])) for p in pairs)
    return clusters, nx.maximum_spanning_tree(links)


def _not_a_tree(neighbours: Neighbours, clusters: list[set], tree: nx.Graph) -> set[int]:
    """Return nodes of rings to be merged, since `tree` is no junction tree; none if it is one."""
    count = Counter(v for cluster in clusters for v in cluster)
    for a, b in tree.edges:
        shared = clusters[a] & clusters[b]
        count.subtract(shared)
        if len(shared) == 2:
            v, w = shared
            if w not in neighbours[v]:
                return clusters[a] | clusters[b]
    for v, left in count.items():
        if left != 1:
            return set().union(*(c for c in clusters if v in c and len(c) > 2))
    return set()


class TreeCluster:
    """Small graph in a vocabulary.

    `types` are its node categories, `edges` has the category of each edge as (i, j) and as (j, i),
    `weights` are those of the edge categories. `sums` are the sums of the edge weights of nodes.
    """

    def __init__(self, types: tuple[int, ...], edges: dict[Site, int], weights: list[int]):
        self.types, self.edges, self.weights = types, edges, weights
        self.sums = [0] * len(types)
        for (i, _), category in edges.items():
            self.sums[i] += weights[category]
        ends = sorted((types[i], category, types[j]) for (i, j), category in edges.items())
        self.invariant = tuple(sorted(types)), tuple(ends)

    def isomorphisms(self, other: TreeCluster):
        """Yield isomorphisms, tuples of the node of `other` for each node."""
        matcher = nx.algorithms.isomorphism.GraphMatcher(self._graph, other._graph, **SAME)
        for found in matcher.isomorphisms_iter():
            yield tuple(found[v] for v in range(len(self.types)))

    @cached_property
    def _graph(self) -> nx.Graph:
        edges = list(self.edges), list(self.edges.values())
        return typed_graph(np.array(self.types), *map(np.array, edges))

    @cached_property
    def symmetries(self) -> list[Site]:
        """Automorphisms; raises UserError if there are more than `MOST_SYMMETRIES`."""
        found = list(islice(self.isomorphisms(self), MOST_SYMMETRIES + 1))
        if len(found) > MOST_SYMMETRIES:
            raise UserError(
                f"rings of {len(self.types)} nodes that can be renumbered in more than "
                f"{MOST_SYMMETRIES:,} ways: too many for a cluster of a junction tree"
            )
        return found

    @cached_property
    def alike(self) -> list[int]:
        """First equivalent node of each node, under automorphisms."""
        return [min(images) for images in zip(*self.symmetries, strict=True)]

    @cached_property
    def sites(self) -> list[Site]:
        """All nodes and, in rings, all edges in both directions."""
        nodes: list[Site] = [(v,) for v in range(len(self.types))]
        return nodes + list(self.edges) if len(nodes) > 2 else nodes

    @cached_property
    def distinct_sites(self) -> set[Site]:
        """One site of each class of equivalent sites."""
        return {min(tuple(s[v] for v in site) for s in self.symmetries) for site in self.sites}

    def shared(self, site: Site) -> int:
        """Return the weight of a site's edge, 0 for a node."""
        return self.weights[self.edges[site]] if len(site) == 2 else 0


def representative(host: TreeCluster, guest: TreeCluster, fixed: Site, place: Site, site: Site):
    """Return the representative in `attachments` of joining nodes `place` with nodes `site`.

    Also returns the automorphisms of host and guest that map to the representative. That of the
    host keeps its nodes `fixed`.
    """
    images = []
    for s, t in product(host.symmetries, guest.symmetries):
        if all(s[v] == v for v in fixed):
            pairs = sorted((s[a], t[b]) for a, b in zip(place, site, strict=True))
            images.append((tuple(zip(*pairs, strict=True)), s, t))
    return min(images, key=lambda image: image[0])


@lru_cache(maxsize=200_000)
def attachments(
    host: TreeCluster, guest: TreeCluster, fixed: Site, free: tuple[int, ...], most: int
) -> list[tuple[Site, Site]]:
    """Return the ways to attach cluster `guest` to cluster `host`, one of each equivalence class.

    An attachment is a pair (site of the host, site of the guest) whose nodes are identified. Nodes
    `fixed` of the host are shared with other clusters, `free` is the free valence of its nodes, and
    `most` is the largest number of nodes to add.
    """
    found = set()
    for site in guest.distinct_sites:
        if len(guest.types) - len(site) > most:
            continue
        for place in host.sites:
            fits = (
                place[0] <= place[-1]
                and len(place) == len(site)
                and all(
                    host.types[a] == guest.types[b]
                    and guest.sums[b] - guest.shared(site) <= free[a]
                    for a, b in zip(place, site, strict=True)
                )
            )
            if fits and (len(site) == 1 or host.edges[place] == guest.edges[site]):
                found.add(representative(host, guest, fixed, place, site)[0])
    return sorted(found)


class ClusterVocabulary:
    """Numbered clusters.

    Each of the `rows` is a pair of lists: node categories, and i, j, category of all edges in turn.
    `edge_weights` are the weights of edge categories, `largest_sums` the largest sums of edge
    weights of node categories.
    """

    def __init__(self, rows: list, edge_weights: list[int], largest_sums: list[int]):
        self.edge_weights, self.largest_sums = list(edge_weights), list(largest_sums)
        self.clusters: list[TreeCluster] = []
        self._by_invariant: dict[tuple, list[int]] = defaultdict(list)
        self._found: dict[tuple, tuple[int, Site]] = {}
        for types, flat in rows:
            triples = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
            edges: dict[Site, int] = {pair: k for i, j, k in triples for pair in ((i, j), (j, i))}
            self._add(TreeCluster(tuple(types), edges, self.edge_weights))

    def __len__(self) -> int:
        return len(self.clusters)

    def _add(self, cluster: TreeCluster) -> int:
        self.clusters.append(cluster)
        self._by_invariant[cluster.invariant].append(len(self) - 1)
        return len(self) - 1

    @classmethod
    def measure(cls, graphs: PackedGraphs, weights: list[int], sums: list[int]) -> list:
        """Return the rows of all clusters of graphs; UserError if a graph is not connected."""
        vocabulary = cls([], weights, sums)
        for start in range(0, len(graphs), CHUNK):
            part = range(start, min(start + CHUNK, len(graphs)))
            each = neighbours_of(GraphBatch.collate(graphs, part))
            for k, (types, neighbours) in zip(part, each, strict=True):
                tree = junction_tree(neighbours)
                if tree is None:
                    raise UserError(f"graph {k} is in several pieces, which have no junction tree")
                for nodes in tree[0]:
                    vocabulary.find(types, neighbours, nodes, add=True)
        return [
            [list(c.types), [v for (i, j), k in c.edges.items() if i < j for v in (i, j, k)]]
            for c in vocabulary.clusters
        ]

    def find(
        self, types: list[int], neighbours: Neighbours, nodes: Site, add: bool = False
    ) -> tuple[int, Site] | None:
        """Return the number of the cluster with the given nodes of a graph, and these in its order.

        An unknown cluster is added to the vocabulary if `add`; otherwise the result is None.
        """
        place = {v: k for k, v in enumerate(nodes)}
        edges: dict[Site, int] = {
            (place[v], place[w]): category
            for v in nodes
            for w, category in neighbours[v].items()
            if w in place
        }
        key = tuple(types[v] for v in nodes), tuple(sorted(edges.items()))
        if key not in self._found:
            cluster = TreeCluster(key[0], edges, self.edge_weights)
            for number in self._by_invariant[cluster.invariant]:
                order = next(self.clusters[number].isomorphisms(cluster), None)
                if order is not None:
                    self._found[key] = number, order
                    break
            else:
                if not add:
                    return None
                self._found[key] = self._add(cluster), tuple(range(len(nodes)))
        number, order = self._found[key]
        return number, tuple(nodes[k] for k in order)


class PartialGraph:
    """Graph of up to `size` nodes to which clusters are attached one by one, depth-first."""

    def __init__(self, vocabulary: ClusterVocabulary, size: int):
        self.vocabulary, self.size = vocabulary, size
        self.labels: list[int] = []  # number of each cluster in the vocabulary
        self.parents: list[int] = []  # index of the parent of each cluster, -1 for the first
        self.remaining: list[int] = []  # number of nodes to come before each cluster was added
        self.nodes: list[Site] = []  # for each cluster, the graph's nodes in the cluster's order
        # Shared nodes of each cluster: pairs of its node and (label, node) of the other cluster.
        self.attached: list[list[tuple[int, tuple[int, int]]]] = []
        # Filled by `encode`, for each cluster but the first: the possible attachments, the index of
        # the chosen one, and `attached` of the parent before.
        self.choices: list[tuple[list[tuple[Site, Site]], int, list]] = []
        self.types: list[int] = []  # node categories of the graph
        self.sums: list[int] = []  # sums of edge weights of its nodes
        self.edges: dict[Site, int] = {}  # category of each edge (i, j), i < j

    @property
    def to_come(self) -> int:
        """Number of nodes that are still to come."""
        return self.size - len(self.types)

    def cluster(self, k: int) -> TreeCluster:
        """Return the k-th cluster of the tree."""
        return self.vocabulary.clusters[self.labels[k]]

    def free(self, node: int) -> int:
        """Return the free valence of a node: by how much its sum of edge weights may grow."""
        return self.vocabulary.largest_sums[self.types[node]] - self.sums[node]

    def fixed(self, k: int) -> Site:
        """Return the nodes of the k-th cluster that it shares with others, in ascending order."""
        return tuple(sorted({v for v, _ in self.attached[k]}))

    def open(self, k: int) -> list[int]:
        """Return the nodes with free valence of the k-th cluster and of its ancestors."""
        found: set[int] = set()
        while k >= 0:
            found.update(self.nodes[k])
            k = self.parents[k]
        return [v for v in found if self.free(v) > 0]

    def attachments(self, parent: int, label: int) -> list[tuple[Site, Site]]:
        """Return the ways to attach a cluster `label` to the cluster `parent` of the tree."""
        guest, free = self.vocabulary.clusters[label], tuple(map(self.free, self.nodes[parent]))
        # The minimum changes no result, and leaves fewer cases to cache.
        most = min(self.to_come, len(guest.types))
        return attachments(self.cluster(parent), guest, self.fixed(parent), free, most)

    def leads_on(self, parent: int, label: int, place: Site, site: Site) -> bool:
        """Return True if an attachment leaves free valence, or completes the graph."""
        guest, largest = self.vocabulary.clusters[label], self.vocabulary.largest_sums
        own = [v for v in range(len(guest.types)) if v not in site]
        if self.to_come == len(own):
            return True
        if any(guest.sums[v] < largest[guest.types[v]] for v in own):
            return True
        nodes = (self.nodes[parent][a] for a in place)
        taken = {v: guest.sums[b] - guest.shared(site) for v, b in zip(nodes, site, strict=True)}
        return any(self.free(v) > taken.get(v, 0) for v in self.open(parent))

    def add(self, label: int, parent: int = -1, place: Site = (), site: Site = ()) -> None:
        """Add a cluster whose nodes `site` are identified with nodes `place` of its parent."""
        guest = self.vocabulary.clusters[label]
        self.remaining.append(self.to_come)
        known = dict(zip(site, (self.nodes[parent][v] for v in place), strict=True))
        for v, category in enumerate(guest.types):
            if v not in known:
                known[v] = len(self.types)
                self.types.append(category)
                self.sums.append(0)
        for (i, j), category in guest.edges.items():
            pair = known[i], known[j]
            if pair[0] < pair[1] and pair not in self.edges:
                self.edges[pair] = category
                for v in pair:
                    self.sums[v] += guest.weights[category]
        self.attached.append([])
        for a, b in zip(place, site, strict=True):
            self.attached[parent].append((a, (label, guest.alike[b])))
            self.attached[-1].append((b, (self.labels[parent], self.cluster(parent).alike[a])))
        self.labels.append(label)
        self.parents.append(parent)
        self.nodes.append(tuple(known[v] for v in range(len(guest.types))))


def encode(
    vocabulary: ClusterVocabulary, types: list[int], neighbours: Neighbours
) -> PartialGraph | None:
    """Return the code of a graph: the same graph, built from clusters, with its choices.

    Returns None if the graph is not connected, or has an unknown cluster.
    """
    tree = junction_tree(neighbours)
    if tree is None:
        return None
    graph = PartialGraph(vocabulary, len(types))
    # For each cluster, the nodes of the given graph in the order of the cluster, permuted by an
    # automorphism so that the chosen attachment is the representative of its class.
    order: list[Site] = []
    for cluster, parent in zip(*tree, strict=True):
        found = vocabulary.find(types, neighbours, cluster)
        if found is None:
            return None
        label, nodes = found
        wanted: tuple[Site, Site] = (), ()
        if parent >= 0:
            host = order[parent]
            shared = [(host.index(v), k) for k, v in enumerate(nodes) if v in host]
            pair = graph.cluster(parent), vocabulary.clusters[label]
            wanted, *symmetries = representative(
                *pair, graph.fixed(parent), *zip(*shared, strict=True)
            )
            options = graph.attachments(parent, label)
            if wanted not in options:
                return None
            graph.choices.append((options, options.index(wanted), list(graph.attached[parent])))
            order[parent], nodes = (
                tuple(v for _, v in sorted(zip(symmetry, own, strict=True)))
                for symmetry, own in zip(symmetries, (host, nodes), strict=True)
            )
        graph.add(label, parent, *wanted)
        order.append(nodes)
    return graph
