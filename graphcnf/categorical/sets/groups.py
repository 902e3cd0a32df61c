"""Coupling over random groups of the elements of a set: a fixed number of network evaluations.

Every element has a latent that is pure noise (`OrderedEncoding`). Ranked by it, the elements fall
into G groups of equal size; group g is transformed given the elements of the groups before it. The
network is evaluated once per group, however many elements there are, and since the grouping is a
latent of the elements themselves, the map is equivariant under permutations of the set.

Several elements that are decided at once must not be decided independently: that costs their total
correlation, for permutations of 16 elements at least 0.10 bits per element in G = 8 rounds. So the
elements of a group go, one after another, through a read-out of one hidden layer, to which every
element decided so far has added its row of a table (as in NADE, Larochelle & Murray 2011). It gives
the joint distribution of the group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import (
    AutoregressiveCoupling,
    InSequence,
    Network,
    Step,
)
from graphcnf.categorical.sets.elements import ranking
from graphcnf.flows.readout import zero_init
from graphcnf.flows.transform import Bijection, Context, prepare


class ResidualBlock(nn.Module):
    """`h + W2 gelu(W1 h)`, the identity at the start.

    Nothing is normalised: how large a sum over elements is matters.
    """

    def __init__(self, width: int):
        super().__init__()
        self.enter = nn.Linear(width, 2 * width)
        self.leave = zero_init(nn.Linear(2 * width, width))

    def forward(self, h: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return h + self.leave(F.gelu(self.enter(h)))


@dataclass
class Groups:
    """Hidden states of M groups.

    Attributes:
        h: Of the groups before, (M, C).
        decided: Sum of the rows of the elements before, (M, C).
        after: Number of elements still to come, those of the group included, (M,) long.
    """

    h: Tensor
    decided: Tensor
    after: Tensor


class GroupNetwork(Network):
    """Conditional distributions of the elements of a group.

    A position is a group, its V variables are its elements. What is known of the groups before is a
    sum over their elements, which is all that the order of a set leaves (Zaheer et al. 2017, *Deep
    Sets*, arXiv 1703.06114).

    Args:
        categories: Number of categories of an element.
        elements: Largest number of elements.
        groups: Number G of groups.
        width: Channels.
        layers: Residual blocks.
    """

    def __init__(self, categories: int, *, elements: int, groups: int, width: int, layers: int):
        super().__init__()
        self.elements, self.groups = elements, groups
        self.cardinalities = [categories] * -(-elements // groups)
        # The last row of either table stands for an element that is not there: 0.
        self.values = nn.Embedding(categories + 1, width, padding_idx=categories)
        self.decided = nn.Embedding(categories + 1, width, padding_idx=categories)
        # What a sum means depends on how many elements are still to come: they scale it.
        self.scales = nn.Embedding(elements + 1, 2 * width)
        self.before = nn.Embedding(elements + 1, width)
        self.after = nn.Embedding(elements + 1, 2 * width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(layers))
        self.leave = nn.Linear(width, width)
        self.outputs = zero_init(nn.Linear(width, categories))
        for table in (self.values, self.decided, self.before, self.after):
            nn.init.normal_(table.weight, std=0.3)
        with torch.no_grad():
            self.values.weight[categories] = self.decided.weight[categories] = 0
        nn.init.ones_(self.scales.weight)

    def groups_after(
        self, values: Tensor, decided: Tensor, before: Tensor, after: Tensor
    ) -> Groups:
        """Return the hidden states of groups.

        Args:
            values: Sum of the rows of `values` of all elements before a group, (M, C).
            decided: The same of `decided`.
            before: Their number, (M,) long.
            after: Number of elements still to come, those of the group included, (M,) long.
        """
        scale, shift = self.scales(after).chunk(2, -1)[0], self.after(after).chunk(2, -1)[0]
        h = scale * values + shift + self.before(before)
        for block in self.blocks:
            h = block(h)
        return Groups(self.leave(h), decided, after)

    def logits(self, hidden: Groups) -> Tensor:
        """Return logits (M, K) of the next element of a group."""
        after = hidden.after
        scale, shift = self.scales(after).chunk(2, -1)[1], self.after(after).chunk(2, -1)[1]
        return super().logits(self.outputs(F.gelu(hidden.h + scale * hidden.decided + shift)))

    def embed(self, hidden: Groups, x: Tensor) -> tuple[Groups, None]:
        """Add an element x (M,), the number of categories where a group has no further one."""
        # All elements of a group but the last ones are there whenever a later one is.
        after = (hidden.after - 1).clamp(min=0)
        return Groups(hidden.h, hidden.decided + self.decided(x), after), None

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield all groups (B, G, V) in one step."""
        mask = context.mask
        own = (x < self.cardinalities[0]).sum(-1)
        before = own.cumsum(1) - own
        after = own.sum(1, keepdim=True) - before
        sums = []
        for table in (self.values, self.decided):
            each = table(x[:, :-1]).sum(2)
            # Of the groups before only: a difference of two sums would round by the own one.
            sums.append(F.pad(each, (0, 0, 1, 0)).cumsum(1)[mask])
        groups = self.groups_after(sums[0], sums[1], before[mask], after[mask])
        yield Step(mask.nonzero(as_tuple=True), groups)

    def start(self, context: Context) -> GroupState:
        """Return the state before the first group; `context.features` are the sets' sizes."""
        return GroupState(self, context)


class GroupState:
    """Sets so far: sums over their elements."""

    def __init__(self, network: GroupNetwork, context):
        self.network, self.order = network, InSequence(context.mask)
        self.after = context.features[..., 0].sum(1).round().long()[self.order.rows]
        self.before = torch.zeros_like(self.after)
        self.tables = network.values, network.decided
        self.sums = [t.weight.new_zeros(len(self.after), t.embedding_dim) for t in self.tables]

    def step(self) -> Step | None:
        """Return the next group of all sets that have one."""
        at = self.order.next()
        if at is None:
            return None
        parts = (part[: len(at[0])] for part in (*self.sums, self.before, self.after))
        return Step(at, self.network.groups_after(*parts))

    def update(self, x: Tensor) -> None:
        """Append the elements x (M, V) of the current group."""
        count, own = len(x), (x < self.network.cardinalities[0]).sum(-1)
        self.before, self.after = self.before[:count] + own, self.after[:count] - own
        self.sums = [s[:count] + t(x).sum(1) for s, t in zip(self.sums, self.tables, strict=True)]


@dataclass
class Grouped:
    """Latents of elements by group.

    Attributes:
        index: Places of the elements by rank, (B, L) long.
        own: Latents (B, G, V).
        given: Context of the coupling, with a mask (B, G, V).
    """

    index: Tensor
    own: Tensor
    given: Context


class GroupCoupling(Bijection):
    """`AutoregressiveCoupling` over groups of elements, ranked by the first of their two latents.

    The element of rank r belongs to group r mod G, so that small sets need no more rounds than they
    have elements, and large ones no more than G. The first latent stays as it is.

    Args:
        network: `GroupNetwork`.
    """

    tempers = True

    def __init__(self, network: GroupNetwork):
        super().__init__()
        self.coupling = AutoregressiveCoupling(network)

    def forward(self, x, context=Context()):
        """Map x (B, L, 2)."""
        x = prepare(x, context.mask)
        groups = self._groups(x, context)
        return self._finish(x, groups, *self.coupling(groups.own, groups.given))

    def inverse(self, z, context=Context()):
        """Map back; a temperature below 1 sharpens the conditional probabilities."""
        z = prepare(z, context.mask)
        groups = self._groups(z, context)
        own = self.coupling.inverse(groups.own, groups.given)
        return self._finish(z, groups, own, None)[0]

    def inverse_and_logdet(self, z, context=Context()):
        """Map back, without gradients."""
        z = prepare(z, context.mask)
        groups = self._groups(z, context)
        return self._finish(z, groups, *self.coupling.inverse_and_logdet(groups.own, groups.given))

    def _groups(self, x: Tensor, context: Context) -> Grouped:
        network = self.coupling.network
        if x.shape[1] > network.elements:
            raise ValueError(
                f"sets of {x.shape[1]} elements, but the model knows up to {network.elements}"
            )
        index, sizes = ranking(x[..., 0], context.mask)
        slots = len(network.cardinalities)
        room = network.groups * slots
        # (B, room) by rank; rank r lies in group r mod G, at place r // G.
        own = F.pad(x[..., 1].gather(1, index), (0, room - x.shape[1]))
        there = torch.arange(room, device=x.device) < sizes[:, None]
        own, there = (part.unflatten(1, (slots, -1)).transpose(1, 2) for part in (own, there))
        counts = there.sum(-1, keepdim=True).to(x.dtype)
        return Grouped(index, own, replace(context, mask=there, features=counts))

    def _finish(self, x, groups: Grouped, moved, log_term):
        moved = moved.transpose(1, 2).flatten(1)[:, : x.shape[1]]
        moved = torch.zeros_like(moved).scatter(1, groups.index, moved)
        return torch.stack([x[..., 0], moved], -1), log_term
