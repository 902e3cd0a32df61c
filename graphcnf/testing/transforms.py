"""Assertions for transforms and for models with stochastic likelihood bounds.

They check properties rather than values, and raise AssertionError with the deviation found. Use
them on your own transforms::

    from graphcnf.testing import assert_bijection, assert_log_det_matches_jacobian

    def test_my_coupling():
        x = torch.randn(4, 6)
        assert_bijection(MyCoupling(6), x)
        assert_log_det_matches_jacobian(MyCoupling(6), x)

The transforms must be deterministic, and are called in the mode (training or not) that they are in.
A data-dependent initialisation should be over before.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from graphcnf.flows.transform import Bijection, Transform, log_term_dtype, masked

__all__ = [
    "assert_bijection",
    "assert_dtype_and_autocast",
    "assert_gradients_reach_every_parameter",
    "assert_log_det_matches_jacobian",
    "assert_lower_bound",
    "assert_mask_invariance",
    "assert_normalised",
    "assert_serialisable",
]


def _close(actual: Tensor, expected: Tensor, what: str, atol: float, rtol: float) -> None:
    torch.testing.assert_close(
        actual, expected, atol=atol, rtol=rtol, msg=lambda text: f"{what}\n{text}"
    )


def _double(value):
    """Floating tensors to float64, everything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return value


def assert_bijection(
    transform: Bijection,
    x: Tensor,
    *,
    mask: Tensor | None = None,
    context=None,
    z: Tensor | None = None,
    atol: float = 1e-4,
    rtol: float = 1e-4,
) -> None:
    """Round trips in both directions, and log-dets of opposite sign.

    Args:
        transform: the transform under test.
        x: data ``(B, ..., D)``.
        mask: ``x.shape[:-1]`` bool.
        context: passed on to the transform.
        z: latents ``(B, ..., D)`` to begin the other round trip with, ``x`` if None. Draw them from
            the base density: latents that come from data do not visit all of the space.
        atol: absolute tolerance of the comparisons.
        rtol: relative tolerance of the comparisons.
    """
    with torch.no_grad():
        keywords = {"mask": mask, "context": context}
        latents, log_term = transform(x, **keywords)
        assert latents.shape == x.shape, f"shape {tuple(x.shape)} became {tuple(latents.shape)}"
        assert log_term.shape == x.shape[:1], f"log term of shape {tuple(log_term.shape)}"
        data, log_det = transform.inverse_and_logdet(latents, **keywords)
        expected = masked(x, mask).to(data.dtype)
        _close(data, expected, "inverse(forward(x)) is not x", atol, rtol)
        _close(log_det, -log_term, "log-dets of forward, inverse do not cancel", atol, rtol)
        same = transform.inverse(latents, **keywords)
        _close(same, data, "inverse and inverse_and_logdet differ", atol, rtol)

        z = masked(x if z is None else z, mask)
        data, log_det = transform.inverse_and_logdet(z, **keywords)
        latents, log_term = transform(data, **keywords)
        _close(latents, z.to(latents.dtype), "forward(inverse(z)) is not z", atol, rtol)
        _close(log_term, -log_det, "log-dets of inverse, forward do not cancel", atol, rtol)


def assert_log_det_matches_jacobian(
    transform: Transform,
    x: Tensor,
    *,
    mask: Tensor | None = None,
    context=None,
    atol: float = 1e-8,
    rtol: float = 1e-6,
) -> None:
    """The log term is ``log|det dz/dx|`` over the real entries, by autograd in float64.

    Args:
        transform: the transform under test; a float64 copy of it is used.
        x: data ``(B, ..., D)``; keep it small, the Jacobian has its squared size.
        mask: ``x.shape[:-1]`` bool.
        context: passed on to the transform; a tensor is converted to float64.
        atol: absolute tolerance.
        rtol: relative tolerance.
    """
    transform = copy.deepcopy(transform).double()
    x = x.detach().double()
    keywords = {"mask": mask, "context": _double(context)}
    with torch.no_grad():
        log_term = transform(x, **keywords)[1]
    jacobian = torch.autograd.functional.jacobian(lambda x: transform(x, **keywords)[0], x)
    size = x[0].numel()
    jacobian = jacobian.reshape(len(x), size, len(x), size)
    real = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.unsqueeze(-1).expand_as(x)
    for sample, entries in enumerate(real.reshape(len(x), size)):
        others = jacobian[sample].abs().sum((0, 2))
        others[sample] = 0
        assert not others.any(), f"sample {sample} depends on samples {others.nonzero().tolist()}"
        own = jacobian[sample, :, sample]
        assert not own[~entries].any(), f"padding of sample {sample} depends on the input"
        assert not own[:, ~entries].any(), f"sample {sample} depends on its padding"
        expected = torch.linalg.slogdet(own[entries][:, entries]).logabsdet
        _close(log_term[sample], expected, f"log-det of sample {sample}", atol, rtol)


def assert_mask_invariance(
    transform: Transform,
    x: Tensor,
    *,
    mask: Tensor,
    context=None,
    extend: int = 2,
    atol: float = 1e-5,
    rtol: float = 1e-5,
) -> None:
    """Padding is 0 in every output, and changes no other output, in both directions.

    Replaces the padding by other values, infinities among them, and (where ``x`` is ``(B, L, D)``
    and there is no context) adds ``extend`` more padded entries.

    Args:
        transform: the transform under test.
        x: data ``(B, ..., D)``.
        mask: ``x.shape[:-1]`` bool, with some False in it.
        context: passed on to the transform.
        extend: how many entries to add to the padding.
        atol: absolute tolerance.
        rtol: relative tolerance.
    """
    assert not mask.all(), "the mask has no padding: the test would be empty"

    def inverse(z, **keywords):
        return transform.inverse(z, **keywords), None

    for name, function in (("forward", transform), ("inverse", inverse)):
        with torch.no_grad():
            expected, log_term = function(masked(x, mask), mask=mask, context=context)
            assert not expected[~mask].any(), f"{name}: masked entries of the output are not 0"
            for value in (1e3, -7.0, math.inf):
                padded = torch.where(mask.unsqueeze(-1), x, torch.full_like(x, value))
                output, other = function(padded, mask=mask, context=context)
                _close(output, expected, f"{name}: padding {value} changes it", atol, rtol)
                if log_term is not None:
                    _close(other, log_term, f"log term: padding {value} changes it", atol, rtol)
            if x.dim() == 3 and context is None and extend:
                longer = torch.cat((x, x.new_full((len(x), extend, x.shape[-1]), 5.0)), 1)
                longer_mask = torch.cat((mask, mask.new_zeros(len(x), extend)), 1)
                output, other = function(longer, mask=longer_mask, context=context)
                assert not output[:, x.shape[1] :].any(), f"{name}: added padding is not 0"
                _close(output[:, : x.shape[1]], expected, f"{name}: longer padding", atol, rtol)
                if log_term is not None:
                    _close(other, log_term, "log term: longer padding", atol, rtol)


def assert_dtype_and_autocast(
    transform: Transform,
    x: Tensor,
    *,
    mask: Tensor | None = None,
    context=None,
    autocast_dtype: torch.dtype = torch.bfloat16,
    atol: float = 0.5,
    rtol: float = 0.1,
) -> None:
    """Log terms and outputs are float32, float64 for float64 input, also under autocast.

    Args:
        transform: the transform under test (float32).
        x: data ``(B, ..., D)`` (float32).
        mask: ``x.shape[:-1]`` bool.
        context: passed on to the transform.
        autocast_dtype: type of the autocast region.
        atol: absolute tolerance of the log term under autocast; networks may be imprecise there.
        rtol: relative tolerance of the same.
    """
    keywords = {"mask": mask, "context": context}
    with torch.no_grad():
        z, log_term = transform(x, **keywords)
        assert z.dtype == log_term.dtype == torch.float32, f"float32 became {z.dtype, log_term}"
        with torch.autocast(x.device.type, dtype=autocast_dtype):
            low, low_term = transform(x, **keywords)
            back = transform.inverse(low, **keywords)
        for name, value in (("output", low), ("log term", low_term), ("inverse", back)):
            assert value.dtype == torch.float32, f"{name} is {value.dtype} under autocast"
        _close(low_term, log_term, "log term under autocast", atol, rtol)

        double = copy.deepcopy(transform).double()
        keywords["context"] = _double(context)
        z, log_term = double(x.double(), **keywords)
        back = double.inverse(z, **keywords)
        for name, value in (("output", z), ("log term", log_term), ("inverse", back)):
            assert value.dtype == torch.float64, f"{name} is {value.dtype} for float64 input"
    assert log_term_dtype(x) == torch.float32, f"x is {x.dtype}: pass float32"


def assert_serialisable(
    transform: Transform, x: Tensor, *, mask: Tensor | None = None, context=None
) -> None:
    """Pickle and ``state_dict`` (loaded with ``weights_only=True``) restore the same function.

    Args:
        transform: the transform under test.
        x: data ``(B, ..., D)``.
        mask: ``x.shape[:-1]`` bool.
        context: passed on to the transform.
    """

    def outputs(module):
        with torch.no_grad():
            return module(x, mask=mask, context=context)

    expected = outputs(transform)
    unpickled = pickle.loads(pickle.dumps(transform))
    for got, want in zip(outputs(unpickled), expected, strict=True):
        _close(got, want, "after pickling", 0, 0)

    file = io.BytesIO()
    torch.save(transform.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for parameter in unpickled.parameters():
            parameter.add_(torch.rand_like(parameter))
    unpickled.load_state_dict(torch.load(file, weights_only=True))
    for got, want in zip(outputs(unpickled), expected, strict=True):
        _close(got, want, "after loading the state_dict", 0, 0)


def assert_gradients_reach_every_parameter(module: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Every parameter that requires one gets a finite gradient that is not all zero.

    Args:
        module: the module under test. Zero-initialised layers hide others from the gradient:
            perturb them before.
        loss: returns a scalar that depends on the module.
    """
    module.zero_grad(set_to_none=True)
    loss().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.numel():
            assert parameter.grad is not None, f"{name} got no gradient"
            assert parameter.grad.isfinite().all(), f"{name} got a gradient that is not finite"
            assert parameter.grad.any(), f"the gradient of {name} is zero"
    module.zero_grad(set_to_none=True)


def assert_normalised(
    log_prob: Callable[..., Tensor],
    space,
    *,
    samples: int = 1,
    repeats: int = 64,
    z_score: float = 4.0,
    max_error: float = 0.1,
    atol: float = 1e-4,
) -> None:
    """Probabilities over an enumerated discrete space sum to one.

    ``exp`` of a stochastic K-sample bound is an unbiased estimate of the probability, so the mean
    of ``sum_x exp(log_prob(x, K))`` over repeats is 1 up to its standard error.

    Args:
        log_prob: called as ``log_prob(space, samples)``, returns nats ``(B,)`` with fresh noise in
            every call.
        space: a batch with every element of the space exactly once.
        samples: K.
        repeats: number of independent estimates.
        z_score: how many standard errors the mean may be off.
        max_error: the test fails as inconclusive if the standard error times ``z_score`` exceeds
            this.
        atol: allowed on top, for rounding.
    """
    with torch.no_grad():
        totals = torch.stack(
            [log_prob(space, samples).double().exp().sum() for _ in range(repeats)]
        )
    mean = totals.mean().item()
    error = z_score * totals.std().item() / math.sqrt(repeats)
    assert error <= max_error, (
        f"inconclusive: sum {mean:.4f} +- {error:.4f}; use more samples or more repeats"
    )
    assert abs(mean - 1) <= error + atol, f"probabilities sum to {mean:.5f} +- {error:.5f}"


def assert_lower_bound(
    log_prob: Callable[..., Tensor],
    x,
    *,
    samples: Sequence[int] = (1, 8, 64),
    repeats: int = 64,
    z_score: float = 4.0,
    exact: Tensor | None = None,
    atol: float = 1e-5,
) -> None:
    """The mean K-sample bound does not fall with K, and never exceeds the exact value.

    Args:
        log_prob: called as ``log_prob(x, K)``, returns nats ``(B,)`` with fresh noise in every
            call.
        x: a batch.
        samples: increasing values of K.
        repeats: number of independent evaluations of each.
        z_score: how many standard errors count as noise.
        exact: exact log-probabilities ``(B,)``, if known.
        atol: allowed on top, for rounding.
    """
    if list(samples) != sorted(set(samples)):
        raise ValueError(f"samples must increase, got {list(samples)}")
    previous, previous_error, previous_samples = -math.inf, 0.0, 0
    for count in samples:
        with torch.no_grad():
            values = torch.stack([log_prob(x, count).double().mean() for _ in range(repeats)])
        mean, error = values.mean().item(), values.std().item() / math.sqrt(repeats)
        noise = z_score * math.hypot(error, previous_error) + atol
        assert mean >= previous - noise, (
            f"the bound falls from {previous:.4f} with K={previous_samples} to {mean:.4f} with "
            f"K={count} (noise {noise:.4f})"
        )
        if exact is not None:
            limit = exact.double().mean().item()
            assert mean <= limit + z_score * error + atol, (
                f"the bound {mean:.4f} with K={count} exceeds the exact value {limit:.4f}"
            )
        previous, previous_error, previous_samples = mean, error, count
