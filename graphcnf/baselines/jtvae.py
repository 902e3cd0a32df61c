"""JT-VAE: a variational autoencoder that draws a graph as a tree of clusters.

Jin, Barzilay & Jaakkola, *Junction Tree Variational Autoencoder for Molecular Graph Generation*,
ICML 2018, arXiv 1802.04364. The model is here for comparison. *Cluster*, *junction tree*, *parent*,
*label*, *site* and to *attach* are defined in `graphcnf.baselines.junction_tree`.

- *Options* are the possible ways to attach a child: pairs (site of the parent, site of the child).
  A *choice* is the decision for one of them.
- A *turn* is the decision, at a cluster, to add another child or to go back to the parent.
- *Messages* are vectors that run along the edges of the tree, up to parents and down to children. A
  message to a cluster summarises the part of the tree behind it.
- The number of nodes *to come* (`remaining`) is the size of the whole graph less the nodes that it
  has so far.

A graph is decoded from two latent vectors, "tree" for turns and labels, "graph" for the choices.
Decoding is depth-first: the label of the first cluster; then at each cluster a turn; for a new
child its label and, where there are several options, a choice.

The bound is one on log p(tree, attachments | number of nodes) of the tree from node 0, itself a
lower bound on log p(graph | number of nodes). If nothing can be added to a tree, the drawn graph is
smaller: the probabilities of a size may sum to slightly less than 1.

Shapes: B graphs, C channels of clusters and messages (`width`), V clusters in the vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.baselines.junction_tree import (
    ClusterVocabulary,
    PartialGraph,
    Site,
    neighbours_of,
    rebuild,
)
from graphcnf.baselines.rvae import Gaussian, GraphEncoder, GraphVAE
from graphcnf.categorical.categorical_flow import Bound
from graphcnf.flows.transform import Generators, log_term_dtype
from graphcnf.graphs.batch import GraphBatch, Latents, PackedGraphs
from graphcnf.graphs.graph_model import Loss, likelihood_loss
from graphcnf.graphs.path.data_rules import measured_sums
from graphcnf.pretrained import keep_arguments

NEVER = 10_000  # larger than any number of nodes or sum of weights: a cluster cannot be attached
TRIES = 20  # number of labels that are tried, from the most probable, until one can be attached
# Bias of initial posteriors, for standard deviations near exp(-4.7): at first, noise must not hide
# the information in the latents from the decoder.
FIRST_SPREAD = -3.0


def _long(values: Any, device: torch.device, *shape: int) -> Tensor:
    """Return rows of integers as a long tensor."""
    return torch.as_tensor(np.asarray(values, dtype=np.int64).reshape(-1, *shape), device=device)


def _sum_by(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """Add up the rows that belong to the same owner."""
    return values.new_zeros(count, values.shape[-1]).index_add(0, owner, values)


class TreeBatch:
    """Batch of junction trees as tensors; their M clusters in all are numbered 0 to M - 1.

    Attributes:
        label: Label of each cluster, (M,) long.
        graph: Number of the graph to which each cluster belongs, (M,) long.
        parent: Number of the parent of each cluster, -1 for a first cluster, (M,) long.
        remaining: Number of nodes that the graph still lacked before each cluster was added, (M,)
            long.
        levels: For each depth from 0 on, the numbers of the clusters at that depth, long.
        siblings: Pairs of a cluster and an earlier child of the same parent, (S, 2) long.
        turns: The decisions to add another child to a cluster or to go back to its parent, (T, 3)
            long: the cluster; the child that is added, or -1 for going back; and the number of
            nodes that the graph still lacks. Those at a first cluster, and those in a graph that
            lacks no nodes, have only one outcome and are left out.
    """

    def __init__(self, graphs: Sequence[PartialGraph], device):
        rows: list[tuple[int, int, int, int]] = []
        depth, siblings, turns = [], [], []
        children: dict[int, list[int]] = defaultdict(list)
        for graph, built in enumerate(graphs):
            first = len(rows)
            path = [first]
            each = zip(built.labels, built.parents, built.remaining, strict=True)
            for number, (label, parent, remaining) in enumerate(each, first):
                above = first + parent if parent >= 0 else -1
                if above >= 0:
                    while path[-1] != above:
                        turns.append((path.pop(), -1, remaining))
                    if above > first:
                        turns.append((above, number, remaining))
                    siblings += [(number, other) for other in children[above]]
                    children[above].append(number)
                    path.append(number)
                depth.append(len(path) - 1)
                rows.append((label, graph, above, remaining))
        levels = [np.flatnonzero(np.array(depth) == d) for d in range(max(depth) + 1)]
        self.levels = [_long(level, device) for level in levels]
        self.label, self.graph, self.parent, self.remaining = _long(rows, device, 4).unbind(1)
        self.siblings = _long(siblings, device, 2)
        self.turns = _long(turns, device, 3)


class Choice(NamedTuple):
    """One decision how a child is attached to its parent, among several options.

    Attributes:
        options: The possible attachments, pairs (site of the parent, site of the child).
        chosen: Index in `options` of the chosen one.
        shared: What the parent shares with other clusters. An entry (v, (label, w)) says that node
            v of the parent is node w of a cluster with that label.
    """

    graph: int
    child: int
    parent: int
    label: int
    options: list[tuple[Site, Site]]
    chosen: int
    shared: list[tuple[int, tuple[int, int]]]


class ChoiceBatch:
    """Batch of E choices as tensors, with O options in all.

    Attributes:
        graph: Number of the graph of each choice, (E,) long; likewise `child`, `parent`, `chosen`.
        first: Index in `option` of the first option of each choice, (E,) long.
        shared: Nodes of parents that other clusters share, (S, 4) long. A row has the number of the
            choice, the node of the parent, the label of the other cluster, and the node of that
            cluster.
        option: All options, those of choice 0 first, (O, 6) long. A row has the number of the
            choice, two nodes of the parent, the label of the child, and two nodes of the child. A
            site of a single node is written as that node twice.
    """

    def __init__(self, choices: Sequence[Choice], device: torch.device):
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
    """Gated messages along the edges of a tree, of C = `width` channels.

    The message m that a cluster sends depends on its embedding x and on the messages h_k that it
    has received from the clusters other than the receiver:
    s = sum_k h_k, g = sum_k sigmoid(W_r x + U_r h_k) h_k, z = sigmoid(W_z (x, s)), m = (1 - z) s +
    z tanh(W (x, g)). Jin et al. 2018, eqs. 4 to 8.
    """

    def __init__(self, width: int):
        super().__init__()
        self.update = nn.Linear(2 * width, width)
        self.content = nn.Linear(2 * width, width)
        self.reset_x = nn.Linear(width, width)
        self.reset_h = nn.Linear(width, width, bias=False)

    def gated(self, x: Tensor, message: Tensor) -> Tensor:
        """Multiply messages by the reset gates of their receivers: the terms of g."""
        gate = torch.sigmoid(self.reset_x(x) + self.reset_h(message))
        return (gate * message).to(message.dtype)

    def combined(self, x: Tensor, total: Tensor, gated: Tensor) -> Tensor:
        """Compute the message m of each cluster from s (`total`) and g (`gated`), (M, C)."""
        z = torch.sigmoid(self.update(torch.cat([x, total], -1)))
        new = torch.tanh(self.content(torch.cat([x, gated], -1)))
        return ((1 - z) * total + z * new).to(total.dtype)

    def upward(self, x: Tensor, trees: TreeBatch) -> Tensor:
        """Compute the messages (M, C) of all clusters to their parents, from the leaves upwards.

        That of a first cluster, which has no parent, summarises its whole tree.
        """
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
        """Compute the messages (M, C) to all clusters from their parents; 0 for first ones.

        The message to a child depends on the messages that its parent has received from above and
        from earlier children. That is what is known when the child is drawn.
        """
        down = torch.zeros_like(x)
        child, earlier = trees.siblings.unbind(1)
        total = _sum_by(up[earlier], child, len(x))
        gated = _sum_by(self.gated(x[trees.parent[child]], up[earlier]), child, len(x))
        for level in trees.levels[1:]:
            parent = trees.parent[level]
            sender, above = x[parent], down[parent]
            received = above + total[level], self.gated(sender, above) + gated[level]
            down = down.index_copy(0, level, self.combined(sender, *received))
        return down


class Attachments(nn.Module):
    """Network that scores the ways to attach a child to its parent: the options of each choice.

    The features of an option come from message passing along the edges of the parent cluster. Its
    nodes have embeddings of the clusters with which they are shared, the child at this option
    included. The score of an option is a linear map of its features, plus their product with the
    latents. The posterior of the latents sees the sum of the features of all chosen options. So the
    product can tell whether an option was chosen.

    Attributes:
        size: Number of nodes of each cluster, (V,) long.
        node: A number for each node of each cluster, (V, A) long. Equivalent nodes of a cluster
            have the same number, all others have different ones.
        bonds: Edge categories plus 1, 0 for no edge, (V, A, A) long.
        adds: Least number of nodes that cluster j adds when it is attached to cluster i, (V, V)
            long; 10,000 (`NEVER`) if it cannot be attached.
    """

    size: Tensor
    node: Tensor
    bonds: Tensor
    adds: Tensor

    def __init__(
        self,
        vocabulary: ClusterVocabulary,
        node_categories: int,
        edge_categories: int,
        latent_dim: int,
        node_width: int,
        width: int,
        layers: int,
    ):
        super().__init__()
        self._measure(vocabulary, node_categories)
        nodes = int(self.size.sum())
        self.encoder = GraphEncoder(nodes, edge_categories, None, node_width, layers)
        self.shared = nn.Embedding(nodes, node_width)
        self.child = nn.Embedding(nodes, node_width)
        self.option = nn.Sequential(nn.LayerNorm(2 * node_width), nn.Linear(2 * node_width, width))
        self.of_message = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(latent_dim, width)
        self.value = nn.Linear(width, width)

    def _measure(self, vocabulary: ClusterVocabulary, node_categories: int) -> None:
        """Register the tables of the vocabulary as buffers, the attributes of this class."""
        clusters, largest = vocabulary.clusters, vocabulary.largest_sums
        size = np.array([len(c.types) for c in clusters])
        node = np.zeros((len(clusters), size.max()), dtype=np.int64)
        bonds = np.zeros((len(clusters), size.max(), size.max()), dtype=np.int64)
        # By cluster and node category: most free valence, and least sum of edge weights.
        takes = np.full((len(clusters), node_categories), -1)
        needs = np.full((len(clusters), node_categories), NEVER)
        # Clusters can share an edge if both are rings and have an edge of the same kind: (node
        # category, edge category, node category).
        kinds: dict[tuple[int, int, int], int] = {}
        edges = []
        for k, (cluster, start) in enumerate(zip(clusters, size.cumsum() - size, strict=True)):
            for v, t in enumerate(cluster.types):
                node[k, v] = start + cluster.alike[v]
                takes[k, t] = max(takes[k, t], largest[t] - cluster.sums[v])
                needs[k, t] = min(needs[k, t], cluster.sums[v])
            for (i, j), category in cluster.edges.items():
                bonds[k, i, j] = category + 1
                if size[k] > 2:
                    kind = cluster.types[i], category, cluster.types[j]
                    edges.append((k, kinds.setdefault(kind, len(kinds))))
        has = np.zeros((len(clusters), len(kinds)), dtype=np.float32)
        has[tuple(np.array(edges, dtype=np.int64).reshape(-1, 2).T)] = 1
        by_node = (needs[None] <= takes[:, None]).any(-1)
        by_node &= (size[:, None] > 1) | (size[None] > 1)
        adds = np.where(has @ has.T > 0, size - 2, np.where(by_node, size - 1, NEVER))
        for name, table in (("size", size), ("node", node), ("bonds", bonds), ("adds", adds)):
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def features(self, choices: ChoiceBatch, down: Tensor) -> Tensor:
        """Compute a vector of features for each option, (O, C), in the order of `choices.option`.

        `down` has a row for each child, see `choices.child`.
        """
        choice, a, b, label, c, d = choices.option.unbind(1)
        count = len(choices.parent)
        size = int(self.size[choices.parent].amax()) if len(choice) else 1
        owner, node, other, other_node = choices.shared.unbind(1)
        shared = self.shared(self.node[other, other_node])
        known = _sum_by(shared, owner * size + node, count * size).unflatten(0, (count, size))
        parent = choices.parent[choice]
        nodes = self.node[parent, :size]
        mask = torch.arange(size, device=nodes.device) < self.size[parent][:, None]
        number = torch.arange(len(choice), device=nodes.device)
        known = known[choice].flatten(0, 1)
        for v, w in ((a, c), (b, d)):
            known = known.index_add(0, number * size + v, self.child(self.node[label, w]))
        bonds = self.bonds[parent, :size, :size]
        h = self.encoder(nodes, bonds, mask, known.unflatten(0, nodes.shape))
        pooled = h.sum(1) / self.size[parent][:, None].sqrt()
        both = torch.cat([pooled, h[number, a] + h[number, b]], -1)
        return F.gelu(self.option(both) + self.of_message(down[choices.child])[choice])

    def log_probs(self, features: Tensor, choices: ChoiceBatch, z: Tensor) -> Tensor:
        """Return the log-probabilities, nats, of the options of each choice; -inf beyond them.

        `z` are the latents "graph" of the graph of each choice, (E, D).
        """
        choice = choices.option[:, 0]
        match = (self.key(features) * self.query(z)[choice]).mean(-1)
        score = self.score(features)[..., 0] + match * features.shape[-1] ** 0.5
        column = torch.arange(len(choice), device=choice.device) - choices.first[choice]
        most = int(column.amax()) + 1 if len(column) else 1
        table = score.new_full((len(z), most), -torch.inf, dtype=log_term_dtype(score))
        table[choice, column] = score.to(table.dtype)
        return table.log_softmax(1)


class TreeDecoder:
    """Depth-first decoder of B graphs, which takes the most probable decisions.

    Make one for each batch, and call `run` once. The attributes are the state between two
    decisions; clusters of a tree are numbered as they are added.

    Attributes:
        current: For each graph, the number of the cluster at which the next turn is decided.
        x: Embeddings of the clusters of each tree, (B, clusters, C).
        down: Messages to the clusters from their parents, (B, clusters, C).
        up: Sums of the messages to each cluster from its children so far, (B, clusters, C).
        up_gated: Sums of these messages times the reset gates of `TreeGRU`, (B, clusters, C).
    """

    def __init__(self, model: JunctionTreeVAE, sizes: list[int], z_tree: Tensor, z_graph: Tensor):
        self.model, self.z_tree, self.z_graph = model, z_tree, z_graph
        self.graphs = [PartialGraph(model.vocabulary, size) for size in sizes]
        # At most: a tree with only edges, and single nodes between them, as clusters.
        shape = (len(sizes), 2 * max(sizes) + 1, model.label.weight.shape[1])
        self.x, self.down, self.up, self.up_gated = (z_tree.new_zeros(shape) for _ in range(4))
        self.current = [-1] * len(sizes)

    def run(self) -> list[PartialGraph]:
        """Decode all graphs, decision by decision.

        A graph to which no cluster can be attached any more ends early, with fewer nodes than its
        entry in `sizes`.
        """
        rows = list(range(len(self.graphs)))
        for b, label in enumerate(self._label_logits(rows, self.down[:, 0]).argmax(1).tolist()):
            self.graphs[b].add(label)
        self._enter(rows)
        while rows:
            rows = self._step(rows)
        return self.graphs

    def _to_come(self, rows: list[int]) -> Tensor:
        """Return how many nodes are to come in some graphs."""
        return _long([self.graphs[b].to_come for b in rows], self.x.device)

    def _label_logits(self, rows: list[int], down: Tensor) -> Tensor:
        """Return the logits of the label of a new child of the current cluster."""
        labels = _long([[*self.graphs[b].labels, -1][self.current[b]] for b in rows], down.device)
        return self.model.label_logits(down, self.z_tree[rows], self._to_come(rows), labels)

    def _enter(self, rows: list[int]) -> None:
        """Make the cluster that was added last the current one."""
        for b in rows:
            self.current[b] = len(self.graphs[b].labels) - 1
        labels = _long([self.graphs[b].labels[-1] for b in rows], self.x.device)
        self.x[rows, [self.current[b] for b in rows]] = self.model.label(labels)

    def _step(self, rows: list[int]) -> list[int]:
        """Take one turn in some graphs: add a child to the current cluster, or go back."""
        messages, current = self.model.messages, [self.current[b] for b in rows]
        x, down, up = (state[rows, current] for state in (self.x, self.down, self.up))
        logit = self.model.turn_logits(x, down + up, self.z_tree[rows], self._to_come(rows))
        growing = []
        for row, (b, k, want) in enumerate(zip(rows, current, (logit > 0).tolist(), strict=True)):
            graph = self.graphs[b]
            # The first cluster is not closed before there are enough nodes, another one not unless
            # something can be attached to the clusters above it.
            more = want or k == 0 or not graph.open(graph.parents[k])
            if more and graph.to_come > 0 and len(graph.labels) <= 2 * graph.size:
                growing.append(row)
        gated = messages.gated(x, down) + self.up_gated[rows, current]
        message = messages.combined(x[growing], (down + up)[growing], gated[growing])
        grown = self._grow([rows[row] for row in growing], message)
        closing = [row for row, b in enumerate(rows) if b not in grown and current[row] > 0]
        gated = self.up_gated[rows, current]
        message = messages.combined(x[closing], up[closing], gated[closing])
        closed = [rows[row] for row in closing]
        for b in closed:
            self.current[b] = self.graphs[b].parents[self.current[b]]
        parents = [self.current[b] for b in closed]
        self.up[closed, parents] += message
        self.up_gated[closed, parents] += messages.gated(self.x[closed, parents], message)
        return [b for row, b in enumerate(rows) if b in grown or current[row] > 0]

    def _grow(self, rows: list[int], down: Tensor) -> set[int]:
        """Add a child to the current cluster of each of some graphs, where one fits."""
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
                several.append(Choice(b, row, graph.labels[parent], label, options, 0, attached))
        choices, attachments = ChoiceBatch(several, down.device), self.model.attachments
        features = attachments.features(choices, down)
        best = attachments.log_probs(features, choices, self.z_graph[choices.graph]).argmax(1)
        chosen = dict(zip((b for b, *_ in several), best.tolist(), strict=True))
        for b, (_, label, options) in grown.items():
            self.graphs[b].add(label, self.current[b], *options[chosen.get(b, 0)])
        added = list(grown)
        self._enter(added)
        self.down[added, [self.current[b] for b in added]] = down[[r for r, *_ in grown.values()]]
        return set(grown)


class Reading(NamedTuple):
    """What the JT-VAE computes of B graphs before latents are drawn.

    Attributes:
        x: Embedding of each cluster, (M, C).
        up: Message from each cluster to its parent, (M, C).
        down: Message to each cluster from its parent, (M, C); 0 for the first one of a tree.
        choices: The children that can be attached to their parents in several ways.
        features: Features of the O options, (O, C).
    """

    trees: TreeBatch
    x: Tensor
    up: Tensor
    down: Tensor
    choices: ChoiceBatch
    features: Tensor


class JunctionTreeVAE(GraphVAE):
    """The JT-VAE as a graph model: a variational autoencoder through junction trees.

    `measure` finds the arguments `edge_weights`, `clusters` and `largest_sums` in training data.

    Args:
        edge_weights: Weight of each edge category; for molecules, the bond order.
        clusters: The vocabulary. Each cluster is a list of two lists: the categories of its nodes;
            and three numbers for each edge, all in one list: its two nodes and its category. So
            `[[2, 5], [0, 1, 0]]` is an edge of category 0 between nodes of categories 2 and 5.
        largest_sums: Largest sum of edge weights of each node category; None for no limit.
        kl_free: Number of molecules, counted with repetitions, that training sees before the KL
            divergence of the posterior from the prior is part of its loss.
        kl_weight: Weight of the KL divergence after that. If it is large, the model ignores its
            latents.

    Attributes:
        seen: Number of molecules that training has seen, a tensor that is saved with the weights.
    """

    architecture = "jtvae"
    measured_arguments = ("edge_weights", "clusters", "largest_sums")
    rules_off = {"largest_sums": None}
    why_unknown = "in several pieces, or a ring or branch that the training data do not have"

    seen: Tensor

    @keep_arguments
    def __init__(
        self,
        *,
        node_categories: int,
        edge_categories: int,
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
        categories = node_categories, edge_categories
        self.attachments = Attachments(
            self.vocabulary, *categories, graph_dim, node_width, width, layers
        )

    @staticmethod
    def measure(graphs: PackedGraphs, *, support: bool = True, **options: Any) -> dict[str, Any]:
        """Measure the arguments of the constructor that depend on the training graphs.

        Without `support`, the sums of edge weights of drawn graphs have no limit. Further `options`
        are those of `graphcnf.graphs.path.data_rules.measured_sums`.
        """
        limits = measured_sums(graphs, **options)
        weights, sums = limits["edge_weights"], limits["largest_sums"]
        assert weights is not None and sums is not None
        limits |= {} if support else {"largest_sums": None}
        return {**limits, "clusters": ClusterVocabulary.measure(graphs, weights, sums)}

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return which graphs the model can represent.

        They are connected, all their clusters are in the vocabulary, and no node exceeds its
        largest sum of edge weights.
        """
        known = [rebuild(self.vocabulary, *graph) is not None for graph in neighbours_of(batch)]
        return torch.tensor(known, dtype=torch.bool, device=batch.mask.device)

    def _read(self, batch: GraphBatch) -> Reading:
        """Take graphs apart into junction trees, and compute what does not depend on latents."""
        every = [rebuild(self.vocabulary, *graph) for graph in neighbours_of(batch)]
        known = [built for built in every if built is not None]
        if len(known) < len(every):
            raise ValueError(f"graph {every.index(None)} is {self.why_unknown}")
        trees = TreeBatch(known, batch.mask.device)
        x, gru = self.label(trees.label), self.messages
        up = gru.upward(x, trees)
        down = gru.downward(x, up, trees)
        rows, first = [], 0
        for graph, built in enumerate(known):
            for child, choice in enumerate(built.choices, 1):
                if len(choice[0]) > 1:
                    above = built.labels[built.parents[child]]
                    rows.append(Choice(graph, first + child, above, built.labels[child], *choice))
            first += len(built.labels)
        choices = ChoiceBatch(rows, x.device)
        features = self.attachments.features(choices, down)
        return Reading(trees, x, up, down, choices, features)

    def _posteriors(self, reading: Reading) -> dict[str, Gaussian]:
        """Return the posteriors q(z|x) of the latents."""
        trees, choices = reading.trees, reading.choices
        count = len(trees.levels[0])
        roots = self.root_messages.upward(self.root_label(trees.label), trees)[trees.levels[0]]
        h = F.gelu(self.cluster(trees.label) + self.heard(reading.down))
        clusters = _sum_by(self.value(h), trees.graph, count)
        taken = self.attachments.value(reading.features[choices.first + choices.chosen])
        chosen = _sum_by(taken, choices.graph, count)
        return {
            "tree": Gaussian(self.tree_posterior(torch.cat([roots, clusters], -1))),
            "graph": Gaussian(self.graph_posterior(chosen)),
        }

    def training_loss(self, batch: GraphBatch, *, beta: float = 1.0) -> Loss:
        """Return the negative bound with a weighted KL divergence.

        The weight is 0 for the first `kl_free` molecules, then `kl_weight`; each call in training
        mode adds the batch to `seen`. So the metrics `bits_*` of training are not those of `terms`.
        """
        return likelihood_loss(self, batch, self._weighted if self.training else self.terms, beta)

    def _weighted(self, batch: GraphBatch) -> dict[str, Bound]:
        weight = 0.0 if self.seen < self.kl_free else self.kl_weight
        self.seen += len(batch)
        return self.terms(batch, weight=weight)

    def _likelihood(self, reading: Reading, z: Latents) -> dict[str, Bound]:
        """Return the terms of log p(all decisions | latents)."""
        trees, choices, up = reading.trees, reading.choices, reading.up
        count = len(trees.levels[0])
        child, earlier = trees.siblings.unbind(1)
        below = (trees.parent >= 0).nonzero()[:, 0]
        cluster, following, left = trees.turns.unbind(1)
        more, owner = following >= 0, trees.graph[cluster]
        # Before its next child a cluster has messages from earlier children, in the end from all.
        before = _sum_by(up[earlier], child, len(up))[following]
        after = _sum_by(up[below], trees.parent[below], len(up))[cluster]
        received = reading.down[cluster] + torch.where(more[:, None], before, after)
        logit = self.turn_logits(reading.x[cluster], received, z["tree"][owner], left)
        logit = logit.to(log_term_dtype(logit))
        log_p = F.logsigmoid(torch.where(more, logit, -logit))
        turns = _summed(log_p, (logit > 0) == more, owner, count)

        above = torch.where(trees.parent >= 0, trees.label[trees.parent], -1)
        logits = self.label_logits(reading.down, z["tree"][trees.graph], trees.remaining, above)
        log_p = logits.log_softmax(-1).gather(1, trees.label[:, None])[:, 0]
        labels = _summed(log_p, logits.argmax(-1) == trees.label, trees.graph, count)

        table = self.attachments.log_probs(reading.features, choices, z["graph"][choices.graph])
        log_p = table.gather(1, choices.chosen[:, None])[:, 0]
        attachments = _summed(log_p, log_p >= table.amax(1), choices.graph, count)
        return {"turns": turns, "labels": labels, "attachments": attachments}

    def _scaled(self, h: Tensor, z: Tensor, remaining: Tensor, part: int) -> Tensor:
        """Scale and shift features by the latents and the numbers of nodes to come."""
        scale, shift = self.of_latents(z).chunk(2, -1)[part].chunk(2, -1)
        return F.relu((1 + scale) * h + shift + self.remaining(remaining).chunk(2, -1)[part])

    def turn_logits(self, x: Tensor, heard: Tensor, z: Tensor, remaining: Tensor) -> Tensor:
        """Return the logits (R,) of adding another child at clusters, instead of going back.

        `heard` sums the messages that each cluster has received, (R, C); `remaining` are the nodes
        to come.
        """
        h = self.of_turn(torch.cat([x, heard], -1))
        return self.turn(self._scaled(h, z, remaining, 0))[..., 0]

    def label_logits(self, down: Tensor, z: Tensor, remaining: Tensor, parent: Tensor) -> Tensor:
        """Return the logits (M, V) of the labels of new clusters.

        They are -inf for clusters that cannot be attached to the parent (label -1: a first
        cluster), or would add more nodes than are to come (`remaining`).
        """
        logits = self.labels(self._scaled(self.of_label(down), z, remaining, 1))
        tables = self.attachments
        adds = torch.where((parent >= 0)[:, None], tables.adds[parent], tables.size)
        return logits.to(log_term_dtype(logits)).masked_fill(adds > remaining[:, None], -torch.inf)

    @torch.no_grad()
    def from_latents(
        self,
        latents: Latents,
        mask: Tensor,
        *,
        temperature: float = 1.0,
        generator: Generators = None,
    ) -> GraphBatch:
        """Decode latents to graphs, by the most probable decisions."""
        z_tree, z_graph = (temperature * latents[name] for name in self.dims)
        sizes = mask.sum(1).tolist()
        graphs = TreeDecoder(self, sizes, z_tree, z_graph).run()
        rows = [(g.types, list(g.edges), list(g.edges.values())) for g in graphs]
        batch = GraphBatch.collate(PackedGraphs.from_lists(rows))
        pad = mask.shape[1] - batch.mask.shape[1]
        types, bonds = F.pad(batch.node_types, (0, pad)), F.pad(batch.edge_labels, (0, pad, 0, pad))
        return GraphBatch(types, bonds, F.pad(batch.mask, (0, pad))).to(mask.device)


def _posterior(width: int, dim: int) -> nn.Sequential:
    """Build the output head of a `Gaussian` posterior."""
    network = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * dim))
    nn.init.constant_(network[-1].get_parameter("bias")[dim:], FIRST_SPREAD)
    return network


def _summed(log_p: Tensor, right: Tensor, graph: Tensor, count: int) -> Bound:
    """Add up the log-probabilities of the decisions of each graph, as a term of a bound."""
    both = torch.stack([log_p, right.to(log_p), torch.ones_like(log_p)], 1)
    total, correct, number = _sum_by(both, graph, count).unbind(1)
    zero = torch.zeros_like(total)
    return Bound(zero, total, zero, torch.where(number > 0, correct / number.clamp(min=1), 1.0))
