"""Coupling layers, in which some channels determine the map of the others, and stacks of them.

Data x and latents z are `(B, ..., D)`: B samples, any axes of entries, D *channels*. A *coupling*
cuts the channels in `x_a` and `x_b`. The first part stays as it is, and a *network* computes from
it the P *parameters* of an elementwise map of each channel of the second. The log-det is the sum of
`log|dz/dx|` over the elements of `x_b`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphcnf.errors import UserError
from graphcnf.flows.composition import SequentialBijection
from graphcnf.flows.linear import ActNorm, InvertibleLinear
from graphcnf.flows.mixture_of_logistics import (
    bounded_log_scale,
    logistic_mixture,
    logistic_mixture_inverse,
)
from graphcnf.flows.transform import Bijection, Context, masked, prepare, sum_log_term


class Coupling(Bijection):
    """Base of the coupling layers: `z_a = x_a, z_b = f(x_b; network(x_a))`.

    Subclasses write the elementwise map f, `transform_elements`, and `inverse_elements`, and set
    `parameters_per_channel`, the number P.

    Args:
        network: called as `network(x_a, context)` with the A untransformed channels
            `(B, ..., A)`. For C transformed channels it returns `(B, ..., P C)`: the first
            parameter of all C channels, then the second, and so on; finite, in any precision.
        split: number of channels in the first part. With 0 all channels are transformed, and the
            parameters depend on the context only.
        swap: False to transform the second part given the first, True for the reverse.
    """

    parameters_per_channel: int

    def __init__(self, network: nn.Module, *, split: int, swap: bool = False):
        super().__init__()
        if split < 0:
            raise ValueError(f"split must be at least 0, got {split}")
        self.network, self.split, self.swap = network, split, swap

    def transform_elements(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return `f(x)` with parameters `(B, ..., P, C)`, and `log|dz/dx|` of every element."""
        raise NotImplementedError

    def inverse_elements(self, z: Tensor, parameters: Tensor) -> Tensor:
        """Return the `x (B, ..., C)` that `transform_elements` maps to `z`."""
        raise NotImplementedError

    def forward(self, x, context=Context()):
        return self._couple(x, self.transform_elements, context)

    def inverse_and_logdet(self, z, context=Context()):
        def elements(z, parameters):
            x = self.inverse_elements(z, parameters)
            return x, -self.transform_elements(x, parameters)[1]

        return self._couple(z, elements, context)

    def _couple(self, x, elements, context):
        """Map the transformed channels, with parameters from the other channels."""
        parts = prepare(x, context.mask).tensor_split([self.split], -1)
        fixed, moved = parts[self.swap], parts[not self.swap]
        channels, count = moved.shape[-1], self.parameters_per_channel
        parameters = self.network(fixed, context)
        if parts[1].shape[-1] == 0 or parameters.shape[-1] != count * channels:
            raise ValueError(
                f"{type(self).__name__} with split={self.split} got {x.shape[-1]} channels and "
                f"{parameters.shape[-1]} parameters; {channels} transformed channels need "
                f"{count} parameters each"
            )
        parameters = parameters.to(moved.dtype).unflatten(-1, (count, channels))
        moved, log_det = elements(moved, parameters)
        moved = masked(moved, context.mask)
        z = torch.cat((moved, fixed) if self.swap else (fixed, moved), -1)
        return z, sum_log_term(log_det, context.mask)


class AdditiveCoupling(Coupling):
    """Additive coupling `z_b = x_b + t(x_a)`; the log-det is 0.

    Dinh et al., *NICE*, 2014, arXiv 1410.8516.
    """

    parameters_per_channel = 1

    def transform_elements(self, x, parameters):
        return x + parameters.squeeze(-2), torch.zeros_like(x)

    def inverse_elements(self, z, parameters):
        return z - parameters.squeeze(-2)


class AffineCoupling(Coupling):
    """Affine coupling `z_b = exp(s(x_a)) x_b + t(x_a)` with `|s| <= 3`; parameters `(t, s)`.

    s is bounded smoothly (`bounded_log_scale`).
    Dinh et al., *Density estimation using Real NVP*, ICLR 2017, arXiv 1605.08803.
    """

    parameters_per_channel = 2

    def transform_elements(self, x, parameters):
        shift, log_scale = parameters.unbind(-2)
        log_scale = bounded_log_scale(log_scale)
        return x * torch.exp(log_scale) + shift, log_scale

    def inverse_elements(self, z, parameters):
        shift, log_scale = parameters.unbind(-2)
        return (z - shift) * torch.exp(-bounded_log_scale(log_scale))


class MixtureLogisticCoupling(Coupling):
    """Coupling `z_b = exp(s) logit(CDF(x_b)) + t` with the CDF of a mixture of K logistics.

    The network gives 3 K + 2 parameters for each transformed channel: `t`, `s`, and K logits, K
    means and K log-scales of the mixture; s and the log-scales are bounded to +-3
    (`bounded_log_scale`). Constants from -1 to 1 are added to the means, so that the components
    differ even where the network returns zeros.
    Ho et al., *Flow++*, ICML 2019, arXiv 1902.00275; Lippe & Gavves 2021, arXiv 2006.09790,
    appendix A.
    """

    def __init__(self, network: nn.Module, *, split: int, swap: bool = False, mixtures: int = 8):
        super().__init__(network, split=split, swap=swap)
        if mixtures < 1:
            raise ValueError(f"mixtures must be at least 1, got {mixtures}")
        self.mixtures = mixtures
        self.parameters_per_channel = 3 * mixtures + 2
        offsets = torch.linspace(-1, 1, mixtures) if mixtures > 1 else torch.zeros(1)
        self.register_buffer("offsets", offsets.reshape(-1, 1, 1))

    def transform_elements(self, x, parameters):
        flat, shift, log_scale, mixture = self._arrange(x, parameters)
        y, log_slope = logistic_mixture(flat, *mixture)
        z = y * torch.exp(log_scale) + shift
        return z.t().reshape(x.shape), (log_slope + log_scale).t().reshape(x.shape)

    def inverse_elements(self, z, parameters):
        """Invert the elementwise map by a fixed number of bisections and Newton steps."""
        flat, shift, log_scale, mixture = self._arrange(z, parameters)
        x = logistic_mixture_inverse((flat - shift) * torch.exp(-log_scale), *mixture)
        return x.t().reshape(z.shape)

    def _arrange(self, x: Tensor, parameters: Tensor):
        """Split the parameters, and move all N entries of the batch to the last axis."""
        channels = x.shape[-1]
        # One transposition here makes all later passes contiguous along the entries.
        flat = x.reshape(-1, channels).t().contiguous()
        parameters = parameters.reshape(-1, self.parameters_per_channel * channels).t().contiguous()
        parameters = parameters.unflatten(0, (self.parameters_per_channel, channels))
        affine, logits, means, log_scales = parameters.split((2, *[self.mixtures] * 3))
        mixture = logits, means + self.offsets, bounded_log_scale(log_scales)
        return flat, affine[0], bounded_log_scale(affine[1]), mixture


def halves(channels: int, number: int) -> tuple[int, bool, int]:
    """Choose which half of the channels a coupling transforms: each in turn, first the second.

    Returns:
        The `split` and `swap` of the `Coupling`, and the number of channels that its network takes.
    """
    if channels < 2:
        raise UserError(f"couplings of channels need at least 2 latents, got {channels}")
    split, swap = channels // 2, number % 2 == 1
    return split, swap, channels - split if swap else split


def coupling_stack(
    network: Callable[[int, int], nn.Module], *, channels: int, couplings: int, mixtures: int = 8
) -> SequentialBijection:
    """Build blocks of actnorm, invertible linear map and mixture-of-logistics coupling.

    Lippe & Gavves 2021, arXiv 2006.09790, use such flows for latents of nodes and edges. The
    networks of couplings are built by `network(inputs, outputs)`, numbers of channels and
    parameters.

    Examples:
        >>> flow = coupling_stack(torch.nn.Linear, channels=4, couplings=2)
        >>> [type(step).__name__ for step in flow][:3]
        ['ActNorm', 'InvertibleLinear', 'MixtureLogisticCoupling']
    """
    steps: list[Bijection] = []
    for number in range(couplings):
        split, swap, fixed = halves(channels, number)
        conditioner = network(fixed, (channels - fixed) * (3 * mixtures + 2))
        coupling = MixtureLogisticCoupling(conditioner, split=split, swap=swap, mixtures=mixtures)
        steps += [ActNorm(channels), InvertibleLinear(channels), coupling]
    return SequentialBijection(*steps)
