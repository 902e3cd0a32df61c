"""Categorical normalizing flow over sets, whose density does not depend on the order of elements.

- A *set* has up to L *elements*, each with a *category*. Sets are passed as rows (B, L) of
  categories; a mask (B, L) is True for *real* elements, and False for padding.
- The *latents* z of an element are the continuous numbers that stand for its category x, D of them.
- The *sorting latent* is one more latent, in front of the others. A coupling that goes from element
  to element needs an order: it sorts the elements of a set by this latent. It is noise, which the
  flow leaves unchanged. Encoder and base density give it the same density, so that it costs no
  bits, and the flow stays equivariant under permutations of the set.
- A *group* is a part of a set whose elements are decided in one step. Its *hidden state* is what
  the network knows before it decides an element, four tensors: channels that sum up the earlier
  groups, (M, C); the sum of the embeddings of all elements so far, (M, C); the number of elements
  to come in the set, (M,); the number of elements to come in the group, (M,).

`SetFlow` is the model. Its three couplings are `ElementCoupling`, `GroupCoupling`, and
`graphcnf.flows.coupling.coupling_stack`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.arguments import check
from graphcnf.categorical.autoregressive import AutoregressiveNetwork, InSequence, Step
from graphcnf.categorical.autoregressive_flow import AutoregressiveCoupling
from graphcnf.categorical.categorical_flow import CategoricalFlow
from graphcnf.categorical.encoding import Encoded, Encoding
from graphcnf.categorical.learned_encodings import logistic_noise, make_encoding
from graphcnf.categorical.transformer import MASKED, Transformer, zero_init
from graphcnf.errors import UserError
from graphcnf.flows.base import logistic_log_density
from graphcnf.flows.composition import Sequential
from graphcnf.flows.coupling import coupling_stack
from graphcnf.flows.mixture_of_logistics import (
    bounded_log_scale,
    logistic_mixture,
    logistic_mixture_inverse,
)
from graphcnf.flows.transform import Bijection, Context, Transform, masked, prepare, sum_log_term
from graphcnf.pretrained import Pretrained, keep_arguments
from graphcnf.torch_state import evaluated

EXPANSION = 2  # hidden channels of a block's feed-forward part, as a multiple of the width


class SetFlow(Pretrained, CategoricalFlow):
    """Density of categorical sets (B, L), invariant under permutations of the elements.

    Args:
        elements: Largest number of elements of a set, and the default number in `sample`.
        categories: Number of categories of an element.
        encoding: Name of the encoding of categories, see `make_encoding`. None for "mixture", or
            with the coupling "groups" for "interval", the only one that it takes.
        latent_dim: Latents D of an element; None for the default of the encoding.
        encoding_options: Further arguments of the encoding by name; None to keep its defaults.
        coupling: How latents are transformed: "elements" maps one element after another in a random
            order (`ElementCoupling`); "groups" maps one random group of elements after another
            (`GroupCoupling`); "channels" maps half of the latents of all elements at once, given
            the other half, with several couplings in turn (Lippe & Gavves 2021, section 4.1).
        couplings: Number of couplings for "channels", of groups for "groups"; None for 8. For
            "elements" it must be 1 or None.
        mixtures: Components C of the mixtures; None for `categories` with "elements", for 8 with
            "channels". Without effect for "groups".
        width: Channels of an element in the networks.
        layers: Blocks of each network.
        heads: Attention heads; must divide the width ("groups" has no attention).

    Examples:
        >>> cards = SetFlow(3, 8, width=16, layers=1)
        >>> hands = torch.tensor([[0, 3, 5], [7, 1, 2]])
        >>> loss, metrics = cards.training_loss(hands)
        >>> cards.sample(4).shape
        torch.Size([4, 3])
    """

    not_sizes: ClassVar[frozenset[str]] = frozenset({"separation"})  # of an encoding's means

    @keep_arguments
    def __init__(
        self,
        elements: int,
        categories: int,
        *,
        encoding: str | None = None,
        latent_dim: int | None = None,
        encoding_options: dict[str, Any] | None = None,
        coupling: Literal["elements", "groups", "channels"] = "elements",
        couplings: int | None = None,
        mixtures: int | None = None,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
    ):
        check(
            "SetFlow", {**self.config, "encoding_options": {}}, SetFlow
        )  # `make_encoding` checks them
        ordered, groups = coupling == "elements", coupling == "groups"
        couplings = (1 if ordered else 8) if couplings is None else couplings
        mixtures = (categories if ordered else 8) if mixtures is None else mixtures
        network = {"width": width, "layers": layers, "heads": heads}
        if width % heads:
            raise UserError(f"heads must divide the width, got {heads} and {width}")
        if groups and encoding not in (None, "interval"):
            raise UserError(
                f'coupling "groups" takes the encoding "interval" only, got {encoding!r}'
            )
        if ordered and couplings > 1:
            raise UserError(f'coupling "elements" takes couplings = 1 only, got {couplings}')
        if encoding is None:
            encoding = "interval" if groups else "mixture"
        latents = make_encoding(encoding, categories, latent_dim, **(encoding_options or {}))
        flow: Transform
        if ordered:
            means, log_scales = components(latents, mixtures)
            flow = Sequential(ElementCoupling(means, log_scales, elements, **network))
        elif groups:
            count = min(couplings, elements)
            flow = GroupCoupling(GroupNetwork(categories, elements, count, width, layers))
        else:
            flow = coupling_stack(
                partial(SetNetwork, **network),
                channels=latents.latent_dim,
                couplings=couplings,
                mixtures=mixtures,
            )
        super().__init__(OrderedEncoding(latents) if ordered or groups else latents, flow)
        self.metadata: dict = {}

    def training_loss(
        self, batch: Tensor, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss of a batch and its metrics; the training loop calls it.

        The loss is the negative bound on log p(x), nats per element. Of the metrics,
        "bits_per_variable" is the bound at beta = 1 in bits per element, and "accuracy" the share
        of elements whose most probable category under p(x|z) is the encoded one.
        """
        bound = self.bound(batch)
        loss = -bound.log_prob(beta).mean() / batch.shape[1]
        with torch.no_grad():
            count = torch.tensor(float(len(batch)), device=loss.device)
            bits = -bound.log_prob().sum() / (batch.shape[1] * math.log(2))
            accuracy = bound.correct.sum(), count
        return loss, {"bits_per_variable": (bits, count), "accuracy": accuracy}

    log_prob = evaluated(CategoricalFlow.log_prob)

    @torch.no_grad()
    def sample(
        self, count: int, length: int | None = None, context: Context = Context(), **options
    ) -> Tensor:
        """Draw sets, all of one size or of the sizes that a mask says.

        `length` is by default the largest number of elements, and is ignored if the context has a
        mask.
        """
        if length is None and context.mask is None:
            length = self.config["elements"]
        return super().sample(count, length, context, **options)


class SetNetwork(nn.Module):
    """Attention network of a coupling: parameters for each element, given all elements of its set.

    It has no positional inputs: permuting the elements permutes the outputs.
    """

    def __init__(self, inputs: int, outputs: int, *, width: int, layers: int, heads: int):
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = Transformer(width, heads, EXPANSION, layers)
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_init(nn.Linear(width, outputs)))

    def forward(self, x: Tensor, context: Context = Context()) -> Tensor:
        """Compute the parameters of all elements, (B, L, outputs); none attends to padding."""
        # A padded element attends to itself: a softmax over nothing would be NaN.
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)[None, None]
        real = True if context.mask is None else context.mask[:, None, None]
        return self.attended(self.enter(x), itself | real)

    def attended(self, h: Tensor, visible: Tensor) -> Tensor:
        """Apply attention and the output layer; element i (third axis) reads those `visible`."""
        for block in self.blocks:
            h = block(h, MASKED * ~visible)
        return self.leave(h)


class CausalSetNetwork(SetNetwork):
    """Causal `SetNetwork`: parameters of each element of a sorted set, given those before it.

    It also reads how many elements come before, and how many are still to come.
    """

    def __init__(self, inputs: int, outputs: int, *, elements: int, width: int, **sizes):
        super().__init__(inputs, outputs, width=width, **sizes)
        self.elements = elements
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.before = nn.Embedding(elements, width)
        self.after = nn.Embedding(elements + 1, width)
        for table in (self.before, self.after):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, features, sizes):
        """Compute the parameters of the first K + 1 elements, each given those before it."""
        batch, known = features.shape[:2]
        number = torch.arange(known + 1, device=features.device)
        entered = self.enter(features)
        h = torch.cat([self.start.expand(batch, -1, -1).to(entered.dtype), entered], 1)
        remaining = (sizes[:, None] - number).clamp(min=0)
        h = h + self.before(number) + self.after(remaining)
        return self.attended(h, (number <= number[:, None])[None, None])


class OrderedEncoding(Encoding):
    """Encoding that puts the sorting latent in front of the D latents of another encoding.

    The sorting latent is standard logistic noise, independent of x, and adds its log-density to
    log q(z|x). The base density of the flow adds the same to log p(z), so that it cancels in the
    bound.
    """

    def __init__(self, encoding: Encoding):
        super().__init__()
        self.encoding, self.cardinalities = encoding, encoding.cardinalities
        self.latent_dim = 1 + encoding.latent_dim

    def encode(self, x, context=Context()):
        inner = self.encoding.encode(x, context)
        order = logistic_noise((*inner.z.shape[:-1], 1), inner.z, context.noise)
        order = masked(order, context.mask)
        log_q = inner.log_encoder + sum_log_term(logistic_log_density(order), context.mask)
        return Encoded(torch.cat([order, inner.z], -1), inner.log_posterior, log_q, inner.correct)

    def decode(self, z, context=Context(), *, sample=False):
        """Decode latents to categories."""
        return self.encoding.decode(z[..., 1:], context, sample=sample)


def ranking(key: Tensor, mask: Tensor | None, most: int) -> tuple[Tensor, Tensor]:
    """Return the elements of each set sorted by a number, padding last, (B, L), and the sizes.

    `most` is the largest number of elements of a set that the network can take.
    """
    if key.shape[1] > most:
        raise ValueError(f"sets of {key.shape[1]} elements, but the model knows up to {most}")
    if mask is None:
        sizes = torch.full((len(key),), key.shape[1], device=key.device)
    else:
        key, sizes = key.masked_fill(~mask, torch.inf), mask.sum(1)
    return key.argsort(dim=1, stable=True), sizes


@torch.no_grad()
def components(encoding: Encoding, count: int) -> tuple[Tensor, Tensor]:
    """Measure the mean and scale of 256 latents of each category, to begin `ElementCoupling`.

    If there are more components than categories, the further ones start with category 0 again, with
    a random offset of the mean. Returns means and logarithms of the logistic scales.
    """
    categories = encoding.cardinalities
    assert isinstance(categories, int)
    x = torch.arange(count).remainder(categories)
    z = encoding.encode(x.expand(256, -1)).z
    mean, deviation = z.mean(0), z.std(0)
    beside = (torch.arange(count) >= categories)[:, None]
    mean = torch.where(beside, mean + deviation * torch.randn_like(mean), mean)
    # The standard deviation of a logistic variable is pi / sqrt(3) times its scale.
    return mean, (deviation * math.sqrt(3) / math.pi).log()


class ElementCoupling(Bijection):
    """Autoregressive map of the latents of a set, one element after another in a random order.

    Elements are sorted by their sorting latent. From the elements before it, a causal attention
    network gives a density of the D other latents of an element: `sum_c w_c prod_d Logistic(x_d;
    m_cd, s_cd)`, with C components. The map turns this density into independent standard logistic
    variables (triangular map of Rosenblatt 1952): latent d becomes `logit(F_d(x_d))`. F_d is the
    distribution function of x_d given the latents e < d of the element. It is that of a mixture of
    logistics with weights proportional to `w_c prod_{e<d} Logistic(x_e; m_ce, s_ce)`.

    Args:
        means: Means of the C components at the start, (C, D), as the function `components` measures
            them. They are trained; the network adds to them.
        log_scales: Logarithms of the scales of the components at the start, (C, D). They are
            trained; the network adds to them.
        elements: Largest number of elements of a set.
        **network: `width`, `layers` and `heads` of `CausalSetNetwork`.
    """

    def __init__(self, means: Tensor, log_scales: Tensor, elements: int, **network):
        super().__init__()
        self.means = nn.Parameter(means.clone())
        self.log_scales = nn.Parameter(log_scales.clone())
        count, latents = means.shape
        outputs = count * (1 + 2 * latents)
        self.network = CausalSetNetwork(latents + count, outputs, elements=elements, **network)

    def forward(self, x, context=Context()):
        """Map latents of sets to base latents, for all elements at once."""
        x, mask = prepare(x, context.mask), context.mask
        index, sizes = self._order(x, mask)
        v = x.gather(1, index)[..., 1:]
        logits, means, log_scales = self._mixtures(v[:, :-1], sizes)
        moved, slopes = [], []
        for d, value in enumerate(v.unbind(-1)):
            y, log_slope = logistic_mixture(value, logits, means[d], log_scales[d])
            logits = logits + self._log_densities(value, means[d], log_scales[d])
            moved.append(y)
            slopes.append(log_slope)
        return self._finish(x, index, mask, moved, slopes)

    def inverse_and_logdet(self, z, context=Context()):
        """Invert `forward`, one element after another."""
        z, mask = prepare(z, context.mask), context.mask
        index, sizes = self._order(z, mask)
        y = z.gather(1, index)[..., 1:]
        known = y[:, :0]
        all_slopes = []
        for k in range(z.shape[1]):
            logits, means, log_scales = (
                part[..., -1].double() for part in self._mixtures(known, sizes)
            )
            values, slopes = [], []
            for d in range(y.shape[-1]):
                mixture = logits, means[d], log_scales[d]
                value = logistic_mixture_inverse(y[:, k, d].double(), *mixture)
                log_slope = -logistic_mixture(value, *mixture)[1]
                logits = logits + self._log_densities(value, means[d], log_scales[d])
                values.append(value.to(z.dtype))
                slopes.append(log_slope.to(z.dtype))
            known = torch.cat([known, torch.stack(values, -1)[:, None]], 1)
            all_slopes.append(torch.stack(slopes, -1))
        slopes = torch.stack(all_slopes, 1).unbind(-1)
        return self._finish(z, index, mask, known.unbind(-1), slopes)

    def _order(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sort the elements of sets by their first latent, padding last."""
        index, sizes = ranking(x[..., 0], mask, self.network.elements)
        return index.unsqueeze(-1).expand_as(x), sizes

    def _finish(
        self,
        x: Tensor,
        index: Tensor,
        mask: Tensor | None,
        moved: Iterable[Tensor],
        slopes: Iterable[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Put transformed elements back into the order of the input."""
        sums: Any = sum(slopes)
        if mask is not None:
            sums = sums.masked_fill(~mask.gather(1, index[..., 0]), 0)
        moved = torch.stack(list(moved), -1)
        moved = torch.zeros_like(moved).scatter(1, index[..., 1:], moved)
        return masked(torch.cat([x[..., :1], moved], -1), mask), sum_log_term(sums)

    def _mixtures(self, known: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mixtures of the first K + 1 elements, each given those before it."""
        start, start_scales = (p.t()[..., None, None] for p in (self.means, self.log_scales))
        # The component that an element lies on is more informative than its position.
        each = self._log_densities(known.movedim(-1, 0)[:, None], start, start_scales)
        features = torch.cat([known, each.sum(0).softmax(0).movedim(0, -1)], -1)
        out = self.network(features, sizes).to(known.dtype).permute(2, 0, 1).contiguous()
        components, latents = self.means.shape
        logits, means, log_scales = out.split([components, *[components * latents] * 2])
        shape = (latents, components)
        bounded = bounded_log_scale(log_scales.unflatten(0, shape))
        return logits, start + means.unflatten(0, shape), start_scales + bounded

    @staticmethod
    def _log_densities(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
        """Return the logistic log-densities of latents in each component."""
        return logistic_log_density((x - means) * torch.exp(-log_scales)) - log_scales


class GroupNetwork(AutoregressiveNetwork):
    """Autoregressive distribution of the categories of a set, one group of elements after another.

    In the words of `AutoregressiveNetwork`, a position is a group, and its V variables are the
    elements of the group. A group depends on earlier groups through a sum over their elements
    (Zaheer et al. 2017, *Deep Sets*, arXiv 1703.06114). The elements of a group are decided one
    after another: the sum of the embeddings of all elements so far enters a last hidden layer (as
    in NADE, Larochelle & Murray 2011). In groups with fewer than V elements the last variables are
    omitted.
    """

    def __init__(self, categories: int, elements: int, groups: int, width: int, layers: int):
        super().__init__()
        self.elements, self.groups = elements, groups
        self.cardinalities = [categories] * -(-elements // groups)
        # The last row of either table, 0, is for an element that is absent.
        self.values = nn.Embedding(categories + 1, width, padding_idx=categories)
        self.decided = nn.Embedding(categories + 1, width, padding_idx=categories)
        # The number of elements to come scales the sums over elements.
        self.scales = nn.Embedding(elements + 1, 2 * width)
        self.before = nn.Embedding(elements + 1, width)
        self.after = nn.Embedding(elements + 1, 2 * width)
        # Nothing is normalised: the size of a sum over elements matters.
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            enter, leave = nn.Linear(width, 2 * width), zero_init(nn.Linear(2 * width, width))
            self.blocks.append(nn.Sequential(enter, nn.GELU(), leave))
        self.leave = nn.Linear(width, width)
        self.outputs = zero_init(nn.Linear(width, categories))
        for table in (self.values, self.decided, self.before, self.after):
            nn.init.normal_(table.weight, std=0.3)
        with torch.no_grad():
            self.values.weight[categories] = self.decided.weight[categories] = 0
        nn.init.ones_(self.scales.weight)

    def groups_after(
        self, values: Tensor, decided: Tensor, before: Tensor, after: Tensor, own: Tensor
    ) -> tuple[Tensor, ...]:
        """Compute the hidden state of M groups from all groups before them.

        It is the state before the first element of a group is decided. Elements of earlier groups
        enter it by two embeddings: one goes through the blocks of the network here, the other one
        is added up further while the elements of the group are decided, by `next_hidden`.

        Arguments and result are (M,) numbers of elements in earlier groups, in this and later ones
        and in this one, and (M, C) sums of the two embeddings of elements in earlier groups.
        """
        scale, shift = self.scales(after).chunk(2, -1)[0], self.after(after).chunk(2, -1)[0]
        h = scale * values + shift + self.before(before)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h), decided, after, own

    def logits(self, hidden):
        """Return the logits of the next element of M groups."""
        h, decided, after, _ = hidden
        scale = self.scales(after).chunk(2, -1)[1]
        shift = self.after(after).chunk(2, -1)[1]
        return super().logits(self.outputs(F.gelu(h + scale * decided + shift)))

    def next_hidden(self, hidden, x):
        """Add a decided element to the hidden state of M groups."""
        h, decided, after, own = hidden
        kept = (own > 1).nonzero()[:, 0]
        decided = decided + self.decided(x)
        return (h[kept], decided[kept], after[kept] - 1, own[kept] - 1), kept

    def present(self, x: Tensor, own: Tensor) -> Tensor:
        """Replace absent elements of groups by the last row of the tables, whose embedding is 0."""
        number = torch.arange(x.shape[-1], device=x.device)
        return torch.where(number < own[..., None], x, self.cardinalities[0])

    def steps(self, x: Tensor, context: GroupContext) -> Iterator[Step]:
        """Yield one step with the M groups that have elements, to score them."""
        mask, own = context.mask, context.elements
        before = own.cumsum(1) - own
        after = own.sum(1, keepdim=True) - before
        x = self.present(x, own)
        sums = []
        for table in (self.values, self.decided):
            each = table(x[:, :-1]).sum(2)
            # Shifted by one group. Subtracting the group's own sum would leave its rounding error.
            sums.append(F.pad(each, (0, 0, 1, 0)).cumsum(1)[mask])
        values, decided = sums
        groups = self.groups_after(values, decided, before[mask], after[mask], own[mask])
        rows, positions = mask.nonzero(as_tuple=True)
        yield Step(rows, positions, groups)

    def start(self, context: GroupContext) -> GroupDrawing:
        """Begin to draw the sets of a batch, group by group."""
        return GroupDrawing(self, context)


@dataclass(frozen=True)
class GroupContext(Context):
    """Context of a flow over the groups of sets: its mask (B, G) is True for groups with elements.

    Attributes:
        elements: Number of elements of each of the G groups of each set, (B, G) long.
    """

    elements: Tensor = None  # type: ignore[assignment]


class GroupDrawing:
    """Sets that are being drawn group by group: sizes, and sums of embeddings."""

    def __init__(self, network: GroupNetwork, context: GroupContext):
        self.network, self.order = network, InSequence(context.mask)
        self.elements = context.elements[self.order.rows]
        self.after = self.elements.sum(1)
        self.before = torch.zeros_like(self.after)
        self.tables = network.values, network.decided
        self.sums = [t.weight.new_zeros(len(self.after), t.embedding_dim) for t in self.tables]

    def step(self) -> Step | None:
        """Advance to the next group of elements in every set that is not complete."""
        if not self.order.advance():
            return None
        parts = (*self.sums, self.before, self.after, self.elements[:, self.order.position])
        groups = self.network.groups_after(*(part[: self.order.count] for part in parts))
        return self.order.make_step(groups)

    def update(self, x: Tensor) -> None:
        """Append the drawn elements (M, V) of a group to the M sets of the last `Step`."""
        count = len(x)
        own = self.elements[:count, self.order.position]
        self.before = self.before[:count] + own
        self.after = self.after[:count] - own
        x = self.network.present(x, own)
        self.sums = [s[:count] + t(x).sum(1) for s, t in zip(self.sums, self.tables, strict=True)]


class GroupCoupling(Bijection):
    """Autoregressive map of the latents of a set, one random group of elements after another.

    An element has two latents: the sorting latent, which does not change, and one that stands for
    its category (`IntervalEncoding`: an interval of numbers for each category). Elements are sorted
    by the first; the element of rank r belongs to group r mod G. The second is mapped so that the
    interval of a category becomes as wide as its probability given the elements before
    (`AutoregressiveCoupling`). The network computes a hidden state once for a group, so that
    drawing needs it at most G times, however many elements there are.
    """

    tempers = True

    def __init__(self, network: GroupNetwork):
        super().__init__()
        self.coupling = AutoregressiveCoupling(network)

    def forward(self, x, context=Context()):
        """Map latents of sets to base latents, for all groups at once."""
        return self._apply_to_groups(self.coupling, x, context)

    def inverse_and_logdet(self, z, context=Context()):
        """Map base latents to latents, group by group and without gradients."""
        return self._apply_to_groups(self.coupling.inverse_and_logdet, z, context)

    def _apply_to_groups(
        self,
        function: Callable[[Tensor, GroupContext], tuple[Tensor, Tensor]],
        x: Tensor,
        context: Context,
    ) -> tuple[Tensor, Tensor]:
        """Arrange the second latents of elements in groups, map them, and put them back."""
        x, network = prepare(x, context.mask), self.coupling.network
        index, sizes = ranking(x[..., 0], context.mask, network.elements)
        slots = len(network.cardinalities)
        places = network.groups * slots
        # (B, places) by rank; rank r lies in group r mod G, at place r // G.
        own = F.pad(x[..., 1].gather(1, index), (0, places - x.shape[1]))
        there = torch.arange(places, device=x.device) < sizes[:, None]
        own, there = (part.unflatten(1, (slots, -1)).transpose(1, 2) for part in (own, there))
        given = GroupContext(there, temperature=context.temperature, elements=there.sum(-1))
        moved, log_term = function(own, given)
        moved = moved.transpose(1, 2).flatten(1)[:, : x.shape[1]]
        moved = torch.zeros_like(moved).scatter(1, index, moved)
        return torch.stack([x[..., 0], moved], -1), log_term
