"""What a value is worth: maps from a property to [0, 1].

The forms are those of GuacaMol (Brown et al. 2019, arXiv 1811.09621, section 7): Gaussians with
one or two flanks, and a straight line between two values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from graphcnf.errors import UserError

FORMS = ("clip", "target", "at_least", "at_most")
"""Keys of which an objective may have one; all but `clip` need a `width`."""


def clip(value: float, low: float, high: float) -> float:
    """0 at `low`, 1 at `high`, a straight line between them; `low` may be the larger one."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


def target(value: float, centre: float, width: float) -> float:
    """Gaussian `exp(-(value - centre)^2 / (2 width^2))`."""
    return math.exp(-0.5 * ((value - centre) / width) ** 2)


def at_least(value: float, centre: float, width: float) -> float:
    """1 from `centre` on, a Gaussian's flank below."""
    return target(min(value, centre), centre, width)


def at_most(value: float, centre: float, width: float) -> float:
    """1 up to `centre`, a Gaussian's flank above."""
    return target(max(value, centre), centre, width)


_FLANKS = {"target": target, "at_least": at_least, "at_most": at_most}


def desirability(table: Mapping[str, Any], where: str) -> Callable[[float], float]:
    """The map that an objective's table asks for; the value itself where it asks for none.

    Args:
        table: One of `FORMS` or none: `clip = [low, high]`, or `target`, `at_least` or `at_most`
            with a `width`.
        where: Named in errors.

    Raises:
        UserError: More than one form, or numbers that make none.
    """
    given = [name for name in FORMS if name in table]
    if not given:
        if "width" in table:
            raise UserError(f"{where}: width needs one of target, at_least, at_most")
        return float
    if len(given) > 1:
        raise UserError(f"{where}: {' and '.join(given)} exclude each other")
    form = given[0]
    if form == "clip":
        ends = table["clip"]
        if not (isinstance(ends, list) and len(ends) == 2 and all(map(_number, ends))):
            raise UserError(f"{where}: clip = [low, high], two numbers, not {ends!r}")
        if ends[0] == ends[1]:
            raise UserError(f"{where}: the ends of clip must differ, both are {ends[0]!r}")
        return lambda value: clip(value, *ends)
    centre, width = table[form], table.get("width")
    if not _number(centre):
        raise UserError(f"{where}: {form} must be a number, not {centre!r}")
    if not _number(width) or width <= 0:
        raise UserError(f"{where}: {form} needs a width greater than 0, not {width!r}")
    return lambda value: _FLANKS[form](value, centre, width)


def _number(value: Any) -> TypeGuard[float]:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and math.isfinite(value)
