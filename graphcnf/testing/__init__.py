"""Assertions for transforms and for models with stochastic likelihood bounds.

They check properties rather than values, and raise AssertionError with the deviation. Use them on
your own transforms::

    from graphcnf.testing import assert_bijection, assert_log_det_matches_jacobian

    def test_my_coupling():
        x = torch.randn(4, 6)
        assert_bijection(MyCoupling(6), x)
        assert_log_det_matches_jacobian(MyCoupling(6), x)

The transforms must be deterministic, and are called in their present mode (training or not). A
data-dependent initialisation should be over before. Each assertion also runs on variations of the
data, see `VARIATIONS`.
"""

from graphcnf.testing.densities import assert_lower_bound, assert_normalised
from graphcnf.testing.transforms import (
    VARIATIONS,
    assert_bijection,
    assert_dtype_and_autocast,
    assert_gradients_reach_every_parameter,
    assert_log_det_matches_jacobian,
    assert_mask_invariance,
    assert_serialisable,
)

__all__ = [
    "VARIATIONS",
    "assert_bijection",
    "assert_dtype_and_autocast",
    "assert_gradients_reach_every_parameter",
    "assert_log_det_matches_jacobian",
    "assert_lower_bound",
    "assert_mask_invariance",
    "assert_normalised",
    "assert_serialisable",
]
