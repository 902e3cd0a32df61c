"""The interface of all transforms, `Transform` and `Bijection`, and helpers to write one.

- A *transform* maps data `x` to latents `z` (`forward`), and back (`inverse`). `forward` also
  returns the *log term*, one number for each sample, such that
  `p(x) = E[exp(log p(z) + log_term)]`.
- The log term of a *bijection* is `log|det dz/dx|`, and needs no expectation. A *stochastic step*
  draws `z` at random (dequantization, categorical encoding): `log p(z)` plus its log term is
  one draw of a lower bound on log p(x) (Nielsen et al., *SurVAE Flows*, NeurIPS 2020, arXiv
  2007.02731).
- Tensors are `(B, ..., D)`: B samples of a batch, any number of axes of *entries* (positions of a
  sequence, rows and columns of an image), and D *channels*.
- A *mask* `(B, ...)` is True at *real* entries. The others are padding: they are 0 in every
  output, and change no other output.
- A *context* holds everything else that a transform may need, such as the mask.

Where random numbers come from: `forward` of stochastic steps takes them from the tape
`Context.noise`, which can repeat them; base densities and `inverse` take them from
`Context.generator`. Either can have a source for each sample, so that draws do not depend on the
rest of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

Generators = torch.Generator | Sequence[np.random.Generator] | None
"""Source of random numbers: one torch generator for a whole batch, a list of B numpy generators
(one for each sample), or None for torch's global generator."""


@dataclass(frozen=True, eq=False)
class Context:
    """All that a transform or network is told besides its input `x`.

    One context is passed through all transforms of a flow; each reads what it uses, and ignores the
    rest. A network that needs more gets a subclass with further attributes.

    Attributes:
        mask: True where an entry is real, bool, of the shape of `x` without the channels:
            `(B, L)` for `x (B, L, D)`. None if all entries are real.
        features: What networks see of each entry besides `x`, `(B, ..., F)`; None where they
            see `x` alone.
        condition_values: Properties of whole samples given which the density is meant, `(B, P)`,
            each in its own unit, NaN where unknown; None if all are unknown, or for a density
            without conditions.
        noise: Tape from which stochastic steps take their random numbers; None for fresh numbers.
        discarded: List for the latents that `Split` factors out: `forward` appends them, `inverse`
            takes them from it. None to drop them, and to draw them anew in `inverse`.
        temperature: Below 1, samples are more probable. Latents that are drawn are multiplied by
            it, or conditional probabilities are sharpened instead (`Transform.tempers`).
        generator: Source of the random numbers of `inverse`.
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
    """A map from data x to latents z and back, with a *log term* for each sample.

    A subclass writes `forward` and `inverse`.

    log p(z) + log term is log p(x) itself if `exact`, else one draw of a lower bound on it.
    Invertible maps derive from `Bijection`.

    Attributes:
        exact: False if the log term is random, so that it gives one draw of a lower bound.
        tempers: True if `inverse` applies `Context.temperature` itself, by sharpening conditional
            probabilities. If False, whoever draws the latents multiplies them by the temperature.
    """

    exact: bool = True
    tempers: bool = False

    def forward(self, x, context=Context()):
        """Map data to latents, and return the log term.

        Args:
            x: data, `(B, ..., D)`; any values at padding.
            context: mask and other inputs; without a mask all entries are real.

        Returns:
            Two tensors: the latents `z (B, ..., D')`, 0 at padding; and the log term `(B,)` in
            nats, float32 (float64 for float64 input) whatever the autocast type.
        """
        raise NotImplementedError

    def inverse(self, z, context=Context()):
        """Map latents to data.

        A bijection undoes `forward`. A stochastic step either draws the data, by the generator of
        the context, or takes the most probable ones: its class says which.

        Args:
            z: latents, `(B, ..., D')`. D' differs from D in steps that add or drop channels.
            context: mask and other inputs, those that `forward` would get.

        Returns:
            Data `(B, ..., D)`, 0 at padding.
        """
        raise NotImplementedError


class Bijection(Transform):
    """An invertible transform; subclasses write `forward` and `inverse_and_logdet`.

    `graphcnf.testing.assert_bijection` checks that the two undo each other.
    """

    def inverse_and_logdet(self, z, context=Context()):
        """Map latents to data, and return the log-determinant of this map.

        Args:
            z: latents, `(B, ..., D)`.
            context: mask and other inputs, those that `forward` would get.

        Returns:
            Two tensors: the data `x (B, ..., D)`, 0 at padding; and `log|det dx/dz|` `(B,)`
            in nats, which is minus the log term of `forward(x)`, in the same type.
        """
        raise NotImplementedError

    def inverse(self, z, context=Context()):
        return self.inverse_and_logdet(z, context)[0]


class Noise:
    """Tape of the random draws of a forward pass, to repeat the pass with the same numbers.

    A stochastic step takes its numbers from the tape by `uniform`. In the first pass the tape draws
    and records them; after `rewind` it returns them again. All draws are uniform numbers, of which
    steps make other distributions. So a subclass can decide where the numbers come from, by its own
    `draw`; `graphcnf.graphs.stochastic_model.RecordNoise` draws by record.

    Attributes:
        draws: The recorded draws in order, `(B, ...)` each.
        position: Number of the draw that `uniform` returns next.

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
        """Return the next draw of the tape; at its end, draw new numbers and record them.

        Args:
            shape: Shape `(B, ...)` of the draw. A draw that is repeated is returned as it was
                recorded, so that the caller must ask for the same shape again.
            device: Device of new numbers.
            dtype: Type of new numbers.

        Returns:
            Numbers in [0, 1), `(B, ...)`.
        """
        if self.position == len(self.draws):
            self.draws.append(self.draw(shape, device, dtype))
        self.position += 1
        return self.draws[self.position - 1]

    def draw(self, shape: Sequence[int], device, dtype) -> Tensor:
        """Draw new numbers; a subclass overrides it to take them from another source.

        `uniform` calls it where the tape has no numbers to repeat, and records the result.

        Args:
            shape: Shape `(B, ...)` of the draw.
            device: Device of the numbers.
            dtype: Their type.

        Returns:
            Uniform numbers in [0, 1), `(B, ...)`; here by torch's global generator.
        """
        return torch.rand(tuple(shape), device=device, dtype=dtype)

    def rewind(self) -> Noise:
        """Go back to the beginning of the tape, and return the tape."""
        self.position = 0
        return self


def draw_noise(noise: Noise | None, shape: Sequence[int], *, device, dtype=torch.float64) -> Tensor:
    """Draw uniform numbers for a stochastic step, from a tape if there is one.

    Args:
        noise: Tape that records the numbers, or repeats them; None to draw by torch's global
            generator.
        shape: Shape `(B, ...)` of the draw.
        device: Device of the numbers.
        dtype: Their type.

    Returns:
        Numbers in [0, 1), `(B, ...)`.
    """
    return (Noise() if noise is None else noise).uniform(shape, device=device, dtype=dtype)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set padding to 0.

    Unlike a product with the mask, this also works where padding is infinite or NaN.

    Args:
        x: `(B, ..., D)`.
        mask: True for real entries, bool, of the shape of `x` or without its last axis; None if
            all are real.

    Returns:
        A copy of `x` with 0 at padding; `x` itself if there is no mask.
    """
    if mask is None:
        return x
    return x.masked_fill(~(mask if mask.dim() == x.dim() else mask.unsqueeze(-1)), 0)


def with_mask(x: Tensor, context: Context) -> Context:
    """Add a mask to a context that has none, so that code after it need not treat both cases.

    Args:
        x: Any tensor `(B, N, ...)`; its first two axes and its device are those of the mask.
        context: Any context; it stays as it is.

    Returns:
        The context itself if it has a mask. Else a copy with a mask `(B, N)` that is True
        everywhere.
    """
    if context.mask is not None:
        return context
    return replace(context, mask=torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))


def log_term_dtype(x: Tensor) -> torch.dtype:
    """Return the type of the log terms of an input: float64 for float64, float32 for all others.

    Half precision would lose digits in the sum over many entries.

    Args:
        x: The input, of any type.
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def prepare(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Prepare the input of a transform: set padding to 0, and convert half precision to float32.

    Most transforms begin with this call.

    Args:
        x: data or latents, `(B, ..., D)`, of any type.
        mask: True for real entries, `x.shape[:-1]` bool; None if all are real.

    Returns:
        `(B, ..., D)`, in float64 for float64 input, else in float32.
    """
    return masked(x.to(log_term_dtype(x)), mask)


def zero_log_term(x: Tensor) -> Tensor:
    """Return the log term of a map that changes no volume: zeros.

    Args:
        x: Input of the map, `(B, ...)`.

    Returns:
        Zeros `(B,)`, of the type `log_term_dtype`, on the device of `x`.
    """
    return torch.zeros(x.shape[0], dtype=log_term_dtype(x), device=x.device)


def sum_log_term(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum the log terms of single elements to one log term for each sample; padding does not count.

    Args:
        values: log term of each element, `(B, ...)` nats; any values at padding.
        mask: True for real elements, bool; its axes are the first axes of `values`, and it holds
            for all indices of the further ones. None if all are real.

    Returns:
        `(B,)` nats, of the type `log_term_dtype`.
    """
    if mask is not None:
        mask = mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))
        values = values.masked_fill(~mask, 0)
    values = values.to(log_term_dtype(values))
    return values.flatten(1).sum(-1) if values.dim() > 1 else values


def count_entries(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count the real entries of each sample; the D channels of an entry count once.

    Transforms whose log-det is the same at every entry multiply it by this number.

    Args:
        x: Input of the transform, `(B, ..., D)`; only its shape, type and device matter.
        mask: True for real entries, `x.shape[:-1]` bool; None if all are real.

    Returns:
        `(B,)`, real numbers of the type `log_term_dtype`.
    """
    if mask is None:
        return zero_log_term(x) + math.prod(x.shape[1:-1])
    return mask.reshape(len(mask), math.prod(mask.shape[1:])).sum(-1).to(log_term_dtype(x))
