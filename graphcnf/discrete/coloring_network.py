"""Networks of `ColoringFlow`, and the order in which nodes are coloured.

- B graphs have up to N nodes each, and each node gets one of K colours (its category).
- *Node features* are those of `graphcnf.graphs.features.walk_features`, which follow from the edges
  alone. The *channels* of a node are what the networks compute of them. `width`, `inputs` and
  `outputs` in shapes are arguments of a network's constructor.
- The nodes of a graph are coloured one after another, or several in one step, a *wave*.
- The *turn* of a node is its index in the order in which its graph is coloured, from 0.
- A node is *waiting* if it has no colour yet.
- A colour is *blocked* for a node if a neighbour has it, and *left* to it if none has. A node has a
  *choice* if several colours are left, but not all.
- The *look-ahead score* of a colour for a node says how good the colour is for the waiting nodes.
  It is added to the logit of the colour.

`ColoringNetwork` is the network of the couplings "nodes" and "waves", `GraphConvolutions` that of
"channels".
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import AutoregressiveNetwork, Step
from graphcnf.categorical.transformer import ReadOut, zero_init
from graphcnf.graphs.features import NODE_FEATURES, GraphContext

EDGE_WIDTH = 32
PARTS = 4  # number of parts in which look-ahead scores of all turns are computed


class SaturationOrder:
    """Order in which the nodes of graphs are coloured, which depends on the colours so far.

    The next node is one with the highest *saturation*: the number of different colours of its
    neighbours (Brelaz 1979, *New methods to color the vertices of a graph*). Ties go to the node
    with the most edges, then to the lowest number. Call `next` for the nodes that come next, and
    then `settle` with their colours.

    Args:
        waves: True to decide, in one step, all nodes to which at most one colour is left, if a
            graph has such nodes.

    Attributes:
        open: True for waiting nodes, (B, N) bool.
        counts: Number of neighbours of each node that have each colour so far, (B, N, K) long.
        rank: Turn of each node, (B, N) long; N for waiting nodes. In a wave, lower node numbers
            have earlier turns.
    """

    def __init__(self, adjacency: Tensor, mask: Tensor, categories: int, waves: bool = False):
        batch, nodes = mask.shape
        self.adjacency, self.categories, self.waves = adjacency, categories, waves
        self.rows = torch.arange(batch, device=mask.device)
        self.open = mask.clone()
        self.counts = torch.zeros(batch, nodes, categories, dtype=torch.long, device=mask.device)
        self.rank = torch.full((batch, nodes), nodes, device=mask.device)
        number = torch.arange(nodes, device=mask.device)
        self.tie = adjacency.sum(-1) * nodes + (nodes - 1 - number)

    def next(self) -> tuple[Tensor, Tensor]:
        """Return graph and number of the nodes to colour next, (M,) each, until `settle` is called.

        They are one node of each graph that has nodes without a colour; with `waves`, all its nodes
        to which at most one colour is left, if there are any. M = 0 when all are coloured.
        """
        if not len(self.open):
            return self.tie.new_zeros(0), self.tie.new_zeros(0)
        saturation = (self.counts > 0).sum(-1)
        nodes = self.open.shape[1]
        priority = (saturation * nodes * nodes + self.tie).masked_fill(~self.open, -1)
        members = F.one_hot(priority.argmax(1), nodes).bool() & self.open
        if self.waves:
            settled = self.open & (saturation >= self.categories - 1)
            members = torch.where(settled.any(1, keepdim=True), settled, members)
        graph, node = members.nonzero(as_tuple=True)
        return graph, node

    def settle(self, graph: Tensor, node: Tensor, category: Tensor) -> None:
        """Give the nodes that `next` returned their colours, and update the attributes."""
        members = torch.zeros_like(self.open)
        members[graph, node] = True
        own = F.one_hot(category, self.categories)[:, None]
        # Not in place: `turns` keeps earlier counts.
        self.counts = self.counts.index_add(0, graph, self.adjacency[graph, node][..., None] * own)
        before = (self.rank < self.rank.shape[1]).sum(1, keepdim=True)
        turn = before + members.cumsum(1) - 1
        self.rank = torch.where(members, turn, self.rank)
        self.open = self.open & ~members


def turns(
    x: Tensor, context: GraphContext, categories: int, waves: bool = False
) -> tuple[Tensor, Tensor]:
    """Find the order in which `SaturationOrder` colours nodes whose colours are known, for scoring.

    Returns:
        The turn of each node, (B, N), N for padding; and how many neighbours of each node (third
        axis) had each colour before each turn (second axis), (B, N, N, K). All turns of a wave have
        the same counts.
    """
    order = SaturationOrder(context.adjacency, context.mask, categories, waves)
    known = x.clamp(0, categories - 1)
    history: list[Tensor] = []
    step_of = torch.zeros_like(x)
    while len((members := order.next())[0]):
        step_of[members] = len(history)
        history.append(order.counts)
        order.settle(*members, known[members])
    steps = torch.stack(history or [order.counts])
    # The step of each turn; any step will do for padding.
    by_turn = step_of.gather(1, order.rank.argsort(dim=1, stable=True))
    return order.rank, steps[by_turn, order.rows[:, None]]


class ConvolutionBlock(nn.Module):
    """Pre-norm block of attention over the neighbours of a node, by `TransformerConv`.

    Shi et al., *Masked Label Prediction*, IJCAI 2021, arXiv 2009.03509, eq. 3-4.
    """

    def __init__(self, width: int, heads: int):
        from torch_geometric.nn import TransformerConv  # Takes two seconds.

        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = TransformerConv((width, width), width // heads, heads, edge_dim=EDGE_WIDTH)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.feed_forward[-1].get_parameter("weight"))

    def forward(self, x: Tensor, edges: Tensor, channels: Tensor) -> Tensor:
        """Update the channels (M, width) of nodes from neighbours; edges are in both directions."""
        normed = self.norm(x)
        x = x + self.out(self.conv((normed, normed), edges, channels))
        return x + self.feed_forward(x)


class ColoringEncoder(nn.Module):
    """Encoder of graphs: channels of the nodes from attention convolutions over the edges.

    It reads the node features, the number of triangles of each edge, and perhaps further inputs.
    """

    def __init__(self, width: int, layers: int, heads: int, *, inputs: int = 0):
        super().__init__()
        self.enter = nn.Linear(NODE_FEATURES + inputs, width)
        # An edge feature is the number of triangles with the edge.
        self.edges = nn.Linear(2, EDGE_WIDTH)
        self.blocks = nn.ModuleList(ConvolutionBlock(width, heads) for _ in range(layers))

    def forward(self, context: GraphContext, inputs: Tensor | None = None) -> Tensor:
        """Compute the channels of the nodes, (B, N, width)."""
        dtype, mask = self.enter.weight.dtype, context.mask
        channels = context.features.to(dtype)
        if inputs is not None:
            channels = torch.cat([channels, inputs.to(dtype)], -1)
        h = self.enter(channels).flatten(0, 1)
        adjacency = context.adjacency & mask[:, :, None] & mask[:, None, :]
        graph, target, source = adjacency.nonzero(as_tuple=True)
        links = adjacency.to(dtype)
        triangles = (links @ links)[graph, target, source]
        channels = self.edges(torch.stack([torch.ones_like(triangles), triangles], -1))
        index = torch.stack([source, target]) + graph * mask.shape[1]
        for block in self.blocks:
            h = block(h, index, channels)
        return h.unflatten(0, mask.shape)


class GraphConvolutions(nn.Module):
    """Network of the coupling "channels": parameters of each node from latents of all nodes.

    A coupling leaves some latents of each node unchanged. From these and the graph, the network
    computes the parameters by which the coupling transforms the others.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int, layers: int, heads: int):
        super().__init__()
        self.encoder = ColoringEncoder(width, layers, heads, inputs=inputs)
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(ReadOut(width, outputs)))

    def forward(self, x: Tensor, context: GraphContext) -> Tensor:
        """Compute the parameters of all nodes, (B, N, outputs)."""
        return self.leave(self.encoder(context, x))


class LookAhead(nn.Module):
    """Network of look-ahead scores: how good each possible colour of a node is for waiting nodes.

    For each colour that is left to a node, the node is given this colour on trial. Message passing
    then spreads the consequences over the waiting nodes, in rounds that share their weights. During
    this, every waiting node has `width` channels for each colour. The score depends on the channels
    of the node, and on their maximum over all waiting nodes, which shows a contradiction anywhere.
    Permuting the colours permutes the scores.
    """

    def __init__(self, features: int, width: int, rounds: int):
        super().__init__()
        self.rounds = rounds
        self.enter = nn.Linear(features, width)
        # Two flags: a neighbour has the colour; the scored node is given the colour.
        self.marks = nn.Linear(2, width, bias=False)
        self.norm = nn.LayerNorm(width)
        # Messages of one colour, and of the sum over colours.
        self.send_one, self.send_all = nn.Linear(width, width), nn.Linear(width, width)
        self.receive_one = nn.Linear(2 * width, width)
        self.receive_all = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, width)
        self.leave = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(
        self, adjacency: Tensor, blocked: Tensor, waiting: Tensor, h: Tensor, scored: Tensor
    ) -> Tensor:
        """Network of the coupling "channels": parameters of each node from latents of all."""
        colors = blocked.shape[-1]
        rows = torch.arange(len(scored), device=scored.device)
        row, color = (~blocked[rows, scored]).nonzero(as_tuple=True)
        cases = torch.arange(len(row), device=row.device)
        node = scored[row]
        blocked = blocked[row]
        blocked[cases, node] = ~F.one_hot(color, colors).bool()
        chosen = torch.zeros_like(blocked)
        chosen[cases, node] = True
        marks = torch.stack([blocked, chosen], -1).to(h.dtype)
        s = self.enter(h)[row].unsqueeze(2) + self.marks(marks)
        open_ = waiting[row]
        links = (adjacency & waiting[:, :, None] & waiting[:, None, :]).to(h.dtype)[row]
        here = open_[..., None, None].to(h.dtype)
        for _ in range(self.rounds):
            own = self.norm(s) * here
            sent = F.gelu(self.send_one(own) + self.send_all(own.sum(2, keepdim=True)))
            near = (links @ sent.flatten(2)).view_as(own)
            both = torch.cat([own, near], -1)
            received = F.gelu(self.receive_one(both) + self.receive_all(both.sum(2, keepdim=True)))
            s = s + self.out(received)
        s = self.norm(s) * here
        # The maximum over nodes shows a contradiction anywhere.
        far = s.masked_fill(~open_[..., None, None], -torch.inf).amax((1, 2))
        near = s[cases, node]
        found = self.leave(torch.cat([near[cases, color], near.sum(1), far], -1))[:, 0].to(h.dtype)
        return h.new_zeros(len(scored), colors).index_put((row, color), found)


class ColoringNetwork(AutoregressiveNetwork):
    """Autoregressive network of the colours of nodes, given those of nodes with earlier turns.

    The logit of a colour depends on the channels of the node in the encoder, on whether the colour
    is blocked, and on whether more than one colour is left to the node. If the node has a choice,
    the look-ahead score of the colour is added.

    Args:
        rounds: Rounds of message passing of `LookAhead`; 0 to do without look-ahead scores.
        waves: True for the coupling "waves" of `ColoringFlow`: blocked colours get the probability
            0, unless all are blocked.
    """

    def __init__(
        self,
        colors: int,
        *,
        width: int,
        encoder_layers: int,
        heads: int,
        ahead: int = 32,
        rounds: int = 6,
        waves: bool = False,
    ):
        super().__init__()
        self.cardinalities = [colors]
        self.waves = waves
        self.encoder = ColoringEncoder(width, encoder_layers, heads)
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Sequential(nn.Linear(width + 2, width), nn.GELU(), nn.Linear(width, 1))
        # Ten times this is added to the logits of neighbours' colours: Adam moves a parameter by
        # about the learning rate per step, and would take thousands of steps without the factor.
        self.blocked = None if waves else nn.Parameter(torch.zeros(()))
        # With two colours, a node has one colour left or both: there is nothing to look ahead for.
        self.lookahead = LookAhead(width, ahead, rounds) if rounds and colors > 2 else None
        nn.init.zeros_(self.leave[-1].get_parameter("weight"))

    def encode(self, context: GraphContext) -> Tensor:
        """Compute the channels of the nodes (B, N, width) from the graph alone, without colours."""
        return self.norm(self.encoder(context))

    def around(self, h: Tensor, blocked: Tensor) -> Tensor:
        """Return the logits of colours without look-ahead scores, (..., K)."""
        left = (~blocked).sum(-1, keepdim=True).expand(blocked.shape) > 1
        marks = torch.stack([blocked, left], -1).to(h.dtype)
        h = h[..., None, :].expand(*marks.shape[:-1], -1)
        logits = self.leave(torch.cat([h, marks], -1))[..., 0]
        return logits if self.blocked is None else logits + 10 * self.blocked * marks[..., 0]

    def steps(self, x: Tensor, context: GraphContext) -> Iterator[Step]:
        """Autoregressive network of the colours of nodes, given those with earlier turns."""
        rank, counts = turns(x[..., 0], context, self.cardinalities[0], self.waves)
        logits = self.all_logits(context, rank, counts)
        graph, node = context.mask.nonzero(as_tuple=True)
        yield Step(graph, node, logits[graph, node])

    def all_logits(self, context: GraphContext, rank: Tensor, counts: Tensor) -> Tensor:
        """Return the logits (B, N, K) of all nodes, each given the colours before its turn.

        With `waves` those of impossible colours are -inf, see `possible`. `rank` and `counts` are
        the results of `turns`.
        """
        # Nodes are renumbered by their turns: at turn t, nodes t, t + 1, ... have no colour.
        order = rank.argsort(dim=1, stable=True)
        rows = torch.arange(len(rank), device=rank.device)[:, None]
        turns = torch.arange(rank.shape[1], device=rank.device)[:, None]
        mask, h = context.mask[rows, order], self.encode(context)[rows, order]
        blocked = counts[rows[..., None], turns, order[:, None]] > 0
        own = blocked.diagonal(dim1=1, dim2=2).movedim(-1, 1)
        logits = self.around(h, own)
        if self.lookahead is not None:
            adjacency = context.adjacency[rows[..., None], order[..., None], order[:, None]]
            logits = logits + self._ahead(adjacency, blocked, own, mask, h)
        if self.waves:
            logits = possible(logits, own)
        return torch.zeros_like(logits).index_put((rows, order), logits)

    def _ahead(
        self, adjacency: Tensor, blocked: Tensor, own: Tensor, mask: Tensor, h: Tensor
    ) -> Tensor:
        """Return the look-ahead scores of all turns at once; nodes are numbered by their turns."""
        graph, turn = undecided(own, mask).nonzero(as_tuple=True)
        scores = h.new_zeros(own.shape)
        if not len(turn):
            return scores
        assert self.lookahead is not None
        numbers = torch.arange(mask.shape[1], device=mask.device)
        # In parts of similar turns: nodes coloured before the first one are cut off.
        for part in turn.argsort(stable=True).chunk(PARTS):
            g, t = graph[part], turn[part]
            first = int(t[0])
            waiting = mask[g, first:] & (numbers[first:] >= t[:, None])
            links, taken = adjacency[g, first:, first:], blocked[g, t, first:]
            found = self.lookahead(links, taken, waiting, h[g, first:], t - first)
            scores = scores.index_put((g, t), found)
        return scores

    def start(self, context: GraphContext) -> ColoringDrawing:
        """Begin to colour the nodes of a batch of graphs."""
        return ColoringDrawing(self, context)


def undecided(blocked: Tensor, mask: Tensor) -> Tensor:
    """Find the nodes that have a choice: more than one colour is left to them, but not all.

    Only these need look-ahead scores, the slowest part of the network. A node to which all colours
    are left comes next only if no waiting node has a coloured neighbour; by symmetry all colours
    are then equally good.
    """
    left = (~blocked).sum(-1)
    return mask & (left > 1) & (left < blocked.shape[-1])


def possible(logits: Tensor, blocked: Tensor) -> Tensor:
    """Forbid blocked colours, for the coupling "waves": -inf, unless all are blocked.

    The other logits become 0 if the node has no choice (`undecided`).
    """
    choice = undecided(blocked, torch.ones_like(blocked[..., 0]))[..., None]
    never = blocked & ~blocked.all(-1, keepdim=True)
    return torch.where(choice, logits, 0.0).masked_fill(never, -torch.inf)


class ColoringDrawing:
    """Graphs that are being coloured, in `SaturationOrder`."""

    def __init__(self, network: ColoringNetwork, context: GraphContext):
        self.network, self.adjacency = network, context.adjacency
        self.order = SaturationOrder(
            context.adjacency, context.mask, network.cardinalities[0], network.waves
        )
        self.h = network.encode(context)

    def step(self) -> Step | None:
        """Return the nodes that get their colour next, with the logits of their colours.

        They are those that `SaturationOrder.next` returns. Calling `step` again returns the same
        ones, until `update` has given them their colours.

        Their `hidden` are their logits, (M, K).
        """
        graph, node = self.order.next()
        self.decided = graph, node
        if not len(graph):
            return None
        net, own = self.network, self.order.counts[graph, node] > 0
        # A node with a choice is the only one of its graph in a step.
        open_ = undecided(own, torch.ones_like(own[:, 0])).nonzero()[:, 0]
        if net.waves and not len(open_):
            return Step(graph, node, possible(torch.zeros_like(own, dtype=self.h.dtype), own))
        logits = net.around(self.h[graph, node], own)
        if net.lookahead is not None and len(open_):
            logits = logits.index_add(0, open_, self._ahead(graph[open_], node[open_]))
        return Step(graph, node, possible(logits, own) if net.waves else logits)

    def update(self, x: Tensor) -> None:
        """Give the nodes of the last `Step` their colours, (M, 1)."""
        self.order.settle(*self.decided, x[:, 0])

    def _ahead(self, graph: Tensor, node: Tensor) -> Tensor:
        """Return the look-ahead scores of the colours of some nodes, one per graph at most."""
        assert self.network.lookahead is not None
        waiting = self.order.open[graph]
        # Waiting nodes come first; the rest of a row is padding.
        most = int(waiting.sum(1).max())
        members = waiting.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        rows = graph[:, None]
        return self.network.lookahead(
            self.adjacency[rows[..., None], members[..., None], members[:, None]],
            self.order.counts[rows, members] > 0,
            self.order.open[rows, members],
            self.h[rows, members],
            (members == node[:, None]).long().argmax(1),
        )
