"""Metrics of a run: sums over batches, and the file that keeps them."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from graphcnf.compute.files import read_file, replace_file
from graphcnf.errors import UserError


class MetricSums:
    """Sums of (numerator, denominator) pairs, kept on the device so that nothing waits for it."""

    def __init__(self) -> None:
        self.pairs: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, metrics: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        """Add the pairs of one batch, scalar tensors or Python numbers."""
        values = [value for pair in metrics.values() for value in pair]
        device = next((v.device for v in values if isinstance(v, Tensor)), torch.device("cpu"))
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
        for part in filter(None, parts):
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
        last_step: rows of later steps are dropped, as is a torn last line.
    """

    def __init__(self, path: Path, last_step: int):
        self.path, self.columns = path, list[str]()
        if path.exists():
            self._write([row for row in self._read() if int(row["step"]) <= last_step])

    def _read(self) -> list[dict[str, str]]:
        try:
            text = read_file(self.path).decode(errors="replace")
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from None
        # A kill while a line is being written leaves it without its line end.
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        self.columns = list(reader.fieldnames or [])
        whole = (row for row in reader if None not in row and None not in row.values())
        return [row for row in whole if re.fullmatch("[0-9]{1,18}", row.get("step", ""))]

    def _write(self, rows: list[dict[str, str]]) -> None:
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
            self._write(rows)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writerow({name: figure(value, ".7g", "") for name, value in row.items()})


def figure(value: Any, form: str, missing: str) -> str:
    """Return a value of a row as text, `missing` for a number that is not finite."""
    if isinstance(value, float):
        return format(value, form) if math.isfinite(value) else missing
    return "" if value is None else str(value)
