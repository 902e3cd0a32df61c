"""Progress bars, on terminals only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graphcnf.errors import printable


@contextmanager
def progress_bar(
    label: str, total: float, *, hidden: bool = False
) -> Iterator[Callable[..., None]]:
    """Context with a function `show(done, label=None)` that updates a bar on a terminal."""
    if hidden or not sys.stderr.isatty():
        yield lambda done, label=None: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(printable(label)), total=total)
        yield lambda done, label=None: bar.update(task, completed=done, description=label)
