"""Work on many items in *chunks*, slices of a list, which several processes can take in turn.

The processes are those of the folder `graphcnf.compute`, which may be taken off the package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any


def chunked(items: Sequence, size: int) -> list:
    """Cut a sequence into consecutive slices of `size` items; the last one may have fewer.

    Args:
        items: The sequence, such as a list, a range or an array.
        size: Items of a slice, at least 1.

    Returns:
        The slices in order, of the class of `items`; an empty list if there are no items.

    Examples:
        >>> chunked([1, 2, 3, 4, 5], 2)
        [[1, 2], [3, 4], [5]]
    """
    return [items[k : k + size] for k in range(0, len(items), size)]


def mapped(
    function: Callable, chunks: Sequence, *, workers: Any = None, label: str = ""
) -> list[Any]:
    """Call a function for each of several chunks, by several processes.

    Where the folder `graphcnf.compute` is missing, this process computes everything.

    Args:
        function: Function of one chunk. It must be at the top level of an importable module, or a
            `functools.partial` of such a function, so that other processes find it.
        chunks: Arguments of the calls. They and the results are pickled.
        workers: Number of processes, or a cluster of Dask; None for one process per available core.
        label: Text before a progress bar; "" for no bar.

    Returns:
        `[function(chunk) for chunk in chunks]`, in this order.
    """
    if find_spec("graphcnf.compute") is None:
        return [function(chunk) for chunk in chunks]
    from graphcnf.compute.parallel import parallel_map

    return parallel_map(function, chunks, workers=workers, label=label)
