"""Metrics over the course of a training: the file `metrics.csv` of a run, and its curves.

- *Run*: one training of a model in a folder.
- *Row*: a line of the log, and of the file. Its `phase` says whether its metrics are of training
  batches ("train") or of held-out ones ("eval").
- *Headline*: the metric that the run minimises, such as "bits_per_node".
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from graphcnf.data_files import read_data
from graphcnf.errors import UserError, require
from graphcnf.file_reading import inside
from graphcnf.file_writing import replace_file, write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADLINES = ("bits_per_node", "bits_per_element", "bits_per_variable", "bits_per_dimension")
"""Metrics to minimise, in order of preference."""

NOT_DRAWN = ("step", "phase", "minutes", "beta", "samples_per_second", "skipped_steps")
"""Columns of `metrics.csv` that have no curve."""

FAR, GAP = 1.1, 2.0
"""Ratios above which the last held-out value is far behind the best one, and behind training."""

MOST_CURVES = 12
"""Curves of a picture, at most."""

FORMATS: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}}
"""Suffixes of pictures, and metadata for their files; SVG files are written without a date."""


class MetricsFile:
    """The file `metrics.csv` of a run, to which rows are appended.

    A row with new columns rewrites the whole file.

    Rows after `last_step`, from which the run goes on, are deleted, since it writes them again.
    """

    def __init__(self, path: Path, last_step: int):
        self.path, self.columns = path, list[str]()
        if path.exists():
            self.columns, rows = read_rows(path)
            self._write([row for row in rows if int(row["step"]) <= last_step])

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Replace the file by the names of the columns and the rows."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_file(self.path, buffer.getvalue().encode())

    def append(self, row: dict[str, object]) -> None:
        """Append one row, which has the column `step`, to the file."""
        further = [name for name in row if name not in self.columns]
        if further:
            rows = read_rows(self.path)[1] if self.columns else []
            self.columns += further
            self._write(rows)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writerow({name: figure(value, ".7g", "") for name, value in row.items()})


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read `metrics.csv` of a run, which may still be writing it; incomplete rows are left out."""
    try:
        text = read_data(path).decode(errors="replace")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: name the folder of a run") from None
    # A last line without a line end was cut by a kill, and is dropped.
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    columns = list(reader.fieldnames or [])
    whole = (row for row in reader if None not in row and None not in row.values())
    return columns, [row for row in whole if re.fullmatch("[0-9]{1,18}", row.get("step", ""))]


def figure(value: Any, form: str, missing: str) -> str:
    """Write a value of a row as text: a real number by `form`, or `missing` if it is not finite."""
    if isinstance(value, float):
        return format(value, form) if math.isfinite(value) else missing
    return "" if value is None else str(value)


@dataclass
class History:
    """Metrics over the course of a run, as a table with curves.

    A notebook shows it as its curves.

    Attributes:
        rows: A row for each line of the log, with the columns `step`, `phase` ("train" or "eval"),
            `minutes`, `learning_rate` and the metrics. Training metrics are means since the
            previous line. NaN where a row lacks a metric.
    """

    rows: pd.DataFrame

    @classmethod
    def read(cls, run: str | Path) -> History:
        """Return the history of a run, which may still be training."""
        path = inside(run, "metrics.csv")
        columns, found = read_rows(path)
        if not found or "phase" not in columns:
            raise UserError(f"{path}: no metrics of a run yet")
        rows = pd.DataFrame(found)
        numbers = rows.columns.drop("phase")
        rows[numbers] = rows[numbers].apply(pd.to_numeric, errors="coerce")
        return cls(rows)

    def overfitting(self, headline: str) -> str | None:
        """Say in one sentence that a run has memorised its training data; None if it has not.

        It has if the last held-out value of the headline is more than `FAR` (1.1) times the best
        one, or more than `GAP` (2) times the last training value. Values that are not above 0 are
        ignored, since their ratios say nothing (bits of a continuous density may be negative).
        """
        known = self.rows[self.rows[headline] > 0] if headline in self.rows else self.rows[:0]
        held_out, trained = (known[known["phase"] == phase] for phase in ("eval", "train"))
        if not len(held_out) or not len(trained):
            return None
        best = held_out.loc[held_out[headline].idxmin()]
        value, training = (part[headline].iloc[-1] for part in (held_out, trained))
        if value <= FAR * best[headline] and value <= GAP * training:
            return None
        passed = f" after {best[headline]:.3g} at step {best['step']:.0f}"
        return (
            f"The model memorises its training data: {headline} ends at {value:.3g} on held-out "
            f"batches{passed if value > best[headline] else ''}, {training:.3g} in training. "
            "keep_best keeps the best evaluation (one each eval_minutes or eval_steps), graphcnf "
            "finetune starts from trained weights, and more data help."
        )

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw the curves of up to 12 metrics that change, for training and held-out batches.

        The vertical axes fit the values after the first tenth of the steps, so early values may lie
        outside.
        """
        require("matplotlib", "a plot", "train")
        from matplotlib.figure import Figure

        kind = "" if path is None else Path(path).suffix.lower()
        if path is not None and kind not in FORMATS:
            raise UserError(f"{path}: write to a file that ends in {' or '.join(FORMATS)}")
        changes = self.rows.apply(lambda column: column.nunique() > 1 or column.count() == 1)
        drawn = [name for name in self.rows if name not in NOT_DRAWN and changes[name]]
        drawn.sort(key=lambda name: (name not in HEADLINES, name == "learning_rate"))
        if not drawn:
            raise UserError("the run has no metrics yet")
        drawn = drawn[:MOST_CURVES]
        columns = min(3, len(drawn))
        lines = -(-len(drawn) // columns)
        figure = Figure((4 * columns, 2.8 * lines), layout="constrained")
        for number, name in enumerate(drawn, 1):
            self._draw(figure.add_subplot(lines, columns, number), str(name))
        if path is not None:
            write_file(Path(path), picture_content(figure, kind))
        return figure

    def _repr_svg_(self) -> str:
        return picture_content(self.plot(), ".svg").decode()

    def _draw(self, axis: Axes, name: str) -> None:
        """Draw the curves of a metric, one for training and one for held-out batches."""
        for phase, label, style in (("train", "training", "-"), ("eval", "held out", "o-")):
            part = self.rows[(self.rows["phase"] == phase) & self.rows[name].notna()]
            # The learning rate is the same in both phases.
            if not len(part) or (name == "learning_rate" and phase == "eval"):
                continue
            # A single point has no line.
            axis.plot(part["step"], part[name], "o" if len(part) == 1 else style, ms=3, label=label)
        late = self.rows[name][self.rows["step"] >= self.rows["step"].max() / 10]
        if late.nunique() > 1:
            margin = (late.max() - late.min()) / 20
            axis.set_ylim(late.min() - margin, late.max() + margin)
        # Matplotlib would read a dollar sign as the start of a formula.
        axis.set_title(name.replace("_", " ").replace("$", r"\$"), fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines and name != "learning_rate":
            axis.legend(frameon=False, fontsize=8)


def picture_content(figure: Any, kind: str) -> bytes:
    """Return a matplotlib figure as the content of a file, with equal bytes for equal figures."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "graphcnf"}):
        figure.savefig(content, format=kind[1:], dpi=150, metadata=FORMATS[kind])
    return content.getvalue()
