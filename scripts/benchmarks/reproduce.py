"""Tables of the documentation, made again by the commands of their markers.

- *Marker*: a comment above a table in a page. Its first line has name and kind of the table, and
  about how many minutes of one core it takes; then come the commands that print its figures. The
  marker of a table that no command makes says why.
- *Figure*: a number in a cell.
- *Kind* of a table: "weights" for figures of shipped weights, "training" for those of a training or
  a search.
- *Other names*: where the output of a command names a row or column otherwise, an indented line
  below the command says how: `printed = output`. There, `a + b` are the figures of several rows or
  columns, `a & b` is the row that has both cells, and `-` is what no command prints.
- *Quick run*: with fewer samples or shorter trainings. A line "samples: 3000, quick 1000" says of
  how many samples the shares of a table are, in the page and in its quick run, where `-n` does not.
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import typer

from graphcnf.errors import UserError, suggest
from graphcnf.evaluation.layout import Column, text
from graphcnf.file_reading import expand_user
from graphcnf.messages import say
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts.benchmarks.runner import Out, write

ROOT = Path(__file__).parents[2]

MARKED = re.compile(r"(?:<!-- ((?:(?!-->)[\s\S])*?)\s*-->\n\n)?((?:^\|.*\n)+)", re.MULTILINE)
"""A table with the text of its marker, if there is one."""

HEAD = re.compile(r"table (?P<name>[\w-]+): (?P<kind>weights|training), (?P<minutes>\d+) minutes?")
QUICK, SLOW, COUNTED = "quick: ", "no quick: ", "samples: "
NUMBER = re.compile(r"([-−+]?(?:\d[\d,]*)?\.?\d+(?:e-\d+)?)(?: ± ([\d.]+(?:e-\d+)?))?")

REFERENCE = "train-vs-test reference"
SAME = {
    "training data through the same pipeline": REFERENCE,
    "training molecules": REFERENCE,
    "nspdk mmd": "nspdk",
    "bits/node": "bits per node",
    "bits/molecule": "bits per molecule",
}
"""Names of rows and columns in outputs, and how the pages call them."""

BIASED = r"\b(fcd|nspdk|frag|scaf)\b"
WIDE = "wasserstein|total variation"
"""Patterns of the names of metrics whose expectation depends on the number of samples. `allowed`
permits those of `WIDE` a larger difference."""

SAMPLES, SEEDS, ERRORS = 1000, 5, 3.0
"""Samples of each seed in a quick run, number of seeds, and standard errors that are allowed."""

LEAST = 0.03
"""Fewest minutes of a quick training: the first one in a process also loads parts of torch."""

FEWER = {
    "graphcnf evaluate ": " --reconstruct 20 --likelihood 20",
    "benchmarks systems ": " --held-out 20",
    "graphcnf train coloring-": " --set data.graphs=1000",
    "graphcnf finetune ": " --steps 10 -n 20",
    "benchmarks columns ": " --steps 10 -n 20",
}
"""Options that `quicker` adds to commands, by text that the command contains."""

SHARE = 0.1
"""Part of a printed figure by which a new one may differ if no standard error is known."""

COLUMNS: list[Column] = [
    ("Table", text("table")),
    ("Row", text("row")),
    ("Column", text("column")),
    ("Printed", text("printed", "{:.6g}")),
    ("Here", text("found", "{:.4g}")),
    ("Difference", text("difference", "{:+.2g}")),
    ("Allowed", text("allowed")),
    ("", text("verdict")),
]
LISTED: list[Column] = [
    ("Table", text("name")),
    ("Page", text("page")),
    ("Kind", text("kind")),
    ("Minutes", text("minutes")),
]

NOTE = (
    f"Allowed: three standard errors of the new figure, from {SEEDS} seeds or of a share; without "
    "seeds a tenth of the printed figure. Not compared: depends on the number of samples."
)

Cells = list[list[str]]
"""Rows of a table, the header first."""


class Table(NamedTuple):
    """A table of a page, with its marker.

    Attributes:
        page: File of the page, below the root of the repository.
        marker: Text of the comment above it, with its name and the commands that make it; ""
            without one.
        cells: The cells as Markdown, a list for each row, the header first.
    """

    page: str
    marker: str
    cells: Cells

    @property
    def head(self) -> dict[str, str]:
        """Name, kind and minutes of the table, from the first line of its marker.

        Returns:
            `{"name": ..., "kind": ..., "minutes": ...}`, all text; {} for a table that no command
            makes.
        """
        found = HEAD.fullmatch(self.marker.partition("\n")[0])
        return found.groupdict() if found else {}

    def commands(self, quick: bool) -> list[tuple[str, dict[str, str]]]:
        """Return the commands of the marker, and how their outputs name its rows and columns.

        Args:
            quick: True for those of a quick run, with fewer samples or shorter trainings: the lines
                with "quick: " if there are any, else all of them, made shorter by `quicker`. A line
                "no quick: why" is no command.

        Returns:
            For each command (command, `{printed name of a row or column: its name in the output}`).
        """
        found: dict[bool, list[tuple[str, dict[str, str]]]] = {False: [], True: []}
        for line in self.marker.split("\n")[1:]:
            if line.startswith((SLOW, COUNTED)):
                continue
            if not line.startswith(" "):
                own = line.startswith(QUICK)
                found[own].append((line.removeprefix(QUICK), {}))
                continue
            printed, _, there = line.rpartition(" = ")
            for one in printed.split(" | ") if there == "-" else [printed]:
                found[own][-1][1][label(one)] = there
        if quick and not found[True]:
            return [(quicker(command, self.head["kind"]), other) for command, other in found[False]]
        return found[quick]

    def samples(self, quick: bool) -> int:
        """Return the number of samples of which the table's shares are, for one seed.

        Args:
            quick: True for the number of a quick run.

        Returns:
            The number in the marker; without one the first `-n` of its commands; 1,000 (`SAMPLES`)
            if they have none.
        """
        counted = re.search(rf"^{COUNTED}(\d+), quick (\d+)$", self.marker, re.MULTILINE)
        if counted:
            return int(counted[2 if quick else 1])
        found = re.findall(r"-n (\d+)", " ".join(command for command, _ in self.commands(quick)))
        return int(found[0]) if found else SAMPLES

    def named_cells(self) -> Iterator[tuple[str, str, str]]:
        """Yield each cell of the table with the names of its row and column.

        Yields:
            (label of the row, label of the column, text of the cell), see `label`.
        """
        head, *rows = self.cells
        for row, *cells in rows:
            for title, cell in zip(head[1:], cells, strict=True):
                yield label(row), label(title), cell


def read_tables(page: str, content: str) -> list[Table]:
    """Return the tables of a page in Markdown, without those in blocks of code.

    Args:
        page: Name of the page.
        content: Its text.

    Returns:
        The tables in their order, also those without a marker.
    """
    content = re.sub(r"^```.*?^```", "", content + "\n", flags=re.MULTILINE | re.DOTALL)
    tables = []
    for marker, lines in MARKED.findall(content):
        head, _, *rows = ([c.strip() for c in x[1:-1].split("|")] for x in lines.splitlines())
        tables.append(Table(page, marker, [head, *rows]))
    return tables


def all_tables() -> list[Table]:
    """Return the tables of the README and of all pages in docs/, also those without a marker."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = [str(page.relative_to(ROOT)) for page in pages]
    return [x for name in names for x in read_tables(name, (ROOT / name).read_text("utf-8"))]


def label(cell: str) -> str:
    """Return the name of a row or column in the form in which names are compared.

    It is in lower case, without links, marks and numbers of samples.

    Args:
        cell: The name as Markdown. Names in `SAME` become those of the pages.
    """
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell)
    plain = re.sub(r"[`*]| of [\d,]+ samples|, [\d,]+ of .*", "", plain)
    plain = plain.replace("_", " ").strip().lower()
    return SAME.get(plain, plain)


def quicker(command: str, kind: str) -> str:
    """Shorten a command: a thousand samples of several seeds, or a hundredth of a training.

    Args:
        command: The command of a marker.
        kind: Kind of the table, "weights" or "training".

    Returns:
        The shorter command.
    """
    if kind == "weights":
        command = re.sub(r"-n \d{4,}", f"-n {SAMPLES}", command)
        seeds = ",".join(map(str, range(SEEDS)))
        if command.startswith("graphcnf evaluate"):
            command = re.sub(r"--seeds? \S+", f"--seeds {seeds}", command)
            if "--likelihood" not in command:
                command += " --reconstruct 200 --likelihood 200"
        return command
    whole = r"--(steps|budget|prescreen) (\d+)"
    command = re.sub(whole, lambda m: f"--{m[1]} {max(1, int(m[2]) // 100)}", command)
    part = r"--minutes (\S+)"
    command = re.sub(part, lambda m: f"--minutes {max(LEAST, float(m[1]) / 100):g}", command)
    command = re.sub(r"-n (\d+)", lambda m: f"-n {max(20, int(m[1]) // 100)}", command)
    return command + next((more for verb, more in FEWER.items() if verb in command), "")


Known = dict[str, list[Table]]
"""Tables of the commands that were run before, by command."""


def run(command: str, folder: Path, known: Known) -> list[Table]:
    """Run a command of a marker in a folder, unless it was run before.

    Args:
        command: The command; no shell reads it.
        folder: Folder in which it runs.
        known: `{command: tables that it printed}` of the commands so far; the new one is added.

    Returns:
        The tables that the command prints.
    """
    if command not in known:
        say(command)
        words = shlex.split(command)
        words[:1] = [sys.executable, *(["-m", "graphcnf"] if words[0] == "graphcnf" else [])]
        done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise UserError(f"exit code {done.returncode}: {command}")
        known[command] = read_tables(command, done.stdout)
    return known[command]


def found_cells(tables: list[Table], row: str, column: str) -> list[str]:
    """Return the texts of the cells at a row and a column, from all tables of an output.

    Args:
        tables: The tables; in some, rows and columns may be exchanged.
        row: Name of the row, one of its cells; "a & b" names the row whose first cells these
            are, since a figure further right may look like a seed.
        column: Name of the column.
    """
    found = []
    for head, *rows in (table.cells for table in tables):
        for names, title in ((row, column), (column, row)):
            wanted = [label(name) for name in names.split(" & ")]
            cut = len(wanted) if len(wanted) > 1 else None
            lines = [x for x in rows if set(wanted) <= set(map(label, x[:cut]))]
            found += [
                c for x in lines for h, c in zip(head, x, strict=True) if label(h) == label(title)
            ]
    return found


def figures(cell: str) -> list[tuple[float, float | None, float]]:
    """Return the figures of a cell, in their order; percentages as shares in [0, 1].

    Args:
        cell: The cell as Markdown, such as "1.23 ± 0.04".

    Returns:
        For each figure (value, sd, unit): its value; its standard deviation over seeds, at least
        `unit`, None if the cell has none; and half a unit of its last decimal.
    """
    scale = 0.01 if "%" in cell else 1.0
    cell = re.sub(r" of [\d,]+|\([^)]*\)|\[[^]]*\]", "", cell.replace("**", ""))
    found = []
    for value, sd in NUMBER.findall(cell):
        value = value.replace(",", "").replace("−", "-")
        digits, _, power = value.partition("e")
        unit = scale * 0.5 * 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
        found.append((float(value) * scale, max(float(sd) * scale, unit) if sd else None, unit))
    return found


class Measured(NamedTuple):
    """A figure that is printed in a page, and the new one; percentages are shares in [0, 1].

    Attributes:
        row: Printed name of the row.
        column: Printed name of the column.
        place: Number of the figure in its cell, from 0.
        printed: Value in the page.
        unit: Half a unit of its last decimal.
        share: True if it is a share of samples.
        found: The new value.
        sd: Standard deviation of the new value over seeds; None if it has none.
    """

    row: str
    column: str
    place: int
    printed: float
    unit: float
    share: bool
    found: float
    sd: float | None


Outputs = list[tuple[dict[str, str], list[Table]]]
"""Other names, and tables, of each command of a marker."""


def measure(table: Table, outputs: Outputs) -> tuple[list[Measured], list[str]]:
    """Look for the figures of a table in the outputs of its commands.

    A cell with several figures takes them from several commands, if one alone has too few.

    Args:
        table: The table.
        outputs: For each command its other names and the tables that it has printed.

    Returns:
        (found, lacking): the figures that were found; and the names of rows and columns that no
        output has, and "row, column" of single cells. What the marker leaves out by `-`, and
        published figures, are in neither.
    """
    found: list[Measured] = []
    lacking: list[tuple[str, str]] = []
    times = Counter[tuple[str, str]]()
    for row, column, cell in table.named_cells():
        times[row, column] += 1
        left = any(other.get(one) == "-" for other, _ in outputs for one in (row, column))
        if left or "published" in row + column or not figures(cell):
            continue
        new = sum((_new(row, column, *one, times[row, column] - 1) for one in outputs), [])
        if len(new) < len(figures(cell)):
            lacking.append((row, column))
        for k, ((old, _, unit), value) in enumerate(zip(figures(cell), new, strict=False)):
            found.append(Measured(row, column, k, old, unit, "%" in cell, *value[:2]))
    seen = {name for one in found for name in one[:2]}
    unseen = dict.fromkeys(name for pair in lacking for name in pair if name not in seen)
    return found, [*unseen, *(", ".join(pair) for pair in lacking if seen.issuperset(pair))]


def _new(
    row: str, column: str, other: dict[str, str], tables: list[Table], place: int
) -> list[tuple[float, float | None, float]]:
    """Return the figures of an output that a printed cell quotes, as `figures` returns them."""
    rows, columns = (other.get(one, one).split(" + ") for one in (row, column))
    cells = [found_cells(tables, one, title)[place:] for one in rows for title in columns]
    return [figures(x[0])[0] for x in cells if x and figures(x[0])]


def allowed(
    one: Measured, reference: Measured | None, here: int, there: int
) -> tuple[float, float] | None:
    """Return the bounds within which a printed figure must lie.

    A share has Wilson's interval at three standard errors. A figure with a deviation over seeds has
    the quantile of Student's distribution that is as rare. Any other figure may differ by a tenth
    of itself (`SHARE`).

    Some metrics depend on the number of samples (`BIASED`, `WIDE`). If there are fewer samples here
    than on the page, the new figure is first corrected by the train-vs-test references: that of the
    page is added, and that of this run subtracted. Each is measured on one set of molecules, so its
    own deviation widens the bounds. Wasserstein and total variation distances may then still differ
    by the reference of this run, by the triangle inequality.

    Args:
        one: The figure.
        reference: The same figure of training molecules; None if the table has none.
        here: Number of samples of a seed in this run.
        there: Number of samples of the printed figure.

    Returns:
        (lowest, highest) allowed value of the printed figure; None if it cannot be compared.
    """
    from scipy.stats import norm, t

    found, wide, sets = one.found, one.unit, 1 / SEEDS + here / there
    name = f"{one.row} {one.column}"
    far = re.search(WIDE, name)
    if here < there and (far or re.search(BIASED, name)):
        if reference is None or one is reference:
            return None
        found += reference.printed - reference.found
        wide += reference.found if far else 0.0
        sets += 1 + here / there
    if one.share:
        n = 1 / (1 / (here * (SEEDS if one.sd is not None else 1)) + 1 / there)
        part = ERRORS**2 / n
        middle = (found + part / 2) / (1 + part)
        wide += math.sqrt(part * found * (1 - found) + part**2 / 4) / (1 + part)
        return middle - wide, middle + wide
    if one.sd is None:
        wide += SHARE * abs(one.printed)
    else:
        wide += t.isf(norm.sf(ERRORS), SEEDS - 1) * one.sd * math.sqrt(sets)
    return found - wide, found + wide


def judge(table: Table, outputs: Outputs, quick: bool) -> Iterator[dict[str, Any]]:
    """Compare the figures of a table with new ones.

    Args:
        table: The table.
        outputs: For each command its other names and the tables that it has printed.
        quick: True if fewer samples were drawn than for the page.

    Yields:
        A row of the result for each figure, `{name in COLUMNS: value}`. Its "verdict" is "" for a
        figure within its bounds, "OUT" beyond them, "not compared" without bounds, and "not found"
        for a row or column that no output has.
    """
    found, lacking = measure(table, outputs)
    about = {"table": table.head["name"]}
    yield from ({**about, "row": name, "verdict": "not found"} for name in lacking)
    if quick and table.head["kind"] == "training":
        yield {**about, "row": f"{len(found)} figures", "verdict": "not measured again"}
        return
    here, there = table.samples(quick), table.samples(False)
    for one in found:
        beside = [other for other in found if len({*one[:3]} - {*other[:3]}) == 1]
        references = [x for x in [one, *beside] if REFERENCE in (x.row + x.column)]
        bounds = allowed(one, references[0] if references else None, here, there)
        row = {**about, **one._asdict(), "difference": one.found - one.printed}
        if bounds is None:
            yield {**row, "verdict": "not compared"}
        else:
            shown = f"{bounds[0]:.4g} to {bounds[1]:.4g}"
            inside = bounds[0] <= one.printed <= bounds[1]
            yield {**row, "allowed": shown, "verdict": "" if inside else "OUT"}


def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TABLE...", help="Tables.", show_default="all")
    ] = None,
    listed: Annotated[bool, option("Only list the tables.", "--list")] = False,
    quick: Annotated[
        bool, option("From 1,000 samples; trainings by a hundredth, for rows and columns.")
    ] = False,
    folder: Annotated[
        Path | None, option("Folder of the runs.", show_default="a new one"), Role.RUN
    ] = None,
    out: Out = None,
) -> None:
    """Make tables of the documentation again, and compare their figures with the printed ones.

    The exit code is 1 if a figure differs.
    """
    tables = {table.head["name"]: table for table in all_tables() if table.head}
    if listed:
        return write(out, [{**one.head, "page": one.page} for one in tables.values()], LISTED, [])
    for name in names or []:
        if name not in tables:
            raise UserError(f"no table {name!r} in the documentation{suggest(name, list(tables))}")
    if not (names or quick):
        raise UserError("name tables (--list), or give --quick for all of them")
    rows: list[dict[str, Any]] = []
    known: Known = {}
    with TemporaryDirectory(prefix="graphcnf-") as own:
        place = expand_user(folder or Path(own))
        place.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (place / "tests").symlink_to(ROOT / "tests")
        for name in names or tables:
            rows += _made(tables[name], quick, place, known)
    write(out, rows, COLUMNS, [NOTE])
    if any(row["verdict"] in ("OUT", "not found", "not run") for row in rows):
        raise typer.Exit(1)


def _made(table: Table, quick: bool, place: Path, known: Known) -> list[dict[str, Any]]:
    """Run the commands of a table, and compare its figures with theirs."""
    outputs: Outputs = []
    name = table.head["name"]
    slow = re.findall(f"^{SLOW}(.*)", table.marker, re.MULTILINE)
    if quick and slow:
        return [{"table": name, "row": slow[0], "verdict": "not compared"}]
    try:
        for command, other in table.commands(quick):
            outputs.append((other, run(command, place, known)))
    except UserError as error:
        return [{"table": name, "row": str(error), "verdict": "not run"}]
    return list(judge(table, outputs, quick))
