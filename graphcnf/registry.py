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

    The address must come from code or an entry point: the module's code is run.
    """
    module, _, name = address.partition(":")
    return getattr(import_module(module), name)


class Registry(Mapping[str, Any]):
    """Mapping from short names to classes or functions, each imported when it is looked up.

    The entry points of the group "graphcnf.models" are in the registry of the kind "models", too,
    unless `own`, `{name: address}` of this package, has the name.

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
        """What other installed packages add, found once: `{name: entry point}`."""
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
        """Look up a name that a user gave as `what`, such as "architecture"."""
        if not isinstance(name, str) or name not in self:
            close = suggest(str(name), list(self))
            raise UserError(f"unknown {what} {name!r}{close}")
        return self[name]


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable, Callable, list[str]]:
    """Make a package import what it exports only when it is first used (PEP 562).

    Its `__init__` assigns the result: `__getattr__, __dir__, __all__ = lazy_names(__name__, ...)`.

    The modules are relative to the package, such as `{"Flow": "flow"}`.
    """

    def import_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return load(f"{package}.{modules[name]}:{name}")

    return import_name, lambda: list(modules), list(modules)
