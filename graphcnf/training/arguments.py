"""Arguments that come from a configuration, held against the functions that they are for.

A preset is text that anybody may have written: a value of the wrong type must be one line that
names it, not a failure deep inside of a network.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from graphcnf.errors import UserError, suggest
from graphcnf.limits import size_fault

MAY_BE_ZERO = {"alpha", "context", "couplings", "dropout", "heads", "index_offset", "penalty",
               "pixels", "rounds", "seed", "separation", "shift", "test_seed"}  # fmt: skip
"""Names of numbers that may be 0; all others are sizes or counts."""

NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes",
         dict: "a table", list: "a list"}  # fmt: skip


def call(what: str, function: Callable, *fixed, known: Mapping[str, Any], **options) -> Any:
    """Call a function with arguments from a configuration.

    Args:
        what: Table of the configuration, for messages.
        function: What to call.
        *fixed: Arguments that are not from the configuration.
        known: Arguments by name that are not from the configuration.
        **options: Arguments from the configuration, checked by `check` before.

    Raises:
        UserError: The function refuses an argument.
    """
    try:
        return function(*fixed, **known, **options)
    except UserError as error:
        raise UserError(_placed(what, str(error))) from None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError,
            RuntimeError, TypeError, ValueError) as error:  # fmt: skip
        # Sizes of a network that do not go together fail where tensors meet. The cause stays for
        # who sets GRAPHCNF_DEBUG.
        reason = " ".join(str(error).split()).split("() ")[-1][:200] or "not possible"
        given = ", ".join(f"{name} = {_shown(value)}" for name, value in options.items())
        raise UserError(_placed(what, f"{reason} (given: {given[:300]})")) from error


def _placed(what: str, message: str) -> str:
    return message if message.startswith("[") else f"{what}: {message}"


def check(
    what: str, options: Mapping[str, Any], *functions: Callable, fixed: Sequence[str] = ()
) -> None:
    """Check names, types and ranges of the arguments in a table of a configuration.

    Args:
        what: The table, for messages.
        options: The arguments.
        *functions: Functions and classes that take them; one that is named later takes what the
            earlier ones do not know.
        fixed: Names that are not for the configuration to say.

    Raises:
        UserError: An argument that nothing takes, or that is no such thing.
    """
    expected: dict[str, Any] = {}
    for function in functions:
        expected = {**_parameters(function), **expected}
    known = sorted(set(expected) - set(fixed))
    for name, value in options.items():
        if name not in known:
            raise UserError(f"{what}: no option {name!r}{suggest(name, known)}")
        fault = _fault(name, value, expected[name])
        if fault is not None:
            raise UserError(f"{what}: {fault}")


def _parameters(function: Callable) -> dict[str, Any]:
    """The type of each parameter: as annotated, or else that of its default."""
    made = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(made)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = parameter.default
        guess = Any if default in (None, parameter.empty) else type(default)
        found[name] = hints.get(name, guess)
    return found


def _fault(name: str, value: Any, kind: Any) -> str | None:
    """What is wrong with a value, None where nothing is."""
    if not _fits(value, kind):
        nouns = [noun for k, noun in NOUNS.items() if k in _kinds(kind)]
        right = " or ".join(nouns)
        return f"{name} must be {right}, not {_shown(value)}" if nouns else f"{name} cannot be set"
    return _unusable(name, value)


def _unusable(name: str, value: Any) -> str | None:
    if isinstance(value, Mapping):
        faults = (_unusable(str(k), v) for k, v in value.items())
        return next((f"{name}.{fault}" for fault in faults if fault), None)
    if isinstance(value, list | tuple):
        return next(filter(None, (_unusable(name, v) for v in value)), None)
    if isinstance(value, str):
        return f"{name} holds a zero character: {_shown(value)}" if "\0" in value else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} must be a finite number, not {value!r}"
    least = 0 if name in MAY_BE_ZERO else 1 if isinstance(value, int) else 0
    if value < least or (isinstance(value, float) and value == 0 and name not in MAY_BE_ZERO):
        more = "at least" if least else "not negative and not 0:" if value == 0 else "at least"
        return f"{name} must be {more} {least}, not {value!r}".replace(": 0,", ",")
    return size_fault(name, value)


def _kinds(kind: Any) -> set[Any]:
    """The plain types that a type allows."""
    if get_origin(kind) in (Union, types.UnionType):
        return set().union(*(_kinds(k) for k in get_args(kind)))
    origin = get_origin(kind) or kind
    if origin is Path:
        return {str}
    return {list} if origin in (list, tuple, Sequence) or _is_sequence(origin) else {origin}


def _is_sequence(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Sequence) and not issubclass(kind, str)


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return not isinstance(value, Mapping)
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, k) for k in get_args(kind))
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin in (str, Path):
        return isinstance(value, str)
    if origin is tuple or origin is list or _is_sequence(origin):
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and Ellipsis not in inner and inner and len(inner) != len(value):
            return False
        return all(_fits(v, inner[0] if inner else Any) for v in value)
    if origin is dict or origin is Mapping:
        return isinstance(value, Mapping)
    return inspect.isclass(origin) and isinstance(value, origin)


def _shown(value: Any) -> str:
    text = ("true" if value else "false") if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
