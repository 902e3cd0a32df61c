"""Tables from names to code that is imported when it is used, open to other packages.

An *address* is the text "module:name". A *registry* is a table from the short names that users
write (architectures, encodings, data sets, metrics, scores, commands) to addresses. An *entry
point* adds a name from another installed package, as in its `pyproject.toml`:

    [project.entry-points."graphcnf.models"]
    my-model = "my_package.model:MyModel"

Files name things by their short names alone: an address in a file is never imported. The first
paragraph of a thing's docstring describes it; docs/registries.py makes the tables of the
documentation from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from graphcnf.errors import UserError, suggest


def load(address: str) -> Any:
    """Return the object at an address, after importing its module.

    Args:
        address: "module:name", from code or an entry point; never from a file.
    """
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


class Registry(Mapping[str, Any]):
    """Things of one kind by their short names, each imported when it is looked up.

    Args:
        kind: Last part of the group of entry points: "models" for "graphcnf.models".
        own: Addresses of the package's own things by name. An entry point of the same name is
            ignored.
    """

    def __init__(self, kind: str, own: Mapping[str, str]):
        self.kind = kind
        self.own = dict(own)

    @cached_property
    def plugins(self) -> dict[str, EntryPoint]:
        """Entry points of other packages by name, without the package's own names."""
        found = entry_points(group=f"{__package__}.{self.kind}")
        return {point.name: point for point in found if point.name not in self.own}

    def __getitem__(self, name: str) -> Any:
        return load(self.own[name]) if name in self.own else self.plugins[name].load()

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self.plugins

    def __iter__(self) -> Iterator[str]:
        yield from (*self.own, *self.plugins)

    def __len__(self) -> int:
        return len(self.own) + len(self.plugins)

    def find(self, name: Any, what: str) -> Any:
        """Return the thing with a name that a user gave.

        Args:
            name: The name, of any type.
            what: What the name is of, for the message, such as "architecture".

        Raises:
            UserError: There is no such name; the message has the closest known one.
        """
        if not isinstance(name, str) or name not in self:
            close = suggest(str(name), list(self))
            raise UserError(f"unknown {what} {name!r}{close}")
        return self[name]


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable, Callable, list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` of a package that imports names on first use.

    With these functions at the top level of its `__init__`, the package imports a name's module
    when the name is first used (PEP 562).

    Args:
        package: Name of the package.
        modules: For each name that the package exports, its module, relative to the package.

    Returns:
        The two functions, and the names in the order of `modules`.
    """

    def import_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return load(f"{package}.{modules[name]}:{name}")

    return import_name, lambda: list(modules), list(modules)
