"""Networks of JT-VAE: gated messages along trees, and scores of attachments."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.baselines.graphs.gaussian import GraphEncoder
from graphcnf.baselines.junction_tree.treebatch import Sites, Tables, TreeBatch


def gather_sum(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """Sum of the rows of `values` (M, C) that each of `count` owners has, (count, C)."""
    return values.new_zeros(count, values.shape[-1]).index_add(0, owner, values)


class TreeGRU(nn.Module):
    """Gated messages along the edges of a tree.

    With x of the cluster that sends, and h_k the messages that came to it from elsewhere:
    s = sum_k h_k, g = sum_k sigmoid(W_r x + U_r h_k) h_k, z = sigmoid(W_z (x, s)),
    m = (1 - z) s + z tanh(W (x, g)). Jin et al. 2018, eqs. 4 to 8.

    Args:
        width: Channels of a cluster and of a message.
    """

    def __init__(self, width: int):
        super().__init__()
        self.update = nn.Linear(2 * width, width)
        self.content = nn.Linear(2 * width, width)
        self.reset_x = nn.Linear(width, width)
        self.reset_h = nn.Linear(width, width, bias=False)

    def gated(self, x: Tensor, message: Tensor) -> Tensor:
        """Return the part (M, C) of a message that passes the receiver's reset gate."""
        gate = torch.sigmoid(self.reset_x(x) + self.reset_h(message))
        return (gate * message).to(message.dtype)

    def combined(self, x: Tensor, total: Tensor, gated: Tensor) -> Tensor:
        """Return the message that a cluster sends, given the sums of what it hears, (M, C)."""
        z = torch.sigmoid(self.update(torch.cat([x, total], -1)))
        new = torch.tanh(self.content(torch.cat([x, gated], -1)))
        return ((1 - z) * total + z * new).to(total.dtype)

    def upward(self, x: Tensor, trees: TreeBatch) -> Tensor:
        """Messages of all clusters (M, C) to their parents, leaves first."""
        up = torch.zeros_like(x)
        where = torch.zeros_like(trees.label)
        below = None
        for level in reversed(trees.levels):
            here = x[level]
            where[level] = torch.arange(len(level), device=x.device)
            total = gated = torch.zeros_like(here)
            if below is not None:
                owner = where[trees.parent[below]]
                sent = up[below]
                total = gather_sum(sent, owner, len(level))
                gated = gather_sum(self.gated(here[owner], sent), owner, len(level))
            up = up.index_copy(0, level, self.combined(here, total, gated))
            below = level
        return up

    def downward(self, x: Tensor, up: Tensor, trees: TreeBatch) -> Tensor:
        """Messages (M, C) to all clusters from their parents, 0 to the first ones.

        A parent tells what it has heard from its own parent and from earlier children.
        """
        down = torch.zeros_like(x)
        where = torch.zeros_like(trees.label)
        depth = torch.zeros_like(trees.label)
        for k, level in enumerate(trees.levels):
            depth[level] = k
        for k, level in enumerate(trees.levels[1:], 1):
            where[level] = torch.arange(len(level), device=x.device)
            parent = trees.parent[level]
            here = x[parent]
            pairs = trees.siblings[depth[trees.siblings[:, 0]] == k]
            owner = torch.cat([torch.arange(len(level), device=x.device), where[pairs[:, 0]]])
            sent = torch.cat([down[parent], up[pairs[:, 1]]])
            total = gather_sum(sent, owner, len(level))
            gated = gather_sum(self.gated(here[owner], sent), owner, len(level))
            down = down.index_copy(0, level, self.combined(here, total, gated))
        return down


class TreeDecoder(nn.Module):
    """Network of the decisions of a tree: another child or none, and the cluster of a child.

    Args:
        clusters: Size of the vocabulary.
        latent_dim: Channels of the tree's latents.
        max_nodes: Largest number of nodes.
        width: Channels of a cluster.
    """

    def __init__(self, clusters: int, latent_dim: int, max_nodes: int, width: int):
        super().__init__()
        self.label = nn.Embedding(clusters, width)
        self.messages = TreeGRU(width)
        self.remaining = nn.Embedding(max_nodes + 1, 2 * width)
        nn.init.normal_(self.remaining.weight, std=0.1)
        self.of_latents = nn.Linear(latent_dim, 4 * width)
        self.of_turn = nn.Linear(2 * width, width)
        self.of_label = nn.Linear(width, width)
        self.turn = nn.Linear(width, 1)
        self.labels = nn.Linear(width, clusters)

    def _given(self, z: Tensor, remaining: Tensor, part: int) -> tuple[Tensor, Tensor]:
        """Return scale and shift of features, given the latents and the nodes to come."""
        scale, shift = self.of_latents(z).chunk(2, -1)[part].chunk(2, -1)
        return 1 + scale, shift + self.remaining(remaining).chunk(2, -1)[part]

    def more(self, x: Tensor, heard: Tensor, z: Tensor, remaining: Tensor) -> Tensor:
        """Logit of another child, (R,), of clusters that have heard a sum of messages (R, C)."""
        scale, shift = self._given(z, remaining, 0)
        return self.turn(F.relu(scale * self.of_turn(torch.cat([x, heard], -1)) + shift))[..., 0]

    def which(self, down: Tensor, z: Tensor, remaining: Tensor) -> Tensor:
        """Logits of the labels of clusters that a message (M, C) goes to, (M, V)."""
        scale, shift = self._given(z, remaining, 1)
        return self.labels(F.relu(scale * self.of_label(down) + shift))


class LabelledMessages(nn.Module):
    """Sum over the clusters of a tree of what each is and hears from its parent.

    Args:
        clusters: Size of the vocabulary.
        width: Channels of a message and of the sum.
    """

    def __init__(self, clusters: int, width: int):
        super().__init__()
        self.label = nn.Embedding(clusters, width)
        self.of_message = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, down: Tensor, trees: TreeBatch, count: int) -> Tensor:
        """Return the sums of `count` trees, (count, C), of the messages (M, C) to all clusters."""
        h = F.gelu(self.label(trees.label) + self.of_message(down))
        return gather_sum(self.value(h), trees.graph, count)


class Attachments(nn.Module):
    """Scores of the ways to attach a cluster to another, and what the latents are told of them.

    Messages run along the edges of the cluster that is there, whose nodes know what shares them,
    the new cluster with each option. Features of an option have a part of their own in its score,
    and one that is multiplied with the latents; the posterior of these sees the sum of the features
    of all that was chosen, so that the product asks: was this one among them? (The paper multiplies
    features of a candidate's atoms with the latents; it scores all neighbours of a cluster in one
    arrangement, here they come one by one.)

    Args:
        tables: The vocabulary.
        bond_categories: Number of edge categories.
        latent_dim: Channels of the graph's latents.
        node_width: Channels of a node.
        width: Channels of an option and of the messages of the tree.
        layers: Rounds of messages.
    """

    def __init__(
        self,
        tables: Tables,
        bond_categories: int,
        latent_dim: int,
        *,
        node_width: int,
        width: int,
        layers: int,
    ):
        super().__init__()
        self.encoder = GraphEncoder(
            tables.nodes, bond_categories, None, width=node_width, layers=layers
        )
        self.shared = nn.Embedding(tables.nodes, node_width)
        self.child = nn.Embedding(tables.nodes, node_width)
        self.option = nn.Sequential(nn.LayerNorm(2 * node_width), nn.Linear(2 * node_width, width))
        self.of_message = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(latent_dim, width)
        self.value = nn.Linear(width, width)

    def features(self, tables: Tables, sites: Sites, down: Tensor) -> Tensor:
        """Features of all options (O, C), given the messages (E, C) to the new clusters."""
        size = int(tables.size[sites.parent].max()) if len(sites.parent) else 1
        choice, a, b, label, c, d = sites.option.unbind(1)
        there = sites.parent[choice]
        nodes = tables.node[there, :size]
        mask = torch.arange(size, device=nodes.device) < tables.size[there][:, None]
        number = torch.arange(len(choice), device=nodes.device)
        known = self._of_others(tables, sites, size)[choice].flatten(0, 1)
        for v, w in ((a, c), (b, d)):
            known = known.index_add(0, number * size + v, self.child(tables.node[label, w]))
        h = self.encoder(
            nodes, tables.bonds[there, :size, :size], mask, known.unflatten(0, nodes.shape)
        )
        pooled = h.sum(1) / tables.size[there][:, None].sqrt()
        both = torch.cat([pooled, h[number, a] + h[number, b]], -1)
        return F.gelu(self.option(both) + self.of_message(down)[choice])

    def _of_others(self, tables: Tables, sites: Sites, size: int) -> Tensor:
        """Return features of the clusters that share nodes with the placed one, (E, A, W)."""
        choice, node, label, other = sites.shared.unbind(1)
        count = len(sites.parent)
        shared = self.shared(tables.node[label, other])
        return gather_sum(shared, choice * size + node, count * size).unflatten(0, (count, size))

    def chosen(self, features: Tensor, sites: Sites, graph: Tensor, count: int) -> Tensor:
        """Return sums (count, C) of the chosen options in each of `count` graphs."""
        return gather_sum(self.value(features[sites.chosen]), graph, count)

    def scores(self, features: Tensor, sites: Sites, z: Tensor) -> Tensor:
        """Scores of all options, (O,), given the latents of each choice, (E, D)."""
        match = (self.key(features) * self.query(z)[sites.option[:, 0]]).mean(-1)
        return self.score(features)[..., 0] + match * features.shape[-1] ** 0.5
