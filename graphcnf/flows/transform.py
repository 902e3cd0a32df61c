"""The contract that every transform keeps, and composition.

A transform maps data ``x`` to latents ``z`` and returns with them one scalar per sample, the log
term, such that ``p(x) = E[exp(log p(z) + log_term)]``. For a bijection the log term is
``log|det dz/dx|`` and the expectation is superfluous; for a stochastic step (dequantization,
categorical encoding) it is one draw of a lower bound.

References:
    Nielsen et al., *SurVAE Flows*, NeurIPS 2020, arXiv 2007.02731.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn


class Transform(nn.Module):
    """A map from data to latents with a log term per sample.

    Every transform accepts all keyword arguments below and ignores those that mean nothing to it,
    so that compositions need no case distinction.

    Attributes:
        exact: False where the log term is one draw of a stochastic bound.
        tempers: True where `inverse` applies the temperature to the latents that it is given, by
            sharpening what it makes of them. Elsewhere the caller scales the latents.
    """

    exact: bool = True
    tempers: bool = False

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Map data to latents.

        Args:
            x: ``(B, ..., D)``, or a structure of such tensors that the transform documents.
            mask: ``x.shape[:-1]`` bool, True where an entry is real; ``(B, L)`` for ``(B, L, D)``.
            context: whatever the networks of the transform understand.
            noise: a `Noise`, which stochastic steps record into, and replay once rewound.
            discarded: a list, to which multi-scale splits append what they factor out.

        Returns:
            ``z``, which is 0 at masked entries, and the log term ``(B,)`` in nats, float32 (float64
            for float64 input) whatever the autocast type.
        """
        raise NotImplementedError

    def inverse(
        self, z, *, mask=None, context=None, discarded=None, temperature=1.0, generator=None
    ):
        """Map latents to data.

        Args:
            z: ``(B, ..., D)``.
            mask: ``z.shape[:-1]`` bool.
            context: as in `forward`.
            discarded: the list that `forward` filled; without it, splits sample from their prior.
            temperature: scale of whatever is sampled on the way.
            generator: see `graphcnf.flows.draw_normal`.

        Returns:
            ``x``, 0 at masked entries.
        """
        raise NotImplementedError


class Bijection(Transform):
    """An invertible transform; subclasses write `forward` and `inverse_and_logdet`."""

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        """Return ``x`` and ``log|det dx/dz|`` ``(B,)``, with the types of `forward`."""
        raise NotImplementedError

    def inverse(
        self, z, *, mask=None, context=None, discarded=None, temperature=1.0, generator=None
    ):
        """Return ``x``; see `Transform.inverse`."""
        return self.inverse_and_logdet(z, mask=mask, context=context)[0]


class Sequential(Bijection):
    """Composition ``f_n(... f_1(x))``; log terms add up.

    ``exact`` is True if every step is. `inverse_and_logdet` exists if every step is a `Bijection`.

    Args:
        *transforms: the steps in the order in which data passes them.

    Examples:
        >>> from graphcnf.flows import Affine
        >>> transform = Sequential(Affine(2.0), Affine(1.0, shift=3.0))
        >>> z, log_det = transform(torch.ones(1, 2))
        >>> z.tolist()
        [[5.0, 5.0]]
        >>> transform.inverse(z).tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, *transforms: Transform):
        super().__init__()
        self.transforms: Sequence[Transform] = nn.ModuleList(  # type: ignore[assignment]  # not generic
            transforms
        )

    @property
    def exact(self) -> bool:  # type: ignore[override]  # a constant elsewhere
        """Whether every step is exact."""
        return all(transform.exact for transform in self.transforms)

    @property
    def tempers(self) -> bool:  # type: ignore[override]  # a constant elsewhere
        """Whether a step applies the temperature itself."""
        return any(transform.tempers for transform in self.transforms)

    def __len__(self) -> int:
        return len(self.transforms)

    def __getitem__(self, index: int) -> Transform:
        return self.transforms[index]

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Apply the steps in order; see `Transform.forward`."""
        total = None
        for transform in self.transforms:
            x, log_term = transform(x, mask=mask, context=context, noise=noise, discarded=discarded)
            total = log_term if total is None else total + log_term
        if total is None:
            return masked(x, mask), zero_log_term(x)
        return x, total

    def inverse(
        self, z, *, mask=None, context=None, discarded=None, temperature=1.0, generator=None
    ):
        """Undo the steps in reverse order; see `Transform.inverse`."""
        for transform in reversed(self.transforms):
            z = transform.inverse(
                z,
                mask=mask,
                context=context,
                discarded=discarded,
                temperature=temperature,
                generator=generator,
            )
        return z if len(self.transforms) else masked(z, mask)

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        """Undo the steps in reverse order.

        Raises:
            TypeError: if a step is no `Bijection`.
        """
        total = None
        for transform in reversed(self.transforms):
            if not isinstance(transform, Bijection):
                raise TypeError(f"{type(transform).__name__} is no bijection: it has no log-det")
            z, log_term = transform.inverse_and_logdet(z, mask=mask, context=context)
            total = log_term if total is None else total + log_term
        if total is None:
            return masked(z, mask), zero_log_term(z)
        return z, total


class Inverse(Bijection):
    """The inverse of a bijection as a transform: ``f^-1(x)``.

    Args:
        bijection: the transform whose directions are swapped.
    """

    def __init__(self, bijection: Bijection):
        super().__init__()
        self.bijection = bijection

    def forward(self, x, *, mask=None, context=None, noise=None, discarded=None):
        """Apply ``bijection.inverse_and_logdet``."""
        return self.bijection.inverse_and_logdet(x, mask=mask, context=context)

    def inverse_and_logdet(self, z, *, mask=None, context=None):
        """Apply ``bijection.forward``."""
        return self.bijection(z, mask=mask, context=context)


class Noise:
    """A tape of the random draws of a forward pass, to repeat the pass with the same noise.

    The first pass records. After `rewind`, a pass replays in the same order.

    Examples:
        >>> from graphcnf.flows import UniformDequantization
        >>> transform, x = UniformDequantization(4), torch.tensor([[0, 3]])
        >>> noise = Noise()
        >>> first, _ = transform(x, noise=noise)
        >>> second, _ = transform(x, noise=noise.rewind())
        >>> torch.equal(first, second)
        True
    """

    def __init__(self):
        self.draws: list[Tensor] = []
        self.position = 0

    def take(self, draw: Callable[[], Tensor]) -> Tensor:
        """Return the next recorded draw, or record ``draw()`` at the end of the tape."""
        if self.position == len(self.draws):
            self.draws.append(draw())
        self.position += 1
        return self.draws[self.position - 1]

    def rewind(self) -> Noise:
        """Go back to the beginning, and return self."""
        self.position = 0
        return self


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set the masked entries of ``x (B, ..., D)`` to 0, even where they are not finite.

    ``mask`` has the shape of ``x``, or lacks its last axis.
    """
    if mask is None:
        return x
    return x.masked_fill(~(mask if mask.dim() == x.dim() else mask.unsqueeze(-1)), 0)


def log_term_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 input, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def zero_log_term(x: Tensor) -> Tensor:
    """A log term of zeros ``(B,)`` for the batch ``x``."""
    return torch.zeros(x.shape[0], dtype=log_term_dtype(x), device=x.device)


def sum_log_term(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum log terms per element over everything but the batch.

    Args:
        values: ``(B, ...)``.
        mask: bool, with the leading axes of ``values``; entries where it is False count as 0.

    Returns:
        ``(B,)``, float32 or, for float64 values, float64.
    """
    if mask is not None:
        mask = mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))
        values = values.masked_fill(~mask, 0)
    values = values.to(log_term_dtype(values))
    return values.flatten(1).sum(-1) if values.dim() > 1 else values


def count_entries(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The number of real entries ``(B,)`` in ``x (B, ..., D)``, in the type of the log term."""
    if mask is None:
        return torch.full_like(zero_log_term(x), x[0, ..., 0].numel() if len(x) else 0)
    return mask[:, None].flatten(1).sum(-1).to(log_term_dtype(x))
