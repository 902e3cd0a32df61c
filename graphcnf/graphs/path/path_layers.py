"""Layers of the network "path": its inputs, its attention biases and its output heads.

The words path, level, label and closure are those of `graphcnf.graphs.path`.

- A *token* is one number that summarises the node at a level of the path: its category, how many
  edges it has and what they weigh, and whether it lies on a ring.
- An *n-gram* is the tokens of the last n levels: a small pattern, such as the end of a chain
  or of a ring.
- A *position* of the attention is a node that is to be drawn. Position i holds what is known before
  node i, and so the variables of node i - 1; position 0 holds no node.
- The *output head* of a variable is two layers that turn the output of the attention into logits.
  The hidden channels between them are those of the first layer, plus the embeddings of the
  variables of the node that are already decided, multiplied by the *gains* of the variable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.transformer import MASKED, ReadOut, zero_init
from graphcnf.graphs.path.depth_first import COMMON_VARIABLES, DepthFirstCode
from graphcnf.graphs.path.node_states import set_tables, unpacked_neighbour
from graphcnf.graphs.path.paths import SEEN_LEVELS, Levels, Path

NGRAMS = (2, 3, 4, 6)
"""Lengths of the n-grams that have an embedding."""

# The network tells the sum of a node's edge weights, and its degree, apart below these limits.
SEEN_SUMS = 12
SEEN_DEGREES = 6
# Of the hash of a sequence of numbers: a prime multiplier, and the Mersenne prime 2**31 - 1, whose
# products with the multiplier fit into 64 bits.
HASH_MULTIPLIER = 1_000_003
HASH_MODULUS = 2_147_483_647


def hashed(key: Tensor, value: Tensor) -> Tensor:
    """Extend hashed sequences by one number each.

    N-grams have far too many combinations for a table with a row for each; their hashes are few.
    """
    return (key * HASH_MULTIPLIER + value) % HASH_MODULUS


def tokens_of(levels: Levels) -> Tensor:
    """Summarise nodes at levels of paths in one number each.

    Returns:
        Tokens, long, of the shape of the levels: 0 for no node, else 1 plus the number of the
        combination of category, sum of edge weights (11 stands for 11 or more), degree (5 for 5 or
        more) and whether the edge to the parent lies on a ring.
    """
    # Digits of a number, the category first. `PathFeatures` has the embeddings in this order.
    token = levels.category * SEEN_SUMS + levels.weight.clamp(max=SEEN_SUMS - 1)
    token = token * SEEN_DEGREES + levels.degree.clamp(max=SEEN_DEGREES - 1)
    return torch.where(levels.held_at > 0, token * 2 + levels.on_ring + 1, 0)


class PathFeatures(nn.Module):
    """Inputs of the attention: embeddings of what is known before each node, added up.

    What is known is the node before it, the nodes at the last 16 levels of the path (`SEEN_LEVELS`)
    with their n-grams, the number of the node, and how many nodes are to come. An n-gram summarises
    the nodes at the last n levels; a *token* summarises one node (`tokens_of`).

    Args:
        table_rows: Rows of the embedding of n-grams, for each n (2, 3, 4 and 6). N-grams are
            hashed; those that hash to the same row share an embedding.

    Attributes:
        category_weight: Embedding of the first half of a token: category and sum of weights.
        degree_ring: Embedding of its second half: number of edges, and whether on a ring.
        neighbours: Embedding of each neighbour of the node at a level, by its category and the edge
            to it. Together these three add up to the channels of the level.
        levels: Layer that turns the channels of the last 16 levels into D channels.
        ngrams, all_ngrams: Hashed embeddings of n-grams, and the layer that turns them into D
            channels.
        offsets: First row of each variable where the embeddings of all are one table, (V,) long.
    """

    offsets: Tensor

    def __init__(
        self,
        code: DepthFirstCode,
        max_nodes: int,
        width: int,
        level_width: int,
        table_rows: int,
    ):
        super().__init__()
        categories = code.node_categories
        self.categories = categories
        self.no_node = nn.Parameter(0.3 * torch.randn(width))
        self.variables = nn.ModuleList(nn.Embedding(c, width) for c in code.cardinalities)
        set_tables(self, offsets=torch.tensor([0, *code.cardinalities[:-1]]).cumsum(0))
        self.number = nn.Embedding(max_nodes, width)
        self.to_come = nn.Embedding(max_nodes + 1, width)
        self.category_weight = nn.Embedding(categories * SEEN_SUMS, level_width)
        self.degree_ring = nn.Embedding(SEEN_DEGREES * 2, level_width)
        # A row for each label and category; the first one is for no neighbour.
        pairs = (code.edge_categories + 1) * categories
        self.neighbours = nn.EmbeddingBag(pairs, level_width, mode="sum", padding_idx=0)
        self.levels = nn.Linear(SEEN_LEVELS * level_width, width)
        self.ngrams = nn.ModuleList(nn.Embedding(table_rows, 2 * level_width) for _ in NGRAMS)
        self.all_ngrams = nn.Linear(len(NGRAMS) * 2 * level_width, width)
        for table in [self.number, self.to_come, *self.variables]:
            nn.init.normal_(table.get_parameter("weight"), std=0.2)

    def of_nodes(self, x: Tensor) -> Tensor:
        """Embed nodes by all their variables."""
        # One look-up in one table is faster than V of them.
        table = torch.cat([embedding.get_parameter("weight") for embedding in self.variables])
        return F.embedding_bag(x + self.offsets, table, mode="sum")

    def forward(
        self, path: Path, before: Tensor, number: Tensor, to_come: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embed what is known before each of R nodes that are to be drawn or scored.

        Values of conditions are not part of it: the network adds their embeddings to the result.

        Returns:
            Inputs of the attention, (R, D); and positions that hold the nodes on the last levels of
            the path, the deepest level first, 0 where the path has no such level, (R, 16) long.
        """
        seen, neighbours = path.last_levels(len(to_come))
        tokens = tokens_of(seen)
        # Row t is for token t, in the order in which `tokens_of` numbers them; 0 for no node.
        of_tokens = self.category_weight.weight[:, None] + self.degree_ring.weight
        of_tokens = F.pad(of_tokens.flatten(0, 1), (0, 0, 1, 0))
        label, category = unpacked_neighbour(neighbours.flatten(0, 1))
        of_neighbours = self.neighbours(label * self.categories + category)
        channels = F.embedding(tokens, of_tokens) + of_neighbours.unflatten(0, tokens.shape)
        of_path = self.levels(channels.flatten(1)) + self.all_ngrams(self._ngrams(tokens))
        h = of_path + before + self.number(number) + self.to_come(to_come + 1)
        return h, seen.held_at

    def _ngrams(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of the n-grams of tokens (R, SEEN_LEVELS), side by side."""
        key = torch.zeros_like(tokens[:, 0])
        found = []
        tables = dict(zip(NGRAMS, self.ngrams, strict=True))
        for length, token in enumerate(tokens[:, : NGRAMS[-1]].unbind(1), 1):
            key = hashed(key, token)
            if length in tables:
                table = tables[length].get_parameter("weight")
                found.append(F.embedding(key % len(table), table))
        return torch.cat(found, -1)


class AttentionBiases(nn.Module):
    """Attention biases: by the distance of two nodes in the node order, and by the path.

    Each head has biases of its own. Position i has for position j the bias `by_distance[i - j]`. If
    position j holds the node k levels above the last one of the path before node i, `by_level[k]`
    is added, for k from 0 to 15.
    """

    def __init__(self, heads: int, max_nodes: int):
        super().__init__()
        self.by_distance = nn.Parameter(torch.zeros(heads, max_nodes))
        self.by_level = nn.Parameter(torch.zeros(heads, SEEN_LEVELS))

    def forward(self, on_path: Tensor) -> Tensor:
        """Return the biases (B, H, N, N) of all positions of known graphs, to earlier ones."""
        size = on_path.shape[1]
        number = torch.arange(size, device=on_path.device)
        distance = number[:, None] - number
        by_distance = self.by_distance[:, distance.clamp(min=0)]
        by_distance = by_distance + torch.where(distance < 0, MASKED, 0.0)
        # 1 where a position holds the node at a level, else 0.
        holds = by_distance.new_zeros(len(on_path), SEEN_LEVELS, size, size)
        holds.scatter_(3, on_path.transpose(1, 2)[..., None], 1.0)
        holds[..., 0] = 0  # Position 0 holds no node.
        return by_distance + (self.by_level @ holds.flatten(2)).unflatten(2, (size, size))

    def of_next(self, on_path: Tensor, number: int) -> Tensor:
        """Return the biases (number + 1, B, H) of the next position of graphs in drawing."""
        # The level of the node that each position holds; `SEEN_LEVELS` if it is not on the path.
        level = on_path.new_full((number + 1, len(on_path)), SEEN_LEVELS)
        last = torch.arange(SEEN_LEVELS, device=on_path.device)[:, None]
        level.scatter_(0, on_path.t(), last.expand(-1, len(on_path)))
        level[0] = SEEN_LEVELS
        by_level = F.pad(self.by_level.t(), (0, 0, 0, 1))
        by_distance = self.by_distance[:, : number + 1].flip(1).t()[:, None]
        return F.embedding(level, by_level) + by_distance


class NodeHeads(nn.Module):
    """Output heads of the V variables of a node.

    With the output h of the attention and the variables x_0, ..., x_(k - 1) that are decided, the
    logits of variable k are last_k(relu(first_k(h) + gains_k * (decided_0[x_0] + ... ))).

    Attributes:
        first, last: The two layers of each head: D to G channels, and G channels to logits.
        decided: Embedding of each variable but the last one, V - 1 of (cardinality, G).
        gains: Factors of the sums of embeddings, one row for each variable, (V, G).
    """

    def __init__(self, cardinalities: Sequence[int], width: int, head_width: int):
        super().__init__()
        self.head_width = head_width
        self.first = nn.ModuleList(nn.Linear(width, head_width) for _ in cardinalities)
        self.decided = nn.ModuleList(nn.Embedding(c, head_width) for c in cardinalities[:-1])
        self.gains = nn.Parameter(torch.ones(len(cardinalities), head_width))
        self.last = nn.ModuleList(zero_init(ReadOut(head_width, c)) for c in cardinalities)

    def first_layers(self, h: Tensor) -> Tensor:
        """Return the first layers of the heads of the first `COMMON_VARIABLES` (4) variables.

        Every node has these variables, so that one matrix product gives them all. The heads of
        further variables, which only some nodes have, are evaluated one by one.
        """
        layers = self.first[:COMMON_VARIABLES]
        weight = torch.cat([layer.get_parameter("weight") for layer in layers])
        bias = torch.cat([layer.get_parameter("bias") for layer in layers])
        return F.linear(h, weight, bias)

    def logits(self, k: int, h: Tensor, common: Tensor, embedded: Tensor) -> Tensor:
        """Return the logits of variable k of M nodes, also of values that are impossible."""
        if k < COMMON_VARIABLES:
            channels = common[:, k * self.head_width : (k + 1) * self.head_width]
        else:
            channels = self.first[k](h)
        return self.last[k](F.relu(channels + self.gains[k] * embedded))

    def embed(self, k: int, x: Tensor) -> Tensor:
        """Embed variable k for the heads of the variables after it."""
        return self.decided[k](x)
