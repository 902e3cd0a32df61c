"""What the networks of a flow may know beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Context:
    """Context of a flow over positions.

    Attributes:
        mask: Real positions, (B, N) bool.
        features: What is known of each position, (B, N, F), or None.
        pair_features: (B, N, N, P) or None; entry [i, j] is what position i knows of position j.
        groups: Round in which a position's variables are decided, (B, N) long or None.
    """

    mask: Tensor
    features: Tensor | None = None
    pair_features: Tensor | None = None
    groups: Tensor | None = None
