"""Progress bars, on terminals only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from graphcnf.messages import printable


@contextmanager
def progress_bar(
    label: str, total: float, *, hidden: bool = False
) -> Iterator[Callable[..., None]]:
    """Return a context with a progress bar, which is shown on a terminal only.

    Yields:
        Function `show(done, label=None)`. It sets the amount of work done so far, in the unit of
        `total`, and the text before the bar if `label` is given.
    """
    if hidden or not sys.stderr.isatty():
        yield lambda done, label=None: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(printable(label)), total=total)
        yield lambda done, label=None: bar.update(task, completed=done, description=label)
