"""Multilayer perceptrons, and flows in which a channel's map depends on the channels before it.

A network of a coupling is *autoregressive* if the parameters of a channel depend only on the
channels before it. `MaskedMLP` is; it has weights that are fixed to 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.flows.coupling import Coupling
from graphcnf.flows.transform import Bijection, Context, masked, prepare, sum_log_term


class MLP(nn.Module):
    """Multilayer perceptron with ReLU, as the network of a coupling.

    Args:
        inputs: number of channels that it sees.
        outputs: number of parameters that it returns.
        hidden: widths of the hidden layers, at least one.
        features: number F of further inputs, which are read from `context.features (B, ..., F)`;
            if the context has none, they count as 0.
    """

    def __init__(
        self, inputs: int, outputs: int, *, hidden: Sequence[int] = (64, 64), features: int = 0
    ):
        super().__init__()
        self.layers = nn.ModuleList(self.make_layers(inputs, outputs, hidden))
        self.features = nn.Linear(features, hidden[0], bias=False) if features else None

    def make_layers(self, inputs: int, outputs: int, hidden: Sequence[int]) -> Iterable[nn.Module]:
        """Build the `len(hidden) + 1` linear layers; the constructor calls it."""
        return [nn.Linear(*sizes) for sizes in pairwise([inputs, *hidden, outputs])]

    def forward(self, x, context=Context()):
        """Map channels `(B, ..., inputs)` and features to parameters `(B, ..., outputs)`."""
        first, *further = self.layers
        x = first(x)
        if self.features is not None and context.features is not None:
            x = x + self.features(context.features.to(x.dtype))
        for layer in further:
            x = layer(F.relu(x))
        return x


class MaskedLinear(nn.Linear):
    """Linear layer with weights only where `allowed`, `(outputs, inputs)`; the others are 0."""

    allowed: Tensor

    def __init__(self, allowed: Tensor):
        super().__init__(allowed.shape[1], allowed.shape[0])
        self.register_buffer("allowed", allowed)

    def forward(self, x):
        """Apply the layer: inputs `(..., inputs)` become outputs `(..., outputs)`."""
        return F.linear(x, self.weight * self.allowed, self.bias)


class MaskedMLP(MLP):
    """Multilayer perceptron in which the parameters of a channel depend on the channels before it.

    Each hidden unit gets a number from 1 to D - 1. Unit c sees the first c channels and units of
    numbers up to c; the parameters of channel c see units with numbers below c (Germain et al.,
    *MADE*, ICML 2015, arXiv 1502.03509). `outputs` is a multiple `P D` of the D `inputs`.
    """

    def make_layers(self, inputs, outputs, hidden):
        channels = torch.arange(inputs) + 1
        units = [torch.arange(width) % max(inputs - 1, 1) + 1 for width in hidden]
        for before, after in pairwise([channels, *units]):
            yield MaskedLinear(after[:, None] >= before)
        yield MaskedLinear(channels.repeat(outputs // inputs)[:, None] > units[-1])


class MaskedAutoregressive(Bijection):
    """Map of each channel with parameters from the channels before it: `z_c = f(x_c; h(x_<c))`.

    The inverse takes one channel after the other, and so is D times slower.
    Papamakarios et al., *Masked Autoregressive Flow*, NeurIPS 2017, arXiv 1705.07057.

    Args:
        coupling: a coupling with `split=0`. Its elementwise map is f, and its network is h. The
            network gets all channels, and must be autoregressive, as `MaskedMLP` is.
        reverse: True to take the channels in reverse order.
    """

    def __init__(self, coupling: Coupling, *, reverse: bool = False):
        super().__init__()
        if coupling.split:
            raise ValueError(f"the coupling must have split=0, got {coupling.split}")
        self.coupling, self.reverse = coupling, reverse

    def forward(self, x, context=Context()):
        x = self._ordered(prepare(x, context.mask))
        z, log_det = self.coupling.transform_elements(x, self._conditioned(x, context))
        return masked(self._ordered(z), context.mask), sum_log_term(log_det, context.mask)

    def inverse_and_logdet(self, z, context=Context()):
        z = self._ordered(prepare(z, context.mask))
        x = torch.zeros_like(z)
        for channel in range(z.shape[-1]):
            parameters = self._conditioned(x, context)[..., [channel]]
            value = self.coupling.inverse_elements(z[..., [channel]], parameters)
            x = torch.cat([x[..., :channel], value, x[..., channel + 1 :]], -1)
        log_det = self.coupling.transform_elements(x, self._conditioned(x, context))[1]
        return masked(self._ordered(x), context.mask), -sum_log_term(log_det, context.mask)

    def _ordered(self, x: Tensor) -> Tensor:
        """Return channels `x (B, ..., D)` flipped if `reverse`; a second call undoes it."""
        return x.flip(-1) if self.reverse else x

    def _conditioned(self, x: Tensor, context: Context) -> Tensor:
        """Return the parameters of channels `x (B, ..., D)` in order, `(B, ..., P, D)`."""
        shape = (self.coupling.parameters_per_channel, x.shape[-1])
        return self.coupling.network(x, context).to(x.dtype).unflatten(-1, shape)
