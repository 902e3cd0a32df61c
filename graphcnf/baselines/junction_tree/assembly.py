"""A graph as its junction tree and the way its clusters are put together, and back.

The code of a graph is, in depth-first order of the tree: the label of each cluster, whether a
cluster has another child, and for each child where it is attached. A graph that is being put
together (`Growing`) knows which attachments are possible; encoding puts a graph together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from graphcnf.baselines.junction_tree.clusters import Site, junction_tree
from graphcnf.baselines.junction_tree.vocabulary import Vocabulary
from graphcnf.graphs.batch import GraphBatch


@dataclass
class Growing:
    """A graph of clusters that are put together one by one.

    Attributes:
        vocabulary: Of the clusters.
        size: Number of nodes that the graph shall have.
        labels: Number of each cluster in the vocabulary.
        parents: Its parent, -1 for the first.
        nodes: Node of the graph for each node of the cluster.
        fixed: Nodes of the cluster that are shared with other clusters, ascending.
        attached: Pairs (node of the cluster, (label, node) of the other cluster) of what is there.
        types: Node categories of the graph.
        sums: Sums of edge weights of its nodes.
        edges: Category of each edge (i, j), i < j.
    """

    vocabulary: Vocabulary
    size: int
    labels: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    nodes: list[tuple[int, ...]] = field(default_factory=list)
    fixed: list[tuple[int, ...]] = field(default_factory=list)
    attached: list[list[tuple[int, tuple[int, int]]]] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)
    edges: dict[Site, int] = field(default_factory=dict)

    @property
    def remaining(self) -> int:
        """Nodes that are still to come."""
        return self.size - len(self.types)

    def open(self, cluster: int) -> list[int]:
        """Nodes of a cluster and of those above it that can take another edge."""
        found: set[int] = set()
        while cluster >= 0:
            found.update(self.nodes[cluster])
            cluster = self.parents[cluster]
        largest = self.vocabulary.largest_sums
        return [v for v in found if self.sums[v] < largest[self.types[v]]]

    def leads_on(self, parent: int, label: int, place: Site, site: Site) -> bool:
        """Return True if an attachment leaves a node for another edge, or no nodes are to come."""
        cluster, largest = self.vocabulary.clusters[label], self.vocabulary.largest_sums
        own = [v for v in range(len(cluster.types)) if v not in site]
        if self.remaining == len(own):
            return True
        if any(cluster.sums[v] < largest[cluster.types[v]] for v in own):
            return True
        taken = {self.nodes[parent][a]: cluster.sums[b] for a, b in zip(place, site, strict=True)}
        if len(site) == 2:
            shared = self.vocabulary.edge_weights[cluster.edges[site]]
            taken = {v: total - shared for v, total in taken.items()}
        return any(
            self.sums[v] + taken.get(v, 0) < largest[self.types[v]] for v in self.open(parent)
        )

    def attachments(self, parent: int, label: int) -> list[tuple[Site, Site]]:
        """Ways to attach a cluster `label` to the cluster number `parent`."""
        vocabulary, nodes = self.vocabulary, self.nodes[parent]
        free = tuple(vocabulary.largest_sums[self.types[v]] - self.sums[v] for v in nodes)
        # More than a cluster has makes no difference, and fewer cases are kept.
        most = min(self.remaining, len(vocabulary.clusters[label].types))
        return vocabulary.attachments(self.labels[parent], label, self.fixed[parent], free, most)

    def add(self, label: int, parent: int = -1, place: Site = (), site: Site = ()) -> None:
        """Add a cluster; nodes `place` of its parent become its nodes `site`."""
        cluster = self.vocabulary.clusters[label]
        known = dict(zip(site, (self.nodes[parent][v] for v in place), strict=True))
        nodes = []
        for v, kind in enumerate(cluster.types):
            if v not in known:
                known[v] = len(self.types)
                self.types.append(kind)
                self.sums.append(0)
            nodes.append(known[v])
        for (i, j), kind in cluster.edges.items():
            pair = known[i], known[j]
            if pair[0] < pair[1] and pair not in self.edges:
                self.edges[pair] = kind
                for v in pair:
                    self.sums[v] += self.vocabulary.edge_weights[kind]
        if parent >= 0:
            above = self.vocabulary.clusters[self.labels[parent]]
            self.fixed[parent] = tuple(sorted({*self.fixed[parent], *place}))
            for a, b in zip(place, site, strict=True):
                self.attached[parent].append((a, (label, cluster.orbit[b])))
        self.labels.append(label)
        self.parents.append(parent)
        self.nodes.append(tuple(nodes))
        self.fixed.append(tuple(sorted(site)))
        mine = [] if parent < 0 else [
            (b, (self.labels[parent], above.orbit[a])) for a, b in zip(place, site, strict=True)
        ]  # fmt: skip
        self.attached.append(mine)


@dataclass
class Choice:
    """One cluster to attach, and where.

    Attributes:
        child: Its number in the tree.
        options: What is possible, see `Vocabulary.attachments`.
        chosen: Which of them it is.
        attached: What the parent shared with others before.
    """

    child: int
    options: list[tuple[Site, Site]]
    chosen: int
    attached: list[tuple[int, tuple[int, int]]]


@dataclass
class TreeCode:
    """The code of a graph.

    Attributes:
        labels: Of the clusters in depth-first order.
        parents: See `JunctionTree`.
        remaining: Nodes still to come before each cluster.
        choices: Attachments of all clusters but the first.
        size: Number of nodes.
    """

    labels: list[int]
    parents: list[int]
    remaining: list[int]
    choices: list[Choice]
    size: int

    def turns(self) -> list[tuple[int, int, bool, int]]:
        """Return True where a cluster has a further child, in depth-first order while it is open.

        Returns:
            Rows (cluster, children before, whether there is one more, nodes to come). Of the first
            cluster, and where no nodes are to come, the answer is known and there is no row.
        """
        children: list[list[int]] = [[] for _ in self.labels]
        for child, parent in enumerate(self.parents):
            if parent >= 0:
                children[parent].append(child)
        # Nodes to come after a cluster and all below it: those before the next one in the order.
        after = [*self.remaining[1:], 0]
        last = list(range(len(self.labels)))
        for child in reversed(range(1, len(self.labels))):
            last[self.parents[child]] = max(last[self.parents[child]], last[child])
        rows = []
        for cluster, own in enumerate(children):
            if cluster == 0:
                continue
            left = after[cluster]
            for k, child in enumerate(own):
                if left:
                    rows.append((cluster, k, True, left))
                left = after[last[child]]
            if left:
                rows.append((cluster, len(own), False, left))
        return rows


def encode(vocabulary: Vocabulary, types, neighbours) -> TreeCode | None:
    """Return the code of a graph; None where it is in several pieces, or has an unknown cluster."""
    tree = junction_tree(neighbours)
    if tree is None:
        return None
    found = [vocabulary.find(types, neighbours, nodes) for nodes in tree.clusters]
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return None
    growing, choices, remaining = Growing(vocabulary, len(types)), [], []
    # Node of the given graph for each node of a cluster, by a symmetry for which what was chosen
    # is the one of its equivalents that is an option.
    order: list[tuple[int, ...]] = []
    for child, ((label, nodes), parent) in enumerate(zip(parts, tree.parents, strict=True)):
        remaining.append(growing.remaining)
        place: Site = ()
        site: Site = ()
        if parent >= 0:
            host = order[parent]
            cluster = vocabulary.clusters[label]
            pairs = [(host.index(v), k) for k, v in enumerate(nodes) if v in host]
            place, site = zip(*sorted(pairs), strict=True)
            above = growing.labels[parent]
            options = growing.attachments(parent, label)
            wanted = vocabulary.canonical(above, label, growing.fixed[parent], place, site)
            if wanted not in options:
                return None
            choices.append(
                Choice(child, options, options.index(wanted), list(growing.attached[parent]))
            )
            order[parent], nodes = _renumbered(
                vocabulary, above, cluster, growing.fixed[parent], host, nodes, wanted
            )
            place, site = wanted
        growing.add(label, parent, place, site)
        order.append(tuple(nodes))
    labels = [p[0] for p in parts]
    return TreeCode(labels, tree.parents, remaining, choices, len(types))


def _renumbered(vocabulary, above, cluster, fixed, host, nodes, wanted):
    """Nodes of parent and child in the numbering in which the attachment is the wanted one."""
    parent = vocabulary.clusters[above]
    place, site = wanted
    for s in parent.symmetries:
        if any(s[v] != v for v in fixed):
            continue
        moved = [0] * len(host)
        for v, w in enumerate(s):
            moved[w] = host[v]
        for t in cluster.symmetries:
            own = [0] * len(nodes)
            for v, w in enumerate(t):
                own[w] = nodes[v]
            if all(moved[a] == own[b] for a, b in zip(place, site, strict=True)):
                return tuple(moved), tuple(own)
    raise AssertionError("an option that no symmetry leads to")


def batch_of(graphs: list[Growing], most: int) -> GraphBatch:
    """Return a batch of graphs, padded to `most` nodes."""
    mask = np.zeros((len(graphs), most), dtype=bool)
    types = np.zeros((len(graphs), most), dtype=np.int64)
    bonds = np.zeros((len(graphs), most, most), dtype=np.int64)
    for k, graph in enumerate(graphs):
        n = len(graph.types)
        mask[k, :n], types[k, :n] = True, graph.types
        for (i, j), kind in graph.edges.items():
            bonds[k, i, j] = bonds[k, j, i] = kind + 1
    return GraphBatch(*(torch.from_numpy(a) for a in (types, bonds, mask)))
