"""The coupling over the nodes of a path keeps what every coupling keeps."""

import couplings
import pytest


@pytest.mark.parametrize("check", couplings.IN_FLOAT64)
def test_in_float64(double, make_case, check):
    check(make_case)


@pytest.mark.parametrize("check", couplings.IN_FLOAT32)
def test_in_float32(make_case, check):
    check(make_case)
