"""The network of the graph model "path": causal attention over the nodes in depth-first order.

Each node is one *position* of the attention. Position i has what is known before node i:

    position                   0          1          2          ...
    its input has the node     none       0          1          ... and the path to this node
    its output decides node    0          1          2          ...

So to attend to node i is to attend to position i + 1. Scoring evaluates all nodes of whole graphs
at once; drawing goes node by node, with cached keys and values. Both go the same way, and give the
same logits:

                            scoring                          drawing
                            `PathNetwork.steps`              `PathDrawing.step`
    paths before the nodes  `Path.before_each`               `PathDrawing.path`
    inputs                  `PathNetwork.features`           `PathNetwork.features`
    conditions, if any      `Conditioning.of_all`            `Conditioning.of_next`
    attention               `PathNetwork.attend`, `norm`     `PathDrawing.attend`, `norm`
    hidden state            `PathNetwork.first_hidden`       `PathNetwork.first_hidden`

The V variables of a node (`DepthFirstCode`: backtrack, edge to the parent, category, closures) are
then decided one after the other: `PathNetwork.logits` gives the logits of the next one, of which
`Support` says which values are possible, and `PathNetwork.next_hidden` adds its value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from graphcnf.categorical.autoregressive import AutoregressiveNetwork, InSequence, Step
from graphcnf.categorical.transformer import Transformer
from graphcnf.flows.transform import Context, log_term_dtype
from graphcnf.graphs.path.depth_first import DepthFirstCode, VariableRole
from graphcnf.graphs.path.path_layers import AttentionBiases, NodeHeads, PathFeatures
from graphcnf.graphs.path.paths import Path
from graphcnf.graphs.path.support import Support, UndecidedNodes

if TYPE_CHECKING:
    from graphcnf.graphs.conditions import ConditionEmbedding
    from graphcnf.graphs.path.contributions import Conditioning, Contributions


class AttentionBlocks(Protocol):
    """What lets a position attend to those before it: a `Transformer`, or a module like it."""

    def __call__(self, h: Tensor, bias: Tensor) -> Tensor:
        """Return the outputs of all positions, as `Transformer.forward` does."""

    def cache(self, mask: Tensor) -> Any:
        """Return an object in which `next_position` keeps what it needs of earlier positions.

        Its method `select(rows)` replaces the rows of the batch, as that of `Cache` does.
        """

    def next_position(self, h: Tensor, bias: Tensor, cache: Any) -> Tensor:
        """Return the output of the next position, as `Transformer.next_position` does."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PathContext(Context):
    """Context of graphs of which some are in a random node order.

    Attributes:
        random_order: True for graphs in a random depth-first order, not the canonical one, (B,).
    """

    random_order: Tensor


@dataclass
class NodeHidden:
    """Hidden state of M new nodes while their variables are decided one after the other.

    Attributes:
        attended: Output of the attention, (M, D).
        common: What `NodeHeads.first_layers` makes of it, (M, 4 * G).
        embedded: Sum of the embeddings of the variables so far, (M, G).
        nodes: The variables of the nodes so far, and what `Support` needs to tell which values are
            possible.
    """

    attended: Tensor
    common: Tensor
    embedded: Tensor
    nodes: UndecidedNodes

    def __getitem__(self, rows: Tensor) -> NodeHidden:
        """Return the hidden state of K of the M nodes; `rows` are their indices, (K,) long."""
        return NodeHidden(
            self.attended[rows], self.common[rows], self.embedded[rows], self.nodes[rows]
        )


class PathNetwork(AutoregressiveNetwork):
    """Causal attention network for the variables of nodes in depth-first order.

    The input of position i is what is known before node i: the variables of node i - 1, the path to
    it, and the number of nodes to come. The output gives the probabilities of the variables of node
    i, which are decided one after the other. Attention biases depend on the distance in the node
    order, and on the level of the other node if it is on the path.

    Args:
        level_width: Channels of a level of the path.
        table_rows: Rows of the embedding of n-grams, see `PathFeatures`.
        random_orders: True to learn a vector that says that nodes are in a random order.
        conditions: The conditions, as `condition_statistics` describes them; None for a model
            without conditions.

    Attributes:
        heads: Output heads of the variables; the argument `heads` counts attention heads.
        random_order: What is added to all positions of graphs in a random order, (D,); None for a
            network that never sees one.
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
        multi_query: bool = False,
        random_orders: bool = False,
        conditions: Sequence[Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        self.cardinalities = code.cardinalities
        self.support = support
        self.max_nodes = max_nodes
        self.features = PathFeatures(code, max_nodes, width, level_width, table_rows)
        self.biases = AttentionBiases(layers * heads, max_nodes)
        self.blocks = self.make_blocks(width, heads, expansion, layers, dropout, multi_query)
        self.random_order = nn.Parameter(torch.zeros(width)) if random_orders else None
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.heads = NodeHeads(self.cardinalities, width, head_width)
        self.condition_embedding: ConditionEmbedding | None = None
        self.contributions: Contributions | None = None
        if conditions is not None:
            from graphcnf.graphs.conditions import ConditionEmbedding
            from graphcnf.graphs.path.contributions import Contributions

            self.condition_embedding = ConditionEmbedding(conditions, width)
            self.contributions = Contributions(self.cardinalities, conditions, width)

    def make_blocks(
        self,
        width: int,
        heads: int,
        expansion: float,
        layers: int,
        dropout: float,
        multi_query: bool,
    ) -> AttentionBlocks:
        """Build the attention blocks, a module with the methods of `AttentionBlocks`."""
        return Transformer(
            width, heads, expansion, layers, dropout=dropout, multi_query=multi_query
        )

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield all nodes of whole graphs in one step, for training and scoring."""
        mask = context.mask
        conditioning = self.conditioning(context)
        x = torch.where(mask[..., None], x, 0)
        # All nodes go through the network, those at padding as well.
        number = torch.arange(mask.shape[1], device=mask.device)
        to_come = (mask.sum(1, keepdim=True) - 1 - number).clamp(min=-1)
        path = Path.before_each(x, self.support.states, self.support.pad)
        before = self._nodes_before(x)
        h, on_path = self.features(path, before, number.repeat(len(x)), to_come.flatten())
        h = h.unflatten(0, mask.shape)
        on_path = on_path.unflatten(0, mask.shape)
        if conditioning is not None:
            h = h + conditioning.of_all(x, path)
        if isinstance(context, PathContext) and self.random_order is not None:
            h = h + context.random_order[:, None, None] * self.random_order
        h = self.norm(self.attend(self.dropout(h), self.biases(on_path)))
        # Only real nodes have variables.
        path = path.select(mask.flatten().nonzero()[:, 0])
        rows, positions = mask.nonzero(as_tuple=True)
        hidden = self.first_hidden(h[mask], path.levels.state, path.depth, to_come[mask])
        yield Step(rows, positions, hidden)

    def _nodes_before(self, x: Tensor) -> Tensor:
        """Return the embeddings of the node before each node of whole graphs."""
        before = self.features.of_nodes(x[:, :-1].flatten(0, 1))
        before = before.unflatten(0, (len(x), x.shape[1] - 1))
        none = self.features.no_node.to(before.dtype).expand(len(x), 1, -1)
        return torch.cat([none, before], 1).flatten(0, 1)

    def conditioning(self, context: Context) -> Conditioning | None:
        """Return the conditions of the graphs of a batch; None if there are none."""
        if context.condition_values is None:
            return None
        if self.condition_embedding is None or self.contributions is None:
            raise ValueError("this model was trained without conditions")
        from graphcnf.graphs.path.contributions import Conditioning

        values = context.condition_values.to(self.norm.weight.dtype)
        return Conditioning(self.condition_embedding, self.contributions, values)

    def attend(self, h: Tensor, bias: Tensor) -> Tensor:
        """Return the output of the attention blocks for all positions of whole graphs.

        A subclass that adds something to it does the same for the next position in drawing: it
        overrides `PathDrawing.attend`, and `start`, which returns it.
        """
        return self.blocks(h, bias)

    def first_hidden(
        self, attended: Tensor, state: Tensor, depth: Tensor, to_come: Tensor
    ) -> NodeHidden:
        """Return the hidden state of M new nodes of which no variable is decided.

        Columns of the states in which no path has a node may be cut off at the right.
        """
        nodes = self.support.new_nodes(state, depth, to_come)
        common = self.heads.first_layers(attended)
        none = common.new_zeros(len(common), self.heads.head_width)
        return NodeHidden(attended, common, none, nodes)

    def start(self, context: Context) -> PathDrawing:
        return PathDrawing(self, context)

    def logits(self, hidden: NodeHidden) -> Tensor:
        variable = len(hidden.nodes.x)
        logits = self.heads.logits(variable, hidden.attended, hidden.common, hidden.embedded)
        logits = logits.to(log_term_dtype(logits))
        return logits.masked_fill(~hidden.nodes.possible, -math.inf)

    def next_hidden(self, hidden: NodeHidden, x: Tensor) -> tuple[NodeHidden, Tensor | None]:
        """Add a decided variable to the hidden state of M new nodes.

        After a closure of length 0, all further variables of a node are 0, so that the node leaves
        the step: only the nodes with another length have a next variable.
        """
        rows = None
        if hidden.nodes.variable.role is VariableRole.LENGTH:
            rows = x.nonzero()[:, 0]
            hidden = hidden[rows]
            x = x[rows]
        embedded = hidden.embedded + self.heads.embed(len(hidden.nodes.x), x)
        nodes = self.support.add(hidden.nodes, x)
        return NodeHidden(hidden.attended, hidden.common, embedded, nodes), rows


class PathDrawing:
    """B graphs that are being drawn node by node; updated in place.

    `PathNetwork.start` makes it; `step` gives what the network says about the next node, and
    `update` takes what was drawn. Graphs are sorted by size, the largest first, so that complete
    ones are last and leave the batch; all rows below are in this order (`InSequence`).

    Attributes:
        path: The paths, B of them.
        before: Embeddings of the last node, (B, D).
        conditioning: The conditions, and what all nodes have contributed to them; or None.
    """

    def __init__(self, network: PathNetwork, context: Context):
        mask = context.mask
        self.network = network
        self.order = InSequence(mask)
        self.cache = network.blocks.cache(mask)
        self.path = Path.start(len(mask), mask.shape[1], network.support.pad, mask.device)
        self.before = network.features.no_node.repeat(len(mask), 1)
        self.conditioning = network.conditioning(context)
        if self.conditioning is not None:
            self.conditioning.select(self.order.rows)

    def step(self) -> Step | None:
        """Go on to the next node of all unfinished graphs."""
        if not self.order.advance():
            return None
        net = self.network
        count = self.order.count
        number = self.order.position
        to_come = self.order.sizes[:count] - 1 - number
        before = self.before[:count]
        same_number = to_come.new_tensor(number)  # in all graphs
        h, on_path = net.features(self.path, before, same_number, to_come)
        if self.conditioning is not None:
            h = h + self.conditioning.of_next(count)
        h = net.norm(self.attend(h, net.biases.of_next(on_path, number)))
        state = self.path.levels.state[:count, : net.support.pad + number + 1]
        hidden = net.first_hidden(h, state, self.path.depth[:count], to_come)
        return self.order.make_step(hidden)

    def attend(self, h: Tensor, bias: Tensor) -> Tensor:
        """Return the output of the attention blocks for the next position of unfinished rows."""
        return self.network.blocks.next_position(h, bias, self.cache)

    def update(self, x: Tensor) -> None:
        """Append the node of the last `step` to the paths, and update what depends on them."""
        net = self.network
        count = len(x)
        if self.conditioning is not None:
            self.conditioning.add(x, self.path)
        self.before[:count] = net.features.of_nodes(x)
        self.path.add(self.order.position, x, net.support.states)

    def select(self, rows: Tensor) -> None:
        """Replace the batch in place by graphs of it, as particle samplers do between steps."""
        index = self.order.select(rows)
        self.cache.select(index)
        self.path = self.path.select(index)
        self.before = self.before[index]
        if self.conditioning is not None:
            self.conditioning.select(index)
