"""Junction trees of graphs: take a graph apart into clusters, and build graphs from clusters.

The JT-VAE (`graphcnf.baselines.jtvae`) draws graphs this way. `junction_tree` takes a graph apart.
`PartialGraph` is a graph that is put together, cluster by cluster. `rebuild` does both, and records
the decisions that lead to a given graph.

- A *cluster* is a small part of a graph: an edge outside of rings, a ring, a union of rings that
  share more than two nodes, or a single node where three or more clusters meet (Jin et al. 2018,
  arXiv 1802.04364, section 2.1 and appendix A). Rings whose clusters would not form a tree, such as
  three rings around a node that share edges pairwise, are one cluster here. So every connected
  graph has a junction tree.
- The *junction tree* has the clusters as its nodes, and joins clusters that share nodes of the
  graph. It is walked depth-first from the cluster with node 0, so that every other cluster has a
  *parent*.
- A *vocabulary* holds the clusters of the training graphs; the number of a cluster in it is its
  *label*. A cluster of the vocabulary numbers its own nodes 0, 1, ...
- To *attach* a cluster, the *guest*, to its parent, the *host*, is to let the two share one node or
  one edge of the graph. In each of the two clusters, what is shared is called a *site*: a tuple of
  one node, or of both ends of an edge of a ring. The pair (site of the host, site of the guest) is
  the *attachment*. In naphthalene, two rings of six atoms share an edge; the attachment is then
  ((0, 1), (0, 1)).
- An *automorphism* renumbers the nodes of a cluster without changing it. Two attachments are
  *equivalent* if automorphisms of host and guest map one to the other. Only the smallest one of
  each class of equivalent attachments is used.
- The *weight* of an edge belongs to its category; for molecules it is the bond order. The *free
  valence* of a node is by how much the sum of its edge weights may still grow.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import islice, product
from typing import Any

import networkx as nx

from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs

# Largest number of automorphisms of a cluster; rings of molecules have far fewer.
MOST_SYMMETRIES = 10_000
CHUNK = 1000  # number of graphs that are unpacked at once

Neighbours = list[dict[int, int]]
"""A graph: entry v is `{neighbour of node v: category of the edge between them}`."""

# Arguments by which networkx matches nodes and edges of equal categories only.
SAME = {
    "node_match": nx.algorithms.isomorphism.categorical_node_match("category", None),
    "edge_match": nx.algorithms.isomorphism.categorical_edge_match("category", None),
}

Site = tuple[int, ...]
"""Nodes that a cluster shares with another one: one node, or both ends of an edge."""


def neighbours_of(batch: GraphBatch) -> list[tuple[list[int], Neighbours]]:
    """Convert a batch of tensors to the lists and dictionaries that this module works with.

    For each graph a pair: the categories of its nodes, and for each node the dictionary
    `{neighbour: edge category}`, neighbours ascending. Their order matters: by it `rings` chooses
    among several rings of one size.
    """
    sizes, types = batch.node_counts.tolist(), batch.node_types.tolist()
    graphs: list[Neighbours] = [[{} for _ in range(n)] for n in sizes]
    g, i, j = (batch.edge_labels > 0).nonzero(as_tuple=True)
    categories = batch.edge_labels[g, i, j].tolist()
    for graph, v, w, category in zip(g.tolist(), i.tolist(), j.tolist(), categories, strict=True):
        graphs[graph][v][w] = category - 1
    return [(types[k][:n], graphs[k]) for k, n in enumerate(sizes)]


def rings(neighbours: Neighbours) -> list[set[int]]:
    """Return the rings of a connected graph as sets of nodes: a cycle basis of short rings.

    For each edge that is in no ring yet, a shortest ring through it is added. In most graphs this
    is a basis, found fast. In the others a minimum cycle basis is computed.
    """
    edges = [(v, w) for v, around in enumerate(neighbours) for w in around if v < w]
    covered: set[tuple[int, int]] = set()
    basis = []
    for v, w in edges:
        ring = [] if (v, w) in covered else _shortest_ring(neighbours, v, w)
        if ring:
            basis.append(set(ring))
            covered |= {(min(e), max(e)) for e in zip(ring, ring[1:] + ring[:1], strict=True)}
    if len(basis) < len(edges) - len(neighbours) + 1:
        return [set(ring) for ring in nx.minimum_cycle_basis(nx.Graph(edges))]
    return basis


def _shortest_ring(neighbours: Neighbours, v: int, w: int) -> list[int]:
    """Find a shortest ring through an edge."""
    before, queue = {v: v}, deque([v])
    while queue and w not in before:
        node = queue.popleft()
        for neighbour in neighbours[node]:
            if neighbour not in before and (node, neighbour) != (v, w):
                before[neighbour] = node
                queue.append(neighbour)
    ring = [w] if w in before else []
    while ring and ring[-1] != v:
        ring.append(before[ring[-1]])
    return ring


def junction_tree(neighbours: Neighbours) -> tuple[list[Site], list[int]] | None:
    """Take a graph apart into clusters.

    Returns:
        Two lists with an entry for each cluster, in depth-first order from node 0. The first has
        the nodes of the cluster, a tuple of ascending numbers. The second has the index of the
        cluster's parent, -1 for the first cluster. None if the graph is not connected.
    """
    if len(neighbours) == 1:
        return [(0,)], [-1]
    cycles = _merged(rings(neighbours))
    clusters, tree = _spanning_tree(neighbours, cycles)
    # Until the clusters form a tree, rings that prevent it become one cluster.
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
    """Unite rings that share more than two nodes, again and again until none do."""
    done: list[set[int]] = []
    for ring in cycles:
        while joined := [other for other in done if len(other & ring) > 2]:
            done = [other for other in done if other not in joined]
            ring = ring.union(*joined)
        done.append(ring)
    return done


def _spanning_tree(neighbours: Neighbours, cycles: list[set[int]]) -> tuple[list[set], nx.Graph]:
    """Find all clusters, and a spanning tree of maximum overlap between them."""
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
    # Clusters that meet at a node v are linked, or, if they are many, linked to a cluster {v}.
    for v, meeting in enumerate(inside):
        edges = sum(k >= len(cycles) for k in meeting)
        if edges > 2 or (edges == 2 and len(meeting) > 2):
            links.add_edges_from(((k, len(clusters)) for k in meeting), weight=100)
            clusters.append({v})
        else:
            pairs = [(a, b) for a in meeting for b in meeting if a < b]
            links.add_weighted_edges_from((*p, len(clusters[p[0]] & clusters[p[1]])) for p in pairs)
    return clusters, nx.maximum_spanning_tree(links)


def _not_a_tree(neighbours: Neighbours, clusters: list[set], tree: nx.Graph) -> set[int]:
    """Check that a spanning tree of clusters is a junction tree."""
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
    """Cluster of a vocabulary: a small graph with nodes 0, 1, ...

    `edges` is `{(i, j): category}`, with each edge in both directions.

    Attributes:
        sums: Sum of the edge weights of each node.
        invariant: Value that is equal for clusters that differ only by their numbering. Others may
            have the same value, so `isomorphisms` decides.
    """

    def __init__(self, types: tuple[int, ...], edges: dict[Site, int], weights: list[int]):
        self.types, self.edges, self.weights = types, edges, weights
        self.sums = [0] * len(types)
        for (i, _), category in edges.items():
            self.sums[i] += weights[category]
        triples = sorted((types[i], category, types[j]) for (i, j), category in edges.items())
        self.invariant = tuple(sorted(types)), tuple(triples)

    def isomorphisms(self, other: TreeCluster) -> Iterator[tuple[int, ...]]:
        """Yield all isomorphisms: renumberings that turn this cluster into another one.

        Entry v of the tuple is the node of `other` to which node v of this cluster is mapped.
        """
        matcher = nx.algorithms.isomorphism.GraphMatcher(self._graph, other._graph, **SAME)
        for mapping in matcher.isomorphisms_iter():
            yield tuple(mapping[v] for v in range(len(self.types)))

    @cached_property
    def _graph(self) -> nx.Graph:
        graph = nx.Graph()
        graph.add_nodes_from((v, {"category": t}) for v, t in enumerate(self.types))
        graph.add_edges_from((i, j, {"category": c}) for (i, j), c in self.edges.items())
        return graph

    @cached_property
    def symmetries(self) -> list[tuple[int, ...]]:
        """All automorphisms, one tuple each: entry v is the node to which v is mapped."""
        automorphisms = list(islice(self.isomorphisms(self), MOST_SYMMETRIES + 1))
        if len(automorphisms) > MOST_SYMMETRIES:
            raise UserError(
                f"rings of {len(self.types)} nodes that can be renumbered in more than "
                f"{MOST_SYMMETRIES:,} ways: too many for a cluster of a junction tree"
            )
        return automorphisms

    @cached_property
    def alike(self) -> list[int]:
        """For each node, the lowest node to which an automorphism maps it."""
        return [min(images) for images in zip(*self.symmetries, strict=True)]

    @cached_property
    def sites(self) -> list[Site]:
        """All sites, which another cluster may share with this one.

        They are the nodes (v,) and, in rings, the edges in both directions, (i, j) and (j, i).
        """
        nodes: list[Site] = [(v,) for v in range(len(self.types))]
        return nodes + list(self.edges) if len(nodes) > 2 else nodes

    @cached_property
    def distinct_sites(self) -> set[Site]:
        """Sites that no automorphism maps to each other: the smallest site of each class."""
        return {min(tuple(s[v] for v in site) for s in self.symmetries) for site in self.sites}

    def shared(self, site: Site) -> int:
        """Return the weight of the edge that host and guest share at a site; 0 for a node.

        In the sums of edge weights, both clusters count the shared edge, but the graph has it once.
        """
        return self.weights[self.edges[site]] if len(site) == 2 else 0


def representative(
    host: TreeCluster, guest: TreeCluster, fixed: Site, place: Site, site: Site
) -> tuple[tuple[Site, Site], tuple[int, ...], tuple[int, ...]]:
    """Find the attachment that is used in place of all attachments equivalent to a given one.

    Args:
        fixed: Nodes of the host that it shares with other clusters already. Automorphisms that move
            them are left out.

    Returns:
        The smallest equivalent attachment; the automorphisms of host and guest that lead to it,
        whose entry v is the node to which v is mapped.
    """
    images: list[Any] = []
    for s, t in product(host.symmetries, guest.symmetries):
        if all(s[v] == v for v in fixed):
            pairs = sorted((s[a], t[b]) for a, b in zip(place, site, strict=True))
            images.append((tuple(zip(*pairs, strict=True)), s, t))
    return min(images, key=lambda image: image[0])


@lru_cache(maxsize=200_000)
def attachments(
    host: TreeCluster, guest: TreeCluster, fixed: Site, free: tuple[int, ...], most: int
) -> list[tuple[Site, Site]]:
    """Return the sorted ways to attach a cluster to another one, without equivalent ones.

    Args:
        fixed: Nodes of the host that it shares with other clusters already.
        free: Free valence of each node of the host: by how much its sum of edge weights may grow.
    """
    options = set()
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
                options.add(representative(host, guest, fixed, place, site)[0])
    return sorted(options)


class ClusterVocabulary:
    """The clusters of which graphs are built; the index of a cluster is its label.

    Args:
        rows: For each label the categories of the cluster's nodes, and three numbers for each edge,
            all in one list: its two nodes and its category, as in `[[2, 5], [0, 1, 0]]`.
    """

    def __init__(self, rows: list[Any], edge_weights: list[int], largest_sums: list[int]):
        self.edge_weights, self.largest_sums = list(edge_weights), list(largest_sums)
        self.clusters: list[TreeCluster] = []
        self._by_invariant: dict[tuple, list[int]] = defaultdict(list)
        # Cache of `find`, by node categories and edges of the cluster as it occurs in a graph.
        self._labels: dict[tuple, tuple[int, Site]] = {}
        for types, flat in rows:
            triples = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
            edges: dict[Site, int] = {pair: k for i, j, k in triples for pair in ((i, j), (j, i))}
            self._add(TreeCluster(tuple(types), edges, self.edge_weights))

    def __len__(self) -> int:
        return len(self.clusters)

    def _add(self, cluster: TreeCluster) -> int:
        """Add a cluster to the vocabulary, in place."""
        self.clusters.append(cluster)
        self._by_invariant[cluster.invariant].append(len(self) - 1)
        return len(self) - 1

    @classmethod
    def measure(cls, graphs: PackedGraphs, weights: list[int], sums: list[int]) -> list[Any]:
        """Collect the clusters of training graphs: the argument `rows` of the constructor."""
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
        """Find the cluster of the vocabulary that some nodes of a graph form.

        With `add`, an unknown cluster joins the vocabulary; else the result is None.

        Returns:
            The label, and a tuple whose entry v is the node of the graph that is node v of the
            cluster.
        """
        index = {v: k for k, v in enumerate(nodes)}
        edges: dict[Site, int] = {
            (index[v], index[w]): category
            for v in nodes
            for w, category in neighbours[v].items()
            if w in index
        }
        key = tuple(types[v] for v in nodes), tuple(sorted(edges.items()))
        if key not in self._labels:
            cluster = TreeCluster(key[0], edges, self.edge_weights)
            for number in self._by_invariant[cluster.invariant]:
                order = next(self.clusters[number].isomorphisms(cluster), None)
                if order is not None:
                    self._labels[key] = number, order
                    break
            else:
                if not add:
                    return None
                self._labels[key] = self._add(cluster), tuple(range(len(nodes)))
        number, order = self._labels[key]
        return number, tuple(nodes[k] for k in order)


class PartialGraph:
    """Graph that is built by attaching clusters one by one, depth-first, and its junction tree.

    *Cluster k* is the k-th to be added. The graph is complete with `size` nodes.

    Attributes:
        parents: Number of the parent of each cluster, -1 for cluster 0.
        remaining: `to_come` as it was before each cluster was added.
        nodes: For each cluster a tuple whose entry v is the node of the graph that is node v of the
            cluster.
        attached: For each cluster, what it shares with others. An entry (v, (label, w)) says that
            node v of this cluster is node w of a neighbour in the tree with that label.
        choices: Filled by `rebuild`, one entry for each cluster but cluster 0: the possible
            attachments, the index of the chosen one, and the list `attached` of the parent before.
        edges: `{(i, j): category}` of the edges of the graph, i < j.
    """

    def __init__(self, vocabulary: ClusterVocabulary, size: int):
        self.vocabulary, self.size = vocabulary, size
        self.labels: list[int] = []
        self.parents: list[int] = []
        self.remaining: list[int] = []
        self.nodes: list[tuple[int, ...]] = []
        self.attached: list[list[tuple[int, tuple[int, int]]]] = []
        self.choices: list[tuple[list[tuple[Site, Site]], int, list]] = []
        self.types: list[int] = []
        self.sums: list[int] = []
        self.edges: dict[tuple[int, ...], int] = {}

    @property
    def to_come(self) -> int:
        """Number of nodes that the graph still lacks: its size less the nodes that it has."""
        return self.size - len(self.types)

    def cluster(self, k: int) -> TreeCluster:
        """Return cluster k, as the vocabulary has it."""
        return self.vocabulary.clusters[self.labels[k]]

    def free(self, node: int) -> int:
        """Return the free valence of a node of the graph."""
        return self.vocabulary.largest_sums[self.types[node]] - self.sums[node]

    def fixed(self, k: int) -> tuple[int, ...]:
        """Return the nodes of cluster k that it shares with other clusters, in ascending order.

        They are numbered as in the cluster of the vocabulary, not as in the graph.
        """
        return tuple(sorted({v for v, _ in self.attached[k]}))

    def open(self, k: int) -> list[int]:
        """Return the nodes of the graph to which a later cluster can still be attached.

        Clusters are added depth-first. After cluster k, only nodes of it and of its ancestors can
        get further edges. Those with free valence are returned, numbered as in the graph.
        """
        reachable: set[int] = set()
        while k >= 0:
            reachable.update(self.nodes[k])
            k = self.parents[k]
        return [v for v in reachable if self.free(v) > 0]

    def attachments(self, parent: int, label: int) -> list[tuple[Site, Site]]:
        """Return the ways to attach a cluster to one of the tree, numbered as in the vocabulary."""
        guest, free = self.vocabulary.clusters[label], tuple(map(self.free, self.nodes[parent]))
        # The minimum changes no result, and leaves fewer cases to cache.
        most = min(self.to_come, len(guest.types))
        return attachments(self.cluster(parent), guest, self.fixed(parent), free, most)

    def leads_on(self, parent: int, label: int, place: Site, site: Site) -> bool:
        """Return True if the graph can still grow after an attachment, or is complete with it.

        False means that the graph would end with too few nodes: no node to which a later cluster
        could be attached would have free valence (`open`).
        """
        guest, largest = self.vocabulary.clusters[label], self.vocabulary.largest_sums
        added = [v for v in range(len(guest.types)) if v not in site]
        if self.to_come == len(added):
            return True
        if any(guest.sums[v] < largest[guest.types[v]] for v in added):
            return True
        nodes = (self.nodes[parent][a] for a in place)
        taken = {v: guest.sums[b] - guest.shared(site) for v, b in zip(nodes, site, strict=True)}
        return any(self.free(v) > taken.get(v, 0) for v in self.open(parent))

    def add(self, label: int, parent: int = -1, place: Site = (), site: Site = ()) -> None:
        """Attach a cluster: the graph and the tree are changed in place.

        Sites are numbered as in the clusters of the vocabulary, as `attachments` returns them.
        """
        guest = self.vocabulary.clusters[label]
        self.remaining.append(self.to_come)
        # For each node of the guest, the node of the graph.
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


def rebuild(
    vocabulary: ClusterVocabulary, types: list[int], neighbours: Neighbours
) -> PartialGraph | None:
    """Build a given graph from the clusters of a vocabulary, and record the decisions.

    Training learns from it. None if the given graph is not connected, has an unknown cluster, or
    exceeds the largest sums of edge weights. Nodes are numbered in the order in which they were
    added.
    """
    tree = junction_tree(neighbours)
    if tree is None:
        return None
    graph = PartialGraph(vocabulary, len(types))
    # For each cluster, the nodes of the given graph in the order of the cluster, permuted by an
    # automorphism so that the chosen attachment is the representative of its class.
    order: list[Site] = []
    for cluster, parent in zip(*tree, strict=True):
        known = vocabulary.find(types, neighbours, cluster)
        if known is None:
            return None
        label, nodes = known
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
                tuple(v for _, v in sorted(zip(symmetry, before, strict=True)))
                for symmetry, before in zip(symmetries, (host, nodes), strict=True)
            )
        graph.add(label, parent, *wanted)
        order.append(nodes)
    return graph
