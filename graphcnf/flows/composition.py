"""Transforms one after the other, and bijections the other way round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from graphcnf.flows.transform import Bijection, Context, Transform, masked, zero_log_term


class Sequential(Transform):
    """Composition `f_n(... f_1(x))`; log terms add up.

    All steps get the same context. Bijections make a bijection by `SequentialBijection`.

    Examples:
        >>> import torch
        >>> from graphcnf.flows import Affine
        >>> transform = Sequential(Affine(2.0), Affine(1.0, shift=3.0))
        >>> z, log_det = transform(torch.ones(1, 2))
        >>> z.tolist()
        [[5.0, 5.0]]
        >>> transform.inverse(z).tolist()
        [[1.0, 1.0]]
    """

    transforms: Sequence[Transform]

    def __init__(self, *transforms: Transform):
        super().__init__()
        self.transforms = nn.ModuleList(transforms)  # type: ignore[assignment]  # not generic

    @property
    def exact(self) -> bool:  # type: ignore[override]  # a constant elsewhere
        """True if every step is exact, so that `log p(z)` plus the log term is log p(x) itself."""
        return all(transform.exact for transform in self.transforms)

    @property
    def tempers(self) -> bool:  # type: ignore[override]  # a constant elsewhere
        """True if a step applies the temperature itself, to conditional probabilities."""
        return any(transform.tempers for transform in self.transforms)

    def __getitem__(self, index: int) -> Transform:
        return self.transforms[index]

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)

    def forward(self, x, context=Context()):
        if not len(self.transforms):
            return masked(x, context.mask), zero_log_term(x)
        total = 0.0
        for transform in self.transforms:
            x, log_term = transform(x, context)
            total = total + log_term
        return x, total

    def inverse(self, z, context=Context()):
        for transform in reversed(self.transforms):
            z = transform.inverse(z, context)
        return z if len(self.transforms) else masked(z, context.mask)


class SequentialBijection(Sequential, Bijection):
    """Composition `f_n(... f_1(x))` of bijections, a bijection; log-dets add up."""

    transforms: Sequence[Bijection]

    def __init__(self, *transforms: Bijection):
        super().__init__(*transforms)

    def inverse_and_logdet(self, z, context=Context()):
        if not len(self.transforms):
            return masked(z, context.mask), zero_log_term(z)
        total = 0.0
        for transform in reversed(self.transforms):
            z, log_det = transform.inverse_and_logdet(z, context)
            total = total + log_det
        return z, total


class Inverse(Bijection):
    """Inverse `z = f^-1(x)` of a bijection `f`: the same map with its two directions exchanged.

    Use it to choose which direction is fast: a `MaskedAutoregressive` scores fast and samples
    slowly, its `Inverse` the other way round.
    """

    def __init__(self, bijection: Bijection):
        super().__init__()
        self.bijection = bijection

    def forward(self, x, context=Context()):
        return self.bijection.inverse_and_logdet(x, context)

    def inverse_and_logdet(self, z, context=Context()):
        return self.bijection(z, context)
