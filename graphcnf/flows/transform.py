"""The interface of all transforms.

A *transform* maps data ``x`` to latents ``z`` and also returns one scalar per sample, the *log
term*, such that ``p(x) = E[exp(log p(z) + log_term)]``. The log term of a bijection is
``log|det dz/dx|``; for a stochastic step (dequantization, categorical encoding), ``log p(z)`` plus
the log term is one draw of a lower bound (Nielsen et al., *SurVAE Flows*, NeurIPS 2020, arXiv
2007.02731).

Tensors are ``(B, ..., D)``: B samples of a batch, any number of axes of entries (positions, or the
rows and columns of an image), and D channels. A *mask* says which entries are real; the others are
padding, which is 0 in every output.

Random numbers: encoders and other stochastic steps (`forward`) take uniform ones from the tape
`Context.noise`, which can repeat them; base densities and `inverse` take theirs from
`Context.generator`. Either may have a source for each row, so that draws do not depend on the rest
of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

Generators = torch.Generator | Sequence[np.random.Generator] | None
"""Source of random numbers: for a whole batch, one for each record, or torch's global generator."""


@dataclass(frozen=True, eq=False)
class Context:
    """Inputs of a transform or network besides ``x``.

    One context is passed through all transforms of a flow; each ignores the inputs that it does not
    use. A network that needs more has a subclass of its own.

    Attributes:
        mask: ``x.shape[:-1]`` bool, True where an entry is real; ``(B, L)`` for ``(B, L, D)``.
        features: features of the entries, ``(B, ..., F)``.
        condition_values: values of the P conditions of whole samples, each in its own unit,
            ``(B, P)``; NaN where unknown.
        noise: tape on which stochastic steps record their draws; once rewound, they replay it.
        discarded: list to which `Split` appends the latents that it factors out.
        temperature: scale of the latents that `inverse` draws.
        generator: random generator of `inverse`, see `graphcnf.flows.base.draw_uniform`.
    """

    # Typed without None, so that networks need not check the inputs that they require.
    mask: Tensor = None  # type: ignore[assignment]
    features: Tensor = None  # type: ignore[assignment]
    condition_values: Tensor | None = None
    noise: Noise | None = None
    discarded: list[Tensor] | None = None
    temperature: float = 1.0
    generator: Generators = None


class Transform(nn.Module):
    """A map from data x to latents z, with a *log term* for each sample.

    For a bijection it is log|det dz/dx|, for a stochastic map a random number such that
    log p(z) + log term is one draw of a lower bound on log p(x).

    Attributes:
        exact: False if the log term is one draw of a stochastic bound.
        tempers: True if `inverse` applies the temperature itself, by sharpening conditional
            probabilities. If False, the caller multiplies the latents by the temperature.
    """

    exact: bool = True
    tempers: bool = False

    def forward(self, x, context=Context()):
        """Map data to latents.

        Args:
            x: data, ``(B, ..., D)``; arbitrary at masked entries.
            context: mask and other inputs; all entries are real without a mask.

        Returns:
            ``z (B, ..., D')``, which is 0 at masked entries, and the log term ``(B,)`` in nats,
            float32 (float64 for float64 input) whatever the autocast type.
        """
        raise NotImplementedError

    def inverse(self, z, context=Context()):
        """Map latents to data, for a stochastic step by a draw or the most probable data.

        Args:
            z: latents, ``(B, ..., D)``.
            context: mask and other inputs, as of `forward`.

        Returns:
            Data ``(B, ..., D)``, 0 at masked entries.
        """
        raise NotImplementedError


class Bijection(Transform):
    """An invertible transform; subclasses write `forward` and `inverse_and_logdet`."""

    def inverse_and_logdet(self, z, context=Context()):
        """Map latents to data, and return the log-det of this map.

        Args:
            z: latents, ``(B, ..., D)``.
            context: mask and other inputs, as of `forward`.

        Returns:
            ``x (B, ..., D)``, and ``log|det dx/dz|`` ``(B,)`` in nats: minus the log term of
            `forward`, and in the same type.
        """
        raise NotImplementedError

    def inverse(self, z, context=Context()):
        return self.inverse_and_logdet(z, context)[0]


class Noise:
    """Tape of the random draws of a forward pass, to repeat the pass with the same noise.

    Draws are uniform numbers; stochastic steps make those of other distributions of them. Thus a
    subclass can decide where the numbers come from (`RecordNoise`).

    Attributes:
        draws: The recorded draws, in order.
        position: Number of the draw that comes next.

    Examples:
        >>> from graphcnf.flows import UniformDequantization
        >>> transform, x = UniformDequantization(4), torch.tensor([[0, 3]])
        >>> noise = Noise()
        >>> first, _ = transform(x, Context(noise=noise))
        >>> second, _ = transform(x, Context(noise=noise.rewind()))
        >>> torch.equal(first, second)
        True
    """

    def __init__(self):
        self.draws: list[Tensor] = []
        self.position = 0

    def uniform(self, shape: Sequence[int], *, device, dtype=torch.float64) -> Tensor:
        """Return the next draw of the tape; at its end, draw and record new numbers.

        Args:
            shape: Shape ``(B, ...)`` of the draw, the same whenever it is repeated.
            device: Device of the numbers.
            dtype: Their type.

        Returns:
            Numbers in [0, 1), ``(B, ...)``.
        """
        if self.position == len(self.draws):
            self.draws.append(self.draw(shape, device, dtype))
        self.position += 1
        return self.draws[self.position - 1]

    def draw(self, shape: Sequence[int], device, dtype) -> Tensor:
        """Draw new uniform numbers in [0, 1), of the arguments of `uniform`.

        `uniform` calls it where the tape has no numbers to repeat. Subclasses override it, to draw
        from another source.
        """
        return torch.rand(tuple(shape), device=device, dtype=dtype)

    def rewind(self) -> Noise:
        """Go back to the beginning of the tape, and return the tape."""
        self.position = 0
        return self


def draw_noise(noise: Noise | None, shape: Sequence[int], *, device, dtype=torch.float64) -> Tensor:
    """Return ``noise.uniform(...)``, or new uniform numbers if there is no tape."""
    return (Noise() if noise is None else noise).uniform(shape, device=device, dtype=dtype)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set entries that are not real to 0, even if they are not finite (a product would give NaN).

    Args:
        x: ``(B, ..., D)``.
        mask: True for real entries, bool, of the shape of ``x`` or without its last axis; None if
            all are real.

    Returns:
        ``(B, ..., D)``; ``x`` itself without a mask.
    """
    if mask is None:
        return x
    return x.masked_fill(~(mask if mask.dim() == x.dim() else mask.unsqueeze(-1)), 0)


def with_mask(x: Tensor, context: Context) -> Context:
    """Return a context that has a mask.

    Args:
        x: ``(B, N, ...)``, for its shape.
        context: returned as it is if it has a mask. Otherwise a copy of it is returned, with a mask
            ``(B, N)`` by which all positions are real.
    """
    if context.mask is not None:
        return context
    return replace(context, mask=torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))


def log_term_dtype(x: Tensor) -> torch.dtype:
    """Return the type of log terms: float64 for float64 input, float32 for everything else.

    Half precision would lose the sum over many entries.
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def prepare(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Convert data to `log_term_dtype`, and set entries that are not real to 0.

    Args:
        x: data, ``(B, ..., D)``, of any floating type.
        mask: True for real entries, ``x.shape[:-1]`` bool; None if all are real.

    Returns:
        ``(B, ..., D)`` in float64 for float64, else in float32.
    """
    return masked(x.to(log_term_dtype(x)), mask)


def zero_log_term(x: Tensor) -> Tensor:
    """Return a log term of zeros ``(B,)`` for the batch ``x``."""
    return torch.zeros(x.shape[0], dtype=log_term_dtype(x), device=x.device)


def sum_log_term(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum log terms over all real elements of a sample.

    Args:
        values: log term of each element, ``(B, ...)`` nats.
        mask: True for real elements, bool, of the first axes of ``values``; None if all are real.

    Returns:
        ``(B,)`` nats, of the type `log_term_dtype`.
    """
    if mask is not None:
        mask = mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))
        values = values.masked_fill(~mask, 0)
    values = values.to(log_term_dtype(values))
    return values.flatten(1).sum(-1) if values.dim() > 1 else values


def count_entries(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the number of real entries of each sample; the D channels of an entry count once.

    Args:
        x: ``(B, ..., D)``, for its shape and type.
        mask: True for real entries, ``x.shape[:-1]`` bool; None if all are real.

    Returns:
        ``(B,)``, in `log_term_dtype`.
    """
    if mask is None:
        return torch.full_like(zero_log_term(x), x[0, ..., 0].numel() if len(x) else 0)
    return mask[:, None].flatten(1).sum(-1).to(log_term_dtype(x))
