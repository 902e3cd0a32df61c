"""The `optimize` command."""

import csv
import io
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

import pytest
import torch
from rdkit import Chem
from torch_states import default

from graphcnf import file_writing
from graphcnf.chemistry.review import clusters_of
from graphcnf.datasets.smiles_file import read_smiles

SCORE = """
import os
from rdkit import Chem

def f(mol):
    smiles = Chem.MolToSmiles(mol)
    handle = os.open(os.environ["CALLED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (smiles + chr(10)).encode())
    os.close(handle)
    if mol.GetNumAtoms() == 3:
        raise ValueError("too" + chr(10) + "small")
    return mol.GetNumHeavyAtoms() + 0.01 * len(smiles)
"""
SMALL = [part for pair in ("batch=8", "first=16", "steps=1", "step_size=8")
         for part in ("--set", pair)]  # fmt: skip


@pytest.fixture
def score(surroundings, monkeypatch):
    (surroundings / "my.py").write_text(SCORE)
    monkeypatch.setenv("CALLED", str(surroundings / "called"))
    return "my.py:f"


def test_files_of_all_kinds_and_no_call_twice(run, model_folder, score, surroundings):
    how = ["optimize", "--score", score, "--budget", 40, "--model", model_folder, *SMALL,
           "--workers", 0, "--folder", "run"]  # fmt: skip
    out, err = run(*how, "-n", 5, "--save", "tuned")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 5
    assert [float(r["score"]) for r in rows] == sorted(float(r["score"]) for r in rows)[::-1]
    *notes, summary = err.splitlines()
    assert "40 calls, 40 of them now" in summary
    assert all(n.startswith("note: call ") and n.endswith(": ValueError: too small") for n in notes)
    called = (surroundings / "called").read_text().split()
    assert len(called) == len(set(called)) == 40
    for name in ("x.csv", "x.smi", "x.sdf", "x.jsonl.gz", "x.parquet"):
        out, err = run(*how, "--all", "--out", name)
        assert out == "" and "40 calls, 0 of them now" in err.splitlines()[-1]
    assert (surroundings / "called").read_text().split() == called
    table = list(csv.DictReader((surroundings / "x.csv").open()))
    assert len(table) == 40
    for name in ("x.smi", "x.csv", "x.parquet", "x.jsonl.gz"):
        assert read_smiles(name)[1] == [row["smiles"] for row in table]
    assert (surroundings / "x.sdf").read_text().count("$$$$") == 40
    assert sorted(p.name for p in surroundings.iterdir() if p.name.startswith(".")) == []
    # What a command writes, another one reads.
    out, _ = run("generate", "-n", 2, "--model", "tuned")
    assert len(out.split()) == 2
    out, _ = run("score", "x.sdf", "--model", "tuned", "--json")
    assert len([*map(json.loads, out.splitlines())]) == 40


def test_an_objective_may_have_the_name_of_a_column(run, model_folder, surroundings):
    (surroundings / "own.py").write_text("def charge(smiles):\n    return len(smiles) / 8\n")
    run(
        "optimize", "--score", "own.py:charge", "--budget", 20, "--model", model_folder, *SMALL,
        "--workers", 0, "--folder", "run", "--out", "x.parquet",
    )  # fmt: skip
    for row in pytest.importorskip("pyarrow.parquet").read_table("x.parquet").to_pylist():
        assert row["charge"] == row["score"] == len(row["smiles"]) / 8


def test_a_fragment_stays_and_filters_hold(run, refused, model_folder, surroundings):
    """All but the molecules of --start hold it as those of grow do; one of each cluster."""
    (surroundings / "start.smi").write_text("CCCCCC\nCO\n")
    core, fluorine = Chem.MolFromSmarts("[CX4H2](-[!#1])-[!#1]"), Chem.MolFromSmarts("F")
    common = ["optimize", "--score", "weight", "--model", model_folder, *SMALL, "--workers", 0,
              "--decorate", "[*:1]C[*:2]", "--exclude", "F"]  # fmt: skip
    first = [*common, "--budget", 16, "--folder", "first"]
    how = [*common, "--budget", 30, "--folder", "run", "--start", "start.smi"]
    for arguments, sources in ((first, {"model"}), (how, {"start", "genetic"})):
        out, err = run(*arguments, "--all")
        rows = list(csv.DictReader(io.StringIO(out)))
        assert sources <= {row["source"] for row in rows}
        for row in rows:
            mol = Chem.MolFromSmiles(row["smiles"])
            assert row["source"] == "start" or (
                mol.HasSubstructMatch(core) and not mol.HasSubstructMatch(fluorine)
            )
    assert {"CCCCCC", "CO"} == {row["smiles"] for row in rows if row["source"] == "start"}
    assert "note: 1 starting molecule without the fragment: CO" in err
    assert "of the proposals " in err and "without F " in err
    out = run(*how, "--best", 100)[0]
    best = [row["smiles"] for row in csv.DictReader(io.StringIO(out))]
    out, err = run(*how, "-n", 25)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 25 and "0 of them now" in err
    numbers = dict(zip(best, clusters_of(best), strict=True))
    assert [numbers[row["smiles"]] for row in rows] == [int(row["cluster"]) for row in rows]
    first = [s for k, s in enumerate(best) if numbers[s] not in map(numbers.get, best[:k])]
    assert 5 < len(first) < 25 and [row["smiles"] for row in rows[: len(first)]] == first
    clusters = [row["cluster"] for row in rows]
    ranks = [clusters[:k].count(cluster) for k, cluster in enumerate(clusters)]
    assert ranks == sorted(ranks)  # then the next best of each
    assert first[:5] != best[:5]
    assert "other options" in refused(*how, "--exclude", "Cl")


def test_a_prescreen_chooses_what_to_start_from(run, refused, surroundings, zinc_smiles):
    (surroundings / "library.smi").write_text("\n".join(zinc_smiles[:120]))
    how = ["optimize", "--score", "qed", "--budget", 105, "--workers", 0, "--all"]
    out, err = run(*how, "--prescreen", "library.smi")
    assert "prescreened 120 molecules" in err and "5 of them now" in err
    rows = list(csv.DictReader(io.StringIO(out)))
    scores = [float(row["score"]) for row in rows if row["source"] == "start"]
    assert len(scores) == 100 and scores == sorted(scores, reverse=True)
    (surroundings / "library.smi").write_text("CCO\nC1CC\n")
    err = refused(*how, "--prescreen", "library.smi")
    assert err.splitlines()[-1].startswith("error: library.smi, line 2")


def test_a_model_that_cannot_be_optimised_is_refused_before_the_prescreen(refused, surroundings):
    (surroundings / "library.smi").write_text("CCO\n")
    how = ["--score", "qed", "--model", "zinc250k-unordered", "--prescreen", "library.smi"]
    assert "optimisation need a model that draws atom by atom" in refused("optimize", *how)
    assert not (surroundings / "runs").exists()


@pytest.mark.parametrize("how", [["--stereo"], ["--start", "marked.smi"]])
def test_a_prescreen_in_a_search_for_isomers_scores_isomers(run, surroundings, how):
    isomers = ["C[C@H](N)CO", "C[C@@H](N)CO"]
    (surroundings / "library.smi").write_text("\n".join(isomers))
    (surroundings / "marked.smi").write_text("C[C@H](F)Cl")
    options = ["--score", "qed", "--budget", 3, "--workers", 0, "--all", "--folder", "run"]
    out, _ = run("optimize", *options, "--prescreen", "library.smi", *how)
    found = {row["smiles"] for row in csv.DictReader(io.StringIO(out))}
    assert set(map(Chem.CanonSmiles, isomers)) <= found


def test_a_prescreen_with_a_model_without_stereo_is_not_scored_again(run, surroundings):
    (surroundings / "library.smi").write_text("C[C@H](N)CO\nCCO")
    (surroundings / "marked.smi").write_text("C[C@H](F)Cl")
    options = ["--model", "moses", "--score", "qed", "--budget", 3, "--workers", 0]
    given = ["--prescreen", "library.smi", "--start", "marked.smi"]
    assert "3 calls, 1 of them now" in run("optimize", *options, *given)[1]


def test_the_first_of_each_cluster():
    esters = ["CCCCCCC(=O)OC", "CCCCCCCC(=O)OC", "CCCCCCCCC(=O)OC"]
    rings = ["c1ccc(CCCCCCc2ccccn2)cc1", "c1ccc(CCCCCCCc2ccccn2)cc1"]
    assert clusters_of([*esters, "N#N", *rings]) == [1] * 3 + [2] + [3] * len(rings)
    assert clusters_of([rings[0], *esters, rings[1]]) == [1, 2, 2, 2, 1]
    assert clusters_of([]) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again(run, model_folder, score, surroundings, monkeypatch):
    """Kill -9 at two moments: the same file as without, and every call made once."""

    def arguments(name, workers):
        return ["optimize", "--score", score, "--budget", 40, "--model", model_folder, *SMALL,
                "--workers", workers, "--folder", name, "--all", "--out",
                f"{name}.csv"]  # fmt: skip

    def answers(folder):
        with suppress(sqlite3.OperationalError):
            database = sqlite3.connect(f"file:{folder}/calls.sqlite?mode=ro", uri=True)
            with closing(database):
                return database.execute("SELECT count(*) FROM answers").fetchone()[0]
        return 0

    run(*arguments("whole", "0"))
    monkeypatch.setenv("CALLED", str(surroundings / "broken.called"))
    for calls in (4, 18):
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                run(*arguments("broken", "1"))
            os._exit(1)
        while answers(Path("broken")) <= calls:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended by itself"
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run(*arguments("broken", "0"))
    assert Path("broken.csv").read_bytes() == Path("whole.csv").read_bytes()
    called = Path("broken.called").read_text().split()
    assert len(called) == len(set(called)) == 40


def test_a_score_that_always_fails_is_no_success(run, model_folder, surroundings):
    (surroundings / "bad.py").write_text("def f(mol):\n    raise RuntimeError('no licence')\n")
    how = ["--score", "bad.py:f", "--budget", 3, "--workers", 0, "--model", model_folder, *SMALL]
    _, err = run("optimize", *how, "--out", "x.csv", code=1)
    assert Path("x.csv").exists()
    assert "all 3 calls failed, the first with: RuntimeError: no licence" in err.splitlines()[-1]


@pytest.mark.parametrize(("most", "file"), [(2 << 10, "run/"), (20 << 10, "run/calls.sqlite: ")])
def test_a_full_disk_is_one_line(run, model_folder, score, surroundings, most, file):
    """No file may grow beyond a few KB, as on a full disk: not at the start, or in the middle."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        _, err = run(
            "optimize", "--score", score, "--model", model_folder, "--budget", 300, "--folder",
            "run", "--workers", 0, *SMALL, code=1,
        )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert err.splitlines()[-1].startswith(f"error: {file}")


def test_the_model_may_be_saved_in_the_run_and_again_by_the_same_command(
    run, refused, model_folder, surroundings
):
    how = ["optimize", "--score", "qed", "--model", model_folder, *SMALL, "--workers", 0]
    for folder, save in (("q", "q/model"), ("run", "tuned"), ("made/q", "made/q/deep/model")):
        command = [*how, "--folder", folder, "--save", save, "--budget"]
        assert "24 of them now" in run(*command, 24)[1]
        first = {p.name: p.read_bytes() for p in Path(save).iterdir()}
        # The same command makes no call, and leaves the same model.
        assert "0 of them now" in run(*command, 24)[1]
        assert {p.name: p.read_bytes() for p in Path(save).iterdir()} == first
    # A larger budget goes on, and the model is that of the end.
    assert "76 of them now" in run(*command, 100)[1]
    assert {p.name: p.read_bytes() for p in Path(save).iterdir()} != first
    run("generate", "--model", "q", "-n", 2)
    # What another command has put there since is kept, and nothing is called.
    other = [*how, "--folder", "other", "--save", "tuned", "--budget", 24]
    shutil.copytree(model_folder, "q/model", dirs_exist_ok=True)
    for command in (other, [*how, "--folder", "q", "--save", "q/model", "--budget", 50]):
        before = {p: p.read_bytes() for p in surroundings.rglob("*") if p.is_file()}
        assert f"{command[-3]} exists: choose another --save" in refused(*command)
        assert {p: p.read_bytes() for p in surroundings.rglob("*") if p.is_file()} == before
    err = refused(*how, "--folder", "new", "--save", "new", "--budget", 24)
    assert "new is the folder of the run: save to one in it, as new/model" in err
    assert not Path("new").exists()


def test_a_model_whose_saving_was_killed_is_saved_again(
    refused, run, model_folder, surroundings, monkeypatch
):
    command = ["optimize", "--score", "qed", "--model", model_folder, *SMALL, "--workers", 0,
               "--folder", "q", "--save", "q/model", "--budget", 24]  # fmt: skip
    whole = file_writing.replace_file

    def killed(path, content):
        if path.name == "config.json":
            raise OSError(28, "No space left on device", str(path))
        whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(file_writing, "replace_file", killed)
        refused(*command)
    assert os.listdir("q/model") and not Path("q/model/config.json").exists()
    assert "0 of them now" in run(*command)[1]
    assert Path("q/model/config.json").exists()


LOUD = """
import os, subprocess, sys, tempfile, torch
print("noise at the start")
os.chdir(tempfile.gettempdir())

def f(mol):
    print("noise")
    os.write(1, b"more noise")
    subprocess.run(["echo", "foreign noise"])
    os.chdir(folder := tempfile.mkdtemp())
    os.rmdir(folder)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    return mol.GetNumHeavyAtoms()
"""


def test_a_score_that_prints_and_changes_folder_and_torch_changes_no_output(
    run, model_folder, surroundings
):
    (surroundings / "loud.py").write_text(LOUD)
    (surroundings / "plain.py").write_text("def f(mol):\n    return mol.GetNumHeavyAtoms()\n")
    found = {}
    for name in ("plain", "loud"):
        how = ["optimize", "--score", f"{name}.py:f", "--budget", 12, "--model", model_folder,
               *SMALL, "--workers", 0, "--folder", f"run-{name}"]  # fmt: skip
        with default(torch.float32), torch.enable_grad():
            out, err = run(*how)
            assert Path.cwd() == surroundings
            run(*how, "--out", f"{name}.csv")
        assert (surroundings / f"{name}.csv").read_text() == out
        found[name] = out
    assert found["loud"] == found["plain"] and "noise" in err


SLOW = """
import os, time

def f(mol):
    handle = os.open(os.environ["CALLED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, b"x")
    os.close(handle)
    time.sleep(0.2)
    return 1.0 / mol.GetNumHeavyAtoms()
"""


@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 2)]
)
def test_what_interrupts_says_that_the_same_command_goes_on(
    run, refused, model_folder, surroundings, monkeypatch, number, code, workers
):
    (surroundings / "slow.py").write_text(SLOW)
    monkeypatch.setenv("CALLED", str(called := surroundings / "called"))
    how = ["optimize", "--score", "slow.py:f", "--budget", 16, "--model", model_folder, *SMALL,
           "--workers", workers, "--folder", "run"]  # fmt: skip

    def interrupt():
        while not (called.exists() and len(called.read_text()) > 4):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    Thread(target=interrupt, daemon=True).start()
    (line,) = refused(*how, code=code).splitlines()
    made = re.fullmatch(
        r"note: interrupted after (\d+) calls?, kept in run: the same command goes on from there",
        line,
    )
    assert made and int(made[1]) < 16
    out, err = run(*how)
    assert "16 calls, " in err.splitlines()[-1]
    # The call under way at the signal is made again in the main process, else it is kept.
    assert len(called.read_text()) <= 16 + (workers == 0)


def test_routes_and_a_page(run, model_folder, surroundings):
    program = "import json, sys\nfor s in map(str.strip, sys.stdin):\n"
    program += "    print(json.dumps(dict(smiles=s, solved=len(s) > 8, steps=2)), flush=True)\n"
    (surroundings / "routes.py").write_text(program)
    how = ["optimize", "--score", "weight", "--budget", 20, "--model", model_folder, *SMALL,
           "--workers", 0, "--folder", "run",
           "--routes", f"{sys.executable} routes.py"]  # fmt: skip
    out, err = run(*how, "--html", "p.html")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["route_solved"] for row in rows} <= {"True", "False"}
    assert {row["route_steps"] for row in rows} == {"2"}
    solved = sum(row["route_solved"] == "True" for row in rows)
    assert f"{solved:,} of {len(rows)} molecules have a synthesis route" in err
    assert all((row["route_solved"] == "True") == (len(row["smiles"]) > 8) for row in rows)
    page = (surroundings / "p.html").read_text()
    assert page.count('data-name="route solved"') == len(rows) and "best score" in page
    # A command that fails: the table is written, the error is one line.
    (surroundings / "routes.py").write_text("import sys\nsys.exit('no stock')\n")
    how[-1] += " again"
    out, err = run(*how, "--out", "x.jsonl", code=1)
    assert "exit code 1: no stock; everything else is written" in err.splitlines()[-1]
    assert len((surroundings / "x.jsonl").read_text().splitlines()) == len(rows)
