"""Couplings by monotonic rational-quadratic splines.

A *spline* maps an interval around 0 to itself, and is the identity outside. The interval is cut
into K *bins*. In each bin the spline is a quotient of two quadratic polynomials, which passes
through the *knots* at both ends of the bin with given slopes.
Durkan et al., *Neural Spline Flows*, NeurIPS 2019, arXiv 1906.04032.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.flows.coupling import Coupling
from graphcnf.flows.mixture_of_logistics import bounded_log_scale


@dataclass
class Bin:
    """For some numbers x (or z), the bin into which each of them falls.

    A knot is a point (x, z) at the end of a bin.

    Attributes:
        left: x at the left knot.
        width: Difference of x between the knots.
        bottom: z at the left knot.
        height: Difference of z between the knots.
        slope: dz/dx at the left knot.
        next_slope: dz/dx at the right knot.
        secant: Mean slope, height / width.
    """

    left: Tensor
    width: Tensor
    bottom: Tensor
    height: Tensor
    slope: Tensor
    next_slope: Tensor
    secant: Tensor

    @property
    def bend(self) -> Tensor:
        """Sum of both slopes minus twice the secant; 0 where the spline is a straight line."""
        return self.slope + self.next_slope - 2 * self.secant


class RationalQuadraticCoupling(Coupling):
    """Coupling `z_b = spline(x_b; network(x_a))`, the identity outside `[-bound, bound]`.

    The network gives 3 K - 1 parameters for each transformed channel: K logits of the widths of the
    bins, K logits of their heights, and K - 1 logarithms of the slopes at the inner knots. All are
    bounded to +-1.5, so that the inverse is accurate in float32; zeros give the identity.

    In a bin with knots `x_k, z_k`, slopes `d_k` and mean slope `s`, with
    `t = (x - x_k) / width` (Durkan et al. 2019, arXiv 1906.04032, eq. 4 and 5):

        z = z_k + height (s t^2 + d_k t (1 - t)) / (s + (d_k+1 + d_k - 2 s) t (1 - t))

    `bins` is K; the other arguments are those of `Coupling`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        split: int,
        swap: bool = False,
        bins: int = 8,
        bound: float = 5.0,
    ):
        super().__init__(network, split=split, swap=swap)
        if bins < 2:
            raise ValueError(f"bins must be at least 2, got {bins}")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound must be positive and finite, got {bound}")
        self.bins, self.bound = bins, bound
        self.parameters_per_channel = 3 * bins - 1

    def transform_elements(self, x, parameters):
        knots = self._knots(parameters)
        inside = x.abs() < self.bound
        at = self._bin(torch.where(inside, x, 0), knots, knots[0])
        t = (torch.where(inside, x, 0) - at.left) / at.width
        around = t * (1 - t)
        below = at.secant + at.bend * around
        z = at.bottom + at.height * (at.secant * t.square() + at.slope * around) / below
        ends = at.next_slope * t.square() + at.slope * (1 - t).square()
        log_slope = 2 * (at.secant / below).log() + (ends + 2 * at.secant * around).log()
        return torch.where(inside, z, x), torch.where(inside, log_slope, 0)

    def inverse_elements(self, z, parameters):
        knots = self._knots(parameters)
        inside = z.abs() < self.bound
        at = self._bin(torch.where(inside, z, 0), knots, knots[1])
        rise = torch.where(inside, z, 0) - at.bottom
        # t is a root of a t^2 + b t + c; this form of it loses no digits where a is small.
        a = at.height * (at.secant - at.slope) + rise * at.bend
        b = at.height * at.slope - rise * at.bend
        c = -at.secant * rise
        root = (b.square() - 4 * a * c).clamp_min(0).sqrt()
        x = at.left + at.width * (-2 * c / (b + root))
        return torch.where(inside, x, z)

    def _knots(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the ends of the K bins of each channel from what the network gives."""
        widths, heights, log_slopes = (
            (bounded_log_scale(2 * parameters) / 2)
            .movedim(-2, -1)
            .split((self.bins, self.bins, self.bins - 1), -1)
        )
        slopes = F.pad(log_slopes.exp(), (1, 1), value=1.0)
        return self._cuts(widths), self._cuts(heights), slopes

    def _cuts(self, logits: Tensor) -> Tensor:
        """Cut the interval into bins; their lengths are a softmax of logits `(..., K)`."""
        inner = (2 * logits.softmax(-1).cumsum(-1)[..., :-1] - 1) * self.bound
        left = F.pad(inner, (1, 0), value=-self.bound)
        return F.pad(left, (0, 1), value=self.bound)

    def _bin(self, value: Tensor, knots: tuple[Tensor, Tensor, Tensor], cuts: Tensor) -> Bin:
        """Return the bins of numbers inside of the interval."""
        x, z, slopes = knots
        k = (value[..., None] >= cuts[..., 1:-1]).sum(-1, keepdim=True)

        def at(table: Tensor, index: Tensor) -> Tensor:
            return table.gather(-1, index)[..., 0]

        left, bottom = at(x, k), at(z, k)
        width, height = at(x, k + 1) - left, at(z, k + 1) - bottom
        return Bin(left, width, bottom, height, at(slopes, k), at(slopes, k + 1), height / width)
