"""JT-VAE: a tree of clusters first, then how they are put together.

Jin, Barzilay & Jaakkola, *Junction Tree Variational Autoencoder for Molecular Graph Generation*,
ICML 2018, arXiv 1802.04364. Two latent vectors, of the tree and of the graph. The tree is decoded
depth-first (is there another child, and which cluster is it), and each cluster is attached by
scores of all that is possible. Posteriors see the sum of what was decided at each step, with the
features that the decoder has of it, beside the message that comes to the root of the tree. (In the
paper they see that message and a pooled message-passing network of the atoms; so written here,
attachments did not become better by the latents.) No node gets a larger sum of edge weights than
nodes of its category have in the training data, and graphs are in one piece.

What is bounded is log p(tree, attachments | number of nodes) of the one depth-first code that
starts at node 0: a lower bound on log p(graph | number of nodes), as other codes of the same graph
count for nothing. The paper's model also draws the number of nodes. Here it is given, as in all
graph models: networks know how many nodes are to come, clusters that would add more are impossible,
and the tree does not end before there are enough. Where a tree cannot go on, a sample stays
smaller: probabilities of graphs of the given size may sum to a little less than 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.baselines.graphs.gaussian import PRIOR, Gaussian
from graphcnf.baselines.junction_tree.assembly import (
    Growing,
    TreeCode,
    batch_of,
    encode,
)
from graphcnf.baselines.junction_tree.messages import (
    Attachments,
    LabelledMessages,
    TreeDecoder,
    TreeGRU,
    gather_sum,
)
from graphcnf.baselines.junction_tree.treebatch import Sites, Tables, TreeBatch
from graphcnf.baselines.junction_tree.vocabulary import Vocabulary, neighbours_of
from graphcnf.categorical.flow import Bound
from graphcnf.flows.base import Generators, draw_uniform
from graphcnf.flows.transform import Noise, log_term_dtype
from graphcnf.graphs.batch import GraphBatch, Latents
from graphcnf.graphs.model import GraphModel, graph_model
from graphcnf.graphs.packed import PackedGraphs
from graphcnf.graphs.path.support import Support, limit_note

TRIES = 20
"""Labels that are tried where the more probable ones can be attached nowhere."""


class Walk:
    """State of the depth-first walks of B graphs with at most S clusters each.

    Args:
        steps: The model.
        graphs: Graphs without nodes, which the walk fills.
        z_tree: Latents of the trees, (B, D).
        z_graph: Latents of the graphs, (B, D).
        generator: Of the draws.
        sample: Whether steps are drawn; the most probable ones are taken otherwise.
    """

    def __init__(
        self,
        steps: JunctionTreeVAE,
        graphs: list[Growing],
        z_tree: Tensor,
        z_graph: Tensor,
        generator: Generators,
        sample: bool,
    ):
        self.steps, self.graphs, self.sample, self.generator = steps, graphs, sample, generator
        self.z_tree, self.z_graph = z_tree, z_graph
        # A tree of edges alone has fewer clusters than nodes, and single nodes between them.
        self.most = [2 * graph.size + 1 for graph in graphs]
        shape = (len(graphs), max(self.most), steps.label.weight.shape[1])
        self.down, self.down_gated = z_tree.new_zeros(shape), z_tree.new_zeros(shape)
        self.up, self.up_gated = z_tree.new_zeros(shape), z_tree.new_zeros(shape)
        self.current = [0] * len(graphs)
        self.chances = z_tree.new_empty(0)

    def run(self) -> None:
        """Decode all graphs."""
        self._roots()
        walking = list(range(len(self.graphs)))
        while walking:
            self._draw()
            walking = self._step(walking)

    def _draw(self) -> None:
        """Uniform numbers of a step: every graph has its own, whatever the others do."""
        if self.sample:
            shape = (len(self.graphs), len(self.steps.vocabulary) + 2)
            self.chances = draw_uniform(
                shape, generator=self.generator, device=self.z_tree.device, dtype=torch.float64
            )

    def _perturbed(self, logits: Tensor, rows: list[int]) -> Tensor:
        """Logits whose largest is a draw, those below it draws without replacement."""
        if not self.sample:
            return logits
        u = self.chances[rows, : logits.shape[1]].clamp(1e-12, 1 - 1e-12)
        return logits - (-u.log()).log()

    def _roots(self) -> None:
        self._draw()
        rows = list(range(len(self.graphs)))
        sizes = torch.tensor([g.size for g in self.graphs], device=self.z_tree.device)
        none = torch.full_like(sizes, -1)
        logits = self.steps.label_logits(self.down[:, 0], self.z_tree, sizes, none)
        for graph, label in zip(self.graphs, self._perturbed(logits, rows).argmax(1).tolist(),
                                strict=True):  # fmt: skip
            graph.add(label)

    def _step(self, walking: list[int]) -> list[int]:
        """One step of each graph that is still walking; gives those that go on."""
        steps, device = self.steps, self.z_tree.device
        here = [self.current[b] for b in walking]
        labels = [self.graphs[b].labels[k] for b, k in zip(walking, here, strict=True)]
        left = [self.graphs[b].remaining for b in walking]
        x = steps.tree.label(torch.tensor(labels, device=device))
        remaining = torch.tensor(left, device=device)
        up, up_gated = self.up[walking, here], self.up_gated[walking, here]
        heard = self.down[walking, here] + up
        logit = steps.tree.more(x, heard, self.z_tree[walking], remaining)
        wanted = logit > 0
        if self.sample:
            wanted = self.chances[walking, -1] < torch.sigmoid(logit)
        full = [len(self.graphs[b].labels) == self.most[b] for b in walking]
        # The first cluster ends the tree, and not before there are enough nodes; no cluster is left
        # where nothing could be attached to those above it.
        more = [
            n > 0 and not f and (m or k == 0 or not graph.open(graph.parents[k]))
            for m, n, k, f, graph in zip(
                wanted.tolist(), left, here, full, (self.graphs[b] for b in walking), strict=True
            )
        ]
        growing = [r for r, m in enumerate(more) if m]
        if growing:
            gated = self.down_gated[walking, here] + up_gated
            down = steps.tree.messages.combined(x[growing], heard[growing], gated[growing])
            rows = [walking[r] for r in growing]
            for r, grown in zip(growing, self._grow(rows, down, remaining[growing]), strict=True):
                more[r] = grown
        closing = [r for r, m in enumerate(more) if not m and here[r] > 0]
        if closing:
            message = steps.tree.messages.combined(x[closing], up[closing], up_gated[closing])
            self._close([walking[r] for r in closing], message)
        done = {walking[r] for r, m in enumerate(more) if not m and here[r] == 0}
        return [b for b in walking if b not in done]

    def _grow(self, rows: list[int], down: Tensor, remaining: Tensor) -> list[bool]:
        """Give the current cluster of some graphs a child; whether there is one that fits."""
        device = down.device
        parents = [self.current[b] for b in rows]
        above = [self.graphs[b].labels[k] for b, k in zip(rows, parents, strict=True)]
        logits = self.steps.label_logits(
            down, self.z_tree[rows], remaining, torch.tensor(above, device=device)
        )
        logits = self._perturbed(logits, rows)
        best = logits.topk(min(TRIES, logits.shape[1]), dim=1)
        found: list[tuple | None] = []
        for b, parent, labels, values in zip(
            rows, parents, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            graph = self.graphs[b]
            tried = (
                (
                    label,
                    [
                        option
                        for option in graph.attachments(parent, label)
                        if graph.leads_on(parent, label, *option)
                    ],
                )
                for label, value in zip(labels, values, strict=True)
                if value > -torch.inf
            )
            found.append(next(((label, options) for label, options in tried if options), None))
        grown = {r: one for r, one in enumerate(found) if one is not None}
        chosen = self._attach(
            [(r, rows[r], above[r], *one) for r, one in grown.items()], parents, down
        )
        for r, (label, options) in grown.items():
            graph = self.graphs[rows[r]]
            graph.add(label, parents[r], *options[chosen.get(r, 0)])
        if grown:
            self._descend([rows[r] for r in grown], down[[*grown]])
        return [one is not None for one in found]

    def _attach(self, choices: list[tuple], parents: list[int], down: Tensor) -> dict[int, int]:
        """Return the option that each choice among several takes, by its row."""
        choices = [c for c in choices if len(c[-1]) > 1]
        if not choices:
            return {}
        rows = [r for r, *_ in choices]
        graphs = [b for _, b, *_ in choices]
        sites = Sites.of(
            [
                (above, label, self.graphs[b].attached[parents[r]], options, 0)
                for r, b, above, label, options in choices
            ],
            down.device,
        )
        features = self.steps.attachments.features(self.steps.tables, sites, down[rows])
        log_p = self.steps.attachment_log_probs(features, sites, self.z_graph[graphs])
        table = log_p.new_full((len(rows), max(len(c[-1]) for c in choices)), -torch.inf)
        owner = sites.option[:, 0]
        table[owner, torch.arange(len(owner), device=owner.device) - sites.chosen[owner]] = log_p
        if self.sample:
            below = table.double().exp().cumsum(1)
            u = self.chances[graphs, -2][:, None] * below[:, -1:]
            taken = torch.searchsorted(below, u, right=True)[:, 0]
        else:
            taken = table.argmax(1)
        most = torch.tensor([len(c[-1]) - 1 for c in choices], device=taken.device)
        return dict(zip(rows, taken.minimum(most).tolist(), strict=True))

    def _descend(self, rows: list[int], down: Tensor) -> None:
        """Go to the child that was just added, which hears a message."""
        new = [len(self.graphs[b].labels) - 1 for b in rows]
        labels = [self.graphs[b].labels[-1] for b in rows]
        x = self.steps.tree.label(torch.tensor(labels, device=down.device))
        self.down[rows, new] = down
        self.down_gated[rows, new] = self.steps.tree.messages.gated(x, down)
        for b, k in zip(rows, new, strict=True):
            self.current[b] = k

    def _close(self, rows: list[int], message: Tensor) -> None:
        """Go back to the parent, which hears a message."""
        parents = [self.graphs[b].parents[self.current[b]] for b in rows]
        labels = [self.graphs[b].labels[k] for b, k in zip(rows, parents, strict=True)]
        x = self.steps.tree.label(torch.tensor(labels, device=message.device))
        self.up[rows, parents] += message
        self.up_gated[rows, parents] += self.steps.tree.messages.gated(x, message)
        for b, k in zip(rows, parents, strict=True):
            self.current[b] = k


NO_LIMIT = 10_000
"""More than any sum of edge weights."""

FIRST_SPREAD = -3.0
"""Starts posteriors with standard deviations near exp(-4.7): what the latents say of a molecule is
not lost in noise before the networks have learnt to read it."""


@dataclass
class Reading:
    """A batch of graphs as the networks see it, without latents.

    Attributes:
        count: Number of graphs.
        trees: Their junction trees, M clusters in all.
        x: Embedded labels, (M, C).
        up: Messages of the clusters to their parents, (M, C).
        down: Messages to the clusters from their parents, (M, C).
        sites: The attachments with several options, E choices and O options in all.
        features: Of the options, (O, C).
        owner: Which graph each choice is of, (E,).
    """

    count: int
    trees: TreeBatch
    x: Tensor
    up: Tensor
    down: Tensor
    sites: Sites
    features: Tensor
    owner: Tensor


@graph_model("jtvae")
class JunctionTreeVAE(GraphModel):
    """Variational autoencoder of graphs by way of their junction trees.

    Args:
        node_categories: Number of node categories.
        bond_categories: Number of edge categories.
        max_nodes: Largest number of nodes.
        edge_weights: Weight of each edge category (bond orders).
        clusters: The vocabulary, see `Vocabulary.from_lists`.
        largest_sums: Largest sum of edge weights of each node category; None for no limit.
        tree_dim: Channels of the latents of the tree.
        graph_dim: Channels of the latents of the graph.
        width: Channels of clusters and messages.
        node_width: Channels of nodes.
        layers: Rounds of messages along edges.
        kl_free: Training molecules before the divergence from the prior counts.
        kl_weight: Weight of the divergence from then on. A large one leaves the latents empty.
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
        self.tree_dim, self.graph_dim = tree_dim, graph_dim
        self.kl_free, self.kl_weight = kl_free, kl_weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        sums = [NO_LIMIT] * node_categories if largest_sums is None else largest_sums
        self.vocabulary = Vocabulary.from_lists(clusters, edge_weights, sums)
        self.tables = Tables(self.vocabulary, node_categories)
        self.label = nn.Embedding(len(clusters), width)
        self.messages = TreeGRU(width)
        self.labelled = LabelledMessages(len(clusters), width)
        self.tree_posterior = _posterior(2 * width, tree_dim)
        self.graph_posterior = _posterior(width, graph_dim)
        self.tree = TreeDecoder(len(clusters), tree_dim, max_nodes, width)
        self.attachments = Attachments(
            self.tables, bond_categories, graph_dim,
            node_width=node_width, width=width, layers=layers,
        )  # fmt: skip

    @staticmethod
    def measure(graphs: PackedGraphs, *, support: bool = True, **options) -> dict:
        """Return the clusters and the largest sums of a set of graphs; see `Support.limits`."""
        limits = Support.limits(graphs, **options)
        weights, sums = limits["edge_weights"], limits["largest_sums"]
        assert weights is not None and sums is not None
        clusters = Vocabulary.measure(graphs, weights, sums).to_lists()
        return {**limits, "clusters": clusters} | ({} if support else {"largest_sums": None})

    def notes(self, rules: bool) -> list[str]:
        """Return a footnote on the limit on sums of edge weights."""
        return [limit_note(rules)]

    def _codes(self, batch: GraphBatch) -> list[TreeCode | None]:
        return [encode(self.vocabulary, *graph) for graph in neighbours_of(batch)]

    def knows(self, batch: GraphBatch) -> Tensor:
        """Return whether all clusters of a graph are in the vocabulary, (B,) bool."""
        known = [code is not None for code in self._codes(batch)]
        return torch.tensor(known, dtype=torch.bool, device=batch.mask.device)

    def _read(self, batch: GraphBatch) -> Reading:
        """Return the codes of graphs, and what the networks make of them without latents."""
        codes = self._codes(batch)
        known = [code for code in codes if code is not None]
        if len(known) < len(codes):
            raise ValueError(f"graph {codes.index(None)} is {self.unknown}")
        trees = TreeBatch.of(known, batch.mask.device)
        x, gru = self.tree.label(trees.label), self.tree.messages
        up = gru.upward(x, trees)
        down = gru.downward(x, up, trees)
        rows, places, graphs, first = [], [], [], 0
        for number, code in enumerate(known):
            for choice in code.choices:
                if len(choice.options) > 1:
                    above = code.labels[code.parents[choice.child]]
                    label = code.labels[choice.child]
                    rows.append((above, label, choice.attached, choice.options, choice.chosen))
                    places.append(first + choice.child)
                    graphs.append(number)
            first += len(code.labels)
        sites = Sites.of(rows, x.device)
        features = self.attachments.features(self.tables, sites, down[places])
        owner = torch.tensor(graphs, dtype=torch.long, device=x.device)
        return Reading(len(known), trees, x, up, down, sites, features, owner)

    def _posteriors(self, reading: Reading) -> tuple[Gaussian, Gaussian]:
        trees, down, count = reading.trees, reading.down, reading.count
        roots = self.messages.upward(self.label(trees.label), trees)[trees.levels[0]]
        tree = torch.cat([roots, self.labelled(down, trees, count)], -1)
        graph = self.attachments.chosen(reading.features, reading.sites, reading.owner, count)
        return Gaussian.of(self.tree_posterior(tree)), Gaussian.of(self.graph_posterior(graph))

    def bounds(self, batch: GraphBatch, noise: Noise | None = None) -> dict[str, Bound]:
        """One draw of the bound: the latents, and log p(x|z) in three parts.

        Raises:
            ValueError: if a graph is not known.
        """
        reading = self._read(batch)
        posteriors = self._posteriors(reading)
        z = [posterior.draw(noise) for posterior in posteriors]
        latents = {
            name: posterior.bound(own)
            for name, posterior, own in zip(("tree", "graph"), posteriors, z, strict=True)
        }
        return {**latents, **self._likelihood(reading, *z)}

    def estimate(self, batch: GraphBatch) -> dict[str, Bound]:
        """Return the training objective: the bound with a smaller weight on the divergence.

        Out of training the bound itself; training metrics named `bits` hold the weight, too.
        """
        if not self.training:
            return self.bounds(batch)
        weight = 0.0 if self.seen < self.kl_free else self.kl_weight
        self.seen += len(batch)
        reading = self._read(batch)
        posteriors = self._posteriors(reading)
        z = [posterior.draw() for posterior in posteriors]
        tree, graph = (posterior.expected_bound(weight) for posterior in posteriors)
        return {"tree": tree, "graph": graph, **self._likelihood(reading, *z)}

    def _likelihood(self, reading: Reading, z_tree: Tensor, z_graph: Tensor) -> dict[str, Bound]:
        """Log p(x|z) of turns, labels and attachments."""
        count, trees, x, up, down = (
            reading.count, reading.trees, reading.x, reading.up, reading.down
        )  # fmt: skip
        cluster, _, answer, left = trees.turns.unbind(1)
        heard = down[cluster] + gather_sum(up[trees.heard[:, 1]], trees.heard[:, 0], len(cluster))
        graph = trees.graph[cluster]
        logit = self.tree.more(x[cluster], heard, z_tree[graph], left)
        logit = logit.to(log_term_dtype(logit))
        log_p = F.logsigmoid(torch.where(answer > 0, logit, -logit))
        turns = _summed(log_p, (logit > 0) == (answer > 0), graph, count)

        logits = self.label_logits(
            down, z_tree[trees.graph], trees.remaining,
            torch.where(trees.parent >= 0, trees.label[trees.parent], -1),
        )  # fmt: skip
        own = logits.log_softmax(-1).gather(1, trees.label[:, None])[:, 0]
        labels = _summed(own, logits.argmax(-1) == trees.label, trees.graph, count)

        sites, owner = reading.sites, reading.owner
        log_p = self.attachment_log_probs(reading.features, sites, z_graph[owner])
        own = log_p[sites.chosen]
        best = own.new_full((len(own),), -torch.inf)
        best = best.scatter_reduce(0, sites.option[:, 0], log_p, "amax")
        attachments = _summed(own, own >= best, owner, count)
        return {"turns": turns, "labels": labels, "attachments": attachments}

    def label_logits(self, down: Tensor, z: Tensor, remaining: Tensor, parent: Tensor) -> Tensor:
        """Logits (M, V) of labels, -inf where a cluster adds too much or nowhere fits its parent.

        Args:
            down: Messages to the clusters, (M, C).
            z: Latents of the tree, (M, D).
            remaining: Nodes to come, (M,).
            parent: Label of the parent, -1 for a first cluster, (M,).
        """
        logits = self.tree.which(down, z, remaining)
        adds = torch.where((parent >= 0)[:, None], self.tables.adds[parent], self.tables.size)
        return logits.to(log_term_dtype(logits)).masked_fill(adds > remaining[:, None], -torch.inf)

    def attachment_log_probs(self, features: Tensor, sites: Sites, z: Tensor) -> Tensor:
        """Log-probabilities (O,) of the options of each choice, whose latents are z (E, D)."""
        score = self.attachments.scores(features, sites, z)
        score, owner = score.to(log_term_dtype(score)), sites.option[:, 0]
        most = score.new_full((len(sites.parent),), -torch.inf)
        most = most.scatter_reduce(0, owner, score.detach(), "amax")[owner]
        total = gather_sum((score - most).exp()[:, None], owner, len(sites.parent))[owner, 0]
        return score - most - total.log()

    def encode(self, batch: GraphBatch, noise: Noise | None = None) -> Latents:
        """Means of q(z|x) of the tree and of the graph, (B, D) each; raises as `bounds`."""
        tree, graph = self._posteriors(self._read(batch))
        return {"tree": tree.mean, "graph": graph.mean}

    def base_sample(self, mask: Tensor, generator=None) -> Latents:
        """Draw latents from the prior."""
        like = self.label.weight
        options = {"generator": generator, "device": mask.device, "dtype": like.dtype}
        dims = {"tree": self.tree_dim, "graph": self.graph_dim}
        return {name: PRIOR.sample((len(mask), dim), **options) for name, dim in dims.items()}

    @torch.no_grad()
    def decode(
        self, latents: Latents, mask: Tensor, *, temperature=1.0, sample=False, generator=None
    ) -> GraphBatch:
        """Graphs of latents: the most probable step every time, or draws; `temperature` scales z.

        Nodes are numbered as they come, not as the graph that was encoded.
        """
        graphs = [Growing(self.vocabulary, n) for n in mask.sum(1).tolist()]
        z_tree, z_graph = (temperature * latents[name] for name in ("tree", "graph"))
        Walk(self, graphs, z_tree, z_graph, generator if sample else None, sample).run()
        return batch_of(graphs, mask.shape[1]).to(mask.device)


def _posterior(width: int, dim: int) -> nn.Sequential:
    """Mean and logarithm of the standard deviation of `dim` latents."""
    network = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * dim))
    nn.init.constant_(network[-1].get_parameter("bias")[dim:], FIRST_SPREAD)
    return network


def _summed(log_p: Tensor, right: Tensor, graph: Tensor, count: int) -> Bound:
    """Bound of what belongs to `count` graphs, with the share that is right."""
    both = torch.stack([log_p, right.to(log_p), torch.ones_like(log_p)], 1)
    total, correct, number = gather_sum(both, graph, count).unbind(1)
    zero = torch.zeros_like(total)
    return Bound(zero, total, zero, torch.where(number > 0, correct / number.clamp(min=1), 1.0))
