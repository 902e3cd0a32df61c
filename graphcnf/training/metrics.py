"""Sums of metrics over batches, and the metrics file of a run."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from graphcnf.compute.files import read_file, replace_file
from graphcnf.errors import UserError

if TYPE_CHECKING:
    from graphcnf.training.run import Run


class MetricSums:
    """Sums of (numerator, denominator) pairs, kept on the device so that nothing waits for it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None

    def add(self, metrics: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        """Add the pairs of one batch (scalars; Python numbers are welcome)."""
        values = [value for pair in metrics.values() for value in pair]
        device = next((v.device for v in values if isinstance(v, Tensor)), torch.device("cpu"))
        with torch.no_grad():
            row = torch.stack(
                [torch.as_tensor(v, dtype=torch.float32, device=device) for v in values]
            )
            if self.sums is not None and self.names == list(metrics):
                self.sums += row
            elif self.sums is None:
                self.names, self.sums = list(metrics), row
            else:
                self._add_other(list(metrics), row)

    def _add_other(self, names: list[str], row: Tensor) -> None:
        # A batch may lack a metric, or bring a further one: go by name.
        assert self.sums is not None
        merged = dict(zip(self.names, self.sums.view(-1, 2), strict=True))
        for name, pair in zip(names, row.view(-1, 2), strict=True):
            merged[name] = merged[name] + pair if name in merged else pair
        self.names, self.sums = list(merged), torch.stack(list(merged.values())).view(-1)

    def means(self) -> dict[str, float]:
        """Numerator over denominator per metric, NaN where the denominator is 0."""
        if self.sums is None:
            return {}
        pairs = self.sums.cpu().double().view(-1, 2).tolist()
        return {
            name: top / bottom if bottom else math.nan
            for name, (top, bottom) in zip(self.names, pairs, strict=True)
        }

    def share(self) -> None:
        """Add the sums of all processes up, in every one of them."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        parts: list = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self.state_dict())
        self.clear()
        for part in parts:
            if part["sums"] is not None:
                pairs = part["sums"].view(-1, 2).tolist()
                self.add(dict(zip(part["names"], pairs, strict=True)))

    def clear(self) -> None:
        """Forget everything."""
        self.names, self.sums = [], None

    def state_dict(self) -> dict:
        """The sums, for a checkpoint."""
        return {"names": list(self.names), "sums": None if self.sums is None else self.sums.cpu()}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Restore what `state_dict` gave; raises ValueError where that is none."""
        self.names = [str(name) for name in state["names"]]
        if state["sums"] is not None:
            if state["sums"].shape != (2 * len(self.names),):
                raise ValueError("sums of other metrics")
            self.sums = state["sums"].float().to(device)


@torch.no_grad()
def held_out(run: Run, limit: int) -> dict[str, float]:
    """Metrics of a run on its first `limit` held-out batches, with the same noise every time.

    Each process takes some of the batches; all get the same figures, up to rounding those of one.
    """
    sums, fabric = MetricSums(), run.fabric
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    run.model.eval()
    with torch.random.fork_rng(devices):
        for number, batch in enumerate(run.experiment.eval_batches()):
            if number >= limit:
                break
            if number % fabric.world_size != fabric.global_rank:
                continue
            key = np.random.SeedSequence((run.settings.seed, number))
            torch.manual_seed(int(key.generate_state(1)[0]))
            loss, metrics = run.objective(batch.to(fabric.device), 1.0, fabric.device)
            sums.add({"loss": (loss, 1.0), **metrics})
    run.model.train()
    sums.share()
    return sums.means()


class MetricsFile:
    """A CSV file of metrics: one row per log line, written through at once.

    The columns are those of the first row; a later row with further ones rewrites the file.

    Args:
        path: the file; rows that it already holds are kept.
        last_step: rows beyond this step are dropped, as the run resumes from it; so is a torn
            last line.
    """

    def __init__(self, path: Path, last_step: int):
        self.path = path
        self.columns: list[str] = []
        rows = [row for row in self._read() if int(row["step"]) <= last_step]
        self._rewrite(rows)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        try:
            text = read_file(self.path).decode(errors="replace")
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror}") from None
        # A kill while a line is being written leaves it without its line end.
        reader = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
        self.columns = next(reader, [])
        if "step" not in self.columns:
            self.columns = []
            return []
        rows = [dict(zip(self.columns, r, strict=True)) for r in reader if self._whole(r)]
        return rows

    def _whole(self, row: list[str]) -> bool:
        return len(row) == len(self.columns) and bool(
            re.fullmatch("[0-9]{1,18}", row[self.columns.index("step")])
        )

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
            writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else ""
    return value
