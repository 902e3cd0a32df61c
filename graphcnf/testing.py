"""Assertions for tests of your own transforms, networks and densities.

They check properties rather than values, and raise AssertionError with the deviation::

    def test_my_coupling():
        x = torch.randn(4, 6)
        assert_bijection(MyCoupling(6), x)
        assert_log_det_matches_jacobian(MyCoupling(6), x)

- A *transform* maps data x to latents z, both `(B, ..., D)`: B samples, any axes of *entries*, D
  channels. It also returns a *log term* `(B,)` in nats, for a bijection `log|det dz/dx|`.
- A *context* (`graphcnf.flows.transform.Context`) is what the transform is told besides: the *mask*
  of real entries (the others are *padding*), features, and more.
- *Variations* are data that an assertion makes of the given ones, to run on as well: one sample
  alone, a mask with holes, and others (`VARIATIONS`).
- A *bound* is a random lower bound on log p(x), drawn with fresh noise at every call. A K-sample
  bound is the logarithm of the mean of K draws of a probability.

Transforms are called in the mode in which they are, training or evaluation. Call `eval()` first if
they have dropout: they must be deterministic. If they initialise themselves from data, as `ActNorm`
does, call them once before.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from graphcnf.categorical.autoregressive import AutoregressiveNetwork
from graphcnf.flows.transform import Bijection, Context, Transform, masked

VARIATIONS = ("batch", "length", "holes", "far")
"""Variations of the data that the assertions run on by default.

- "batch": a batch of one record;
- "length": only the first entry of each record, for x `(B, L, D)`;
- "holes": a mask with padding before and between real entries, for x `(B, L, D)`;
- "far": x scaled to numbers up to 30. Omit it for transforms of an interval or of low precision.

"batch", "length" and "holes" are skipped for data with an adjacency or conditions, or with features
that lack an axis of x.
"""

FAR = 30.0  # largest number of the variation "far"
PADDING = (1e3, -7.0, math.inf, math.nan)  # values that are written to padding
Z_SCORE = 4.0  # number of standard errors by which a mean may be off

Close = Callable[[Tensor, Tensor, str], None]


def variations(
    x: Tensor, kinds: Collection[str], context: Context
) -> Iterator[tuple[str, Tensor, Context]]:
    """Yield the data for an assertion: the given data, then variations of them.

    Each has words for messages, such as " (one record alone)"; those of `kinds` that do not suit
    the data are skipped.
    """
    if unknown := set(kinds) - set(VARIATIONS):
        raise ValueError(f"no variation {min(unknown)!r}; known: {', '.join(VARIATIONS)}")
    mask = context.mask
    yield "", x, context
    several = x.dim() == 3 and x.shape[1] > 1 and _has_axes(context, x.shape[:2])
    if "batch" in kinds and len(x) > 1 and _has_axes(context, x.shape[:1]):
        # The record with the most padding.
        row = 0 if mask is None else int(mask.reshape(len(mask), -1).sum(1).argmin())
        yield " (one record alone)", *_cut(x, context, slice(row, row + 1))
    if "length" in kinds and several:
        yield " (records of one entry)", *_cut(x, context, (slice(None), slice(1)))
    if "holes" in kinds and several:
        # Every second entry is real, in odd and even records alternately.
        number = torch.arange(x.shape[1], device=x.device)
        holes = (number + torch.arange(len(x), device=x.device)[:, None]) % 2 == 1
        yield " (a mask with holes)", x, replace(context, mask=holes)
    if "far" in kinds and x.numel():
        yield " (far from 0)", x * (FAR / x.detach().abs().max().clamp(min=1e-6)), context


def _tensors(context: Context) -> dict[str, Tensor]:
    """Find the fields of a context that are tensors, but for the mask."""
    values = {f.name: getattr(context, f.name) for f in fields(context) if f.name != "mask"}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _has_axes(context: Context, shape: torch.Size) -> bool:
    """Return True if data and context can be cut along the leading axes of the data."""
    others = _tensors(context)
    features = others.pop("features", None)
    return not others and (features is None or features.shape[: len(shape)] == shape)


def _cut(x: Tensor, context: Context, index) -> tuple[Tensor, Context]:
    """Return some of the records or entries of data, and the context with the same ones."""
    parts = {"mask": context.mask, "features": context.features}
    cut: dict[str, Any] = {name: part[index] for name, part in parts.items() if part is not None}
    return x[index], replace(context, **cut)


def _within(atol: float, rtol: float, where: str = "") -> Close:
    """Return a function that asserts that two tensors are close."""

    def close(actual: Tensor, expected: Tensor, what: str) -> None:
        torch.testing.assert_close(
            actual, expected, atol=atol, rtol=rtol, msg=lambda text: f"{what}{where}\n{text}"
        )

    return close


def _double(context: Context) -> Context:
    """Return a context with its floating tensors in float64."""
    floating = {k: v for k, v in _tensors(context).items() if v.is_floating_point()}
    double: dict[str, Any] = {name: part.double() for name, part in floating.items()}
    return replace(context, **double)


@torch.no_grad()
def assert_bijection(
    transform: Bijection,
    x: Tensor,
    context: Context = Context(),
    *,
    z: Tensor | None = None,
    atol: float = 1e-4,
    rtol: float = 1e-4,
    vary: Collection[str] = VARIATIONS,
) -> None:
    """Check that a bijection and its inverse undo each other, and that their log-dets cancel.

    The round trips are `inverse(forward(x))` and `forward(inverse(z))`, of `x` if `z` is None.
    Better draw z from the base density: encoded data do not cover all of the latent space. It must
    lie in the image of `forward`.
    """
    both = (variations(part, vary, context) for part in (x, x if z is None else z))
    cases = zip(*both, strict=True)
    for (where, x, context), (_, z, _) in cases:
        close = _within(atol, rtol, where)
        latents, log_term = transform(x, context)
        shapes = tuple(latents.shape), tuple(log_term.shape)
        assert shapes == (x.shape, x.shape[:1]), f"{tuple(x.shape)} became {shapes}{where}"
        data, log_det = transform.inverse_and_logdet(latents, context)
        close(data, masked(x, context.mask).to(data.dtype), "inverse(forward(x)) is not x")
        close(log_det, -log_term, "log-dets of forward, inverse do not cancel")
        close(transform.inverse(latents, context), data, "inverse and inverse_and_logdet differ")

        z = masked(z, context.mask)
        data, log_det = transform.inverse_and_logdet(z, context)
        latents, log_term = transform(data, context)
        hint = " (unless z lies outside the image of forward: give another z)"
        close(latents, z.to(latents.dtype), f"forward(inverse(z)) is not z{hint}")
        close(log_term, -log_det, "log-dets of inverse, forward do not cancel")


def assert_log_det_matches_jacobian(
    transform: Transform,
    x: Tensor,
    context: Context = Context(),
    *,
    atol: float = 1e-8,
    rtol: float = 1e-6,
    vary: Collection[str] = VARIATIONS,
) -> None:
    """Check the log term of a bijection against the Jacobian that autograd computes in float64.

    It must be `log|det dz/dx|` over the real entries of each sample. Also checked is that no
    sample depends on another sample, and no real entry on padding.

    A copy of the transform is converted to float64. Take few data: the Jacobian has the square of
    as many numbers. `atol` is in nats.
    """
    transform = copy.deepcopy(transform).double()
    cases = variations(x.detach().double(), vary, _double(context))
    for where, x, context in cases:
        with torch.no_grad():
            log_term = transform(x, context)[1]
        # Derivatives (B, S, B, S) of outputs by inputs; a sample has S numbers.
        jacobian = torch.autograd.functional.jacobian(
            lambda x, context=context: transform(x, context)[0], x
        )
        jacobian = jacobian.reshape(len(x), x[0].numel(), len(x), x[0].numel())
        real = torch.ones_like(x).bool()
        real = real if context.mask is None else real & context.mask.unsqueeze(-1)
        for sample, entries in enumerate(real.flatten(1)):
            others = jacobian[sample].abs().sum((0, 2))
            others[sample] = 0
            assert not others.any(), (
                f"sample {sample} depends on samples {others.nonzero().flatten().tolist()}{where}"
            )
            own = jacobian[sample, :, sample]
            assert not own[~entries].any(), f"padding of sample {sample} depends on x{where}"
            assert not own[:, ~entries].any(), f"sample {sample} depends on its padding{where}"
            expected = torch.linalg.slogdet(own[entries][:, entries]).logabsdet
            close = _within(atol, rtol, where)
            close(log_term[sample], expected, f"log-det of sample {sample}")


def assert_mask_invariance(
    transform: Transform,
    x: Tensor,
    context: Context,
    *,
    extend: int = 2,
    atol: float = 1e-5,
    rtol: float = 1e-5,
    vary: Collection[str] = VARIATIONS,
) -> None:
    """Check that padding (entries outside the mask) is 0 in every output, and changes nothing else.

    `forward` and `inverse` are called with several values at padding, infinity and NaN among them,
    and with longer padding. Real entries of the output, log term and gradients must stay the same.

    `extend` entries of padding are added if `x` is `(B, L, D)` and the context has only a mask.
    """
    assert context.mask is not None and not context.mask.all(), (
        "the mask has no padding: the test would be empty"
    )

    def inverse(z, context):
        return transform.inverse(z, context), z.new_zeros(len(z))

    bare = not _tensors(context)
    for where, own, varied in variations(x, vary, context):
        if varied.mask.all():
            continue
        more = extend if x.dim() == 3 and bare else 0
        for name, function in (("forward", transform), ("inverse", inverse)):
            _padding(function, f"{name}{where}", own, varied, more, _within(atol, rtol))
    _padding_gradients(transform, x, context, _within(atol, rtol))


@torch.no_grad()
def _padding(function, name: str, x: Tensor, context: Context, extend: int, close: Close) -> None:
    """Check that padding changes no output of one direction of a transform."""
    mask = context.mask
    expected, log_term = function(masked(x, mask), context)
    assert not expected[~mask].any(), f"{name}: masked entries of the output are not 0"
    for value in PADDING:
        output, other = function(x.masked_fill(~mask.unsqueeze(-1), value), context)
        close(output, expected, f"{name}: padding {value} changes it")
        close(other, log_term, f"{name}, log term: padding {value} changes it")
    if extend:
        longer = torch.cat((x, x.new_full((len(x), extend, x.shape[-1]), 5.0)), 1)
        longer_mask = torch.cat((mask, mask.new_zeros(len(x), extend)), 1)
        output, other = function(longer, type(context)(longer_mask))
        assert not output[:, x.shape[1] :].any(), f"{name}: added padding is not 0"
        close(output[:, : x.shape[1]], expected, f"{name}: longer padding")
        close(other, log_term, f"{name}, log term: longer padding")


def _padding_gradients(transform, x: Tensor, context: Context, close: Close) -> None:
    """Check that values at padding do not change the gradients of x and of the parameters."""
    parameters = {k: p for k, p in transform.named_parameters() if p.requires_grad}

    def gradients(value: float) -> list[Tensor | None]:
        padded = x.detach().masked_fill(~context.mask.unsqueeze(-1), value).requires_grad_()
        z, log_term = transform(padded, context)
        back = transform.inverse(padded, context)
        total = z.square().sum() + log_term.sum() + back.square().sum()
        if not total.requires_grad:
            return [None] * (1 + len(parameters))
        inputs = [padded, *parameters.values()]
        return [*torch.autograd.grad(total, inputs, allow_unused=True)]

    expected = gradients(0.0)
    for value in (math.inf, math.nan):
        for name, want, got in zip(("x", *parameters), expected, gradients(value), strict=True):
            if want is not None:
                assert got is not None, f"padding {value} takes away the gradient of {name}"
                close(got, want, f"padding {value} changes the gradient of {name}")


@torch.no_grad()
def assert_dtype_and_autocast(
    transform: Transform,
    x: Tensor,
    context: Context = Context(),
    *,
    atol: float = 0.5,
    rtol: float = 0.1,
) -> None:
    """Check that outputs are float32, also under autocast, and float64 for float64 input.

    The tolerances are for the change of the log term, nats, by autocast to bfloat16.
    """

    def check(dtype, how, **parts):
        for name, value in parts.items():
            assert value.dtype == dtype, f"{name} is {value.dtype} {how}"

    z, log_term = transform(x, context)
    check(torch.float32, "for float32 input", output=z, log_term=log_term)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        low, low_term = transform(x, context)
        back = transform.inverse(low, context)
    check(torch.float32, "under autocast", output=low, log_term=low_term, inverse=back)
    _within(atol, rtol)(low_term, log_term, "log term under autocast")

    double, context = copy.deepcopy(transform).double(), _double(context)
    z, log_term = double(x.double(), context)
    back = double.inverse(z, context)
    check(torch.float64, "for float64 input", output=z, log_term=log_term, inverse=back)


@torch.no_grad()
def assert_serialisable(transform: Transform, x: Tensor, context: Context = Context()) -> None:
    """Check that a transform comes back from a pickle and from its `state_dict`.

    The transform is pickled and loaded. Then the parameters of this copy are changed at random, and
    the saved `state_dict` is loaded into it. Both times the copy must give the same output.
    """

    def compare(module, what):
        for got, want in zip(module(x, context), expected, strict=True):
            _within(0, 0)(got, want, what)

    expected = transform(x, context)
    unpickled = pickle.loads(pickle.dumps(transform))
    compare(unpickled, "after pickling")
    file = io.BytesIO()
    torch.save(transform.state_dict(), file)
    file.seek(0)
    for parameter in unpickled.parameters():
        parameter.add_(torch.rand_like(parameter))
    unpickled.load_state_dict(torch.load(file, weights_only=True))
    compare(unpickled, "after loading the state_dict")


@torch.no_grad()
def assert_stepping_agrees(
    network: AutoregressiveNetwork,
    x: Tensor,
    context: Any,
    *,
    atol: float = 1e-5,
    rtol: float = 1e-5,
) -> None:
    """Check that an autoregressive network gives the same probabilities in scoring and in drawing.

    A network has two ways through the positions of its data: `AutoregressiveNetwork.steps`, for
    scoring, may evaluate all in one pass; its `Drawing` goes step by step, here with the given
    categories in place of drawn ones. In both, every real position must be decided once.

    Train the network a little, or perturb its weights: with initial weights it may ignore its
    input, and the check would find nothing. The tolerances are for log-probabilities, nats.
    """
    found = []
    stepping = partial(AutoregressiveNetwork.steps, network)
    for name, steps in (("steps", network.steps), ("stepping", stepping)):
        decided = torch.zeros_like(context.mask, dtype=torch.long)
        for step in steps(x, context):
            decided[step.rows, step.positions] += 1
        assert (decided[context.mask] == 1).all(), f"{name}: a position is not decided once"
        same = copy.copy(network)
        same.__dict__["steps"] = steps
        found.append(same.log_probs(x, context)[context.mask])
    _within(atol, rtol)(found[1], found[0], "steps and stepping give other probabilities")


def assert_gradients_reach_every_parameter(module: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Check that every parameter gets a finite gradient that is not all zero.

    If a layer is initialised with zeros, the layers before it get a zero gradient: perturb its
    weights first.

    Gradients that the module has are deleted; `loss` calls it and returns a scalar.
    """
    module.zero_grad(set_to_none=True)
    loss().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and parameter.numel():
            assert parameter.grad is not None, f"{name} got no gradient"
            assert parameter.grad.isfinite().all(), f"{name} got a gradient that is not finite"
            assert parameter.grad.any(), f"the gradient of {name} is zero"
    module.zero_grad(set_to_none=True)


@torch.no_grad()
def assert_normalised(
    log_prob: Callable[..., Tensor],
    space,
    *,
    samples: int = 1,
    repeats: int = 64,
    most_repeats: int = 4096,
    max_error: float = 0.02,
    atol: float = 1e-4,
) -> None:
    """Check that the probabilities of all elements of a small discrete space sum to one.

    It works with exact probabilities and with bounds: `exp` of a K-sample bound is an unbiased
    estimate of the probability. So the sum over the space, averaged over many calls, is 1 up to its
    standard error.

    `log_prob(space, samples=K)` returns `(B,)` nats, with fresh noise in every call, for all
    elements of the space, each exactly once. After the first `repeats` calls more follow until 4
    (`Z_SCORE`) standard errors are at most `max_error`, or `most_repeats` are reached and the check
    fails. `atol` is allowed in addition.
    """
    totals: list[float] = []
    error = math.inf
    while error > max_error and len(totals) < most_repeats:
        for _ in range(max(2, min(repeats, most_repeats - len(totals)))):
            totals.append(log_prob(space, samples=samples).double().exp().sum().item())
        estimates = torch.tensor(totals, dtype=torch.float64)
        mean = estimates.mean().item()
        error = Z_SCORE * estimates.std().item() / math.sqrt(len(totals))
    assert abs(mean - 1) <= error + atol, f"probabilities sum to {mean:.5f} +- {error:.5f}"
    assert error <= max_error, (
        f"inconclusive: sum {mean:.4f} +- {error:.4f} after {len(totals)} repeats, with a "
        f"max_error of {max_error:g}; use more samples or allow more repeats"
    )


@torch.no_grad()
def assert_lower_bound(
    log_prob: Callable[..., Tensor],
    x,
    *,
    samples: Sequence[int] = (1, 8, 64),
    repeats: int = 64,
    exact: Tensor | None = None,
    atol: float = 1e-5,
) -> None:
    """Check that a K-sample bound does not fall with K, and does not exceed log p(x).

    More draws tighten a bound. Its mean over samples and many calls is compared for the given
    numbers K.

    `log_prob(x, samples=K)` returns bounds, `(B,)` nats, with fresh noise in every call. `atol` is
    allowed in addition to 4 (`Z_SCORE`) standard errors, in nats.
    """
    if list(samples) != sorted(set(samples)):
        raise ValueError(f"samples must increase, got {list(samples)}")
    previous, previous_error, previous_samples = -math.inf, 0.0, 0
    for count in samples:
        values = torch.stack([log_prob(x, samples=count).double().mean() for _ in range(repeats)])
        mean, error = values.mean().item(), values.std().item() / math.sqrt(repeats)
        noise = Z_SCORE * math.hypot(error, previous_error) + atol
        assert mean >= previous - noise, (
            f"the bound falls from {previous:.4f} with K={previous_samples} to {mean:.4f} with "
            f"K={count} (noise {noise:.4f})"
        )
        if exact is not None:
            limit = exact.double().mean().item()
            assert mean <= limit + Z_SCORE * error + atol, (
                f"the bound {mean:.4f} with K={count} exceeds the exact value {limit:.4f}"
            )
        previous, previous_error, previous_samples = mean, error, count
