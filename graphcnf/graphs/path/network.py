"""The network of the graph model "path": causal attention over the nodes in depth-first order.

Each node is one *position* of the attention, and one *step* of drawing. It is described by the V
variables of `DepthFirstCode` (backtrack, edge to the parent, category, closures), which are decided
one after the other.

- The *path* of a partly drawn graph is the nodes from the first one to the last one, the *level* of
  a node its distance from the first (`Path`). The network sees the last `LEVELS` levels.
- A *level code* is one number that summarises the node at a level (`level_codes`), an *n-gram* the
  level codes of the last n levels: a small pattern such as the end of a chain or ring.
- The *output head* of a variable is the layers that turn hidden channels into its logits.
- *Conditions* are numbers of a whole graph, such as logP; each node and edge has a learned
  *contribution* to them (`Contributions`), so that the network knows what is still missing.

`PathNetwork.steps` evaluates all nodes of complete graphs at once, for training and scoring;
`PathState` draws node by node, with cached keys and values. Both give the same logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import InSequence, Network, ParticleState, Step
from graphcnf.categorical.transformer import HIDDEN, ReadOut, Transformer, zero_init
from graphcnf.flows.transform import Context
from graphcnf.graphs.path.depth_first import DepthFirstCode
from graphcnf.graphs.path.node_states import CATEGORIES
from graphcnf.graphs.path.paths import (
    DEGREES,
    LEVELS,
    NEIGHBOURS,
    NODE,
    STATE,
    SUMS,
    Path,
    hashed,
    level_codes,
)
from graphcnf.graphs.path.support import Support, UndecidedNodes

# Lengths n of the n-grams of levels at the end of the path, which have hashed embeddings.
TOGETHER = (2, 3, 4, 6)


@dataclass
class Nodes:
    """Hidden state of M new nodes while their variables are decided one after the other.

    Attributes:
        h: Output of the attention, (M, C).
        common: First layer of the output heads of the first `DepthFirstCode.COMMON` variables,
            which every node has, by one matrix product, (M, COMMON * H). None once only some of the
            nodes have further variables: their heads are then evaluated one by one.
        decided: Sum of the embeddings of the variables so far, (M, H); None before the first one.
        new: Their variables so far, and what `Support` needs to tell which values are possible.
    """

    h: Tensor
    common: Tensor | None
    decided: Tensor | None
    new: UndecidedNodes

    def __getitem__(self, rows: Tensor) -> Nodes:
        """Return the hidden state of K of the M nodes; `rows` are their indices, (K,) long."""
        common = None if self.common is None else self.common[rows]
        decided = None if self.decided is None else self.decided[rows]
        return Nodes(self.h[rows], common, decided, self.new[rows])


class FoldedParameters:
    """Parameters of a network, rearranged for fast steps.

    They are computed anew for every batch, since they are out of date once the network is trained
    further.

    Attributes:
        values: The embeddings of all variables of a node, one table under the other.
        offsets: First row of each variable in `values`, (V,) long.
        levels: Embedding of every level code, see `level_codes`; 0 for no node.
        weight: Weights of the first layers of the common output heads, (COMMON * H, C).
        bias: Their biases, (COMMON * H,).
    """

    def __init__(self, network: PathNetwork):
        self.values = torch.cat([t.get_parameter("weight") for t in network.values])
        counts = torch.tensor([0, *network.cardinalities[:-1]], device=self.values.device)
        self.offsets = counts.cumsum(0)
        levels = network.on_level.weight[:, None] + network.degree.weight
        self.levels = F.pad(levels.flatten(0, 1), (0, 0, 1, 0))
        common = network.hidden[: DepthFirstCode.COMMON]
        self.weight = torch.cat([layer.get_parameter("weight") for layer in common])
        self.bias = torch.cat([layer.get_parameter("bias") for layer in common])

    def contents(self, x: Tensor) -> Tensor:
        """Return the sum (R, C) of the embeddings of all variables x (R, V) of R nodes."""
        return F.embedding_bag(x + self.offsets, self.values, mode="sum")

    def nodes(self, h: Tensor, new: UndecidedNodes) -> Nodes:
        """Return the hidden state of M new nodes of which no variable is decided.

        Args:
            h: Output of the attention, (M, C).
            new: What `Support` knows of them.
        """
        return Nodes(h, F.linear(h, self.weight, self.bias), None, new)


class PathNetwork(Network):
    """Causal attention network for the variables of nodes in depth-first order.

    The input of position i is what is known before node i: the variables of node i - 1, the path to
    it, and the number of nodes to come. The output gives the probabilities of the variables of node
    i, which are decided one after the other. Attention biases depend on the distance in the node
    order, and on the level of the other node if it is on the path.

    Args:
        code: The variables of a node.
        support: Which values of the variables are possible.
        max_nodes: Largest number of nodes of a graph.
        width: Channels C of a position.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        head_width: Hidden channels H of the output head of a variable.
        level_width: Channels of a level of the path.
        table_rows: Rows of the hashed embedding of n-grams, for each n of `TOGETHER`. N-grams that
            hash to the same row share an embedding.
        dropout: Share of the channels that training leaves out.
        conditions: The conditions, as `condition_statistics` describes them; None for none.

    Attributes:
        initial: Input of the first position in place of a node before it, (C,).
        values: Embedding of each variable of the node before, V of (cardinality, C).
        position, remaining: Embeddings of a node's number, and of how many nodes are to come.
        on_level, degree, neighbours: Embeddings of what a level code says, and of the neighbours of
            the node at a level; they add up to its channels.
        path: Layer that turns the channels of the last `LEVELS` levels into C channels.
        together, joined: Hashed embeddings of n-grams, and the layer that turns them into C
            channels.
        by_distance, by_level: Attention biases by the distance of two nodes in the node order, and
            by the level of the other node, counted from the end of the path.
        blocks, norm: The attention, and the normalisation of its output.
        hidden, chain, gains, outputs: Output head of each variable. Its hidden channels are those
            of the first layer, plus the embeddings `chain` of the variables that are decided, added
            up and multiplied by its `gains`; `outputs` turns them into logits.
        conditions, shares: Embedding of conditions, and the contributions of nodes and edges to
            them; None without conditions.
    """

    def __init__(
        self,
        code: DepthFirstCode,
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
        conditions: Sequence[Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        self.cardinalities = code.cardinalities
        self.support = support
        self.max_nodes, self.head_width = max_nodes, head_width
        self.initial = nn.Parameter(0.3 * torch.randn(width))
        self.values = nn.ModuleList(nn.Embedding(c, width) for c in self.cardinalities)
        self.position = nn.Embedding(max_nodes, width)
        self.remaining = nn.Embedding(max_nodes + 1, width)
        self.on_level = nn.Embedding(code.cardinalities[2] * SUMS, level_width)
        self.degree = nn.Embedding(DEGREES * 2, level_width)
        # The first row is for no neighbour at all.
        pairs = code.cardinalities[1] * code.cardinalities[2]
        self.neighbours = nn.EmbeddingBag(pairs, level_width, mode="sum", padding_idx=0)
        self.path = nn.Linear(LEVELS * level_width, width)
        # Hashed embeddings of n-grams of levels.
        self.together = nn.ModuleList(nn.Embedding(table_rows, 2 * level_width) for _ in TOGETHER)
        self.joined = nn.Linear(len(TOGETHER) * 2 * level_width, width)
        self.by_distance = nn.Parameter(torch.zeros(layers * heads, max_nodes))
        self.by_level = nn.Parameter(torch.zeros(layers * heads, LEVELS))
        self.blocks = self.make_blocks(width, heads, expansion, layers, dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.ModuleList(nn.Linear(width, head_width) for _ in self.cardinalities)
        # Embeddings of earlier variables, added up and scaled by the gains of the next variable.
        self.chain = nn.ModuleList(nn.Embedding(c, head_width) for c in self.cardinalities[:-1])
        self.gains = nn.Parameter(torch.ones(len(self.cardinalities), head_width))
        self.outputs = nn.ModuleList(zero_init(ReadOut(head_width, c)) for c in self.cardinalities)
        self.conditions: Any = None
        self.shares: Any = None
        if conditions is not None:
            from graphcnf.graphs.conditions import ConditionEmbedding, Contributions

            self.conditions = ConditionEmbedding(conditions, width)
            self.shares = Contributions(self.cardinalities, conditions, width)
        for table in [self.position, self.remaining, *self.values]:
            nn.init.normal_(table.weight, std=0.2)

    def make_blocks(
        self, width: int, heads: int, expansion: float, layers: int, dropout: float
    ) -> Any:
        """Build the attention blocks; a network of one's own may override it to have others.

        Args:
            width: Channels C of a position.
            heads: Attention heads.
            expansion: Feed-forward hidden channels as a multiple of `width`.
            layers: Number of blocks.
            dropout: Share of the channels that training leaves out.

        Returns:
            A module with the methods `forward` (all positions at once), `cache` and `step` (one
            position after the other, for drawing) of `Transformer`.
        """
        return Transformer(width, heads, expansion, layers, dropout=dropout)

    def inputs(
        self, channels: Tensor, codes: Tensor, contents: Tensor, number: Tensor, to_come: Tensor
    ) -> Tensor:
        """Embed what is known before R nodes, without conditions.

        Args:
            channels: Embeddings of the last levels of the paths to them, as the method `channels`
                returns them, (R, LEVELS, level width).
            codes: Level codes of these levels, see `level_codes`, (R, LEVELS) long.
            contents: Embeddings of the nodes before them, as `FoldedParameters.contents` returns
                them; `initial` before the first node, (R, C).
            number: Their numbers in their graphs, (R,) or () long.
            to_come: How many nodes of the graph are to come, these included, (R,) long.

        Returns:
            Inputs of the attention, (R, C).
        """
        key, parts = torch.zeros_like(codes[:, 0]), []
        together = iter(self.together)
        for level in range(TOGETHER[-1]):
            key = hashed(key, codes[:, level])
            if level + 1 in TOGETHER:
                table = next(together)
                parts.append(table(key % len(table.get_parameter("weight"))))
        of_path = self.path(channels.flatten(1)) + self.joined(torch.cat(parts, -1))
        return of_path + contents + self.position(number) + self.remaining(to_come)

    def channels(self, codes: Tensor, around: Tensor, folded: FoldedParameters) -> Tensor:
        """Embed levels of paths.

        Args:
            codes: Level codes, see `level_codes`, (R,) long.
            around: Neighbours of the node at each level, as in `Path.around`, (R, K) long.
            folded: Rearranged parameters.

        Returns:
            Embeddings of the levels, (R, level width).
        """
        pairs = around // CATEGORIES * self.cardinalities[2] + around % CATEGORIES
        return F.embedding(codes, folded.levels) + self.neighbours(pairs[:, :NEIGHBOURS])

    def _biases(self, number: Tensor, on_path: Tensor) -> Tensor:
        """Return attention biases by distance in the node order and by level on the path.

        Position j holds the variables of node j - 1, and position 0 no node. Position i has for
        position j the bias `by_distance[i - j]`, plus `by_level[k]` if node j - 1 is at the k-th
        last level of the path before node i. `PathState.step` adds up the same for one i.

        Args:
            number: Numbers of the nodes, 0 to N - 1, (N,) long.
            on_path: Numbers plus 1 of the nodes on the last levels before each node, 0 for none,
                (B, N, LEVELS) long: their positions.

        Returns:
            (B, layers * heads, N, N), by the position that attends and the other position.
        """
        distance = number[:, None] - number
        by_distance = self.by_distance[:, distance.clamp(min=0)]
        by_distance = by_distance + torch.where(distance < 0, HIDDEN, 0.0)
        size = len(number)
        levels = by_distance.new_zeros(len(on_path), LEVELS, size, size)
        levels.scatter_(3, on_path.transpose(1, 2)[..., None], 1.0)
        levels[..., 0] = 0  # Where there was no node; position 0 holds none.
        return by_distance + (self.by_level @ levels.flatten(2)).unflatten(2, (size, size))

    def attended(self, h: Tensor, bias: Tensor) -> Tensor:
        """Return the output of the attention blocks for all positions; subclasses may add to it.

        Args:
            h: Input channels, (B, N, C).
            bias: Attention biases, (B, layers * heads, N, N).

        Returns:
            Output channels, (B, N, C).
        """
        return self.blocks(h, bias)

    def conditioned(self, conditions: Tensor, added: Tensor) -> Tensor:
        """Embed the conditions of graphs, for M positions each.

        Args:
            conditions: Conditions of B graphs, (B, P); nan where unknown.
            added: Contributions of all nodes before each position, (B, M, P), in the units of the
                conditions.

        Returns:
            Channels that are added to the inputs of the positions, (B, M, C).
        """
        assert self.conditions is not None and self.shares is not None
        conditions = conditions.to(self.initial.dtype)
        return self.conditions(conditions)[:, None] + self.shares(conditions, added)

    def added(self, x: Tensor, path: Path) -> Tensor:
        """Return the contributions of R nodes and their edges to the conditions.

        Args:
            x: Variables of the nodes, (R, V) long.
            path: The paths before these nodes.

        Returns:
            Contributions, (R, P), in the units of the conditions.

        Raises:
            ValueError: if the model was trained without conditions.
        """
        if self.shares is None:
            raise ValueError("this model was trained without conditions")
        return self.shares.of(x, path.links(x))

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield all nodes of complete graphs in one step.

        Args:
            x: Variables of the nodes, (B, N, V) long.
            context: Its mask (B, N) says which nodes are real.
        """
        mask, conditions = context.mask, getattr(context, "condition_values", None)
        x = torch.where(mask[..., None], x, 0)
        number, folded = torch.arange(mask.shape[1], device=mask.device), FoldedParameters(self)
        # With these nodes included. All nodes go through the network, those at padding as well.
        to_come = (mask.sum(1, keepdim=True) - number).clamp(min=0)
        path = Path.before_each(x, self.support.states, self.support.pad)
        h, on_path = self._inputs_of_all(x, path, to_come, folded)
        if conditions is not None:
            added = self.added(x.flatten(0, 1), path).unflatten(0, mask.shape).cumsum(1)[:, :-1]
            h = h + self.conditioned(conditions, F.pad(added, (0, 0, 1, 0)))
        h = self.norm(self.attended(self.dropout(h), self._biases(number, on_path)))
        # Only real nodes have variables.
        path = path.take(mask.flatten().nonzero()[:, 0])
        new = self.support.new_nodes(path.tables[STATE], path.depth, to_come[mask] - 1)
        yield Step(mask.nonzero(as_tuple=True), folded.nodes(h[mask], new))

    def _inputs_of_all(
        self, x: Tensor, path: Path, to_come: Tensor, folded: FoldedParameters
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs of all positions of complete graphs, without conditions.

        Args:
            x: Variables of the nodes, (B, N, V) long.
            path: The paths before them, B * N, those of one graph after the other.
            to_come: How many nodes of the graph are to come, these included, (B, N) long.
            folded: Rearranged parameters.

        Returns:
            Inputs of the attention, (B, N, C); and numbers plus 1 of the nodes on the last levels
            before each node, 0 for none, (B, N, LEVELS) long.
        """
        shape = to_come.shape
        # Rows from here on are the B * N nodes, and levels the last ones of their paths.
        levels = path.last_levels(shape.numel())
        at_levels = path.tables.flatten(1)[:, levels]
        codes = level_codes(at_levels)
        around = path.around.flatten(0, 1)[levels].flatten(0, 1)
        channels = self.channels(codes.flatten(), around, folded).unflatten(0, codes.shape)
        before = folded.contents(x[:, :-1].flatten(0, 1)).unflatten(0, (len(x), shape[1] - 1))
        before = torch.cat([self.initial.expand(len(x), 1, -1).to(before.dtype), before], 1)
        numbers = torch.arange(shape[1], device=x.device).expand(shape).flatten()
        h = self.inputs(channels, codes, before.flatten(0, 1), numbers, to_come.flatten())
        return h.unflatten(0, shape), at_levels[NODE].unflatten(0, shape)

    def start(self, context: Context) -> PathState:
        return PathState(self, context.mask, getattr(context, "condition_values", None))

    def logits(self, hidden: Nodes) -> Tensor:
        k = len(hidden.new.x)
        if hidden.common is not None and k < DepthFirstCode.COMMON:
            channels = hidden.common[:, k * self.head_width : (k + 1) * self.head_width]
        else:
            channels = self.hidden[k](hidden.h)
        if hidden.decided is not None:
            channels = channels + self.gains[k] * hidden.decided
        logits = super().logits(self.outputs[k](F.relu(channels)))
        return logits.masked_fill(~self.support.allowed(hidden.new), -math.inf)

    def embed(self, hidden: Nodes, x: Tensor) -> tuple[Nodes, Tensor | None]:
        """Add a decided variable to the hidden state of M new nodes.

        After a closure of length 0, all further variables of a node are 0, so that the node leaves
        the step: only the nodes with another length have a next variable.

        Args:
            hidden: Hidden state of the M nodes.
            x: The variable of each, (M,) long.

        Returns:
            The hidden state of the next variable, and the indices (R,) of the nodes that have it;
            None if all have.
        """
        k, kept = len(hidden.new.x), None
        if DepthFirstCode.role(k) == "length":
            kept = x.nonzero()[:, 0]
            hidden, x = Nodes(hidden.h, None, hidden.decided, hidden.new)[kept], x[kept]
        decided = self.chain[k](x)
        if hidden.decided is not None:
            decided = decided + hidden.decided
        new = self.support.add(hidden.new, x)
        return Nodes(hidden.h, hidden.common, decided, new), kept


class PathState(ParticleState):
    """State of B partly drawn graphs, updated in place.

    Graphs are sorted by size, the largest first, so that complete ones are last and leave the
    batch; all rows below are in this order (`InSequence`). What was computed for a level of the
    path is kept until the node at this level changes.

    Attributes:
        network: The network.
        order: Which graphs have another node.
        folded: Rearranged parameters of the network.
        cache: Keys and values of the attention for all nodes so far.
        path: The paths, B of them.
        codes: Level code of each level of the paths, (B, W) long.
        channels: Embedding of each level, (B, W, level width).
        level_bias: `PathNetwork.by_level` by level from the end of the path, then 0 for a node that
            is not on it, (LEVELS + 1, layers * heads).
        before: Variables of the last node, (B, V) long.
        conditions: Conditions, (B, P), or None.
        added: Contributions to the conditions of all nodes but the last one, (B, P); only with
            conditions.
    """

    def __init__(self, network: PathNetwork, mask: Tensor, conditions: Tensor | None):
        self.network, self.order = network, InSequence(mask)
        self.folded, self.cache = FoldedParameters(network), network.blocks.cache(mask)
        rows, pad, initial = len(mask), network.support.pad, network.initial
        self.path = Path.start(rows, mask.shape[1], pad, mask.device)
        shape = self.path.tables.shape[1:]
        self.codes = self.path.tables.new_zeros(shape)
        self.channels = initial.new_zeros(*shape, self.folded.levels.shape[1])
        self.level_bias = F.pad(network.by_level.t(), (0, 0, 0, 1))
        self.before = self.path.depth.new_zeros(rows, len(network.cardinalities))
        self.conditions = None if conditions is None else conditions[self.order.rows]
        if conditions is not None:
            self.added = initial.new_zeros(conditions.shape)

    def step(self) -> Step | None:
        """Go on to the next node of all unfinished graphs; None once all are complete.

        First the node that `update` has received is appended to the paths.
        """
        at, net = self.order.next(), self.network
        if at is None:
            return None
        count, number = len(at[0]), at[1]
        if number:
            self._add(number - 1, self.before[:count])
        to_come = self.order.sizes[:count] - number
        levels = self.path.last_levels(count)
        channels = F.embedding(levels, self.channels.flatten(0, 1))
        contents = self.folded.contents(self.before[:count]) if number else net.initial
        h = net.inputs(
            channels, self.codes.flatten()[levels], contents, levels.new_tensor(number), to_come
        )
        if self.conditions is not None:
            h = h + net.conditioned(self.conditions[:count], self.added[:count, None])[:, 0]
        # For each key, the level of its node, counted from the end of the path; LEVELS if it is not
        # on the path. Key j holds node j - 1, and key 0 none.
        level = torch.full((number + 1, count), LEVELS, device=levels.device)
        up = torch.arange(LEVELS, device=levels.device)[:, None].expand(-1, count)
        level.scatter_(0, self.path.tables[NODE].flatten()[levels].t(), up)
        level[0] = LEVELS
        by_distance = net.by_distance[:, : number + 1].flip(1).t()[:, None]
        bias = F.embedding(level, self.level_bias) + by_distance
        h = net.norm(self.attended(h, bias))
        state = self.path.tables[STATE, :count, : net.support.pad + number + 1]
        new = net.support.new_nodes(state, self.path.depth[:count], to_come - 1)
        return Step(at, self.folded.nodes(h, new))

    def attended(self, h: Tensor, bias: Tensor) -> Tensor:
        """Return the output of the attention blocks for the next position of every row.

        Args:
            h: Input channels, (B, C).
            bias: Attention biases of the N positions so far, the new one included, (N, B or 1,
                layers * heads).

        Returns:
            Output channels, (B, C).
        """
        return self.network.blocks.step(h, bias, self.cache)

    def _add(self, number: int, x: Tensor) -> None:
        """Append a node to the paths of the first R graphs, and update what depends on them.

        Args:
            number: Number of the node in its graph, the same in all R graphs.
            x: Its variables, (R, V) long.
        """
        if self.conditions is not None:
            self.added[: len(x)] += self.network.added(x, self.path)
        changed = self.path.add(number, x, self.network.support.states)
        tables = self.path.tables.flatten(1)[:, changed]
        codes, around = level_codes(tables), self.path.around.flatten(0, 1)[changed]
        self.codes.view(-1)[changed] = codes
        channels = self.network.channels(codes, around, self.folded)
        self.channels.flatten(0, 1)[changed] = channels

    def update(self, x: Tensor) -> None:
        """Set the variables of the node that `step` returned last; `step` appends it to the paths.

        Args:
            x: Variables of this node in each of the M unfinished graphs, (M, V) long.
        """
        self.before[: len(x)] = x

    def take(self, rows: Tensor) -> None:
        """Replace the batch in place by graphs of it.

        Args:
            rows: Numbers of the graphs in the mask, (R,) long, which may repeat.
        """
        index = self.order.take(rows)
        self.cache.take(index)
        self.path = self.path.take(index)
        for name in ("codes", "channels", "before"):
            setattr(self, name, getattr(self, name)[index])
        if self.conditions is not None:
            self.conditions, self.added = self.conditions[index], self.added[index]
