"""Ranges of numbers that users give, the same in the library and in the commands.

The `check_...` functions are called where a number enters, such as the first lines of a public
method. They return nothing. They raise `UserError` with a message that names the number, its range
and what was given: "seed must be an integer from 0 to ..., got 'x'".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from graphcnf.errors import UserError

LARGEST_SEED = 2**63 - 1
"""Largest seed of torch's random generators."""

LARGEST_COUNT = 10**12
"""Upper limit of counts, which catches typing errors."""

TEMPERATURES = (1e-3, 1e3)
"""Range of temperatures, within which computations stay in the range of float32."""

MAX_NODES = 255
"""Largest number of nodes of a graph: node numbers are 8-bit."""

CANDIDATES = 8
"""Default number of candidates for one molecule with target properties; the nearest is kept."""

MOST_CANDIDATES = 1000
"""Largest number of candidates for one molecule: the nearest to target properties, or likeliest."""

PARTICLES = 8
"""Default number of particles for one molecule around a fragment, or one analogue."""

LIKELIEST = 4
"""Default number of linked molecules that are found for each one that is written, the likeliest."""

SIMILAR = 0.5
"""Default of the lowest Tanimoto similarity (ECFP4) of an analogue to the molecule."""

LARGEST_SCORE = 1e100
"""Largest score of a molecule, and weight of an objective: products of them stay finite."""

LARGEST_MINUTES = 5_256_000
"""Ten years, an upper limit of times that catches typing errors."""

LARGEST_ORDERS = 1024
"""Largest number of node orders of a graph whose probabilities are summed."""

LARGEST_SIZE = 100_000
"""Largest value of an argument that determines the size of a model; more would take all memory."""

LARGEST_SIZES = {
    "layers": 1000, "couplings": 1000, "heads": 1000, "width": 16_384, "sizes": 50_000_000,
}  # fmt: skip
"""Largest values of the arguments for which `LARGEST_SIZE` is not right, by name."""


@dataclass(frozen=True)
class Range:
    """Range of a number, as in `Annotated[float, Range(0, 1)]` of a signature.

    `value in Range(0, 1)` tells whether a number lies in it, and `str` describes it for messages.
    """

    least: float = 0
    most: float = LARGEST_COUNT
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and not (self.above and value == self.least)

    def __str__(self) -> str:
        first = f"greater than {self.least:g}" if self.above else f"from {self.least:g}"
        return f"{first} {'and at most' if self.above else 'to'} {self.most:,}"


def check_integer(name: str, value: Any, least: int = 0, most: int = LARGEST_COUNT) -> None:
    """Check that a value is an integer (of Python or numpy, but no bool) in a range."""
    if not (is_integer(value) and least <= value <= most):
        above = f"of at least {least}" if most == LARGEST_COUNT else f"from {least} to {most}"
        raise UserError(f"{name} must be an integer {above}, got {value!r}")


def check_low_and_high(name: str, pair: Any) -> None:
    """Check that a value is a pair of integers, the lowest and the highest number of something."""
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2
    if not (is_pair and all(map(is_integer, pair)) and pair[0] <= pair[1]):
        raise UserError(f"{name} must be the lowest and the highest number, (3, 8), got {pair!r}")


def is_integer(value: Any) -> bool:
    """Return True for integers of Python or numpy, except bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return True for real numbers of Python or numpy, except bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Convert a number of numpy to one of Python, for JSON; return anything else unchanged."""
    return value.item() if isinstance(value, Real) and hasattr(value, "item") else value


def check_temperature(temperature: float) -> None:
    """Check that a temperature of sampling is a number from 0.001 to 1000 (`TEMPERATURES`)."""
    least, most = TEMPERATURES
    if not (is_number(temperature) and least <= temperature <= most):
        raise UserError(
            f"temperature must be greater than 0, from {least:g} to {most:g}, got {temperature!r}"
        )


def check_minutes(minutes: float) -> None:
    """Check that a time in minutes is a number above 0 and at most `LARGEST_MINUTES`."""
    if not (is_number(minutes) and 0 < minutes <= LARGEST_MINUTES):
        raise UserError(
            f"minutes must be greater than 0, at most {LARGEST_MINUTES:,}, got {minutes!r}"
        )


def check_seed(seed: int) -> None:
    """Check that a seed is an integer from 0 to 2^63 - 1 (`LARGEST_SEED`)."""
    check_integer("seed", seed, 0, LARGEST_SEED)


@contextmanager
def limited_parameters(most: int, reason: str) -> Iterator[None]:
    """Return a context in which modules may be built with a limited number of parameters in all.

    Models are loaded in it, since a damaged configuration could ask for a model that takes all
    memory.
    """
    from torch.nn.modules.module import register_module_parameter_registration_hook

    count = 0

    def add(module, name, parameter) -> None:
        nonlocal count
        count += parameter.numel()
        if count > most:
            raise UserError(f"the model has more than {most:,} parameters: {reason}")

    handle = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        handle.remove()
