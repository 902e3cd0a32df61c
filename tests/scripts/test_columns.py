"""A measured column of one's own, from the file to molecules that are asked for by it."""

import json
from itertools import count
from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import Crippen

from graphcnf.chemistry.surrogate import surrogates_of
from graphcnf.datasets import load_smiles_file
from graphcnf.graphs import GraphModel
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.scripts.benchmarks import columns as benchmark
from graphcnf.scripts.finetune import _table
from graphcnf.training import conditioning
from graphcnf.training.finetuning import finetune


@pytest.fixture(scope="module")
def table(zinc_smiles):
    """Text of a file with a column that a package without logP could not compute."""
    rows = ["smiles,lipo,note"]
    for k, text in enumerate(zinc_smiles[:80]):
        value = "" if k % 4 == 3 else f"{Crippen.MolLogP(Chem.MolFromSmiles(text)):.3f}"
        rows.append(f"{text},{value},n.d.")
    return "\n".join(rows) + "\n"


@pytest.fixture
def mine(surroundings, table):
    Path("mine.csv").write_text(table)
    return "mine.csv"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, model_folder, table):
    """Model folder of a run that has learned the column for a few steps."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "mine.csv").write_text(table)
    flow = MoleculeFlow.from_pretrained(model_folder)
    data = load_smiles_file(folder / "mine.csv", columns=["lipo"])
    settings = {"steps": 2, "eval_steps": 2, "eval_batches": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conditioning, "SAMPLES", 50)
        result = finetune(flow, data, folder / "run", samples=60, settings=settings)
    return folder / "run", result


def test_the_run_reports_what_the_column_is_worth(tuned):
    folder, result = tuned
    (one,) = result.figures["columns"]
    assert one["name"] == "lipo" and one["molecules"] == 60
    assert one["range"][0] < one["mean"] < one["range"][1] and one["r2"] > 0.1
    assert set(one["covered"]) == {"50%", "80%", "95%"} and 0 <= one["outside"] <= 1
    assert any("surrogate of lipo, 60 molecules" in text.lower() for text in result.summary)
    pictures = [(folder / f"column-lipo{kind}").read_bytes() for kind in (".png", ".svg")]
    assert pictures[0].startswith(b"\x89PNG") and b"<svg" in pictures[1]


def test_the_table_says_of_which_samples_a_mean_is():
    figures = {
        "folds": 0, "evaluated": 9, "bits_per_molecule": {}, "bits_per_node": {}, "columns": [
            {"name": "lipo", "mean": 2.5, "target": 4.0, "without": 2.25, "asked": 3.5},
            {"name": "bare", "mean": 1.0},
        ],
    }  # fmt: skip
    rows = [[cell.strip() for cell in line.split("|")] for line in _table(figures).splitlines()]
    asked = next(row for row in rows if "lipo" in row[1])
    assert asked[2:5] == ["2.250", "3.500", "2.500"]
    assert "without and with lipo=4, predicted" in asked[1]
    assert next(row for row in rows if "bare" in row[1])[4] == "1.000"


def test_the_model_draws_by_the_column_alone(tuned):
    folder, _ = tuned
    flow = MoleculeFlow.from_pretrained(folder)
    (condition,) = flow.model.conditions
    assert condition["name"] == "lipo" and condition["deviation"] > 0
    assert len(surrogates_of(flow.model)["lipo"].smiles) == 60
    asked = [{"lipo": v} for v in (-3.0, 6.0)]
    low, high = (flow.sample(30, seed=1, properties=one, best_of=1).graphs for one in asked)
    assert low != high
    before = MoleculeFlow.from_pretrained(folder / "columns" / "start")
    assert not before.model.conditions
    plain = [one.sample(30, seed=1).graphs for one in (before, flow)]
    assert plain[0] == plain[1], "where no value is asked, nothing changes"


def test_commands_ask_for_it(run, refused, tuned):
    folder, _ = tuned
    asked = ("--property", "lipo=2", "--best-of", 3, "--require", "lipo > -2")
    out, err = run("generate", "--model", folder, "-n", 4, *asked)
    assert len(out.split()) >= 4
    assert "lipo=2 requested, mean" in err and "(as its surrogate predicts)" in err
    assert "lipo > -2" in err
    for command in (("grow", "--scaffold", "CC"), ("analogs", "OCCC", "--similar", 0.1),
                    ("analogs", "OCCC", "--similar", 0.2, "--keep", "skeleton")):  # fmt: skip
        command = (*command, "--model", folder, "-n", 2)
        out, _ = run(*command, "--property", "lipo=2", "--require", "lipo > -9")
        err = refused(*command, "--property", "lip=2")
        assert "not trained with 'lip', but lipo" in err


def test_a_file_predicts_for_a_model_without_the_column(run, refused, mine, model_folder):
    asked = ("generate", "--model", model_folder, "-n", 4, "--require", "lipo > -2")
    _, err = run(*asked, code=1)
    assert "no property 'lipo'" in err and "--surrogate FILE:lipo" in err
    _, err = run(*asked, "--surrogate", f"{mine}:lipo")
    assert "surrogate of lipo, 60 molecules: cross-validated R²" in err
    assert "write mine.csv:pIC50" in refused(*asked, "--surrogate", mine)
    err = refused(*asked, "--surrogate", f"{mine}:lipo", "--out", mine, "--force", code=2)
    assert "is an input file" in err
    _, err = run(
        "optimize", "--score", f"surrogate:{mine}:lipo:lower", "--budget", 30, "--workers", 0,
        "--model", model_folder, "--folder", "found",
    )  # fmt: skip
    assert "30 calls" in err


def test_a_bad_column_stops_before_anything_is_written(run, mine, model_folder):
    for column, message in {"note": "mine.csv, line 2: note is 'n.d.'", "logp": "rename"}.items():
        line = ("finetune", mine, "--weights", model_folder, "--learn", column, "--out", "run")
        _, err = run(*line, code=1)
        assert message in err and not Path("run").exists()


def test_a_preset_learns_columns_beside_properties(run, mine):
    Path("p.toml").write_text(
        '[model]\nproperties = ["weight"]\nwidth = 16\nlayers = 1\nheads = 2\n[data]\n'
        'name = "smiles_file"\npath = "mine.csv"\ncolumns = ["lipo"]\n'
        "[training]\nsteps = 2\nbatch_size = 8\nwarmup_steps = 0\n"
    )
    run("train", "p.toml", "--out", "run", "--threads", 1)
    model = GraphModel.from_pretrained("run")
    assert [table["name"] for table in model.conditions] == ["weight", "lipo"]
    assert set(surrogates_of(model)) == {"lipo"}


def test_the_benchmark(bench, model_folder, monkeypatch):
    monkeypatch.setattr(benchmark, "activity", lambda protein: Crippen.MolLogP)
    for name, value in {"POOL": 600, "CALLS": 10}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(conditioning, "SAMPLES", 50)
    ticks = count()
    monkeypatch.setattr(benchmark.time, "process_time", lambda: next(ticks))
    bench(
        "columns", "any", "--size", 60, "-n", 8, "--steps", 2, "--model", model_folder,
        "--out", "x.json",
    )  # fmt: skip
    rows = json.loads(Path("x.json").read_text())
    assert [row["method"] for row in rows] == [
        "no target", "95th percentile", "95th percentile, best of ten", "optimize",
    ]  # fmt: skip
    lines = Path("runs/columns/any-60-seed-0/column.csv").read_text().splitlines()
    assert lines[0] == "smiles,assay" and len(lines) == 61
    assert rows[3]["predicted"] > rows[0]["predicted"], "a search goes as high as it can"
