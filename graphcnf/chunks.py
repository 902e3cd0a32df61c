"""Work on many items in chunks: in several processes where `graphcnf.compute` is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from graphcnf.registry import load


def chunked(items: Sequence, size: int) -> list:
    """Return consecutive slices of `size` items."""
    return [items[k : k + size] for k in range(0, len(items), size)]


def mapped(
    function: Callable, chunks: Sequence, *, workers: Any = None, label: str = ""
) -> list[Any]:
    """Return `[function(chunk) for chunk in chunks]`.

    The arguments are those of `graphcnf.compute.parallel.parallel_map`, which does the work; where
    it is not installed, this process does.
    """
    if find_spec("graphcnf.compute") is None:
        return [function(chunk) for chunk in chunks]
    return load("graphcnf.compute.parallel:parallel_map")(
        function, chunks, workers=workers, label=label
    )
