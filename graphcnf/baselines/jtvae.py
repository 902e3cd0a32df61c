"""JT-VAE: a variational autoencoder of a graph's tree of clusters, and of their attachments.

There are two latent vectors, for the tree and for the graph (Jin, Barzilay & Jaakkola, ICML 2018,
arXiv 1802.04364). The bound is one on log p(tree, attachments | number of nodes) of the depth-first
code from node 0, itself a lower bound on log p(graph | number of nodes). If nothing can be added to
a tree, the drawn graph is smaller: the probabilities of a size may sum to slightly less than 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.baselines.junction_tree import ClusterVocabulary, PartialGraph, encode, neighbours_of
from graphcnf.baselines.rvae import Gaussian, GraphEncoder, GraphVAE
from graphcnf.categorical.flow import Bound
from graphcnf.flows.transform import log_term_dtype
from graphcnf.graphs.batch import GraphBatch, Latents, PackedGraphs
from graphcnf.graphs.model import graph_model
from graphcnf.graphs.path.support import Support, limit_note

NEVER = 10_000  # larger than any number of nodes or sum of weights: a cluster cannot be attached
TRIES = 20  # number of labels that are tried, from the most probable, until one can be attached
# Bias of initial posteriors, for standard deviations near exp(-4.7): at first, noise must not hide
# the information in the latents from the decoder.
FIRST_SPREAD = -3.0


def _long(values, device, *shape: int) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64).reshape(-1, *shape), device=device)


def _sum_by(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """Sum the rows of `values` (M, C) with the same owner; return (count, C)."""
    return values.new_zeros(count, values.shape[-1]).index_add(0, owner, values)


class TreeBatch:
    """Batch of junction trees with M clusters in all.

    `label`, `graph`, `parent` (index of the cluster, -1 for none) and `remaining` (nodes to come)
    are (M,) each; `levels` lists the indices of the clusters at each depth, from 0 on.
    """

    def __init__(self, codes: Sequence[PartialGraph], device):
        rows: list[tuple[int, int, int, int]] = []
        depth, siblings, turns = [], [], []
        children: dict[int, list[int]] = defaultdict(list)
        for graph, code in enumerate(codes):
            first = len(rows)
            path = [first]
            each = zip(code.labels, code.parents, code.remaining, strict=True)
            for place, (label, parent, remaining) in enumerate(each, first):
                above = first + parent if parent >= 0 else -1
                if above >= 0:
                    while path[-1] != above:
                        turns.append((path.pop(), -1, remaining))
                    if above > first:
                        turns.append((above, place, remaining))
                    siblings += [(place, other) for other in children[above]]
                    children[above].append(place)
                    path.append(place)
                depth.append(len(path) - 1)
                rows.append((label, graph, above, remaining))
        levels = [np.flatnonzero(np.array(depth) == d) for d in range(max(depth) + 1)]
        self.levels = [_long(level, device) for level in levels]
        self.label, self.graph, self.parent, self.remaining = _long(rows, device, 4).unbind(1)
        # Rows (cluster, earlier child of the same parent).
        self.siblings = _long(siblings, device, 2)
        # Decisions, rows (cluster, its next child or -1 for none, nodes to come). Those of first
        # clusters, and those without nodes to come, are certain and left out.
        self.turns = _long(turns, device, 3)


class Sites:
    """Batch of E choices between attachments, with O options in all.

    `choices` are rows (graph, row of the child in a batch of messages, label of the parent, label
    of the child, *`PartialGraph.choices`).

    Attributes:
        graph, child, parent, chosen: Entries of each choice, (E,).
        first: Index in `option` of the first option of each choice, (E,).
        shared: Rows (choice, node of the parent, label of another cluster that shares it, node of
            that cluster), (S, 4).
        option: Rows (choice, two nodes of the parent, label of the child, two nodes of the child),
            (O, 6). If only one node is shared, it is repeated.
    """

    def __init__(self, choices: Sequence[tuple], device):
        rows, shared = [], []
        option: list[tuple[int, ...]] = []
        for number, (graph, child, parent, label, options, chosen, attached) in enumerate(choices):
            rows.append((graph, child, parent, len(option), chosen))
            shared += [(number, v, *other) for v, other in attached]
            option += [(number, a[0], a[-1], label, b[0], b[-1]) for a, b in options]
        columns = _long(rows, device, 5).unbind(1)
        self.graph, self.child, self.parent, self.first, self.chosen = columns
        self.shared, self.option = _long(shared, device, 4), _long(option, device, 6)


class TreeGRU(nn.Module):
    """Gated messages along the edges of a tree.

    With x, the embedding of the cluster that sends, and h_k, its messages from other clusters:
    s = sum_k h_k, g = sum_k sigmoid(W_r x + U_r h_k) h_k, z = sigmoid(W_z (x, s)),
    m = (1 - z) s + z tanh(W (x, g)). Jin et al. 2018, eqs. 4 to 8.
    """

    def __init__(self, width: int):
        super().__init__()
        self.update = nn.Linear(2 * width, width)
        self.content = nn.Linear(2 * width, width)
        self.reset_x = nn.Linear(width, width)
        self.reset_h = nn.Linear(width, width, bias=False)

    def gated(self, x: Tensor, message: Tensor) -> Tensor:
        """Return messages (M, C) times the reset gates of their receivers x (M, C)."""
        gate = torch.sigmoid(self.reset_x(x) + self.reset_h(message))
        return (gate * message).to(message.dtype)

    def combined(self, x: Tensor, total: Tensor, gated: Tensor) -> Tensor:
        """Return the messages (M, C) of clusters x, from the sums s and g of received messages."""
        z = torch.sigmoid(self.update(torch.cat([x, total], -1)))
        new = torch.tanh(self.content(torch.cat([x, gated], -1)))
        return ((1 - z) * total + z * new).to(total.dtype)

    def upward(self, x: Tensor, trees: TreeBatch) -> Tensor:
        """Return the messages (M, C) of all clusters to their parents, computed from the leaves."""
        up, total, gated = (torch.zeros_like(x) for _ in range(3))
        for level in reversed(trees.levels):
            message = self.combined(x[level], total[level], gated[level])
            up = up.index_copy(0, level, message)
            if level is not trees.levels[0]:
                parent = trees.parent[level]
                total = total.index_add(0, parent, message)
                gated = gated.index_add(0, parent, self.gated(x[parent], message))
        return up

    def downward(self, x: Tensor, up: Tensor, trees: TreeBatch) -> Tensor:
        """Return the messages (M, C) to all clusters from their parents; 0 to first clusters.

        The message to a child depends on those from the parent's parent and from earlier children.
        """
        down = torch.zeros_like(x)
        child, earlier = trees.siblings.unbind(1)
        total = _sum_by(up[earlier], child, len(x))
        gated = _sum_by(self.gated(x[trees.parent[child]], up[earlier]), child, len(x))
        for level in trees.levels[1:]:
            parent = trees.parent[level]
            here, above = x[parent], down[parent]
            heard = above + total[level], self.gated(here, above) + gated[level]
            down = down.index_copy(0, level, self.combined(here, *heard))
        return down


class Attachments(nn.Module):
    """Network of the ways to attach a cluster: their features and log-probabilities.

    To compute the features of an option, messages run along the edges of the parent cluster, whose
    nodes have embeddings of the clusters that share them, the new one included. The score of an
    option is a linear map of its features plus their product with the latents. The posterior of the
    latents sees the sum of the features of all chosen options, so the product can tell whether an
    option was chosen.
    """

    size: Tensor  # nodes of each cluster, (V,)
    node: Tensor  # number of each node in the vocabulary, equal for equivalent nodes, (V, A)
    bonds: Tensor  # edge categories plus 1, 0 for no edge, (V, A, A)
    adds: Tensor  # least number of nodes that cluster j adds when attached to cluster i, (V, V)

    def __init__(
        self,
        vocabulary: ClusterVocabulary,
        node_categories: int,
        bond_categories: int,
        latent_dim: int,
        node_width: int,
        width: int,
        layers: int,
    ):
        super().__init__()
        self._measure(vocabulary, node_categories)
        nodes = int(self.size.sum())
        self.encoder = GraphEncoder(nodes, bond_categories, None, node_width, layers)
        self.shared = nn.Embedding(nodes, node_width)
        self.child = nn.Embedding(nodes, node_width)
        self.option = nn.Sequential(nn.LayerNorm(2 * node_width), nn.Linear(2 * node_width, width))
        self.of_message = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(latent_dim, width)
        self.value = nn.Linear(width, width)

    def _measure(self, vocabulary: ClusterVocabulary, node_categories: int) -> None:
        clusters, largest = vocabulary.clusters, vocabulary.largest_sums
        size = np.array([len(c.types) for c in clusters])
        node = np.zeros((len(clusters), size.max()), dtype=np.int64)
        bonds = np.zeros((len(clusters), size.max(), size.max()), dtype=np.int64)
        # By cluster and node category: most free valence, and least sum of edge weights.
        takes = np.full((len(clusters), node_categories), -1)
        needs = np.full((len(clusters), node_categories), NEVER)
        ends: dict[tuple[int, int, int], int] = {}
        edges = []
        for k, (cluster, start) in enumerate(zip(clusters, size.cumsum() - size, strict=True)):
            for v, t in enumerate(cluster.types):
                node[k, v] = start + cluster.alike[v]
                takes[k, t] = max(takes[k, t], largest[t] - cluster.sums[v])
                needs[k, t] = min(needs[k, t], cluster.sums[v])
            for (i, j), category in cluster.edges.items():
                bonds[k, i, j] = category + 1
                if size[k] > 2:
                    end = cluster.types[i], category, cluster.types[j]
                    edges.append((k, ends.setdefault(end, len(ends))))
        has = np.zeros((len(clusters), len(ends)), dtype=np.float32)
        has[tuple(np.array(edges, dtype=np.int64).reshape(-1, 2).T)] = 1
        by_node = (needs[None] <= takes[:, None]).any(-1)
        by_node &= (size[:, None] > 1) | (size[None] > 1)
        adds = np.where(has @ has.T > 0, size - 2, np.where(by_node, size - 1, NEVER))
        for name, table in (("size", size), ("node", node), ("bonds", bonds), ("adds", adds)):
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def features(self, sites: Sites, down: Tensor) -> Tensor:
        """Return the features (O, C) of all options, given messages `down` (M, C) to children."""
        choice, a, b, label, c, d = sites.option.unbind(1)
        count, size = len(sites.parent), int(self.size[sites.parent].amax()) if len(choice) else 1
        owner, node, other, part = sites.shared.unbind(1)
        shared = self.shared(self.node[other, part])
        known = _sum_by(shared, owner * size + node, count * size).unflatten(0, (count, size))
        there = sites.parent[choice]
        nodes = self.node[there, :size]
        mask = torch.arange(size, device=nodes.device) < self.size[there][:, None]
        number = torch.arange(len(choice), device=nodes.device)
        known = known[choice].flatten(0, 1)
        for v, w in ((a, c), (b, d)):
            known = known.index_add(0, number * size + v, self.child(self.node[label, w]))
        bonds = self.bonds[there, :size, :size]
        h = self.encoder(nodes, bonds, mask, known.unflatten(0, nodes.shape))
        pooled = h.sum(1) / self.size[there][:, None].sqrt()
        both = torch.cat([pooled, h[number, a] + h[number, b]], -1)
        return F.gelu(self.option(both) + self.of_message(down[sites.child])[choice])

    def log_probs(self, features: Tensor, sites: Sites, z: Tensor) -> Tensor:
        """Return log-probabilities (E, most options) of the options of each choice, given z (E, D).

        Entries beyond the number of options are -inf.
        """
        choice = sites.option[:, 0]
        match = (self.key(features) * self.query(z)[choice]).mean(-1)
        score = self.score(features)[..., 0] + match * features.shape[-1] ** 0.5
        column = torch.arange(len(choice), device=choice.device) - sites.first[choice]
        most = int(column.amax()) + 1 if len(column) else 1
        table = score.new_full((len(z), most), -torch.inf, dtype=log_term_dtype(score))
        table[choice, column] = score.to(table.dtype)
        return table.log_softmax(1)


class TreeDecoder:
    """Depth-first decoder of graphs of given `sizes` from latents (B, D), by probable decisions."""

    def __init__(self, model: JunctionTreeVAE, sizes: list[int], z_tree: Tensor, z_graph: Tensor):
        self.model, self.z_tree, self.z_graph = model, z_tree, z_graph
        self.graphs = [PartialGraph(model.vocabulary, size) for size in sizes]
        # At most: a tree with only edges, and single nodes between them, as clusters.
        shape = (len(sizes), 2 * max(sizes) + 1, model.label.weight.shape[1])
        self.x, self.down, self.up, self.up_gated = (z_tree.new_zeros(shape) for _ in range(4))
        self.current = [-1] * len(sizes)

    def run(self) -> list[PartialGraph]:
        """Return the decoded graphs."""
        rows = list(range(len(self.graphs)))
        for b, label in enumerate(self._label_logits(rows, self.down[:, 0]).argmax(1).tolist()):
            self.graphs[b].add(label)
        self._enter(rows)
        while rows:
            rows = self._step(rows)
        return self.graphs

    def _to_come(self, rows: list[int]) -> Tensor:
        return _long([self.graphs[b].to_come for b in rows], self.x.device)

    def _label_logits(self, rows: list[int], down: Tensor) -> Tensor:
        labels = _long([[*self.graphs[b].labels, -1][self.current[b]] for b in rows], down.device)
        return self.model.label_logits(down, self.z_tree[rows], self._to_come(rows), labels)

    def _enter(self, rows: list[int]) -> None:
        """Make the cluster that was just added the current one."""
        for b in rows:
            self.current[b] = len(self.graphs[b].labels) - 1
        labels = _long([self.graphs[b].labels[-1] for b in rows], self.x.device)
        self.x[rows, [self.current[b] for b in rows]] = self.model.label(labels)

    def _step(self, rows: list[int]) -> list[int]:
        """Add a child or close the cluster in each graph; return those that go on."""
        messages, here = self.model.messages, [self.current[b] for b in rows]
        x, down, up = (state[rows, here] for state in (self.x, self.down, self.up))
        logit = self.model.turn_logits(x, down + up, self.z_tree[rows], self._to_come(rows))
        growing = []
        for row, (b, k, want) in enumerate(zip(rows, here, (logit > 0).tolist(), strict=True)):
            graph = self.graphs[b]
            # The first cluster is not closed before there are enough nodes, another one not unless
            # something can be attached to the clusters above it.
            more = want or k == 0 or not graph.open(graph.parents[k])
            if more and graph.to_come > 0 and len(graph.labels) <= 2 * graph.size:
                growing.append(row)
        gated = messages.gated(x, down) + self.up_gated[rows, here]
        message = messages.combined(x[growing], (down + up)[growing], gated[growing])
        grown = self._grow([rows[row] for row in growing], message)
        closing = [row for row, b in enumerate(rows) if b not in grown and here[row] > 0]
        gated = self.up_gated[rows, here]
        message = messages.combined(x[closing], up[closing], gated[closing])
        closed = [rows[row] for row in closing]
        for b in closed:
            self.current[b] = self.graphs[b].parents[self.current[b]]
        parents = [self.current[b] for b in closed]
        self.up[closed, parents] += message
        self.up_gated[closed, parents] += messages.gated(self.x[closed, parents], message)
        return [b for row, b in enumerate(rows) if b in grown or here[row] > 0]

    def _grow(self, rows: list[int], down: Tensor) -> set[int]:
        """Add a child to the current clusters of some graphs; return the graphs where one fits."""
        logits = self._label_logits(rows, down)
        values, labels = logits.topk(min(TRIES, logits.shape[1]), dim=1)
        grown, several = {}, []
        for row, b in enumerate(rows):
            graph, parent = self.graphs[b], self.current[b]
            for label in labels[row, values[row] > -torch.inf].tolist():
                options = graph.attachments(parent, label)
                options = [one for one in options if graph.leads_on(parent, label, *one)]
                if options:
                    grown[b] = row, label, options
                    break
            if b in grown and len(options) > 1:
                attached = graph.attached[parent]
                several.append((b, row, graph.labels[parent], label, options, 0, attached))
        sites, attachments = Sites(several, down.device), self.model.attachments
        features = attachments.features(sites, down)
        best = attachments.log_probs(features, sites, self.z_graph[sites.graph]).argmax(1)
        chosen = dict(zip((b for b, *_ in several), best.tolist(), strict=True))
        for b, (_, label, options) in grown.items():
            self.graphs[b].add(label, self.current[b], *options[chosen.get(b, 0)])
        added = list(grown)
        self._enter(added)
        self.down[added, [self.current[b] for b in added]] = down[[r for r, *_ in grown.values()]]
        return set(grown)


class Reading(NamedTuple):
    """Inputs of the networks from a batch of graphs, which do not depend on the latents.

    They are the trees, embedded labels `x`, messages `up` to and `down` from parents, (M, C) each,
    choices between attachments, and `features` (O, C) of their options.
    """

    trees: TreeBatch
    x: Tensor
    up: Tensor
    down: Tensor
    sites: Sites
    features: Tensor


@graph_model("jtvae")
class JunctionTreeVAE(GraphVAE):
    """Variational autoencoder of graphs through their junction trees.

    Args:
        edge_weights: Weight of each edge category (bond orders).
        clusters: Rows of the `ClusterVocabulary`.
        largest_sums: Largest sum of edge weights of each node category; None for no limit.
        tree_dim: Channels of the latents of the tree.
        graph_dim: Channels of the latents of the graph.
        width: Channels of clusters and messages.
        node_width: Channels of nodes.
        layers: Rounds of messages along edges.
        kl_free: Number of training molecules before the KL divergence from the prior counts.
        kl_weight: Weight of the KL divergence after that. If it is large, latents collapse.
    """

    measured = ("edge_weights", "clusters", "largest_sums")
    rules = {"largest_sums": None}
    unknown = "in several pieces, or a ring or branch that the training data do not have"

    seen: Tensor

    def __init__(
        self,
        *,
        node_categories: int,
        bond_categories: int,
        max_nodes: int,
        edge_weights: list[int],
        clusters: list[list[list[int]]],
        largest_sums: list[int] | None = None,
        tree_dim: int = 28,
        graph_dim: int = 28,
        width: int = 160,
        node_width: int = 64,
        layers: int = 3,
        kl_free: int = 50_000,
        kl_weight: float = 0.005,
    ):
        super().__init__()
        self.dims = {"tree": tree_dim, "graph": graph_dim}
        self.kl_free, self.kl_weight = kl_free, kl_weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        sums = [NEVER] * node_categories if largest_sums is None else largest_sums
        self.vocabulary = ClusterVocabulary(clusters, edge_weights, sums)
        self.root_label = nn.Embedding(len(clusters), width)
        self.root_messages = TreeGRU(width)
        # The posterior of the tree also sees a sum over clusters and messages from their parents.
        self.cluster = nn.Embedding(len(clusters), width)
        self.heard = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.tree_posterior = _posterior(2 * width, tree_dim)
        self.graph_posterior = _posterior(width, graph_dim)
        # Decisions of a tree: another child or none, and the label of a child.
        self.label = nn.Embedding(len(clusters), width)
        self.messages = TreeGRU(width)
        self.remaining = nn.Embedding(max_nodes + 1, 2 * width)
        nn.init.normal_(self.remaining.weight, std=0.1)
        self.of_latents = nn.Linear(tree_dim, 4 * width)
        self.of_turn = nn.Linear(2 * width, width)
        self.of_label = nn.Linear(width, width)
        self.turn = nn.Linear(width, 1)
        self.labels = nn.Linear(width, len(clusters))
        categories = node_categories, bond_categories
        self.attachments = Attachments(
            self.vocabulary, *categories, graph_dim, node_width, width, layers
        )

    @staticmethod
    def measure(graphs: PackedGraphs, *, support: bool = True, **options) -> dict:
        """Return the vocabulary of a set of graphs, and its `Support.limits`."""
        limits = Support.limits(graphs, **options)
        weights, sums = limits["edge_weights"], limits["largest_sums"]
        assert weights is not None and sums is not None
        limits |= {} if support else {"largest_sums": None}
        return {**limits, "clusters": ClusterVocabulary.measure(graphs, weights, sums)}

    def notes(self, rules: bool) -> list[str]:
        return [limit_note(rules)]

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return True for graphs whose clusters are all in the vocabulary, (B,) bool."""
        known = [encode(self.vocabulary, *graph) is not None for graph in neighbours_of(batch)]
        return torch.tensor(known, dtype=torch.bool, device=batch.mask.device)

    def _read(self, batch: GraphBatch) -> Reading:
        codes = [encode(self.vocabulary, *graph) for graph in neighbours_of(batch)]
        known = [code for code in codes if code is not None]
        if len(known) < len(codes):
            raise ValueError(f"graph {codes.index(None)} is {self.unknown}")
        trees = TreeBatch(known, batch.mask.device)
        x, gru = self.label(trees.label), self.messages
        up = gru.upward(x, trees)
        down = gru.downward(x, up, trees)
        rows, first = [], 0
        for graph, code in enumerate(known):
            for child, choice in enumerate(code.choices, 1):
                if len(choice[0]) > 1:
                    above = code.labels[code.parents[child]]
                    rows.append((graph, first + child, above, code.labels[child], *choice))
            first += len(code.labels)
        sites = Sites(rows, x.device)
        features = self.attachments.features(sites, down)
        return Reading(trees, x, up, down, sites, features)

    def _posteriors(self, reading: Reading) -> dict[str, Gaussian]:
        trees, sites = reading.trees, reading.sites
        count = len(trees.levels[0])
        roots = self.root_messages.upward(self.root_label(trees.label), trees)[trees.levels[0]]
        h = F.gelu(self.cluster(trees.label) + self.heard(reading.down))
        clusters = _sum_by(self.value(h), trees.graph, count)
        taken = self.attachments.value(reading.features[sites.first + sites.chosen])
        chosen = _sum_by(taken, sites.graph, count)
        return {
            "tree": Gaussian(self.tree_posterior(torch.cat([roots, clusters], -1))),
            "graph": Gaussian(self.graph_posterior(chosen)),
        }

    def estimate(self, batch: GraphBatch) -> dict[str, Bound]:
        """Draw the bound; in training mode, the KL divergence is weighted.

        The weight is 0 for the first `kl_free` molecules, then `kl_weight`. The metrics `bits_*` of
        training include the weighted divergence.
        """
        if not self.training:
            return self.bounds(batch)
        weight = 0.0 if self.seen < self.kl_free else self.kl_weight
        self.seen += len(batch)
        return self.bounds(batch, weight=weight)

    def _likelihood(self, reading: Reading, z: Latents) -> dict[str, Bound]:
        trees, sites, up = reading.trees, reading.sites, reading.up
        count = len(trees.levels[0])
        child, earlier = trees.siblings.unbind(1)
        below = (trees.parent >= 0).nonzero()[:, 0]
        cluster, following, left = trees.turns.unbind(1)
        more, owner = following >= 0, trees.graph[cluster]
        # Before its next child a cluster has messages from earlier children, in the end from all.
        before = _sum_by(up[earlier], child, len(up))[following]
        after = _sum_by(up[below], trees.parent[below], len(up))[cluster]
        heard = reading.down[cluster] + torch.where(more[:, None], before, after)
        logit = self.turn_logits(reading.x[cluster], heard, z["tree"][owner], left)
        logit = logit.to(log_term_dtype(logit))
        log_p = F.logsigmoid(torch.where(more, logit, -logit))
        turns = _summed(log_p, (logit > 0) == more, owner, count)

        above = torch.where(trees.parent >= 0, trees.label[trees.parent], -1)
        logits = self.label_logits(reading.down, z["tree"][trees.graph], trees.remaining, above)
        own = logits.log_softmax(-1).gather(1, trees.label[:, None])[:, 0]
        labels = _summed(own, logits.argmax(-1) == trees.label, trees.graph, count)

        table = self.attachments.log_probs(reading.features, sites, z["graph"][sites.graph])
        own = table.gather(1, sites.chosen[:, None])[:, 0]
        attachments = _summed(own, own >= table.amax(1), sites.graph, count)
        return {"turns": turns, "labels": labels, "attachments": attachments}

    def _scaled(self, h: Tensor, z: Tensor, remaining: Tensor, part: int) -> Tensor:
        """Return features h, scaled and shifted by latents and the numbers of nodes to come."""
        scale, shift = self.of_latents(z).chunk(2, -1)[part].chunk(2, -1)
        return F.relu((1 + scale) * h + shift + self.remaining(remaining).chunk(2, -1)[part])

    def turn_logits(self, x: Tensor, heard: Tensor, z: Tensor, remaining: Tensor) -> Tensor:
        """Return logits (R,) of another child, given sums `heard` (R, C) of messages."""
        h = self.of_turn(torch.cat([x, heard], -1))
        return self.turn(self._scaled(h, z, remaining, 0))[..., 0]

    def label_logits(self, down: Tensor, z: Tensor, remaining: Tensor, parent: Tensor) -> Tensor:
        """Return logits (M, V) of labels; -inf for clusters that do not fit the parent or the size.

        `parent` (M,) is the label of the parent, -1 for a first cluster.
        """
        logits = self.labels(self._scaled(self.of_label(down), z, remaining, 1))
        tables = self.attachments
        adds = torch.where((parent >= 0)[:, None], tables.adds[parent], tables.size)
        return logits.to(log_term_dtype(logits)).masked_fill(adds > remaining[:, None], -torch.inf)

    @torch.no_grad()
    def decode(
        self, latents: Latents, mask: Tensor, *, temperature=1.0, generator=None
    ) -> GraphBatch:
        """Decode latents, multiplied by `temperature`, by the most probable decisions.

        Nodes are numbered as they are added, not as in an encoded graph.
        """
        z_tree, z_graph = (temperature * latents[name] for name in self.dims)
        sizes = mask.sum(1).tolist()
        graphs = TreeDecoder(self, sizes, z_tree, z_graph).run()
        rows = [(g.types, list(g.edges), list(g.edges.values())) for g in graphs]
        batch = GraphBatch.collate(PackedGraphs.from_lists(rows))
        pad = mask.shape[1] - batch.mask.shape[1]
        parts = F.pad(batch.node_types, (0, pad)), F.pad(batch.bonds, (0, pad, 0, pad))
        return GraphBatch(*parts, F.pad(batch.mask, (0, pad))).to(mask.device)


def _posterior(width: int, dim: int) -> nn.Sequential:
    """Build a network of means and log standard deviations of `dim` latents."""
    network = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * dim))
    nn.init.constant_(network[-1].get_parameter("bias")[dim:], FIRST_SPREAD)
    return network


def _summed(log_p: Tensor, right: Tensor, graph: Tensor, count: int) -> Bound:
    """Return a bound by graph: log p summed over its decisions, and the share of right ones."""
    both = torch.stack([log_p, right.to(log_p), torch.ones_like(log_p)], 1)
    total, correct, number = _sum_by(both, graph, count).unbind(1)
    zero = torch.zeros_like(total)
    return Bound(zero, total, zero, torch.where(number > 0, correct / number.clamp(min=1), 1.0))
