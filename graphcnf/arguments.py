"""Checks of arguments that stand in files and command lines, against function signatures.

- A *configuration* is what a TOML file says, such as the preset of a training. A *table* is a named
  part of it, such as `[model]`.
- The *options* of a table are arguments for a function or class, by name: `layers = 4` is an
  argument of the class of the model.
- What an option must be is not written down again. It stands in the signature: the annotation of
  the parameter is its type, and a `Range` in it, `Annotated[float, Range(0, 1)]`, its range.

`check` compares options with signatures before anything is built, `call` builds.
"""

from __future__ import annotations

import inspect
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from graphcnf.errors import UserError, suggest
from graphcnf.limits import LARGEST_SIZE, LARGEST_SIZES, Range, is_integer, is_number

NOTHING = object()
"""A value that no type accepts, to ask `_problem` for the description of a type."""


def call(what: str, function: Callable, *fixed, known: Mapping[str, Any], **options) -> Any:
    """Call a function or class with the options of a table, and turn its errors into messages.

    `check` has accepted each option by itself. Together they can still be wrong: a width may not be
    divisible by the number of heads. The function then fails somewhere, and the user is told which
    options were given.

    `fixed` and `known` do not come from the configuration.
    """
    try:
        return function(*fixed, **known, **options)
    except UserError as error:
        message, cause = str(error), None
    except (ImportError, OSError):  # of a package or file, not of an argument
        raise
    except Exception as error:
        # Sizes of a network that do not fit together fail in some tensor operation.
        reason = " ".join(str(error).split()).split("() ")[-1][:200] or "not possible"
        if "allocate memory" in reason:  # torch's words, from which nobody knows what to change
            reason = "its parameters take more memory than there is"
        given = ", ".join(f"{name} = {_shown(value)}" for name, value in options.items())
        message, cause = f"{reason} (given: {given[:300]})", error
    raise UserError(message if message.startswith("[") else f"{what}: {message}") from cause


def check(
    what: str, options: Mapping[str, Any], *functions: Callable, fixed: Sequence[str] = ()
) -> None:
    """Check names, types and ranges of the options of a table, before anything is built.

    Each option must be a parameter of one of the functions; the first that has it says which type
    and range are right, by the annotation or else by the default value. Parameters that are `fixed`
    may not be set.
    """
    kinds: dict[str, tuple[Any, Range]] = {}
    for function in functions:
        kinds = {**_kinds(function), **kinds}
    check_names(what, options, set(kinds) - set(fixed))
    for name, value in options.items():
        wanted = _problem(*kinds[name], value)
        if wanted is not None:
            must = f"must be {wanted}, got {_shown(value)}" if wanted else "cannot be set"
            raise UserError(f"{what}: {name} {must}".removeprefix(": "))


def check_names(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Check that all options of a table have known names."""
    known = sorted(known)
    for name in options:
        if name not in known:
            raise UserError(f"{what}: no option {name!r}{suggest(name, known)}")


def assigned(text: str) -> tuple[str, Any]:
    """Split "key=value" of a command line into the key and its TOML value, else text.

    Examples:
        >>> assigned("layers=4"), assigned("name=abc")
        (('layers', 4), ('name', 'abc'))
    """
    key, equals, value = text.partition("=")
    is_text = text.encode(errors="ignore").decode() == text
    if not equals or not key.strip() or not is_text:
        raise UserError(f"--set {text}: write it as key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return key.strip(), value.strip()


@cache
def _kinds(function: Callable) -> dict[str, tuple[Any, Range]]:
    """Find out what the parameters of a function or class may be."""
    made = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(made, include_extras=True)
    kinds = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            default = parameter.default
            guess = Any if default in (None, parameter.empty) else type(default)
            most = LARGEST_SIZES.get(name, LARGEST_SIZE)
            kinds[name] = hints.get(name, guess), Range(0, most, above=default != 0)
    return kinds


def _problem(kind: Any, bounds: Range, value: Any) -> str | None:
    """Compare a value with a type."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Annotated:
        return _problem(inner[0], inner[1], value)
    if origin in (Union, types.UnionType):
        problems = [_problem(k, bounds, value) for k in inner]
        return None if None in problems else " or ".join(dict.fromkeys(filter(None, problems)))
    if origin is Literal:
        fits = isinstance(value, str) and value in inner
        words = " or ".join(f'"{choice}"' for choice in inner)
    elif origin in (int, float):
        right, noun = (is_integer, "an integer") if origin is int else (is_number, "a number")
        fits, words = right(value) and value in bounds, f"{noun} {bounds}"
    elif origin in (str, Path):
        words = "text in quotes, without zero characters"
        fits = isinstance(value, str) and _usable(value)
    elif origin in (dict, Mapping):
        words = "a table of numbers and texts"
        fits = isinstance(value, Mapping) and _usable(value)
    elif inspect.isclass(origin) and issubclass(origin, Sequence):
        # Entries of a list may be 0 even if a single number may not.
        entry = partial(_problem, inner[0] if inner else Any, Range(0, bounds.most))
        length = len(inner) if origin is tuple and inner and Ellipsis not in inner else None
        is_list = isinstance(value, list | tuple) and length in (None, len(value))
        fits = is_list and all(entry(v) is None for v in value)
        each = entry(NOTHING)
        words = "a list" + (f" of {length}" if length else "") + (f", each {each}" if each else "")
    elif kind is Any:
        fits, words = not isinstance(value, Mapping) and _usable(value), ""
    else:
        fits = inspect.isclass(origin) and isinstance(value, origin)
        words = "true or false" if origin is bool else ""
    return None if fits else words


def _usable(value: Any) -> bool:
    """Check an option that has no range of its own, so that no file can ask for absurd sizes."""
    if isinstance(value, Mapping | list | tuple):
        return all(map(_usable, value.values() if isinstance(value, Mapping) else value))
    if isinstance(value, str):
        return "\0" not in value
    return not is_number(value) or value in Range(0, LARGEST_SIZE)


def _shown(value: Any) -> str:
    """Write a value for a message as TOML does, cut to 60 characters."""
    text = ("true" if value else "false") if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
