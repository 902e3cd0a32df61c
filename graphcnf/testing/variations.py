"""Variations of data, on which a transform can be wrong that is right on the data itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphcnf.flows.transform import Context

VARIATIONS = ("batch", "length", "holes", "far")
"""Variations of the data that the assertions run on by default; leave out those that your transform
does not support.

- "batch": one record alone;
- "length": records ``(1, D)`` of one entry, where x is ``(B, L, D)``;
- "holes": a mask with padding before and between real entries, where x is ``(B, L, D)``;
- "far": numbers up to 30, far from base densities and data. Not for transforms of an interval, nor
  for those of less precision.

Data with an adjacency, or with features that lack an axis of x, is not cut into other shapes.
"""

FAR = 30.0


@dataclass(frozen=True)
class Variation:
    """Arguments for a transform.

    Attributes:
        name: name of the variation in parentheses, "" for the data as given.
        x: data ``(B, ..., D)``.
        z: latents of the same shape, or None.
        context: see `Context`.
    """

    name: str
    x: Tensor
    z: Tensor | None
    context: Context


def variations(
    x: Tensor, kinds: Collection[str], context: Context = Context(), z: Tensor | None = None
) -> Iterator[Variation]:
    """Yield the data as given, then its variations of some of the kinds of `VARIATIONS`.

    Raises:
        ValueError: if there is no such kind.
    """
    unknown = set(kinds) - set(VARIATIONS)
    if unknown:
        raise ValueError(f"no variation {min(unknown)!r}; known: {', '.join(VARIATIONS)}")
    given, mask = Variation("", x, z, context), context.mask
    yield given
    several = x.dim() == 3 and x.shape[1] > 1 and _has_axes(context, x.shape[:2])
    if "batch" in kinds and len(x) > 1 and _has_axes(context, x.shape[:1]):
        # The record with the most padding.
        row = 0 if mask is None else int(mask.reshape(len(mask), -1).sum(1).argmin())
        yield _cut(given, " (one record alone)", slice(row, row + 1))
    if "length" in kinds and several:
        yield _cut(given, " (records of one entry)", (slice(None), slice(1)))
    if "holes" in kinds and several:
        # Every second entry, from the second or from the first one on.
        number = torch.arange(x.shape[1], device=x.device)
        record = torch.arange(len(x), device=x.device)[:, None]
        holes = (number + record) % 2 == 1
        yield replace(given, name=" (a mask with holes)", context=replace(context, mask=holes))
    if "far" in kinds and x.numel():
        latents = None if z is None else _stretch(z)
        yield replace(given, name=" (far from 0)", x=_stretch(x), z=latents)


def _has_axes(context: Context, shape: torch.Size) -> bool:
    """Return True if the context can be cut along the leading axes of x."""
    if context.adjacency is not None or context.conditions is not None:
        return False
    return context.features is None or context.features.shape[: len(shape)] == shape


def _cut(given: Variation, name: str, index) -> Variation:
    """Take some records or entries."""

    def cut(part):
        return None if part is None else part[index]

    context = given.context
    part = replace(context, mask=cut(context.mask), features=cut(context.features))
    return Variation(name, given.x[index], cut(given.z), part)


def _stretch(x: Tensor) -> Tensor:
    return x * (FAR / x.detach().abs().max().clamp(min=1e-6))
