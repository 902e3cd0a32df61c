"""Pictures of the tables of docs/results.md, for light and dark pages.

No figure is written twice: the pictures are drawn from the cells of the page. A table is found by
the title of its section and by its number there; its cells are text without links and marks.

- *Panels* of a picture: its axes of matplotlib, one above the other.
- *Theme*: colours for a light or a dark page.
- Each picture is drawn by a function of the tables, the panels and the colours.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd

from graphcnf.errors import UserError, require
from graphcnf.file_writing import write_file
from graphcnf.messages import say
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).parents[2] / "docs"
THEMES = {
    "light": {"ink": "#30363d", "own": "#00796b", "rival": "#e07b00", "other": "#9aa4ae"},
    "dark": {"ink": "#d5dae1", "own": "#4db6ac", "rival": "#ffb04d", "other": "#77818c"},
}
"""Colours of each theme by role: "ink" for text and axes, "own" for this package, "rival" for the
SMILES LSTM, "other" for published models."""

INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
"""Settings of matplotlib that have the colour of text."""

REFERENCE = "train-vs-test reference"
EQUAL_TIME = "Beside a SMILES language model, at equal time"
SPLIT = "ZINC250k on the train-test split of the literature"

Colours = dict[str, str]


def figures(
    page: Annotated[Path, option("Page with the tables."), Role.FILE] = DOCS / "results.md",
    folder: Annotated[Path, option("Folder of the pictures."), Role.OUTPUT] = DOCS / "figures",
) -> None:
    """Draw two pictures of the tables of docs/results.md, as SVG for light and for dark pages.

    FCD against CPU minutes of training, and FCD beside published models.
    """
    require("matplotlib", "pictures", "train")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    tables = PageTables(page.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, (heights, draw) in PICTURES.items():
        for theme, colours in THEMES.items():
            # The salt makes the file the same in every run.
            style = {"font.size": 9, "svg.hashsalt": "graphcnf", "axes.facecolor": "none"}
            with rc_context(style | dict.fromkeys(INKED, colours["ink"])):
                figure = Figure(figsize=(4.4, sum(heights)), layout="constrained")
                grid = figure.subplots(len(heights), height_ratios=heights, squeeze=False)
                panels = list(grid[:, 0])
                for panel in panels:
                    panel.spines[["top", "right"]].set_visible(False)
                draw(tables, panels, colours)
                content, about = io.BytesIO(), {"Date": None, "Description": _drawn(panels)}
                figure.savefig(content, format="svg", transparent=True, metadata=about)
                write_file(folder / f"{name}-{theme}.svg", content.getvalue())
    say(f"{2 * len(PICTURES)} pictures in {folder}")


class PageTables(dict[tuple[str, int], pd.DataFrame]):
    """Tables of a page in Markdown: `tables[title of the section, number of the table there]`.

    Tables of a section are numbered from 0. Each is a DataFrame of plain text, whose first column
    is called `row`.

    Args:
        text: Text of the page.
    """

    def __init__(self, text: str):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", text)
        for section in text.split("\n## ")[1:]:
            found = re.findall(r"^\|.*\n(?:^\|.*\n)+", section, re.MULTILINE)
            title = section.partition("\n")[0]
            self.update({(title, k): _frame(lines) for k, lines in enumerate(found)})

    def __missing__(self, key: tuple[str, int]) -> pd.DataFrame:
        raise UserError(f"the page has no table {key[1] + 1} below {key[0]!r}")


def _frame(lines: str) -> pd.DataFrame:
    head, _, *rows = ([c.strip() for c in line[1:-1].split("|")] for line in lines.splitlines())
    return pd.DataFrame(rows, columns=["row", *head[1:]])


def numbers(cell: str) -> list[float]:
    """Return the numbers that the text of a cell contains, in their order.

    Args:
        cell: The text, in which "," separates thousands.
    """
    return [float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", cell)]


def _row(table: pd.DataFrame, start: str) -> pd.Series:
    """Find a row of a table."""
    rows = table[table["row"].str.startswith(start)]
    if rows.empty:
        raise UserError(f"no row {start!r} in a table of the page")
    return rows.iloc[0]


def _drawn(panels: list[Axes]) -> str:
    """Return the numbers of all lines and bars of a picture as text, to be stored in its file."""
    lines = [line.get_xydata().tolist() for axes in panels for line in axes.lines]
    bars = [round(bar.get_width(), 3) for axes in panels for bar in axes.patches]
    return f"{lines} {bars}"


def quality(tables: PageTables, panels: list[Axes], colours: Colours) -> None:
    """Draw FCD against CPU minutes of training, with the SMILES LSTM, on ZINC250k.

    Args:
        tables: Tables of docs/results.md.
        panels: One axes, which is drawn into.
        colours: Colour of each role, as in `THEMES`.
    """
    weights, trained = tables["What goes with which model", 0], tables[EQUAL_TIME, 0]
    points = [
        (
            numbers(row["CPU minutes"])[0],
            numbers(row["FCD"])[0],
            row["row"].replace("zinc", "preset zinc"),
        )
        for _, row in trained.iterrows()
    ]
    for name in ("zinc250k", "zinc250k-unordered"):
        row = _row(weights, name)
        minutes, distance = numbers(row["minutes of one core"])[0], numbers(row["FCD"])[0]
        points.append((minutes, distance, f"weights {name}"))
    best = numbers(_row(tables["The shipped weights", 0], REFERENCE)["FCD"])[0]
    _scatter(panels[0], points, best, colours)
    panels[0].set_title("ZINC250k", loc="left", weight="bold")
    panels[0].set_xlabel("CPU minutes of training, one thread")


def _scatter(
    axes: Axes, points: list[tuple[float, float, str]], best: float, colours: Colours
) -> None:
    """Draw FCD against minutes of training."""
    names = dict.fromkeys(name for _, _, name in points)
    for name, marker in zip(names, "osD^", strict=False):
        x, y = zip(*sorted((x, y) for x, y, own in points if own == name), strict=True)
        colour = colours["rival" if "LSTM" in name else "own"]
        line = "-" if len(x) > 3 else "none"
        axes.plot(x, y, color=colour, marker=marker, linestyle=line, label=name)
    axes.axhline(best, color=colours["ink"], linestyle="--", linewidth=1, label=REFERENCE)
    axes.set(xlim=(0, None), ylim=(0, None), ylabel="FCD (lower is better)")
    axes.legend(frameon=False, fontsize=8)


def fcd(tables: PageTables, panels: list[Axes], colours: Colours) -> None:
    """Draw bars of FCD beside published models, with the train-vs-test reference as a line.

    Args:
        tables: Tables of docs/results.md.
        panels: Axes, which are drawn into, one for each data set.
        colours: Colour of each role, as in `THEMES`.
    """
    for axes, table, title in (
        (panels[0], tables[SPLIT, 0], "ZINC250k, split of the literature"),
        (panels[1], tables["MOSES", 1], "MOSES, scaffold test set"),
    ):
        bars: dict[str, float] = {
            re.split(r" \(|,", row["row"])[0]: numbers(row["FCD"])[0]
            for _, row in table.iterrows()
            if not row["row"].startswith(REFERENCE)
        }
        bars = dict(sorted(bars.items(), key=lambda bar: bar[1]))
        _bars(axes, bars, "FCD (lower is better)", ".2f", colours)
        best = numbers(_row(table, REFERENCE)["FCD"])[0]
        axes.axvline(best, color=colours["ink"], linestyle="--", linewidth=1)
        axes.set_title(f"{title}\n", loc="left", weight="bold")
        axes.text(best, -0.65, f" {REFERENCE} {best:.2f}", va="bottom", fontsize=8)


def _bars(axes: Axes, bars: dict[str, float], label: str, form: str, colours: Colours) -> None:
    """Draw horizontal bars with their values."""
    values = sorted(bars.values())
    end = 1.2 * (values[-2] if values[-1] > 3 * values[-2] else values[-1])
    for place, (name, value) in enumerate(bars.items()):
        own = any(word in name for word in ("GraphCNF", "zinc250k", "moses"))
        role = "rival" if "LSTM" in name else "own" if own else "other"
        axes.barh(place, min(value, end), color=colours[role], height=0.7)
        cut = value > end
        text = f"{value:{form}} →" if cut else f" {value:{form}}"
        axes.text(min(value, end), place, text, va="center", ha="right" if cut else "left")
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set(xlim=(0, end), ylim=(len(bars) - 0.4, -0.6), xlabel=label)
    axes.tick_params(axis="y", length=0)


PICTURES: dict[str, tuple[tuple[float, ...], Callable[[PageTables, list[Axes], Colours], None]]] = {
    "quality": ((2.5,), quality),
    "fcd": ((2.6, 3.0), fcd),
}
"""Name of each picture, the heights of its panels in inches, and the function that draws them."""
