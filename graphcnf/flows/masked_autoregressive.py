"""Multilayer perceptrons, and flows in which a channel's map depends on the channels before it.

A *network* is called as ``network(x, context)`` with channels ``(B, ..., A)``, and returns ``P C``
numbers: P parameters of each of C channels, in the order ``(P, C)``.
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
    """Multilayer perceptron as the network of a coupling.

    Args:
        inputs: number A of channels that it sees.
        outputs: number of outputs.
        hidden: widths of the hidden layers.
        features: number F of features in ``context.features (B, ..., F)``, which it sees, too;
            without them in the context, it takes them as 0.
    """

    def __init__(
        self, inputs: int, outputs: int, *, hidden: Sequence[int] = (64, 64), features: int = 0
    ):
        super().__init__()
        self.layers = nn.ModuleList(self.make_layers(inputs, outputs, hidden))
        self.features = nn.Linear(features, hidden[0], bias=False) if features else None

    def make_layers(self, inputs: int, outputs: int, hidden: Sequence[int]) -> Iterable[nn.Module]:
        """Return the linear layers, of the widths ``inputs, *hidden, outputs``."""
        return [nn.Linear(*sizes) for sizes in pairwise([inputs, *hidden, outputs])]

    def forward(self, x, context=Context()):
        """Map channels ``(B, ..., inputs)`` to outputs ``(B, ..., outputs)``."""
        first, *further = self.layers
        x = first(x)
        if self.features is not None and context.features is not None:
            x = x + self.features(context.features.to(x.dtype))
        for layer in further:
            x = layer(F.relu(x))
        return x


class MaskedLinear(nn.Linear):
    """Linear layer in which an output depends only on the inputs that a mask allows.

    Args:
        allowed: True where an output may depend on an input, (outputs, inputs) bool.
    """

    allowed: Tensor

    def __init__(self, allowed: Tensor):
        super().__init__(allowed.shape[1], allowed.shape[0])
        self.register_buffer("allowed", allowed)

    def forward(self, x):
        """Map inputs ``(..., inputs)`` to outputs ``(..., outputs)``."""
        return F.linear(x, self.weight * self.allowed, self.bias)


class MaskedMLP(MLP):
    """Multilayer perceptron whose parameters of channel c depend on the channels before c alone.

    Germain et al., *MADE*, ICML 2015, arXiv 1502.03509. Hidden units are numbered 1 to D - 1 in
    turn: unit c sees channels and units up to c, and the parameters of a channel see the units
    before it. The arguments are those of `MLP`, with a multiple ``P D`` of its D inputs as outputs.
    """

    def make_layers(self, inputs, outputs, hidden):
        channels = torch.arange(inputs) + 1
        units = [torch.arange(width) % max(inputs - 1, 1) + 1 for width in hidden]
        for before, after in pairwise([channels, *units]):
            yield MaskedLinear(after[:, None] >= before)
        yield MaskedLinear(channels.repeat(outputs // inputs)[:, None] > units[-1])


class MaskedAutoregressive(Bijection):
    """Map of each channel with parameters from the channels before it: ``z_c = f(x_c; h(x_<c))``.

    All channels are mapped to latents at once, and back one after the other.
    Papamakarios et al., *Masked Autoregressive Flow*, NeurIPS 2017, arXiv 1705.07057.

    Args:
        coupling: a coupling with ``split=0``, which gives the elementwise map f, and whose network
            gives the parameters; the network sees all channels, and must be masked as `MaskedMLP`
            is.
        reverse: True to take the channels from the last to the first.

    Raises:
        ValueError: if the coupling has another ``split``.
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
        """Return channels ``x (B, ..., D)`` in the order of the network, or that order undone."""
        return x.flip(-1) if self.reverse else x

    def _conditioned(self, x: Tensor, context: Context) -> Tensor:
        """Return the parameters of channels ``x (B, ..., D)`` in order, ``(B, ..., P, D)``."""
        shape = (self.coupling.parameters_per_channel, x.shape[-1])
        return self.coupling.network(x, context).to(x.dtype).unflatten(-1, shape)
