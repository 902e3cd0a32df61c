"""Variations of data on which a transform may be wrong while it is right on the data itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

VARIATIONS = ("batch", "length", "holes", "far")
"""What the assertions vary by default. Leave out what your transform is not made for.

- "batch": one record alone;
- "length": records ``(1, D)`` of one entry, where x is ``(B, L, D)``;
- "holes": a mask with padding before and between real entries, where x is ``(B, L, D)``;
- "far": numbers up to 30, far from where base densities and data lie. Not for transforms of an
  interval, nor for those whose precision ends before.

What a context that is no tensor goes with is not cut into other shapes.
"""

FAR = 30.0


@dataclass
class Variation:
    """Arguments for a transform.

    Attributes:
        name: What was varied, "" for the data as given.
        x: Data ``(B, ..., D)``.
        z: Latents of the same shape, or None.
        mask: ``x.shape[:-1]`` bool, or None.
        context: Whatever the transform takes.
    """

    name: str
    x: Tensor
    z: Tensor | None
    mask: Tensor | None
    context: Any

    @property
    def keywords(self) -> dict:
        """Mask and context, to call a transform with."""
        return {"mask": self.mask, "context": self.context}

    def cut(self, name: str, index) -> Variation:
        """Some records or entries only."""
        parts = (self.x, self.z, self.mask, self.context)
        cut: list[Any] = [None if part is None else part[index] for part in parts]
        return Variation(name, *cut)


def variations(
    x: Tensor,
    kinds: Collection[str],
    *,
    z: Tensor | None = None,
    mask: Tensor | None = None,
    context=None,
) -> Iterator[Variation]:
    """The data as given, then as `VARIATIONS` says.

    Raises:
        ValueError: if there is no such kind.
    """
    unknown = set(kinds) - set(VARIATIONS)
    if unknown:
        raise ValueError(f"no variation {min(unknown)!r}; known: {', '.join(VARIATIONS)}")
    given = Variation("", x, z, mask, context)
    yield given
    sets = x.dim() == 3
    if "batch" in kinds and len(x) > 1 and _leads(context, x.shape[:1]):
        # The record with the most padding.
        row = 0 if mask is None else int(mask.reshape(len(mask), -1).sum(1).argmin())
        yield given.cut("one record alone", slice(row, row + 1))
    if "length" in kinds and sets and x.shape[1] > 1 and _leads(context, x.shape[:2]):
        yield given.cut("records of one entry", (slice(None), slice(1)))
    if "holes" in kinds and sets and x.shape[1] > 1 and _leads(context, x.shape[:2]):
        # Every second entry, from the second or from the first one on.
        number = torch.arange(x.shape[1], device=x.device)
        record = torch.arange(len(x), device=x.device)[:, None]
        yield replace(given, name="a mask with holes", mask=(number + record) % 2 == 1)
    if "far" in kinds and x.numel():
        yield replace(given, name="far from 0", x=_stretched(x), z=None if z is None else
                      _stretched(z))  # fmt: skip


def _leads(context, shape: torch.Size) -> bool:
    """Whether a context can be cut along the leading axes of x."""
    if context is None:
        return True
    return isinstance(context, Tensor) and context.shape[: len(shape)] == shape


def _stretched(x: Tensor) -> Tensor:
    return x * (FAR / x.detach().abs().max().clamp(min=1e-6))
