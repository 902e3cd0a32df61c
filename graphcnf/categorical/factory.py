"""Encodings by the names of presets and command lines."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from graphcnf.categorical.argmax import ArgmaxEncoding
from graphcnf.categorical.densities import (
    LinearFlowEncoding,
    MixtureEncoding,
    VariationalEncoding,
)
from graphcnf.categorical.dequantization import DequantizationEncoding
from graphcnf.categorical.encoding import Encoding
from graphcnf.categorical.intervals import IntervalEncoding
from graphcnf.errors import UserError

DENSITIES = {
    "mixture": MixtureEncoding,
    "linear": LinearFlowEncoding,
    "variational": VariationalEncoding,
}
DISJOINT: dict[str, Callable[..., Encoding]] = {
    "argmax": ArgmaxEncoding,
    "interval": IntervalEncoding,
    "uniform-dequantization": DequantizationEncoding,
    "variational-dequantization": partial(DequantizationEncoding, variational=True),
}
NAMES = (*DENSITIES, *DISJOINT)


def make_encoding(name: str, categories: int, latent_dim: int | None = None, **options) -> Encoding:
    """Build the encoding `name` of one variable per position, x (B, L).

    Args:
        name: "mixture", "linear", "variational", "argmax", "interval", or, as baselines,
            "uniform-dequantization" or "variational-dequantization".
        categories: Number of categories.
        latent_dim: Latents of a position; None for max(2, ceil(log2 categories)). From "argmax" on
            the encoding determines it.
        **options: Further arguments of the encoding's class.

    Raises:
        UserError: if there is no such encoding, or it does not take these arguments.

    Examples:
        >>> make_encoding("argmax", 5).latent_dim
        3
        >>> make_encoding("interval", 5).latent_dim
        1
    """
    if name not in NAMES:
        raise UserError(f"unknown encoding {name!r}; known: {', '.join(NAMES)}")
    try:
        if name in DENSITIES:
            if latent_dim is None:
                latent_dim = max(2, math.ceil(math.log2(max(categories, 1))))
            return DENSITIES[name](categories, latent_dim, **options)
        encoding = DISJOINT[name](categories, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"encoding {name!r}: {str(error).split('() ')[-1]}") from None
    if latent_dim not in (None, encoding.latent_dim):
        raise UserError(
            f"encoding {name!r}: {categories} categories take {encoding.latent_dim} "
            f"latents, got {latent_dim}; leave latent_dim out"
        )
    return encoding
