"""Encodings by the names of presets and command lines."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from graphcnf.categorical.densities import LinearFlowEncoding, MixtureEncoding, VariationalEncoding
from graphcnf.categorical.disjoint import ArgmaxEncoding, DequantizationEncoding, IntervalEncoding
from graphcnf.categorical.encoding import Encoding
from graphcnf.errors import UserError

DENSITIES = {
    "mixture": MixtureEncoding,
    "linear": LinearFlowEncoding,
    "variational": VariationalEncoding,
}
ENCODINGS: dict[str, Any] = {
    **DENSITIES,
    "argmax": ArgmaxEncoding,
    "interval": IntervalEncoding,
    "uniform-dequantization": DequantizationEncoding,
    "variational-dequantization": partial(DequantizationEncoding, variational=True),
}


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
    if name not in ENCODINGS:
        raise UserError(f"unknown encoding {name!r}; known: {', '.join(ENCODINGS)}")
    if name in DENSITIES:
        default = max(2, math.ceil(math.log2(max(categories, 1))))
        options["latent_dim"] = default if latent_dim is None else latent_dim
    try:
        encoding = ENCODINGS[name](categories, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"encoding {name!r}: {str(error).split('() ')[-1]}") from None
    if latent_dim not in (None, encoding.latent_dim):
        raise UserError(
            f"encoding {name!r}: {categories} categories take {encoding.latent_dim} "
            f"latents, got {latent_dim}; leave latent_dim out"
        )
    return encoding
