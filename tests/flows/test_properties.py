"""Properties that every transform has, in all layouts: see conftest.py for the registry."""

import inspect

import pytest
import torch
from flows.conftest import ANY, EVEN, MANY, REGISTRY

from graphcnf import flows
from graphcnf.flows import Bijection, StandardLogistic, masked
from graphcnf.testing import (
    assert_bijection,
    assert_dtype_and_autocast,
    assert_gradients_reach_every_parameter,
    assert_log_det_matches_jacobian,
    assert_mask_invariance,
    assert_serialisable,
)


def test_every_bijection_is_in_a_registry():
    of_images = {**ANY, **MANY, **EVEN}.values()
    built = [*(make() for make in REGISTRY.values()), *(make(4, 2, 2) for make in of_images)]
    there = tuple({type(part) for one in built for part in one.modules()})
    exported = {name: getattr(flows, name) for name in flows.__all__}
    lacking = [
        name
        for name, thing in exported.items()
        if name != "Logit"  # of numbers between 0 and 1 alone: see test_steps
        if inspect.isclass(thing) and issubclass(thing, Bijection)
        if not any(issubclass(one, thing) for one in there)
    ]
    assert lacking == [], f"{', '.join(lacking)}: add a line to REGISTRY of tests/flows/conftest.py"


def test_round_trips_and_log_dets(case):
    z = StandardLogistic().sample(case.x.shape, mask=case.context.mask)
    assert_bijection(case.transform, case.x, case.context, z=z)


def test_log_det_matches_jacobian(case):
    assert_log_det_matches_jacobian(case.transform, case.x, case.context)


def test_round_trip_in_float64_is_exact(case):
    case = case.double()
    assert_bijection(case.transform, case.x, case.context, atol=1e-9, rtol=0)


def test_padding_is_inert(masked_case):
    assert_mask_invariance(masked_case.transform, masked_case.x, masked_case.context)


def test_types(case):
    assert_dtype_and_autocast(case.transform, case.x, case.context)
    for transform in (case.transform, case.transform.inverse_and_logdet):
        assert transform(case.x.bfloat16(), case.context)[1].dtype == torch.float32


def test_serialisable(case):
    assert case.transform.exact
    assert_serialisable(case.transform, case.x, case.context)


def test_gradients_reach_every_parameter(case):
    if any(p.shape == (1, 1) for p in case.transform.parameters()):
        pytest.skip("the triangles of a 1 x 1 matrix are empty")
    # With features, because their layers in the networks are idle without them.
    context = case.with_features().context
    x = case.x.requires_grad_()

    def loss():
        z, log_term = case.transform(x, context)
        return (z.square() + z).sum() - log_term.sum()

    assert_gradients_reach_every_parameter(case.transform, loss)


def test_gradients_pass_through_the_inverse(case):
    """Composed with its inverse, a transform has gradients as the identity has."""
    case = case.double()
    x = case.x.requires_grad_()
    z, log_term = case.transform(x, case.context)
    again, log_det = case.transform.inverse_and_logdet(z, case.context)
    weights = torch.randn_like(x)
    (gradient,) = torch.autograd.grad((again * weights).sum() + log_det.sum() + log_term.sum(), x)
    expected = masked(weights, case.context.mask)
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=0)


def test_a_record_without_real_entries_contributes_nothing(masked_case):
    masked_case.context.mask[0] = False
    z, log_term = masked_case.transform(masked_case.x, masked_case.context)
    assert not z[0].any() and log_term[0] == 0
    assert z.isfinite().all()
