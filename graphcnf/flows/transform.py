"""The interface of all transforms, `Transform` and `Bijection`, and helpers to write one.

- A *transform* maps data `x` to latents `z` (`forward`), and back (`inverse`). `forward` also
  returns the *log term*, one number for each sample, such that
  `p(x) = E[exp(log p(z) + log_term)]`.
- The log term of a *bijection* is `log|det dz/dx|`. A *stochastic step* draws `z` at random
  (dequantization, categorical encoding): `log p(z)` plus its log term is one draw of a lower bound
  on log p(x) (Nielsen et al., *SurVAE Flows*, NeurIPS 2020, arXiv 2007.02731).
- Tensors are `(B, ..., D)`: B samples of a batch, any number of axes of *entries* (positions of a
  sequence, rows and columns of an image), and D *channels*.
- A *mask* `(B, ...)` is True at *real* entries. The others are padding: they are 0 in every output,
  and change no other output.

`forward` of stochastic steps takes random numbers from the tape `Context.noise`, which can repeat
them; base densities and `inverse` take them from `Context.generator`. Either can have a source for
each sample, so that draws do not depend on the rest of the batch.
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

    One context is passed through all transforms of a flow; each reads what it uses. A network that
    needs more gets a subclass with further attributes.

    Attributes:
        mask: True where an entry is real, `(B, L)` for `x (B, L, D)`; None if all are.
        features: What networks see of each entry besides `x`, `(B, ..., F)`.
        condition_values: Properties of whole samples given which the density is meant, `(B, P)`,
            each in its own unit, NaN where unknown; None if all are.
        noise: Tape of the random numbers of stochastic steps; None for fresh numbers.
        temperature: Below 1, samples are more probable. Latents that are drawn are multiplied by
            it, or conditional probabilities are sharpened instead (`Transform.tempers`).
        generator: Source of the random numbers of `inverse`.
    """

    # Typed without None, so that networks need not check the inputs that they require.
    mask: Tensor = None  # type: ignore[assignment]
    features: Tensor = None  # type: ignore[assignment]
    condition_values: Tensor | None = None
    noise: Noise | None = None
    temperature: float = 1.0
    generator: Generators = None


class Transform(nn.Module):
    """A map from data x to latents z and back, with a *log term* for each sample.

    Attributes:
        exact: False if log p(z) + log term is one draw of a lower bound on log p(x).
        tempers: True if `inverse` applies `Context.temperature` itself, by sharpening conditional
            probabilities. If False, whoever draws the latents multiplies them by the temperature.
    """

    exact: bool = True
    tempers: bool = False

    def forward(self, x, context=Context()):
        """Map data to latents, 0 at padding, and return the log term, `(B,)` nats.

        The log term is float32 (float64 for float64 input) whatever the autocast type.
        """
        raise NotImplementedError

    def inverse(self, z, context=Context()):
        """Map latents to data, 0 at padding.

        A stochastic step either draws the data, by the generator of the context, or takes the most
        probable ones: its class says which.
        """
        raise NotImplementedError


class Bijection(Transform):
    """An invertible transform; subclasses write `forward` and `inverse_and_logdet`.

    `graphcnf.testing.assert_bijection` checks that the two undo each other.
    """

    def inverse_and_logdet(self, z, context=Context()):
        """Map latents to data, and return `log|det dx/dz|` of this map, `(B,)` nats."""
        raise NotImplementedError

    def inverse(self, z, context=Context()):
        return self.inverse_and_logdet(z, context)[0]


class Noise:
    """Tape of the random draws of a forward pass, to repeat the pass with the same numbers.

    The first pass draws and records numbers; after `rewind` they come again. All draws are uniform,
    of which steps make other distributions, so that a subclass can decide where they come from, by
    `draw`.

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
        """Return the next draw of the tape; at its end, draw new numbers in [0, 1) and record them.

        A draw is repeated as it was recorded: ask for the same shape again.
        """
        if self.position == len(self.draws):
            self.draws.append(self.draw(shape, device, dtype))
        self.position += 1
        return self.draws[self.position - 1]

    def draw(self, shape: Sequence[int], device, dtype) -> Tensor:
        """Draw new uniform numbers in [0, 1); a subclass may take them from another source."""
        return torch.rand(tuple(shape), device=device, dtype=dtype)

    def rewind(self) -> Noise:
        """Go back to the beginning of the tape, and return the tape."""
        self.position = 0
        return self


class RecordNoise(Noise):
    """Tape whose numbers do not depend on the batch in which a sample is scored.

    They are a function of the seed and of a number that the sample has, `records` (B,).
    """

    def __init__(self, seed: int, records: Sequence[int] | np.ndarray):
        super().__init__()
        self.seed = seed
        self.records = np.asarray(records)

    def of(self, chosen: np.ndarray) -> RecordNoise:
        """Return a new tape for some of the samples."""
        return RecordNoise(self.seed, self.records[chosen])

    def draw(self, shape, device, dtype):
        """Draw uniform numbers; `Noise.uniform` calls it where the tape has none to repeat.

        Row k is drawn by a generator of its own, made of the seed, number k of `records`, and how
        many draws are on the tape.
        """
        rows = []
        for record in self.records:
            # The spawn key makes these numbers independent of those that drew the record.
            key = (len(self.draws),)
            sequence = np.random.SeedSequence((self.seed, int(record)), spawn_key=key)
            # Padding comes last, so it does not shift the numbers.
            random = np.random.Generator(np.random.Philox(sequence))
            rows.append(random.random(tuple(shape[1:])))
        return torch.from_numpy(np.stack(rows)).to(device, dtype)


def draw_noise(noise: Noise | None, shape: Sequence[int], *, device, dtype=torch.float64) -> Tensor:
    """Draw uniform numbers in [0, 1) for a stochastic step, from a tape if there is one."""
    return (Noise() if noise is None else noise).uniform(shape, device=device, dtype=dtype)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set padding to 0, also where it is infinite or NaN.

    The mask has the shape of `x`, with or without its last axis; without one, `x` itself is
    returned.
    """
    if mask is None:
        return x
    return x.masked_fill(~(mask if mask.dim() == x.dim() else mask.unsqueeze(-1)), 0)


def with_mask(x: Tensor, context: Context) -> Context:
    """Add a mask `(B, N)`, True everywhere, to a context that has none."""
    if context.mask is not None:
        return context
    return replace(context, mask=torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))


def log_term_dtype(x: Tensor) -> torch.dtype:
    """Return the type of the log terms of an input: float64 for float64, float32 for all others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def prepare(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Prepare the input of a transform: set padding to 0, and convert half precision to float32."""
    return masked(x.to(log_term_dtype(x)), mask)


def zero_log_term(x: Tensor) -> Tensor:
    """Return the log term of a map that changes no volume: zeros `(B,)`."""
    return torch.zeros(x.shape[0], dtype=log_term_dtype(x), device=x.device)


def sum_log_term(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum log terms of elements, `(B, ...)` nats, to one for each sample; padding does not count.

    The axes of the mask are the first axes of `values`.
    """
    if mask is not None:
        mask = mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))
        values = values.masked_fill(~mask, 0)
    values = values.to(log_term_dtype(values))
    return values.flatten(1).sum(-1) if values.dim() > 1 else values


def count_entries(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Count the real entries of each sample, `(B,)`; the D channels of an entry count once."""
    if mask is None:
        return zero_log_term(x) + math.prod(x.shape[1:-1])
    return mask.reshape(len(mask), math.prod(mask.shape[1:])).sum(-1).to(log_term_dtype(x))
