"""Causal attention over the nodes of a depth-first numbered graph.

One stream: position i holds what is known before node i (the categories of the node before, the
path that it leaves, how many nodes are still to come) and gives the probabilities of all variables
of node i, one after the other. Attention is biased by the distance in the numbering and by the
level on the path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.causal import HIDDEN, CausalBlock
from graphcnf.flows.readout import ReadOut, zero_init
from graphcnf.flows.transform import log_term_dtype
from graphcnf.graphs.path.code import AtomCode
from graphcnf.graphs.path.support import Choices, Support
from graphcnf.graphs.path.walk import DEGREES, KINDS, LEVELS, MIXED, PRIME, SUMS, Path
from graphcnf.graphs.targets import Shares, TargetEmbedding

TOGETHER = (2, 3, 4, 6)
"""Numbers of levels at the end of the path that a network is told about as one thing."""

ROWS = 32
"""Rows that are read out together come in multiples of this: fewer shapes, fewer kernels."""


@dataclass
class Asked:
    """What the variables of some nodes are read out of.

    Attributes:
        h: (..., C), R rows in all.
        choices: Possible categories of the R rows.
    """

    h: Tensor
    choices: Choices


class PathNetwork(nn.Module):
    """Probabilities of the categories of nodes; made for `InterleavedCoupling`.

    Args:
        code: The variables.
        support: Which categories are possible.
        max_nodes: Largest number of nodes.
        width: Channels of a node.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        head_width: Hidden channels of the read-out of a variable.
        level_width: Channels of what is known of a level of the path.
        table_rows: Rows of each table of what is known of the last levels together.
        dropout: Share of the channels that training leaves out.
        targets: What may be asked of a graph (`graphcnf.graphs.targets`), None for nothing.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        code: AtomCode,
        support: Support,
        *,
        max_nodes: int,
        width: int = 192,
        layers: int = 5,
        heads: int = 6,
        expansion: float = 3,
        head_width: int = 96,
        level_width: int = 24,
        table_rows: int = 8192,
        dropout: float = 0.0,
        targets: Sequence[Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        self.dropout = dropout
        self.cardinalities = code.cardinalities
        self.support = support
        self.max_nodes, self.heads = max_nodes, heads
        self.start = nn.Parameter(0.3 * torch.randn(width))
        self.values = nn.ModuleList(nn.Embedding(c, width) for c in self.cardinalities)
        self.position = nn.Embedding(max_nodes, width)
        self.remaining = nn.Embedding(max_nodes + 1, width)
        self.on_level = nn.Embedding(code.cardinalities[2] * SUMS, level_width)
        self.degree = nn.Embedding(DEGREES * 2, level_width)
        # The first row is for no neighbour at all.
        pairs = code.cardinalities[1] * code.cardinalities[2]
        self.neighbours = nn.EmbeddingBag(pairs, level_width, mode="sum", padding_idx=0)
        self.path = nn.Linear(LEVELS * level_width, width)
        # What the last levels are together, as one category: a hashed table, as for n-grams.
        self.together = nn.ModuleList(nn.Embedding(table_rows, 2 * level_width) for _ in TOGETHER)
        self.joined = nn.Linear(len(TOGETHER) * 2 * level_width, width)
        self.by_distance = nn.Parameter(torch.zeros(layers * heads, max_nodes))
        self.by_level = nn.Parameter(torch.zeros(layers * heads, LEVELS))
        self.blocks: Sequence[CausalBlock] = nn.ModuleList(  # type: ignore[assignment]  # not generic
            CausalBlock(width, heads, expansion) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.ModuleList(nn.Linear(width, head_width) for _ in self.cardinalities)
        # A variable knows the ones before it by one table each, with gains of its own.
        self.chain = nn.ModuleList(nn.Embedding(c, head_width) for c in self.cardinalities[:-1])
        self.gains = nn.Parameter(torch.ones(len(self.cardinalities), head_width))
        self.logits = nn.ModuleList(zero_init(ReadOut(head_width, c)) for c in self.cardinalities)
        self.asked = None if targets is None else TargetEmbedding(targets, width)
        self.shares = None if targets is None else Shares(self.cardinalities, targets, width)
        for table in [self.position, self.remaining, *self.values]:
            nn.init.normal_(table.weight, std=0.2)

    def contents(self, x: Tensor) -> Tensor:
        """Embedding (B, M, C) of the categories (B, M, V) of the nodes before some nodes."""
        return sum(table(value) for table, value in zip(self.values, x.unbind(-1), strict=True))

    def inputs(
        self, content: Tensor, number: Tensor, path: Path, to_come: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is known before some nodes.

        Args:
            content: Of the nodes before them, (B, M, C).
            number: Their numbers, (M,) long, the same in every graph.
            path: The paths before them, B * M rows.
            to_come: Numbers of nodes to come, they themselves included, (B, M) long.

        Returns:
            The input of the blocks (B, M, C), and the numbers of the nodes on the path (B, M,
            LEVELS), -1 for none.
        """
        category, degree, around, node, there = path.features()
        kinds = self.cardinalities[2]
        around = around // KINDS * kinds + around % KINDS
        around = self.neighbours(around.flatten(0, 1)).unflatten(0, node.shape)
        levels = (self.on_level(category) + self.degree(degree) + around) * there[..., None]
        known = self.path(levels.flatten(1)) + self.joined(self._ends(category, degree, there))
        h = content + known.unflatten(0, to_come.shape)
        h = h + self.position(number) + self.remaining(to_come)
        return h, torch.where(there, node, -1).unflatten(0, to_come.shape)

    def _ends(self, category: Tensor, degree: Tensor, there: Tensor) -> Tensor:
        """Embedding of the last levels of the path, some of them at a time, (R, C)."""
        state = torch.where(there, category * 2 * DEGREES + degree + 1, 0)
        key, parts = torch.zeros_like(state[:, 0]), []
        for level in range(TOGETHER[-1]):
            key = (key * MIXED + state[:, level]) % PRIME
            if level + 1 in TOGETHER:
                table = self.together[TOGETHER.index(level + 1)]
                assert isinstance(table, nn.Embedding)
                parts.append(table(key % table.num_embeddings))
        return torch.cat(parts, -1)

    def biases(self, number: Tensor, on_path: Tensor, keys: int) -> Tensor:
        """Attention biases (B, layers * heads, M, keys) of M nodes; `keys` is the last one's.

        Key j holds what is known before node j, so node j - 1 belongs to it.
        """
        batch, count, _ = on_path.shape
        key = torch.arange(keys, device=number.device)
        distance = number[:, None] - key
        near = self.by_distance[:, distance.clamp(min=0)]
        near = near + torch.where(distance < 0, HIDDEN, 0.0)
        levels = near.new_zeros(batch, LEVELS, count, keys)
        levels.scatter_(3, (on_path + 1).transpose(1, 2)[..., None], 1.0)
        levels[..., 0] = 0
        return near + (self.by_level @ levels.flatten(2)).unflatten(2, (count, keys))

    def asks(self, targets: Tensor, added: Tensor) -> Tensor:
        """Channels (B, M, C) of what is asked of each graph, before M nodes.

        Args:
            targets: (B, P).
            added: What the nodes before them have added, (B, M, P).

        Raises:
            ValueError: The model takes no targets.
        """
        if self.asked is None or self.shares is None:
            raise ValueError("this model was trained without targets")
        targets = targets.to(self.start.dtype)
        return self.asked(targets)[:, None] + self.shares(targets, added)

    def added(self, x: Tensor, path: Path) -> Tensor:
        """What nodes of the categories x (R, V), behind R paths, add to the targets, (R, P)."""
        if self.shares is None:
            raise ValueError("this model was trained without targets")
        return self.shares.of(x, path.links(x))

    def hidden_states(
        self, x: Tensor, mask: Tensor, targets: Tensor | None = None
    ) -> tuple[Tensor, Path]:
        """All nodes in one pass: (B, N, C), each from the nodes before it, and the paths before."""
        nodes = mask.shape[1]
        if nodes > self.max_nodes:
            raise ValueError(f"graphs of {nodes} nodes, but the model knows up to {self.max_nodes}")
        number = torch.arange(nodes, device=mask.device)
        path = Path.before_each(x, self.support.weights)
        content = self.contents(x[:, :-1])
        content = torch.cat([self.start.expand(len(x), 1, -1).to(content.dtype), content], 1)
        h, on_path = self.inputs(content, number, path, self._to_come(mask, number))
        if targets is not None:
            so_far = self.added(x.flatten(0, 1), path).unflatten(0, mask.shape).cumsum(1)[:, :-1]
            h = h + self.asks(targets, F.pad(so_far, (0, 0, 1, 0)))
        h = self._thinned(h)
        bias = self.biases(number, on_path, nodes)
        for block, own in zip(self.blocks, bias.split(self.heads, 1), strict=True):
            u = block.write(h, *block.read(h), own)
            h = h + self._thinned(u - h) if self.training and self.dropout else u
        return self.norm(h), path

    def _thinned(self, h: Tensor) -> Tensor:
        return F.dropout(h, self.dropout, self.training)

    @staticmethod
    def _to_come(mask: Tensor, number: Tensor) -> Tensor:
        return (mask.sum(1, keepdim=True) - number).clamp(min=0)

    def told(self, previous: list[Tensor]) -> list[Tensor]:
        """What each variable knows of the ones before it, (..., C) each; 0 for the first."""
        sums: list[Any] = [0]
        for table, value in zip(self.chain, previous, strict=False):
            sums.append(sums[-1] + table(value))
        return sums

    def read_out(self, asked: Asked, previous: list[Tensor]) -> Tensor:
        """Logits (..., cardinality) of the variable after `previous`; -inf where impossible."""
        # Where there is no node, the coupling writes the number of categories.
        previous = [p.clamp(max=c - 1) for p, c in zip(previous, self.cardinalities, strict=False)]
        return self._logits(asked, previous, self.told(previous)[-1])

    def _logits(self, asked: Asked, previous: list[Tensor], told) -> Tensor:
        k = len(previous)
        hidden = F.relu(self.hidden[k](asked.h) + self.gains[k] * told)
        logits = self.logits[k](hidden)
        allowed = asked.choices([p.flatten() for p in previous]).view_as(logits)
        return logits.to(log_term_dtype(logits)).masked_fill(~allowed, -math.inf)

    def log_prob(self, x: Tensor, mask: Tensor, targets: Tensor | None = None) -> Tensor:
        """Log-probabilities of the variables of the categories x (B, N, V), (B, V) nats.

        Given what is asked of each graph, `targets` (B, P). Variables that follow from others are
        not looked at.
        """
        h, path = self.hidden_states(x, mask, targets)
        at = _padded(torch.nonzero(mask.flatten())[:, 0])
        number = torch.arange(mask.shape[1], device=mask.device)
        remaining = (self._to_come(mask, number) - 1).flatten()
        count = int(mask.sum())
        graph, x = at[:count] // mask.shape[1], x.flatten(0, 1)
        told = self.told(list(x.unbind(-1)))
        sums = []
        for k in range(x.shape[-1]):
            rows, real = at, count
            if k > 3:
                # An edge needs its closure, a further closure the one before.
                there = x[at[:count], k - 1 if k % 2 == 0 else k - 2] > 0
                rows = at[:count][there]
                real = len(rows)
                if not real:
                    sums.append(h.new_zeros(len(mask), dtype=log_term_dtype(h)))
                    continue
                rows = _padded(rows)
            chosen, values = h.flatten(0, 1)[rows], x[rows]
            asked = Asked(chosen, self.support.choices(path.rows(rows), remaining[rows]))
            before = told[k][rows] if k else 0
            logits = self._logits(asked, list(values[:, :k].unbind(-1)), before)
            own = -F.cross_entropy(logits, values[:, k], reduction="none")
            where = graph if real == count else rows[:real] // mask.shape[1]
            sums.append(own.new_zeros(len(mask)).index_add(0, where, own[:real]))
        return torch.stack(sums, -1)

    def streams_of(self, x: Tensor, context, group: Tensor) -> Asked:
        """What all variables are read out of, for `InterleavedCoupling.log_probs`."""
        mask = context.mask
        number = torch.arange(mask.shape[1], device=mask.device)
        x = torch.where(mask[..., None], x, 0)
        h, path = self.hidden_states(x, mask, context.conditions)
        remaining = (self._to_come(mask, number) - 1).clamp(min=0)
        return Asked(h, self.support.choices(path, remaining.flatten()))

    def rounds(self, context, group: Tensor) -> PathRounds:
        """The same node by node, with an object that has `ask` and `tell`."""
        return PathRounds(self, context.mask, context.conditions)


class PathRounds:
    """One node of every graph after the other, with the keys and values of the nodes before."""

    def __init__(self, network: PathNetwork, mask: Tensor, targets: Tensor | None = None):
        self.network, self.mask, self.targets = network, mask, targets
        if targets is not None:
            self.added = network.start.new_zeros(len(mask), 1, targets.shape[-1])
        self.to_come = mask.sum(1, keepdim=True)
        self.path = Path.start(mask.shape[0], mask.shape[1], mask.device)
        shape = len(mask), network.heads, mask.shape[1], network.start.numel() // network.heads
        self.keys = [network.start.new_empty(shape) for _ in network.blocks]
        self.values = [network.start.new_empty(shape) for _ in network.blocks]

    def ask(self, g: int, members: Tensor | None, known: Tensor) -> Asked:
        """What node g of every graph is read out of; `known` (B, N, V) holds those before."""
        net = self.network
        number = torch.full((1,), g, device=known.device)
        to_come = (self.to_come - g).clamp(min=0)
        content = net.start.expand(len(known), 1, -1)
        if g:
            content = net.contents(self._real(known, g - 1)[:, None])
        h, on_path = net.inputs(content, number, self.path, to_come)
        if self.targets is not None:
            h = h + net.asks(self.targets, self.added)
        bias = net.biases(number, on_path, g + 1)
        for k, (block, own) in enumerate(zip(net.blocks, bias.split(net.heads, 1), strict=True)):
            query, key, value, hidden = block.read(h)
            self.keys[k][:, :, g], self.values[k][:, :, g] = key[:, :, 0], value[:, :, 0]
            keys, values = self.keys[k][:, :, : g + 1], self.values[k][:, :, : g + 1]
            h = block.write(h, query, keys, values, hidden, own)
        remaining = (to_come[:, 0] - 1).clamp(min=0)
        return Asked(net.norm(h), net.support.choices(self.path, remaining))

    def tell(self, g: int, members: Tensor | None, real: Tensor | None, known: Tensor) -> None:
        """Take the categories of node g, now in `known`."""
        x = self._real(known, g)
        if self.targets is not None:
            self.added = self.added + self.network.added(x, self.path)[:, None]
        self.path = self.path.add(g, x, self.network.support.weights)

    def _real(self, known: Tensor, g: int) -> Tensor:
        """Categories (B, V) of node g, 0 where a graph has none."""
        return torch.where(self.mask[:, g, None], known[:, g], 0)


def _padded(rows: Tensor) -> Tensor:
    return F.pad(rows, (0, -len(rows) % ROWS))
