"""Interleaved coupling: G coupling layers over categories of nodes, evaluated in one pass.

Node i belongs to group i mod G, or to the group that the context names. Group g is transformed given the categories of the groups
before it, so the map is the composition of G coupling layers that share one attention network:
sampling takes G rounds, whatever the number of nodes. In the density direction the categories of
all groups are known and one pass of two streams gives the parameters of every group, as in XLNet
(Yang et al. 2019, arXiv 1906.08237): the content stream knows a node's own categories, the query
stream only those of earlier groups.

The element-wise map is a categorical coupling: each category owns an interval of the unit line
(`IntervalEncoding`), and a monotone piecewise linear map (Mueller et al. 2019, arXiv 1808.03856)
with its knots at the ends of the intervals gives every interval the conditional probability of its
category as its new width. Its log-det is the log-probability of the category, up to constants.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.intervals import Intervals, expand
from graphcnf.flows.transform import Bijection, sum_log_term


class TwoStreamBlock(nn.Module):
    """Pre-norm attention block whose keys and values come from the content stream.

    Args:
        width: Channels.
        heads: Attention heads; must divide `width`.
        expansion: Hidden channels of the feed-forward part, as a multiple of `width`.
    """

    def __init__(self, width: int, heads: int, expansion: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} and {width}")
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        # What a node attends to that may see no other node.
        self.nothing = nn.Parameter(torch.zeros(2, 1, heads, 1, width // heads))
        self.out = nn.Linear(width, width)
        hidden = int(expansion * width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.feed_forward[-1].weight)

    def split(self, x: Tensor) -> Tensor:
        """(B, M, C) -> (B, heads, M, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, M, C / heads) of normalised content (B, M, C)."""
        key, value = self.key_value(normed).chunk(2, -1)
        return self.split(key), self.split(value)

    def attend(self, x: Tensor, normed: Tensor, key: Tensor, value: Tensor, bias: Tensor):
        """Update x (B, M, C) from keys and values, with `bias` (B or 1, heads, M, 1 + N)."""
        batch = len(x)
        none_key, none_value = self.nothing.expand(-1, batch, -1, -1, -1)
        key = torch.cat([none_key.to(key.dtype), key], 2)
        value = torch.cat([none_value.to(value.dtype), value], 2)
        query = self.split(self.query(normed)) * (normed.shape[-1] // self.heads) ** -0.5
        scores = query @ key.transpose(-1, -2) + bias
        read = scores.softmax(-1).to(value.dtype) @ value
        x = x + self.out(read.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class InterleavedAttention(nn.Module):
    """Attention network of `InterleavedCoupling`.

    Args:
        cardinalities: Categories of each of the V variables of a node.
        node_features: Channels of the known features of a node, 0 for none.
        pair_features: Channels of the known features of a pair of nodes, 0 for none.
        evidence: Channels of what `context.evidence` derives from earlier groups, 0 for none.
        max_nodes: Largest number of nodes.
        width: Channels of a node.
        layers: Attention blocks.
        heads: Attention heads.
        expansion: Feed-forward hidden channels as a multiple of `width`.
        reach: Largest difference of positions that the relative bias tells apart.
        head_width: Hidden channels of the read-out of a variable.
    """

    def __init__(
        self,
        cardinalities: list[int],
        *,
        node_features: int = 0,
        pair_features: int = 0,
        evidence: int = 0,
        max_nodes: int,
        width: int,
        layers: int,
        heads: int = 8,
        expansion: float = 2,
        reach: int = 24,
        head_width: int = 64,
    ):
        super().__init__()
        self.cardinalities = list(cardinalities)
        self.max_nodes, self.reach, self.layers, self.heads = max_nodes, reach, layers, heads
        self.position = nn.Embedding(max_nodes, width)
        self.from_end = nn.Embedding(max_nodes + 1, width)
        self.features = nn.Linear(node_features, width) if node_features else None
        # The last category of each table stands for "this node lacks the variable".
        self.values = nn.ModuleList(nn.Embedding(c + 1, width) for c in self.cardinalities)
        self.asked = nn.Parameter(torch.zeros(width))
        self.evidence = nn.Linear(evidence, width) if evidence else None
        self.relative = nn.Parameter(torch.zeros(layers * heads, 2 * reach + 1))
        self.pairs = nn.Linear(pair_features, layers * heads) if pair_features else None
        self.blocks = nn.ModuleList(
            TwoStreamBlock(width, heads, expansion) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.ModuleList(nn.Linear(width, head_width) for _ in self.cardinalities)
        self.chain = nn.ModuleList(
            nn.ModuleList(nn.Embedding(c + 1, head_width) for c in self.cardinalities[:k])
            for k in range(len(self.cardinalities))
        )
        self.logits = nn.ModuleList(nn.Linear(head_width, c) for c in self.cardinalities)
        for table in [self.position, self.from_end, *self.values]:
            nn.init.normal_(table.weight, std=0.3)
        for read_out in self.logits:
            nn.init.zeros_(read_out.weight)
            nn.init.zeros_(read_out.bias)

    def static(self, context) -> tuple[Tensor, Tensor]:
        """What does not depend on the variables: node channels (B, N, C), biases (B or 1, LH, N, N)."""
        mask = context.mask
        nodes = mask.shape[1]
        if nodes > self.max_nodes:
            raise ValueError(f"graphs of {nodes} nodes, but the model knows up to {self.max_nodes}")
        number = torch.arange(nodes, device=mask.device)
        remaining = (mask.sum(1)[:, None] - number).clamp(min=0)
        h = self.position(number) + self.from_end(remaining)
        if self.features is not None:
            h = h + self.features(context.node_features)
        difference = (number[:, None] - number).clamp(-self.reach, self.reach) + self.reach
        bias = self.relative[:, difference][None]
        if self.pairs is not None:
            bias = bias + self.pairs(context.pair_features).permute(0, 3, 1, 2)
        return h, bias

    def content(self, h: Tensor, x: Tensor) -> Tensor:
        """Input of the content stream: static channels plus embedded categories (B, M, V)."""
        for table, value in zip(self.values, x.unbind(-1), strict=True):
            h = h + table(value)
        return h

    def query(self, h: Tensor, x: Tensor, context) -> Tensor:
        """Input of the query stream (B, N, C); what it takes from x is of earlier groups only."""
        h = h + self.asked
        return h if self.evidence is None else h + self.evidence(context.evidence(x))

    def read_out(self, h: Tensor, previous: list[Tensor]) -> Tensor:
        """Logits (B, M, cardinality) of the variable that follows the `previous` ones."""
        k = len(previous)
        hidden = self.hidden[k](h)
        for table, value in zip(self.chain[k], previous, strict=True):
            hidden = hidden + table(value)
        return self.logits[k](F.gelu(hidden))


class InterleavedCoupling(Bijection):
    """Categorical coupling over groups of nodes; see the module's text.

    Latents and output live on the real line, with u = sigmoid(z) on the unit line. With F the
    conditional distribution function of the categories and x the category of z,
    u' = F(x - 1) + p(x) (u - lower(x)) / width(x).

    Args:
        network: `InterleavedAttention`.
        groups: Number G of groups, the number of rounds that sampling takes.
        constraint: Object with `allowed(variable, previous, positions)` that names the possible
            categories, or None.
    """

    def __init__(self, network: nn.Module, *, groups: int = 8, constraint=None):
        super().__init__()
        if groups < 1:
            raise ValueError(f"groups must be positive, got {groups}")
        self.network = network
        self.groups = groups
        self.constraint = constraint
        self.intervals = Intervals(network.cardinalities)

    def categories(self, z: Tensor, mask: Tensor) -> Tensor:
        """Categories (B, N, V) of latents; the number of categories where masked."""
        absent = torch.tensor(self.network.cardinalities, device=z.device)
        return torch.where(mask, self.intervals.category(torch.sigmoid(z)), absent)

    def group_of(self, context) -> Tensor:
        """Group of each node, (B, N) long: as the context says, or by the node's number."""
        given = getattr(context, "groups", None)
        if given is not None:
            return given
        mask = context.mask
        group = torch.arange(mask.shape[1], device=mask.device) % self.groups
        return group.expand(len(mask), -1)

    def log_probs(self, x: Tensor, context) -> Tensor:
        """Conditional log-probabilities of all categories given the earlier groups and variables.

        Args:
            x: Categories, (B, N, V) long, the number of categories where a variable is absent.
            context: Object with `mask` (B, N) and, as the network needs them, `node_features`
                and `pair_features`.

        Returns:
            (B, N, V, C), C the largest cardinality; -inf where there is no such category.
        """
        net, mask = self.network, context.mask
        nodes = mask.shape[1]
        h, bias = net.static(context)
        group = self.group_of(context)
        difference = group[:, None, :] - group[:, :, None]
        visible = torch.cat([difference <= 0, difference < 0], 1)
        hidden = ~(visible & mask[:, None, :])[:, None]
        asked = net.query(h, x, context).expand(len(mask), -1, -1)
        stack = torch.cat([net.content(h, x), asked], 1)
        for k, block in enumerate(net.blocks):
            own = bias[:, k * net.heads : (k + 1) * net.heads]
            last = k == net.layers - 1
            own = own if last else torch.cat([own, own], 2)
            own = own.masked_fill(hidden[:, :, nodes:] if last else hidden, -1e9)
            own = F.pad(own, (1, 0))
            normed = block.norm(stack)
            key, value = block.keys_values(normed[:, :nodes])
            if last:
                stack, normed = stack[:, nodes:], normed[:, nodes:]
            stack = block.attend(stack, normed, key, value, own)
        positions = torch.arange(nodes, device=mask.device).expand(len(mask), -1)
        return self._conditionals(net.norm(stack), x, positions)

    def _conditionals(self, h: Tensor, x: Tensor, positions: Tensor) -> Tensor:
        values = x.unbind(-1)
        most = max(self.network.cardinalities)
        rows = []
        for k in range(len(values)):
            log_p = self._variable(h, list(values[:k]), positions)
            rows.append(F.pad(log_p, (0, most - log_p.shape[-1]), value=-math.inf))
        return torch.stack(rows, 2)

    def _variable(self, h, previous: list[Tensor], positions, temperature: float = 1.0) -> Tensor:
        logits = self.network.read_out(h, previous)
        logits = logits.to(_term(logits))
        k = len(previous)
        if self.constraint is not None:
            before = torch.stack(previous, -1) if previous else positions[..., :0, None]
            allowed = self.constraint.allowed(k, before, positions)
            logits = logits.masked_fill(~allowed, -math.inf)
        return (logits / temperature).log_softmax(-1)

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Map latents (B, N, V); `mask` (B, N) or, one variable at a time, (B, N, V)."""
        mask = expand(context.mask if mask is None else mask, x)
        category = self.categories(x, mask)
        log_p = self.log_probs(category, context)
        known = torch.where(mask, category, 0)
        lower, width = self.intervals.bounds(known)
        own = log_p.gather(-1, known[..., None])[..., 0]
        # Distribution functions in float64: a rare category keeps its interval.
        p = log_p.double().exp()
        start = (p.cumsum(-1) - p).gather(-1, known[..., None])[..., 0]
        u = torch.sigmoid(x.double())
        moved = (start + own.double().exp() * (u - lower) / width).clamp(1e-15, 1 - 1e-15)
        z = torch.where(mask, torch.logit(moved), 0.0)
        jacobian = own - torch.log(width)
        jacobian = jacobian + torch.log(u) + torch.log1p(-u)
        jacobian = jacobian - torch.log(moved) - torch.log1p(-moved)
        return z.to(x.dtype), sum_log_term(jacobian, mask).to(_term(x))

    def inverse(
        self, z, *, mask=None, context=None, discarded=None, temperature=1.0, generator=None
    ):
        """Map back; a temperature below 1 sharpens the conditional probabilities."""
        return self._invert(z, mask, context, temperature)[0]

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        """Return the data-side latents and log|det dx/dz| (B,)."""
        return self._invert(z, mask, context, 1.0)

    @torch.no_grad()
    def _invert(self, z, mask, context, temperature):
        net = self.network
        mask = expand(context.mask if mask is None else mask, z)
        batch, nodes, variables = z.shape
        absent = torch.tensor(net.cardinalities, device=z.device)
        h, bias = net.static(context)
        h = h.expand(batch, -1, -1)
        group = self.group_of(context)
        head = h.shape[-1] // net.heads
        # One column more than there are nodes: what padding of a group writes goes there.
        keys = h.new_zeros(net.layers, 2, batch, net.heads, nodes + 1, head)
        out = torch.zeros(batch, nodes + 1, variables, dtype=z.dtype, device=z.device)
        known = absent.expand(z.shape).clone()
        log_det = torch.zeros(batch, dtype=torch.float64, device=z.device)
        u_all = torch.sigmoid(z.double())
        rows = torch.arange(batch, device=z.device)[:, None]
        for g in range(self.groups):
            belongs = (group == g) & context.mask
            most = int(belongs.sum(1).max())
            if not most:
                continue
            # Members first; the rest of the row is padding.
            members = belongs.long().argsort(dim=1, descending=True, stable=True)[:, :most]
            real = belongs.gather(1, members)
            own_h = h[rows, members]
            own_bias = bias.expand(batch, -1, -1, -1)[rows, :, members].transpose(1, 2)
            earlier = ((group < g) & context.mask)[:, None, None]
            asked = net.query(h, known, context)[rows, members]
            asked = net.norm(self._stream(asked, keys, own_bias, earlier))
            previous: list[Tensor] = []
            here = mask[rows, members] & real[..., None]
            for k in range(variables):
                log_p = self._variable(asked, previous, members, temperature)
                x, value, jacobian = self._place(u_all[rows, members, k], log_p, k)
                out[rows, torch.where(real, members, nodes), k] = torch.where(
                    here[..., k], value, 0.0
                ).to(z.dtype)
                log_det = log_det + torch.where(here[..., k], jacobian, 0.0).sum(-1)
                previous.append(torch.where(here[..., k], x, absent[k]))
            values = torch.stack(previous, -1)
            known[rows.expand_as(members)[real], members[real]] = values[real]
            if g < self.groups - 1:
                content = net.content(own_h, values)
                visible = ((group <= g) & context.mask)[:, None, None]
                store = rows, torch.where(real, members, nodes)
                self._stream(content, keys, own_bias, visible, store=store)
        return out[:, :nodes], log_det.to(_term(z))

    def _place(self, u: Tensor, log_p: Tensor, variable: int) -> tuple[Tensor, Tensor, Tensor]:
        """Category that u falls on, its latent on the data side, log|dx/dz| of the two."""
        p = log_p.double().exp()
        upper = p.cumsum(-1)
        x = (u[..., None] >= upper).sum(-1)
        # The last possible category takes what rounding leaves.
        rank = torch.arange(1, p.shape[-1] + 1, device=p.device)
        x = x.minimum(((p > 0) * rank).amax(-1) - 1)
        new_width = p.gather(-1, x[..., None])[..., 0]
        start = upper.gather(-1, x[..., None])[..., 0] - new_width
        width = 1 / self.network.cardinalities[variable]
        moved = (x + ((u - start) / new_width).clamp(1e-9, 1 - 1e-9)) * width
        jacobian = math.log(width) - torch.log(new_width) + torch.log(u) + torch.log1p(-u)
        jacobian = jacobian - torch.log(moved) - torch.log1p(-moved)
        return x, torch.logit(moved), jacobian

    def _stream(self, x, keys, bias, visible, store=None) -> Tensor:
        """Run the blocks over some nodes; `store` writes their keys and values on the way."""
        net = self.network
        for k, block in enumerate(net.blocks):
            normed = block.norm(x)
            if store is not None:
                for which, new in enumerate(block.keys_values(normed)):
                    keys[k, which].transpose(1, 2)[store] = new.transpose(1, 2)
                if k == net.layers - 1:
                    break
            own = bias[:, k * net.heads : (k + 1) * net.heads].masked_fill(~visible, -1e9)
            x = block.attend(x, normed, *keys[k, :, :, :, :-1], F.pad(own, (1, 0)))
        return x


def _term(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
