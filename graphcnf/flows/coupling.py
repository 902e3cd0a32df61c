"""Coupling layers, where some channels parametrize the map of the others, and their stack.

The channels are cut in two parts. One part stays as it is; a network computes from it the
parameters of an elementwise map of the other part. The map is easy to invert, since the network
sees the same input in both directions, and its log-det is a sum over elements.
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
    """Base of the coupling layers: ``z_a = x_a, z_b = f(x_b; network(x_a))``.

    Subclasses write `transform_elements`, `inverse_elements`, and set `parameters_per_channel`.

    Args:
        network: called as ``network(x_a, context)`` with the untransformed channels
            ``(B, ..., A)``; returns ``(B, ..., P C)`` for C transformed channels with
            P = `parameters_per_channel` each, in the order ``(P, C)``, finite and in any precision.
        split: index of the last axis at which the channels are cut. With 0 all channels are
            transformed, and the parameters depend on the context only.
        swap: False transforms the second part, True the first.

    Raises:
        ValueError: when called, if the network does not return ``P C`` numbers.
    """

    parameters_per_channel: int

    def __init__(self, network: nn.Module, *, split: int, swap: bool = False):
        super().__init__()
        if split < 0:
            raise ValueError(f"split must be at least 0, got {split}")
        self.network, self.split, self.swap = network, split, swap

    def transform_elements(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Map the C transformed channels.

        Args:
            x: transformed channels, ``(B, ..., C)``.
            parameters: their P parameters each, ``(B, ..., P, C)``.

        Returns:
            ``z`` and ``log|dz/dx|`` of every element, ``(B, ..., C)`` each.
        """
        raise NotImplementedError

    def inverse_elements(self, z: Tensor, parameters: Tensor) -> Tensor:
        """Invert `transform_elements`.

        Args:
            z: transformed channels, ``(B, ..., C)``.
            parameters: their P parameters each, ``(B, ..., P, C)``.

        Returns:
            The ``x (B, ..., C)`` that is mapped to ``z``.
        """
        raise NotImplementedError

    def forward(self, x, context=Context()):
        return self._couple(x, self.transform_elements, context)

    def inverse_and_logdet(self, z, context=Context()):
        def elements(z, parameters):
            x = self.inverse_elements(z, parameters)
            return x, -self.transform_elements(x, parameters)[1]

        return self._couple(z, elements, context)

    def _couple(self, x, elements, context):
        """Map the transformed channels, with parameters from the other channels.

        Args:
            x: all channels, ``(B, ..., D)``.
            elements: called as ``elements(x_b, parameters)`` with the C transformed channels and
                their parameters ``(B, ..., P, C)``; returns the mapped channels and the log-det of
                every element.
            context: mask, and what the network needs.

        Returns:
            All channels ``(B, ..., D)``, and the log-det ``(B,)`` in nats.
        """
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
    """Additive coupling ``z_b = x_b + t(x_a)``; the log-det is 0.

    Dinh et al., *NICE*, 2014, arXiv 1410.8516.
    """

    parameters_per_channel = 1

    def transform_elements(self, x, parameters):
        return x + parameters.squeeze(-2), torch.zeros_like(x)

    def inverse_elements(self, z, parameters):
        return z - parameters.squeeze(-2)


class AffineCoupling(Coupling):
    """Affine coupling ``z_b = exp(s(x_a)) x_b + t(x_a)`` with ``|s| <= 3``; parameters ``(t, s)``.

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
    """Coupling ``z_b = exp(s) logit(CDF(x_b)) + t`` with the CDF of a mixture of K logistics.

    Parameters ``(t, s, K logits, K means, K log-scales)``; s and the log-scales are bounded to +-3.
    Constants from -1 to 1 are added to the means, so that the components differ even where the
    network returns zeros.
    Ho et al., *Flow++*, ICML 2019, arXiv 1902.00275.
    Lippe & Gavves 2021, arXiv 2006.09790, appendix A.

    Args:
        network: called as ``network(x_a, context)``; returns the parameters of the transformed
            channels, see `Coupling`.
        split: index of the last axis at which the channels are cut.
        swap: False transforms the second part, True the first.
        mixtures: number K of components.

    Raises:
        ValueError: if there is no component.
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
        """Invert `transform_elements` by a fixed number of bisections and Newton steps.

        Args:
            z: transformed channels, ``(B, ..., C)``.
            parameters: their P parameters each, ``(B, ..., P, C)``.

        Returns:
            ``x (B, ..., C)``.
        """
        flat, shift, log_scale, mixture = self._arrange(z, parameters)
        x = logistic_mixture_inverse((flat - shift) * torch.exp(-log_scale), *mixture)
        return x.t().reshape(z.shape)

    def _arrange(self, x: Tensor, parameters: Tensor):
        """Split the parameters, and move all N entries of the batch to the last axis.

        Args:
            x: transformed channels, ``(B, ..., C)``.
            parameters: their P parameters each, ``(B, ..., P, C)``.

        Returns:
            ``x``, shifts and log-scales, ``(C, N)`` each, and the mixture: a tuple of logits, means
            and log-scales, ``(K, C, N)`` each.
        """
        channels = x.shape[-1]
        # One transposition here makes all later passes contiguous along the entries.
        flat = x.reshape(-1, channels).t().contiguous()
        parameters = parameters.reshape(-1, self.parameters_per_channel * channels).t().contiguous()
        parameters = parameters.unflatten(0, (self.parameters_per_channel, channels))
        affine, logits, means, log_scales = parameters.split((2, *[self.mixtures] * 3))
        mixture = logits, means + self.offsets, bounded_log_scale(log_scales)
        return flat, affine[0], bounded_log_scale(affine[1]), mixture


def halves(channels: int, number: int) -> tuple[int, bool, int]:
    """Choose the channels that a coupling of a stack transforms: one half in turn with the other.

    Args:
        channels: number of channels.
        number: number of the coupling in the stack, from 0. Even ones transform the second half of
            the channels, odd ones the first.

    Returns:
        `split` and `swap` of the `Coupling`, and its number of untransformed channels.

    Raises:
        UserError: if there are fewer than 2 channels.
    """
    if channels < 2:
        raise UserError(f"couplings of channels need at least 2 latents, got {channels}")
    split, swap = channels // 2, number % 2 == 1
    return split, swap, channels - split if swap else split


def coupling_stack(
    network: Callable[[int, int], nn.Module], *, channels: int, couplings: int, mixtures: int = 8
) -> SequentialBijection:
    """Build blocks of actnorm, invertible linear map and mixture-of-logistics coupling.

    Args:
        network: called as ``network(inputs, outputs)`` to build the network of each coupling, which
            maps ``inputs`` channels to ``outputs`` parameters; see `Coupling`.
        channels: number of channels.
        couplings: number of blocks.
        mixtures: number of logistics of a coupling.

    Returns:
        A bijection of ``(B, ..., channels)``; couplings transform the second and the first half of
        the channels in turn.

    Raises:
        UserError: if there are fewer than 2 channels.

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
