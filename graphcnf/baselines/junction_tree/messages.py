"""Networks of JT-VAE: gated messages along trees, and scores of attachments."""

from __future__ import annotations

from typing import Any

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
        """What of a message, (M, C), passes the reset gate of a cluster that hears it."""
        gate = torch.sigmoid(self.reset_x(x) + self.reset_h(message))
        return (gate * message).to(message.dtype)

    def combined(self, x: Tensor, total: Tensor, gated: Tensor) -> Tensor:
        """The message that a cluster sends, given the sums of what it hears, (M, C)."""
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
    """Whether a cluster has another child, and which cluster a child is.

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
        self.of_latents = nn.Linear(latent_dim, 2 * width)
        self.of_turn = nn.Linear(2 * width, width)
        self.of_label = nn.Linear(width, width)
        self.turn = nn.Linear(width, 1)
        self.labels = nn.Linear(width, clusters)

    def more(self, x: Tensor, heard: Tensor, z: Tensor, remaining: Tensor) -> Tensor:
        """Logit of another child, (R,), of clusters that have heard a sum of messages (R, C)."""
        given = (self.of_latents(z) + self.remaining(remaining)).chunk(2, -1)[0]
        return self.turn(F.relu(self.of_turn(torch.cat([x, heard], -1)) + given))[..., 0]

    def which(self, down: Tensor, z: Tensor, remaining: Tensor) -> Tensor:
        """Logits of the labels of clusters that a message (M, C) goes to, (M, V)."""
        given = (self.of_latents(z) + self.remaining(remaining)).chunk(2, -1)[1]
        return self.labels(F.relu(self.of_label(down) + given))


class Attachments(nn.Module):
    """Scores of the ways to attach a cluster to another.

    Messages run along the edges of the cluster that is there, whose nodes know what shares them.
    The paper scores all neighbours of a cluster in one arrangement; here they come one by one.

    Args:
        tables: The vocabulary.
        bond_categories: Number of edge categories.
        latent_dim: Channels of the graph's latents.
        width: Channels of a node.
        message_width: Channels of the messages of the tree.
        layers: Rounds of messages.
    """

    def __init__(
        self,
        tables: Tables,
        bond_categories: int,
        latent_dim: int,
        *,
        width: int,
        message_width: int,
        layers: int,
    ):
        super().__init__()
        self.encoder = GraphEncoder(tables.nodes, bond_categories, None, width=width, layers=layers)
        self.shared = nn.Embedding(tables.nodes, width)
        self.child = nn.Embedding(tables.nodes, width)
        self.pair = nn.Linear(2 * width, width)
        self.given = nn.Linear(latent_dim + message_width, width)
        self.score = nn.Linear(width, 1)

    def forward(self, tables: Tables, sites: Sites, z: Tensor, down: Tensor) -> Tensor:
        """Scores of all options, (O,), with latents and messages of each choice, (E, ...)."""
        size = int(tables.size[sites.parent].max())
        nodes = tables.node[sites.parent, :size]
        mask = torch.arange(size, device=nodes.device) < tables.size[sites.parent][:, None]
        choice, node, label, other = sites.shared.unbind(1)
        known = gather_sum(
            self.shared(tables.node[label, other]), choice * size + node, nodes.numel()
        )
        bonds = tables.bonds[sites.parent, :size, :size]
        h = self.encoder(nodes, bonds, mask, known.unflatten(0, nodes.shape))
        choice, a, b, label, c, d = sites.option.unbind(1)
        both: Any = sum(
            F.gelu(self.pair(torch.cat([h[choice, v], self.child(tables.node[label, w])], -1)))
            for v, w in ((a, c), (b, d))
        )
        given = self.given(torch.cat([z, down], -1))
        return self.score(F.gelu(both + given[choice]))[..., 0]
