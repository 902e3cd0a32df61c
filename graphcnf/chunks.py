"""Work on many items in *chunks*, slices of a list, which several processes can take in turn."""

from __future__ import annotations

from collections.abc import Sequence


def chunked(items: Sequence, size: int) -> list:
    """Cut a sequence into consecutive slices of `size` items; the last one may have fewer.

    Examples:
        >>> chunked([1, 2, 3, 4, 5], 2)
        [[1, 2], [3, 4], [5]]
    """
    return [items[k : k + size] for k in range(0, len(items), size)]
