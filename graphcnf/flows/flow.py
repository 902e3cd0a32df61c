"""`Flow`, a density of continuous data, and `vector_flow`, which builds common ones.

    z, log_term = transform(x)
    log p(x) = log p(z) + log_term

The sum is one draw of a lower bound if the transform is not `exact`, as with dequantization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from graphcnf.flows.base import BaseDensity, StandardNormal
from graphcnf.flows.composition import SequentialBijection
from graphcnf.flows.coupling import AffineCoupling, Coupling, halves
from graphcnf.flows.linear import ActNorm
from graphcnf.flows.masked_autoregressive import MLP, MaskedAutoregressive, MaskedMLP
from graphcnf.flows.transform import Bijection, Context, Transform


class Flow(nn.Module):
    """Density of continuous data: a transform to latents, and their density (normal if None).

    Examples:
        >>> from graphcnf.flows import ActNorm, InvertibleLinear, Sequential
        >>> flow = Flow(Sequential(ActNorm(2), InvertibleLinear(2)))
        >>> flow.log_prob(torch.randn(100, 2)).shape
        torch.Size([100])
        >>> flow.sample((5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, transform: Transform, base: BaseDensity | None = None):
        super().__init__()
        self.transform = transform
        self.base = StandardNormal() if base is None else base

    def log_prob(self, x: Tensor, context: Context = Context()) -> Tensor:
        """Return log p(x), `(B,)` nats, or one draw of a lower bound on it (`Transform.exact`).

        p(x) is a density in the units of the data, so that its logarithm may be above 0.
        """
        z, log_term = self.transform(x, context)
        return self.base.log_prob(z, context.mask) + log_term

    def sample(self, shape: Sequence[int], context: Context = Context()) -> Tensor:
        """Draw latents of a shape `(B, ..., D)` from the base density, and return their data."""
        like = next(self.parameters(), torch.empty(0))
        z = self.base.sample(
            shape,
            temperature=1.0 if self.transform.tempers else context.temperature,
            mask=context.mask,
            generator=context.generator,
            device=like.device,
            dtype=like.dtype,
        )
        return self.transform.inverse(z, context)


def vector_flow(
    channels: int,
    layers: int = 6,
    *,
    coupling: Callable[..., Coupling] = AffineCoupling,
    autoregressive: bool = False,
    hidden: Sequence[int] = (64, 64),
    features: int = 0,
    **arguments,
) -> Flow:
    """Build a flow of vectors over a standard normal density: RealNVP, neural splines or MAF.

    After an `ActNorm` come `layers`. Coupling layers map one half of the channels given the other
    half, in turn (RealNVP; with `RationalQuadraticCoupling` a neural spline flow). Masked
    autoregressive layers (MAF) map each channel given those before it, every second layer in
    reverse order; they are more expressive, but slow to sample.

    Args:
        channels: Number D of channels; at least 2 unless `autoregressive`.
        layers: Number of layers.
        coupling: Class of the elementwise map, for layers of both kinds.
        autoregressive: True for masked autoregressive layers, False for coupling layers.
        hidden: Widths of the hidden layers of the networks.
        features: Number F of `Context.features` on which the density depends, 0 for none.
        **arguments: Arguments of `coupling`, such as `bins`.

    Examples:
        >>> from graphcnf.flows import RationalQuadraticCoupling
        >>> flow = vector_flow(2, coupling=RationalQuadraticCoupling, bins=8)
        >>> -flow.log_prob(torch.randn(100, 2)).mean() > 0
        tensor(True)
    """
    steps: list[Bijection] = [ActNorm(channels)]
    for number in range(layers):
        if autoregressive:
            split, swap, fixed = 0, False, 0
        else:
            split, swap, fixed = halves(channels, number)
        layer = coupling(nn.Identity(), split=split, swap=swap, **arguments)
        outputs = (channels - fixed) * layer.parameters_per_channel
        if autoregressive:
            layer.network = MaskedMLP(channels, outputs, hidden=hidden, features=features)
            steps.append(MaskedAutoregressive(layer, reverse=number % 2 == 1))
        else:
            layer.network = MLP(fixed, outputs, hidden=hidden, features=features)
            steps.append(layer)
    return Flow(SequentialBijection(*steps))
