"""Ranges of the numbers that people give, the same in the library and in the commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from graphcnf.errors import UserError

LARGEST_SEED = 2**63 - 1
"""More do not fit into torch's random generators."""

LARGEST_COUNT = 10**12
"""Upper limit of numbers of records that catches typing errors."""

TEMPERATURES = (1e-3, 1e3)
"""Beyond them, probabilities divided or multiplied by the temperature leave float32."""

MAX_NODES = 255
"""Largest graph: its node numbers are 8-bit."""

MOST_CANDIDATES = 1000
"""Candidates for one molecule at most, of which the best is kept."""

LARGEST_MINUTES = 5_256_000
"""Ten years, an upper limit that catches typing errors."""

LARGEST_ORDERS = 1024
"""Numberings of a graph whose probabilities are summed at most: each costs as much as the first."""


LARGEST_SIZE = 100_000
LARGEST_SIZES = {
    "layers": 1000, "couplings": 1000, "heads": 1000, "width": 16_384, "sizes": 50_000_000,
}  # fmt: skip
"""Largest sizes of a model by name, instead of `LARGEST_SIZE`; more would take all memory."""


@dataclass(frozen=True)
class Range:
    """Range of a number, as in `Annotated[float, Range(0, 1)]` of a signature.

    Attributes:
        least: Lower end.
        most: Upper end, which belongs to the range.
        above: Whether numbers must be greater than the lower end.
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
    """Raise `UserError` unless a value is an integer, Python's or numpy's, in a range."""
    if not (is_integer(value) and least <= value <= most):
        above = f"of at least {least}" if most == LARGEST_COUNT else f"from {least} to {most}"
        raise UserError(f"{name} must be an integer {above}, got {value!r}")


def check_range(name: str, pair: Any) -> None:
    """Raise `UserError` unless a value is two integers, the smaller one first."""
    is_pair = isinstance(pair, tuple | list) and len(pair) == 2 and all(map(is_integer, pair))
    if not (is_pair and pair[0] <= pair[1]):
        raise UserError(f"{name} must be the lowest and the highest number, (3, 8), got {pair!r}")


def is_integer(value: Any) -> bool:
    """Return True for integers, Python's or numpy's; bool is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return True for real numbers, Python's or numpy's; bool is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Return numpy's numbers as Python's, which JSON knows, and anything else as it is."""
    return value.item() if isinstance(value, Real) and hasattr(value, "item") else value


def check_temperature(temperature: float) -> None:
    """Raise `UserError` where a temperature is outside of `TEMPERATURES`, or no number."""
    least, most = TEMPERATURES
    if not (is_number(temperature) and least <= temperature <= most):
        raise UserError(
            f"temperature must be greater than 0, from {least:g} to {most:g}, got {temperature!r}"
        )


def check_minutes(minutes: float) -> None:
    """Raise `UserError` unless a time is positive, and no longer than anybody waits."""
    if not (is_number(minutes) and 0 < minutes <= LARGEST_MINUTES):
        raise UserError(
            f"minutes must be greater than 0, at most {LARGEST_MINUTES:,}, got {minutes!r}"
        )


def check_seed(seed: int) -> None:
    """Raise `UserError` unless a seed is usable."""
    check_integer("seed", seed, 0, LARGEST_SEED)


@contextmanager
def limited_parameters(most: int, reason: str) -> Iterator[None]:
    """Context in which modules get no more than `most` numbers as parameters in all.

    Raises:
        UserError: A module gets one more; its memory has been reserved then, but not filled.
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
