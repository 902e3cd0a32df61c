"""Metrics of a run: sums over batches, the file and the loggers that keep them, lines on stderr."""

from __future__ import annotations

import csv
import io
import math
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.loggers import Logger, TensorBoardLogger
from torch import Tensor

from graphcnf.compute.files import inside, read_file, replace_file
from graphcnf.errors import UserError, printable, say

LINE_SECONDS = 20.0
"""Seconds between two lines about an evaluation, where there is no bar."""


class MetricSums:
    """Sums of (numerator, denominator) pairs, kept on the device so that nothing waits for it."""

    def __init__(self) -> None:
        self.pairs: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        """Add the pairs of one batch, scalar tensors or Python numbers."""
        values = [value for pair in metrics.values() for value in pair]
        device = next((v.device for v in values if isinstance(v, Tensor)), torch.device("cpu"))
        with torch.no_grad():
            row = [torch.as_tensor(v, dtype=torch.float32, device=device) for v in values]
            for name, pair in zip(metrics, torch.stack(row).view(-1, 2), strict=True):
                # A batch may lack a metric, or bring a further one.
                known = self.pairs.get(name)
                self.pairs[name] = pair if known is None else known.to(pair.device) + pair

    def means(self) -> dict[str, float]:
        """Return numerator over denominator per metric, NaN where the denominator is 0."""
        pairs = {name: pair.double().tolist() for name, pair in self.pairs.items()}
        return {name: top / bottom if bottom else math.nan for name, (top, bottom) in pairs.items()}

    def share(self) -> None:
        """Add the sums of all processes up, in every one of them."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        parts: list = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self.state_dict())
        self.pairs = {}
        for part in parts:
            if part:
                self.add({name: tuple(pair.tolist()) for name, pair in part.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums, for a checkpoint."""
        return {name: pair.cpu() for name, pair in self.pairs.items()}

    def load_state_dict(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Restore the sums; raises ValueError where a metric has other than two numbers."""
        if any(pair.shape != (2,) for pair in state.values()):
            raise ValueError("sums must be pairs of numbers")
        self.pairs = {str(name): pair.float().to(device) for name, pair in state.items()}


class MetricsFile:
    """A CSV file of metrics: one row per log line, written through at once.

    The columns are those of the first row; a later row with further ones rewrites the file.
    Lightning's `CSVLogger` deletes the file of an earlier run, so that none could go on.

    Args:
        path: the file; rows that it already holds are kept.
        last_step: rows of later steps are dropped, as the run goes on from this one; so is a torn
            last line.
    """

    def __init__(self, path: Path, last_step: int):
        self.path = path
        self.columns: list[str] = []
        self._rewrite([row for row in self._read() if int(row["step"]) <= last_step])

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        try:
            text = read_file(self.path).decode(errors="replace")
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from None
        # A kill while a line is being written leaves it without its line end.
        reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
        columns = next(reader, [])
        if "step" not in columns:
            return []
        self.columns, step = columns, columns.index("step")
        return [
            dict(zip(columns, row, strict=True))
            for row in reader
            if len(row) == len(columns) and re.fullmatch("[0-9]{1,18}", row[step])
        ]

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        if not self.columns:
            self.path.unlink(missing_ok=True)
            return
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_file(self.path, buffer.getvalue().encode())

    def append(self, row: dict[str, object]) -> None:
        """Write one row; it must have a `step`."""
        further = [name for name in row if name not in self.columns]
        if further:
            rows = self._read() if self.columns else []
            self.columns += further
            self._rewrite(rows)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writerow({name: _text(value, ".7g", "") for name, value in row.items()})


class RunLog:
    """Log lines on stderr; a progress bar under them is drawn only on a terminal.

    Args:
        words: See `Experiment`.
        lines: Whether there are log lines.
    """

    def __init__(
        self, words: Callable[[dict[str, Any]], str | None] | None = None, lines: bool = True
    ):
        self.words, self.lines = words, lines
        self.bar, self.told = None, time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True), transient=True, refresh_per_second=2)
            self.task = self.bar.add_task("training", total=1.0)

    def start(self, text: str) -> None:
        """Announce the run."""
        self.print(text)
        if self.bar is not None:
            self.bar.start()

    def update(self, progress: float, step: int, seconds: float) -> None:
        """Move the bar."""
        if self.bar is not None:
            text = f"step {step}, {seconds / 60:.1f} min"
            self.bar.update(self.task, completed=min(progress, 1.0), description=text)

    def evaluating(self, done: int, batches: int) -> None:
        """Show the progress of an evaluation, on the bar, or now and then in a line."""
        text, now = f"held-out batch {done + 1} of {batches}", time.monotonic()
        if self.bar is not None:
            self.bar.update(self.task, description=text)
        elif done == 0:
            self.told = now
        elif now - self.told > LINE_SECONDS:
            self.print(text)
            self.told = now

    def row(self, row: dict[str, Any], headline: str) -> None:
        """Print a line with every metric, the headline first, or in words."""
        if self.words is not None:
            text = self.words(row)
            if text is not None:
                self.print(text)
            return
        opening = ("step", "phase", "minutes", headline)
        names = [n for n in opening if n in row] + [n for n in row if n not in opening]
        shown = (f"{n} {_text(row[n], '.5g', '-')}" for n in names if row[n] is not None)
        self.print("  ".join(shown))

    def stop(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.lines:
            return
        if self.bar is not None:
            shown = printable(text)
            self.bar.console.print(shown, markup=False, highlight=False, soft_wrap=True)
        else:
            say(text)


def _text(value: Any, form: str, missing: str) -> str:
    if isinstance(value, float):
        return format(value, form) if math.isfinite(value) else missing
    return "" if value is None else str(value)


def loggers(names: list[str], out_dir: Path, step: int) -> list[Logger]:
    """Return the loggers of the run in a folder that goes on from `step`.

    Raises:
        UserError: the package of one of them is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise UserError(f'loggers = "{name}" needs its package: pip install {name}')
    make = {"tensorboard": _tensorboard, "wandb": _wandb}
    return [make[name](out_dir, step) for name in names]


def _tensorboard(out_dir: Path, step: int) -> Logger:
    inside(out_dir, "tensorboard")
    # Figures of later steps are taken back.
    return TensorBoardLogger(
        out_dir, name="", version="tensorboard", default_hp_metric=False, purge_step=step + 1
    )


def _wandb(out_dir: Path, step: int) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    # A run that goes on is the same one there.
    file = inside(out_dir, "wandb.id")
    known = read_file(file, 1000).decode(errors="replace").strip() if file.exists() else ""
    if not re.fullmatch("[0-9a-f]{8}", known):
        known = secrets.token_hex(4)
        replace_file(file, known.encode())
    inside(out_dir, "wandb")
    return WandbLogger(
        project="graphcnf", name=out_dir.name, save_dir=out_dir, id=known, resume="allow"
    )
