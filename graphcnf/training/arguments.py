"""Arguments from a configuration, checked against the signatures that take them."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from graphcnf.errors import UserError, suggest
from graphcnf.limits import LARGEST_SIZE, LARGEST_SIZES, Range, is_integer, is_number

NOUNS = {
    bool: "true or false",
    str: "text in quotes, without zero characters",
    Path: "text in quotes, without zero characters",
    dict: "a table of numbers and texts",
    Mapping: "a table of numbers and texts",
}


def call(what: str, function: Callable, *fixed, known: Mapping[str, Any], **options) -> Any:
    """Call a function with arguments from a configuration.

    Args:
        what: Table of the configuration, for messages.
        function: Function or class to call.
        *fixed: Arguments that are not from the configuration.
        known: Arguments by name that are not from the configuration.
        **options: Arguments from the configuration, checked by `check` before.

    Raises:
        UserError: The function refuses an argument.
    """
    try:
        return function(*fixed, **known, **options)
    except UserError as error:
        message, cause = str(error), None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError,
            RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        # Sizes of a network that do not go together fail where tensors meet.
        reason = " ".join(str(error).split()).split("() ")[-1][:200] or "not possible"
        given = ", ".join(f"{name} = {_shown(value)}" for name, value in options.items())
        message, cause = f"{reason} (given: {given[:300]})", error
    raise UserError(message if message.startswith("[") else f"{what}: {message}") from cause


def check(
    what: str, options: Mapping[str, Any], *functions: Callable, fixed: Sequence[str] = ()
) -> None:
    """Check names, types and ranges of the arguments in a table of a configuration.

    Types come from the annotations, or else from the defaults, and the range of a number from the
    `Range` in its `Annotated` type. Without a `Range` it must be greater than 0; 0 is allowed
    where it is the default.

    Args:
        what: The table, for messages.
        options: The arguments.
        *functions: Functions and classes that take them; where several have a parameter of one
            name, the first one's type and range count.
        fixed: Names that a configuration may not set.

    Raises:
        UserError: No function has such an argument, or its value is of another type or range.
    """
    expected: dict[str, Any] = {}
    for function in functions:
        expected = {**_parameters(function), **expected}
    known = sorted(set(expected) - set(fixed))
    for name, value in options.items():
        if name not in known:
            raise UserError(f"{what}: no option {name!r}{suggest(name, known)}")
        kind, bounds = expected[name]
        if not _fits(value, kind, bounds):
            wanted = _wanted(kind, bounds)
            must = f"must be {wanted}, got {_shown(value)}" if wanted else "cannot be set"
            raise UserError(f"{what}: {name} {must}")


@cache
def _parameters(function: Callable) -> dict[str, tuple[Any, Range]]:
    """Return the type and the range of each parameter of a function or class."""
    made = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(made, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            default = parameter.default
            guess = Any if default in (None, parameter.empty) else type(default)
            most = LARGEST_SIZES.get(name, LARGEST_SIZE)
            found[name] = hints.get(name, guess), Range(0, most, above=default != 0)
    return found


def _is_list(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Sequence) and not issubclass(kind, str)


def _fits(value: Any, kind: Any, bounds: Range) -> bool:
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Annotated:
        return _fits(value, inner[0], inner[1])
    if origin in (Union, types.UnionType):
        return any(_fits(value, k, bounds) for k in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (int, float):
        return (is_integer if origin is int else is_number)(value) and value in bounds
    if origin in (str, Path):
        return isinstance(value, str) and "\0" not in value
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and _usable(value)
    if _is_list(origin):
        entries = inner[0] if inner else Any
        fixed = origin is tuple and inner and Ellipsis not in inner
        # An entry may be 0 where the whole may not.
        return (
            isinstance(value, list | tuple)
            and not (fixed and len(inner) != len(value))
            and all(_fits(v, entries, Range(0, bounds.most)) for v in value)
        )
    if kind is Any:
        return not isinstance(value, Mapping) and _usable(value)
    return inspect.isclass(origin) and isinstance(value, origin)


def _usable(value: Any) -> bool:
    """Return True unless a value holds a number that no model has, or a zero character."""
    if isinstance(value, Mapping | list | tuple):
        return all(map(_usable, value.values() if isinstance(value, Mapping) else value))
    if isinstance(value, str):
        return "\0" not in value
    return not is_number(value) or value in Range(0, LARGEST_SIZE)


def _wanted(kind: Any, bounds: Range) -> str:
    """Describe the values that fit; the text is empty where a configuration can have none."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Annotated:
        return _wanted(inner[0], inner[1])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(filter(None, (_wanted(k, bounds) for k in inner))))
    if origin is Literal:
        return " or ".join(f'"{choice}"' for choice in inner)
    if origin in (int, float):
        return f"{'an integer' if origin is int else 'a number'} {bounds}"
    if _is_list(origin):
        entries = _wanted(inner[0], Range(0, bounds.most)) if inner else ""
        length = f" of {len(inner)}" if origin is tuple and Ellipsis not in inner and inner else ""
        return f"a list{length}{entries and f', each {entries}'}"
    return NOUNS.get(origin, "")


def _shown(value: Any) -> str:
    text = ("true" if value else "false") if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
