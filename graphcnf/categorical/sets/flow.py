"""Categorical normalizing flow over sets."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from graphcnf.categorical.encoding import Encoding
from graphcnf.categorical.factory import make_encoding
from graphcnf.categorical.flow import CategoricalFlow
from graphcnf.categorical.sets.attention import SetNetwork
from graphcnf.categorical.sets.elements import ElementCoupling, OrderedEncoding
from graphcnf.categorical.sets.groups import GroupCoupling, GroupNetwork
from graphcnf.errors import UserError
from graphcnf.flows.coupling import coupling_stack
from graphcnf.flows.transform import Context, Sequential, Transform
from graphcnf.pretrained import Pretrained

COUPLINGS = ("elements", "groups", "channels")


class SetFlow(Pretrained, CategoricalFlow):
    """Density of categorical sets (B, L): permuting a set leaves its density as it is.

    Three kinds of couplings, with networks that know no positions:

    - "elements" (`ElementCoupling`): the elements follow each other in the random order that a
      latent of their own gives them;
    - "groups" (`GroupCoupling`, on the interval encoding): random groups of elements follow each
      other, so many network evaluations as there are groups, whatever the size of the set;
    - "channels" (Lippe & Gavves 2021, section 4.1): ActNorm, invertible linear map and a mixture
      coupling that transforms half of the latents of all elements given the other half.

    Args:
        elements: Largest number of elements of a set, and the number that `sample` draws.
        categories: Number of categories of an element.
        encoding: Name of the encoding, see `make_encoding`; None for "interval" ("groups", which
            takes no other) or "mixture".
        latent_dim: Latents of an element; None for what the encoding takes by default.
        encoding_options: Further arguments of the encoding.
        coupling: "elements", "groups" or "channels".
        couplings: Number of couplings (of groups, with "groups"); None for 1 ("elements") or 8.
        mixtures: Components of the mixtures; None for `categories` ("elements") or 8. "groups" has
            none.
        width: Channels of the networks.
        layers: Blocks of a network: of attention, or of a sum's network ("groups").
        heads: Attention heads.

    Raises:
        UserError: if an argument is out of range.

    Examples:
        >>> cards = SetFlow(3, 8, width=16, layers=1)
        >>> hands = torch.tensor([[0, 3, 5], [7, 1, 2]])
        >>> loss, metrics = cards.training_loss(hands)
        >>> cards.sample(4).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        elements: int,
        categories: int,
        *,
        encoding: str | None = None,
        latent_dim: int | None = None,
        encoding_options: dict | None = None,
        coupling: str = "elements",
        couplings: int | None = None,
        mixtures: int | None = None,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if coupling not in COUPLINGS:
            raise UserError(f"coupling must be one of {', '.join(COUPLINGS)}, not {coupling!r}")
        ordered = coupling == "elements"
        couplings = (1 if ordered else 8) if couplings is None else couplings
        mixtures = (categories if ordered else 8) if mixtures is None else mixtures
        numbers = {
            "elements": elements,
            "categories": categories,
            "couplings": couplings,
            "mixtures": mixtures,
        }
        numbers |= {"width": width, "layers": layers, "heads": heads}
        for name, value in numbers.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if width % heads:
            raise UserError(f"heads must divide the width, got {heads} and {width}")
        if encoding is None:
            encoding = "interval" if coupling == "groups" else "mixture"
        elif coupling == "groups" and encoding != "interval":
            raise UserError(
                f'coupling "groups" takes the encoding "interval" only, not {encoding!r}'
            )
        latents = make_encoding(encoding, categories, latent_dim, **(encoding_options or {}))
        network = {"width": width, "layers": layers, "heads": heads}
        flow: Transform
        if ordered:
            flow = element_couplings(latents, elements, couplings, mixtures, network)
            latents = OrderedEncoding(latents)
        elif coupling == "groups":
            groups = min(couplings, elements)
            flow = GroupCoupling(
                GroupNetwork(
                    categories, elements=elements, groups=groups, width=width, layers=layers
                )
            )
            latents = OrderedEncoding(latents)
        else:
            flow = coupling_stack(
                partial(SetNetwork, **network),
                channels=latents.latent_dim,
                couplings=couplings,
                mixtures=mixtures,
            )
        super().__init__(latents, flow)
        self.config = config
        self.metadata: dict = {}

    @property
    def elements(self) -> int:
        """Number of elements of a set."""
        return self.config["elements"]

    def training_loss(self, batch: Tensor, *, beta: float = 1.0):
        """Negative bound in nats per element, with log p(x|z) weighted by `beta`, and metrics.

        Args:
            batch: Sets (B, L) long.
            beta: See `Bound.value`.

        Returns:
            The loss, and as pairs (sum over sets, number of sets) `bits_per_variable` (beta = 1)
            and `accuracy` (share of elements that p(x|z) decodes to what was encoded).
        """
        bound = self.bound(batch)
        loss = -bound.value(beta).mean() / batch.shape[1]
        with torch.no_grad():
            count = torch.tensor(float(len(batch)), device=loss.device)
            bits = -bound.value().sum() / (batch.shape[1] * math.log(2))
            metrics = {
                "bits_per_variable": (bits, count),
                "accuracy": (bound.correct.sum(), count),
            }
        return loss, metrics

    @torch.no_grad()
    def sample(
        self, count: int, length: int | None = None, context: Context = Context(), **options
    ) -> Tensor:
        """Draw `count` sets of `length` (`elements` by default), see `CategoricalFlow.sample`."""
        if length is None and context.mask is None:
            length = self.elements
        return super().sample(count, length, context, **options)


def element_couplings(
    encoding: Encoding, elements: int, couplings: int, mixtures: int, network: dict
) -> Sequential:
    """Element couplings whose first starts with its components where the categories lie."""
    means, log_scales = components(encoding, mixtures)
    steps = []
    for number in range(couplings):
        steps.append(
            ElementCoupling(
                means, log_scales, elements=elements, reverse=bool(number % 2), **network
            )
        )
        # What leaves the first coupling is near the base density.
        means, log_scales = torch.randn_like(means), torch.zeros_like(log_scales)
    return Sequential(*steps)


@torch.no_grad()
def components(encoding: Encoding, count: int, draws: int = 256) -> tuple[Tensor, Tensor]:
    """Mean and log-scale (count, D) of the latents of the categories, in turn.

    Components beyond the number of categories start beside the mean of their category.
    """
    categories = encoding.cardinalities
    assert isinstance(categories, int)
    x = torch.arange(count).remainder(categories)
    z = encoding.encode(x.expand(draws, -1)).z
    mean, deviation = z.mean(0), z.std(0)
    beside = (torch.arange(count) >= categories)[:, None]
    mean = torch.where(beside, mean + deviation * torch.randn_like(mean), mean)
    # The standard deviation of a logistic variable is pi / sqrt(3) times its scale.
    return mean, (deviation * math.sqrt(3) / math.pi).log()
