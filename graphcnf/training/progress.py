"""What a run says on stderr: log lines, and on a terminal a progress bar under them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphcnf.errors import printable, say

if TYPE_CHECKING:
    from graphcnf.training.run import Run


LINE_SECONDS = 20.0
"""Seconds between two lines about an evaluation, where there is no bar."""


class RunProgress:
    """Log lines on stderr; a bar is drawn only where stderr is a terminal.

    Args:
        words: See `Experiment`.
        lines: Whether there are log lines.
    """

    def __init__(
        self,
        words: Callable[[dict[str, Any]], str | None] | None = None,
        lines: bool = True,
    ) -> None:
        self.words, self.lines = words, lines
        self.bar, self.told = None, time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True), transient=True, refresh_per_second=2)
            self.task = self.bar.add_task("training", total=1.0)

    def start(self, text: str) -> None:
        """Announce the run."""
        self._print(text)
        if self.bar is not None:
            self.bar.start()

    def update(self, progress: float, step: int, seconds: float) -> None:
        """Move the bar."""
        if self.bar is not None:
            text = f"step {step}, {seconds / 60:.1f} min"
            self.bar.update(self.task, completed=min(progress, 1.0), description=text)

    def evaluating(self, done: int, batches: int) -> None:
        """Show how far an evaluation is: on the bar, or now and then in a line."""
        text, now = f"held-out batch {done + 1} of {batches}", time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, description=text)
        elif done == 0:
            self.told = now
        elif now - self.told > LINE_SECONDS:
            self._print(text)
            self.told = now

    def stopped(self, name: str, step: int, folder: Path) -> None:
        """Say that a signal ended the run."""
        saved = f"saved step {step} to {folder}" if step else "stopped before the first step"
        self._print(f"{name}: {saved}")

    def line(self, row: dict[str, Any], headline: str) -> None:
        """Print a log line with every metric, the headline first, or in words."""
        if self.words is not None:
            text = self.words(row)
            if text is not None:
                self._print(text)
            return
        opening = ("step", "phase", "minutes", headline)
        names = [n for n in opening if n in row] + [n for n in row if n not in opening]
        self._print("  ".join(f"{n} {_short(row[n])}" for n in names if row[n] is not None))

    def stop(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _print(self, text: str) -> None:
        if not self.lines:
            return
        if self.bar is not None:
            shown = printable(text)
            self.bar.console.print(shown, markup=False, highlight=False, soft_wrap=True)
        else:
            say(text)


def opening(run: Run) -> str:
    """What is being trained, for how long and where."""
    settings = run.settings
    parameters = sum(p.numel() for p in run.model.parameters())
    budget = [f"{settings.minutes:g} minutes"] if settings.minutes else []
    budget += [f"{settings.steps} steps"] if settings.steps else []
    where = f", from step {run.step}" if run.step else ""
    if run.origin_steps:
        where += f", after {run.origin_steps} steps of an earlier run"
    devices = f"{run.fabric.world_size} x {run.fabric.device.type}"
    return (
        f"training {parameters:,} parameters on {devices}, {' or '.join(budget)}{where}"
        f" -> {run.out_dir}"
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}" if math.isfinite(value) else "-"
    return str(value)
