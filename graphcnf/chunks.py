"""Work on many items in chunks: in several processes where `graphcnf.compute` is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any


def chunked(items: Sequence, size: int) -> list:
    """Cut a sequence into consecutive slices of `size` items; the last one may have fewer.

    Args:
        items: The sequence, such as a list, a range or an array; none give no slices.
        size: Items of a slice, at least 1.
    """
    return [items[k : k + size] for k in range(0, len(items), size)]


def mapped(
    function: Callable, chunks: Sequence, *, workers: Any = None, label: str = ""
) -> list[Any]:
    """Return `[function(chunk) for chunk in chunks]`, computed by several processes.

    Where `graphcnf.compute` is not installed, this process computes everything.

    Args:
        function: A function at the top level of an importable module, or a `functools.partial` of
            one.
        chunks: Arguments; they and the results are pickled.
        workers: Number of processes, or a cluster of Dask; None for one process per available core.
        label: Text before a progress bar; "" for no bar.
    """
    if find_spec("graphcnf.compute") is None:
        return [function(chunk) for chunk in chunks]
    from graphcnf.compute.parallel import parallel_map

    return parallel_map(function, chunks, workers=workers, label=label)
