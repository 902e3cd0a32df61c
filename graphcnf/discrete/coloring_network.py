"""Networks of the colouring model, and the order in which nodes are coloured.

Shapes: B graphs of at most N nodes, K colours (categories of a node). The *turn* of a node is which
one it is in the order of its graph, from 0 on. A colour is *blocked* for a node if a neighbour has
it. A *look-ahead score* says how good a colour of a node is for the nodes that have none yet.
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
    """Order of the nodes of graphs that depends on the categories decided so far.

    The next node is one with the highest saturation, the number of different categories of its
    neighbours (Brelaz 1979, *New methods to color the vertices of a graph*). Ties go to the node
    with the most edges, then to the lowest number. `next` says which nodes come next, and `settle`
    advances.

    Args:
        adjacency: Edges of B graphs, (B, N, N) bool.
        mask: Real nodes, (B, N) bool.
        categories: Number K of categories.
        waves: True to decide all nodes whose neighbours leave them at most one category at once (a
            *wave*), independently of each other.

    Attributes:
        open: Nodes without a category yet, (B, N) bool.
        counts: Number of neighbours of each node that have each category so far, (B, N, K) long.
        rank: The *turn* of each node: which one it was in its graph, from 0 on, and N for nodes
            without a category, (B, N) long. In a wave, lower node numbers have earlier turns.
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
        """Return which nodes to decide next; the state stays until `settle` is called.

        Returns:
            Graph and number of each node, (M,) long each: one node of every unfinished graph, or a
            wave. M = 0 when all nodes have a category.
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
        """Give nodes their categories, and count these at their neighbours; changes the state.

        To be called with all nodes that `next` has returned, which is what it advances by.

        Args:
            graph: Graph of each node that `next` returned, (M,) long.
            node: Number of each node, (M,) long.
            category: Category of each node, (M,) long.
        """
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
    """Replay the `SaturationOrder` in which nodes get categories that are known already.

    Args:
        x: Categories, (B, N) long.
        context: Adjacency and mask of the graphs.
        categories: Number K of categories.
        waves: True to decide nodes with at most one category left at once.

    Returns:
        The turn of each node: which one it was in its graph, from 0 on, (B, N) long; and for each
        turn (second axis) how many neighbours of each node (third axis) had each category before
        it, (B, N, N, K) long. All turns of a wave have the same counts.
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

    Args:
        width: Channels of a node.
        heads: Attention heads.
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
        """Update the channels of nodes along the edges of a graph.

        Args:
            x: Channels of the nodes, (N, width).
            edges: Source and target node of each edge, (2, E) long.
            channels: Channels of the edges, (E, `EDGE_WIDTH`).

        Returns:
            (N, width).
        """
        normed = self.norm(x)
        x = x + self.out(self.conv((normed, normed), edges, channels))
        return x + self.feed_forward(x)


class ColoringEncoder(nn.Module):
    """Attention convolutions over the edges of a graph.

    Args:
        width: Channels of a node.
        layers: Number of convolutions.
        heads: Attention heads.
        inputs: Channels of further inputs of each node, 0 for none.
    """

    def __init__(self, width: int, layers: int, heads: int, *, inputs: int = 0):
        super().__init__()
        self.enter = nn.Linear(NODE_FEATURES + inputs, width)
        # An edge feature is the number of triangles with the edge.
        self.edges = nn.Linear(2, EDGE_WIDTH)
        self.blocks = nn.ModuleList(ConvolutionBlock(width, heads) for _ in range(layers))

    def forward(self, context: GraphContext, inputs: Tensor | None = None) -> Tensor:
        """Return the channels of nodes, given the graph.

        Args:
            context: Adjacency, mask and node features of B graphs.
            inputs: Further inputs of the nodes, (B, N, inputs); None for none.

        Returns:
            (B, N, width).
        """
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
    """Conditioner of a `Coupling`: parameters of each node from the fixed latents of all nodes.

    Args:
        inputs: Fixed latents of a node.
        outputs: Parameters of a node.
        width: Channels of a node.
        layers: Number of convolutions.
        heads: Attention heads.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int, layers: int, heads: int):
        super().__init__()
        self.encoder = ColoringEncoder(width, layers, heads, inputs=inputs)
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(ReadOut(width, outputs)))

    def forward(self, x: Tensor, context: GraphContext) -> Tensor:
        """Compute the parameters of all nodes.

        Args:
            x: Fixed latents, (B, N, inputs).
            context: Adjacency, mask and node features of the graphs.

        Returns:
            (B, N, outputs).
        """
        return self.leave(self.encoder(context, x))


class LookAhead(nn.Module):
    """Network of look-ahead scores: how good each possible colour of a node is for the other nodes.

    For each colour, the node is given this colour, and its consequences spread by message passing
    over the nodes without a colour, in `rounds` with shared weights. Every node has a state of
    `width` channels for each colour. The score depends on the states of the node and on the maximum
    over all nodes. Permuting the colours permutes the scores.

    Args:
        features: Channels of an encoded node.
        width: Channels of a state.
        rounds: Rounds of message passing.
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
        """Score each colour that one node of each graph may get.

        Args:
            adjacency: Edges of D graphs, (D, M, M) bool.
            blocked: True for colours that a neighbour has, (D, M, K) bool.
            waiting: Nodes without a colour, (D, M) bool.
            h: Encoded nodes, (D, M, features).
            scored: Number of the node in each graph whose colours are scored, (D,) long.

        Returns:
            (D, K); 0 for blocked colours.
        """
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
    """Network of the colours of nodes, given the colours so far.

    The logit of a colour depends on the encoded node, on whether a neighbour has the colour, and on
    whether more than one colour is left to the node (no neighbour has it). If a neighbour has a
    colour and more than one is left, a `LookAhead` score is added.

    Args:
        colors: Number K of colours.
        width: Channels of a node.
        encoder_layers: Number of convolutions over the graph.
        heads: Attention heads of a convolution.
        ahead: Channels of a state of `LookAhead`.
        rounds: Rounds of message passing of `LookAhead`; 0 for none.
        waves: True for the coupling "waves" of `ColoringFlow`: a colour that a neighbour has gets
            the probability 0, unless neighbours have all colours.
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
        """Return features of the nodes before any has a colour.

        Args:
            context: Adjacency, mask and node features of the graphs.

        Returns:
            (B, N, width).
        """
        return self.norm(self.encoder(context))

    def around(self, h: Tensor, blocked: Tensor) -> Tensor:
        """Return the logits of colours without looking ahead, from each node's own neighbours.

        Args:
            h: Features of nodes, as `encode` returns them, (..., width).
            blocked: True for colours that a neighbour has, (..., K) bool.

        Returns:
            (..., K).
        """
        left = (~blocked).sum(-1, keepdim=True).expand(blocked.shape) > 1
        marks = torch.stack([blocked, left], -1).to(h.dtype)
        h = h[..., None, :].expand(*marks.shape[:-1], -1)
        logits = self.leave(torch.cat([h, marks], -1))[..., 0]
        return logits if self.blocked is None else logits + 10 * self.blocked * marks[..., 0]

    def steps(self, x: Tensor, context: GraphContext) -> Iterator[Step]:
        rank, counts = turns(x[..., 0], context, self.cardinalities[0], self.waves)
        logits = self.all_logits(context, rank, counts)
        graph, node = context.mask.nonzero(as_tuple=True)
        yield Step(graph, node, logits[graph, node])

    def all_logits(self, context: GraphContext, rank: Tensor, counts: Tensor) -> Tensor:
        """Return the logits of the colours of all nodes in one pass, for known colourings.

        Args:
            context: Adjacency, mask and node features of B graphs.
            rank: Turn of each node, as `turns` returns it, (B, N) long.
            counts: Colours of neighbours before each turn, as `turns` returns them, (B, N, N, K).

        Returns:
            (B, N, K), each node given the nodes of earlier turns; with `waves` -inf for impossible
            colours, see `possible`.
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
        """Return the look-ahead scores of all turns at once; nodes are numbered by their turns.

        Args:
            adjacency: Edges, (B, N, N) bool.
            blocked: Colours that a neighbour of each node has before each turn, (B, turns, N, K)
                bool.
            own: Colours that a neighbour of the node whose turn it is has, (B, turns, K) bool.
            mask: Real nodes, (B, N) bool.
            h: Features of the nodes, (B, N, width).

        Returns:
            Score of each colour of the node whose turn it is, (B, turns, K), 0 where there is no
            choice.
        """
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

    def start(self, context: GraphContext) -> ColoringState:
        return ColoringState(self, context)


def undecided(blocked: Tensor, mask: Tensor) -> Tensor:
    """Return True for nodes with a real choice: more than one colour is left, but not every colour.

    Only these need look-ahead scores, the slowest part of the network. In `SaturationOrder`, a node
    with all colours left comes only when no waiting node has a coloured neighbour; by symmetry all
    colours are equally good then.

    Args:
        blocked: True for colours that a neighbour has, (..., K) bool.
        mask: Real nodes, (...) bool.

    Returns:
        (...) bool.
    """
    left = (~blocked).sum(-1)
    return mask & (left > 1) & (left < blocked.shape[-1])


def possible(logits: Tensor, blocked: Tensor) -> Tensor:
    """Set logits to -inf for blocked colours if others are left, to 0 for nodes without choice.

    Args:
        logits: (..., K).
        blocked: True for colours that a neighbour has, (..., K) bool.

    Returns:
        (..., K).
    """
    choice = undecided(blocked, torch.ones_like(blocked[..., 0]))[..., None]
    never = blocked & ~blocked.all(-1, keepdim=True)
    return torch.where(choice, logits, 0.0).masked_fill(never, -torch.inf)


class ColoringState:
    """State of partly coloured graphs.

    Args:
        network: The network.
        context: Adjacency and mask of the graphs, and features of their nodes.
    """

    def __init__(self, network: ColoringNetwork, context: GraphContext):
        self.network, self.adjacency = network, context.adjacency
        self.order = SaturationOrder(
            context.adjacency, context.mask, network.cardinalities[0], network.waves
        )
        self.h = network.encode(context)

    def step(self) -> Step | None:
        """Return the nodes that get their colour next, with the logits of their colours.

        These are the nodes that `SaturationOrder.next` returns. Calling `step` again returns the
        same ones, until `update` has given them their colours.

        Returns:
            A `Step` for M nodes, whose `hidden` are logits (M, colours); None when all nodes have
            a colour.
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
        """Give the nodes of the last `Step` their colours, and advance.

        Args:
            x: The colours, (M, 1) long, in the order of the M nodes that `step` returned.
        """
        self.order.settle(*self.decided, x[:, 0])

    def _ahead(self, graph: Tensor, node: Tensor) -> Tensor:
        """Return the look-ahead scores of the colours of some nodes, one per graph at most.

        Args:
            graph: Graph of each node, (M,) long.
            node: Number of each node, (M,) long.

        Returns:
            (M, colours).
        """
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
