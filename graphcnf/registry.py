"""Tables from names to code that is imported when it is used, open to other packages.

- An *address* is the text "module:name", such as "graphcnf.graphs.pairs:PairsModel".
- A *registry* is a table from the short names that users write (of models, encodings, data sets,
  metrics, scores, commands) to addresses.
- An *entry point* is how another installed package adds a name to a registry, in its
  `pyproject.toml`:

      [project.entry-points."graphcnf.models"]
      my-model = "my_package.model:MyModel"

Files of data or models name such things by their short names alone: an address in a file is never
imported. The documentation describes each by the first paragraph of its docstring
(`docs/registries.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from graphcnf.errors import UserError, suggest


def load(address: str) -> Any:
    """Import the module of an address, and return its object, mostly a class or function.

    Args:
        address: "module:name". It must come from code or an entry point, never from a file: the
            module's code is run.
    """
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


class Registry(Mapping[str, Any]):
    """Mapping from short names to classes or functions, each imported when it is looked up.

    Args:
        kind: What the names stand for, in the plural, such as "models". Entry points of the group
            "graphcnf.models" are then in the registry, too.
        own: `{name: address}` of what this package has; an address is a text "module:name". An
            entry point of the same name is ignored.

    Examples:
        >>> table = Registry("examples", {"root": "math:sqrt"})
        >>> list(table), table["root"](9)
        (['root'], 3.0)
    """

    def __init__(self, kind: str, own: Mapping[str, str]):
        self.kind = kind
        self.own = dict(own)

    @cached_property
    def plugins(self) -> dict[str, EntryPoint]:
        """What other installed packages add, found once.

        Returns:
            `{name: entry point}`, without the names that this package has itself.
        """
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
        """Look up a name that a user gave, with an error message for users.

        Args:
            name: What the user gave, of any type.
            what: What it is the name of, for the message, such as "architecture".

        Returns:
            The class or function of this name.
        """
        if not isinstance(name, str) or name not in self:
            close = suggest(str(name), list(self))
            raise UserError(f"unknown {what} {name!r}{close}")
        return self[name]


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable, Callable, list[str]]:
    """Make a package import what it exports only when it is first used (PEP 562).

    Its `__init__` assigns the result: `__getattr__, __dir__, __all__ = lazy_names(__name__, ...)`.

    Args:
        package: Name of the package.
        modules: For each name that the package exports, its module, relative to the package, such
            as `{"Flow": "flow"}`.

    Returns:
        Three values, for `__getattr__`, `__dir__` and `__all__`: a function that imports a name; a
        function that lists the names; and the list of the names in the order of `modules`.
    """

    def import_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return load(f"{package}.{modules[name]}:{name}")

    return import_name, lambda: list(modules), list(modules)
