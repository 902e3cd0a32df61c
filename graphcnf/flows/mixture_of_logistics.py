"""The logit of a mixture-of-logistics CDF, an elementwise bijection `f` of the real line.

    f(x) = log CDF(x) - log SF(x),   CDF(x) = sum_k w_k sigmoid((x - m_k) / s_k),   SF = 1 - CDF

Every element of x has a mixture of its own, of K components with weights w_k, means m_k and scales
s_k. Both logarithms keep their relative precision, so that `f` and its inverse are accurate far
into the tails (Ho et al., *Flow++*, ICML 2019, arXiv 1902.00275). Components lie on the FIRST axis
of all parameters, `(K, *x.shape)`: sums over a short last axis are several times slower.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphcnf.flows.transform import log_term_dtype

# Numbers of bisections and of Newton steps of the inverse. They reach about the precision of the
# type if log-scales lie within +-3 and means at most 200 scales of the widest component apart.
STEPS = {torch.float64: (14, 6), torch.float32: (14, 4)}
SMALLEST_LOG_SLOPE = -30.0  # lower limit of log f' in the derivative of the inverse


def bounded_log_scale(x: Tensor) -> Tensor:
    """Bound log-scales smoothly to +-3: return `3 tanh(x / 3)`, nearly x itself around 0."""
    # tanh(v) = 2 sigmoid(2 v) - 1; on a CPU torch's sigmoid is several times faster than its tanh.
    return torch.sigmoid(x * (2 / 3)) * 6 - 3


def logistic_mixture(
    x: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Return `f(x)` and `log f'(x)` elementwise; both are differentiable once in all arguments.

    `logits` are the logarithms of the weights, up to a constant; `log_scales` lie within about +-3.
    """
    return _LogisticMixture.apply(x, logits, means, log_scales)


def logistic_mixture_inverse(
    y: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor
) -> Tensor:
    """Solve `f(x) = y` elementwise, differentiable in all arguments of `logistic_mixture`."""
    y = y.to(log_term_dtype(y))
    parameters = [tensor.to(y.dtype) for tensor in (logits, means, log_scales)]
    with torch.no_grad():
        x = _solve(y, *parameters)
    if torch.is_grad_enabled():
        # The derivative of a Newton step at the root, without the step itself: where f is nearly
        # flat, the step could move x away from a root that is not exact to the last digit.
        value, log_slope = logistic_mixture(x, *parameters)
        step = (y - value) * torch.exp(-log_slope.detach().clamp(min=SMALLEST_LOG_SLOPE))
        x = x + (step - step.detach())
    return x


class _LogisticMixture(torch.autograd.Function):
    """`logistic_mixture` with its own gradient, which takes a third of autograd's memory passes."""

    @staticmethod
    def forward(ctx, x, logits, means, log_scales):
        inverse_scales = torch.exp(-log_scales)
        u = (x - means) * inverse_scales
        distance = u.abs()
        # With e = exp(-|u|):  sigmoid(u) = exp(min(u, 0)) / (1 + e), its derivative
        # exp(-|u|) / (1 + e)^2. The exponents enter the sums relative to the largest one.
        share = 1 / (1 + torch.exp(-distance))
        below = (u - distance) * 0.5  # min(u, 0)
        terms = torch.stack(
            (
                logits + below,  # CDF
                logits + (below - u),  # SF
                logits - distance - log_scales,  # density
                logits,  # total weight
            )
        )
        largest = terms.amax(1, keepdim=True)
        terms.sub_(largest).exp_()
        terms[:2].mul_(share)
        terms[2].mul_(share).mul_(share)
        sums = terms.sum(1, keepdim=True)
        log_cdf, log_sf, log_density, log_total = (sums.log() + largest).squeeze(1)
        ctx.save_for_backward(terms.div_(sums), u, inverse_scales)
        return log_cdf - log_sf, log_density - log_cdf - log_sf + log_total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value, grad_slope):
        # responsibilities r of the components in each sum; d log CDF / du_k = r_k sigmoid(-u_k),
        # d log SF / du_k = -r_k sigmoid(u_k), d log density / du_k = r_k (1 - 2 sigmoid(u_k)).
        responsibilities, u, inverse_scales = ctx.saved_tensors
        weights = torch.stack(
            (grad_value - grad_slope, grad_value + grad_slope, grad_slope, grad_slope)
        )
        cdf, sf, density, total = responsibilities * weights.unsqueeze(1)
        grad_logits = cdf - sf + density + total
        grad_u = torch.sigmoid(u) * (sf - cdf - 2 * density) + cdf + density
        grad_x = grad_u * inverse_scales
        grad_log_scales = -(grad_u * u) - density
        return grad_x.sum(0), grad_logits, -grad_x, grad_log_scales


def _solve(y: Tensor, logits: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Solve `f(x) = y` by bisections between component quantiles, then bounded Newton steps."""
    bisections, newton_steps = STEPS[y.dtype]
    # The problem is mirrored so that y <= 0: there CDF(x) = sigmoid(y) keeps relative precision.
    sign = torch.copysign(torch.ones_like(y), -y)
    y = -y.abs()
    means = means * sign
    weights = torch.softmax(logits, 0)
    scales = torch.exp(log_scales)
    inverse_scales = 1 / scales
    # CDF(x) / sigmoid(y) = sum_k w_k (1 + e^y) / (e^y + e^(y - u_k)) is 1 at the root: no term
    # over- or underflows near it.
    exp_y = torch.exp(y).clamp_min(torch.finfo(y.dtype).tiny)
    weights = weights * (1 + exp_y)
    offsets = torch.addcmul(y, means, inverse_scales)

    # The root lies between the smallest and the largest component quantile. The bracket is stored
    # as its middle and half width: torch.where would take as long as the rest of the loop.
    quantiles = torch.addcmul(means, scales, y)
    low, high = quantiles.amin(0), quantiles.amax(0)
    x, half = 0.5 * (low + high), 0.5 * (high - low)
    for _ in range(bisections):
        odds = torch.addcmul(offsets, x, inverse_scales, value=-1).exp_().add_(exp_y)
        half = 0.5 * half
        ratio = torch.div(weights, odds, out=odds).sum(0)
        x = x + torch.copysign(half, 1 - ratio)

    low, high = x - half, x + half
    for _ in range(newton_steps):
        odds = torch.addcmul(offsets, x, inverse_scales, value=-1).exp_().add_(exp_y)
        terms = weights / odds
        ratio = terms.sum(0)
        # d/dx of ratio; sigmoid(-u) = 1 - exp_y / odds, written so that inf / inf cannot occur.
        slope = terms.mul_(inverse_scales).mul_(1 - exp_y / odds).sum(0)
        survival = 1 - (ratio - 1) * exp_y  # SF(x) / sigmoid(-y)
        error = torch.log(ratio) - torch.log(survival)  # f(x) - y
        step = error / (slope / ratio + slope * exp_y / survival)
        x = (x - step.nan_to_num_(0)).clamp(low, high)
    return x * sign
