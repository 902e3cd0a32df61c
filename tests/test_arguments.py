"""Arguments from a configuration: what does not fit is one line with its name and value."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch

from graphcnf.arguments import call, check
from graphcnf.errors import UserError
from graphcnf.limits import LARGEST_SEED, Range, check_minutes, check_seed, check_temperature


def build(
    width: int = 8, share: float = 0.5, name: str | None = None, path: str | Path = "x",
    kernels: tuple[int, int] = (3, 3), sizes: list[int] | None = None, deep: dict | None = None,
    plain=4, fixed=None, on: bool = True, rate: Annotated[float, Range(0, 1)] = 0.1,
    kind: Literal["a", "b"] = "a",
):  # fmt: skip
    if width == 13:
        raise ValueError("no luck")
    if width == 14:
        return [][width]
    return width


class Inner:
    def __init__(self, width: str, heads: int = 2, none: int = 0):
        pass


@pytest.mark.parametrize(
    "options",
    [
        {}, {"width": 3}, {"share": 1}, {"name": None}, {"name": "x"}, {"path": "y"},
        {"kernels": [3, 5]}, {"sizes": [1, 2]}, {"sizes": None}, {"deep": {"a": 1}}, {"plain": 9},
        {"on": False}, {"heads": 4}, {"none": 0}, {"rate": 0}, {"rate": 1.0}, {"kind": "b"},
    ],
)  # fmt: skip
def test_what_fits(options):
    check("[model]", options, build, Inner)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"width": "wide"},
            "width must be an integer greater than 0 and at most 16,384, got 'wide'",
        ),
        ({"width": 0}, "width must be an integer greater than 0 .*, got 0"),
        ({"share": float("nan")}, "share must be a number .*, got nan"),
        ({"kernels": [3]}, r"kernels must be a list of 2, each an integer from 0 to 100,000, got"),
        ({"sizes": [1, -2]}, r"sizes must be a list, .*, got \[1, -2\]"),
        ({"widht": 3}, "no option 'widht'; did you mean 'width'"),
        ({"kind": "c"}, 'kind must be "a" or "b", got'),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(UserError, match=rf"^\[model\]: {message}"):
        check("[model]", options, build, Inner, fixed=("fixed",))


@pytest.mark.parametrize(("width", "reason"), [(13, "no luck"), (14, "list index out of range")])
def test_what_a_function_refuses_is_named_and_keeps_its_cause(width, reason):
    assert call("[model]", build, known={"name": "x"}, width=3) == 3
    with pytest.raises(UserError, match=rf"{reason} \(given: width = {width}\)") as caught:
        call("[model]", build, known={}, width=width)
    assert isinstance(caught.value.__cause__, ValueError | IndexError)


def test_limits():
    for check_one, value, message in (
        (check_temperature, 1e-300, "greater than 0"),
        (check_temperature, float("nan"), "greater than 0"),
        (check_seed, LARGEST_SEED + 1, "seed must be an integer"),
        (check_minutes, float("inf"), "minutes must be"),
    ):
        with pytest.raises(UserError, match=message):
            check_one(value)
    check_temperature(0.5)
    check_seed(LARGEST_SEED)
    check_minutes(0.5)


def test_more_parameters_than_memory_holds_are_named_instead_of_the_allocator():
    def network(width):
        return torch.empty(width, width, width)

    with pytest.raises(UserError, match=r"\[model\]: its parameters .* \(given: width = 100000\)"):
        call("[model]", network, known={}, width=10**5)
