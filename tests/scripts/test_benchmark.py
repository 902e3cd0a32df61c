"""Benchmarks: run folders, errors of options, goal-directed ones, MOSES, ZINC250k by its fold."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from graphcnf.datasets import zinc250k
from graphcnf.datasets.molecules import encode
from graphcnf.errors import UserError
from graphcnf.molecules.conventions import evaluate_records
from graphcnf.run_folder import claim
from graphcnf.scripts.benchmarks import moses, optimization
from graphcnf.scripts.benchmarks.runner import TrainedRun, train_all


def test_errors(bench):
    assert "greater than 0" in bench("systems", "a", "--minutes", "-1", code=2)[1]
    assert "'--seeds'" in bench("systems", "a", "--seeds", "1,x", code=2)[1]


def test_the_molecules_of_a_run(surroundings, zinc_smiles):
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles[:200]))
    config = surroundings / "config.toml"
    config.write_text('[data]\nname = "smiles_file"\npath = "x.smi"\n')
    assert len(TrainedRun(surroundings).molecules()) == 200
    config.write_text(config.read_text().replace("smiles_file", "images"))
    with pytest.raises(UserError, match="the data set 'images' holds no molecules"):
        TrainedRun(surroundings).molecules()


def test_a_training_that_was_killed_before_its_first_checkpoint_goes_on(surroundings, trained_here):
    preset, place = surroundings / "tiny.toml", surroundings / "runs" / "tiny" / "seed-0"
    config = {
        "model": {"width": 16, "couplings": 1},
        "data": {"name": "sets", "elements": 4},
        "training": {"accelerator": "cpu", "minutes": 0.003, "batch_size": 8, "eval_batches": 1},
    }
    preset.write_text(tomli_w.dumps(config))
    claim(place, "training")
    (place / "config.toml").write_text(tomli_w.dumps(config))
    (place / "metrics.csv").write_text("step,phase,minutes,bits_per_variable\n5,train,0.001,9\n")
    ((run,),) = train_all([str(preset)], [0], surroundings / "runs", 0.003)
    assert run.minutes() is not None and run.preset.training.clock == "cpu"


def test_pmo_beside_mol_ga(bench, model_folder):
    how = ["pmo", "--tasks", "qed,median1", "--budget", 60, "--model", model_folder]
    out, err = bench(*how)
    lines = out.splitlines()
    assert lines[2].startswith("| qed ") and lines[4].startswith("| sum of 2")
    assert "published" not in out and len(err.splitlines()) == 4
    results = sorted(Path("runs/pmo").glob("*/*/result.json"))
    assert len(results) == 4
    figures = [json.loads(p.read_text()) for p in results]
    assert {one["calls"] for one in figures} == {60}
    # Of the best of a search here, the model drew some, and genetic operators made others.
    drawn = [one["of_model"] for one in figures if "of_model" in one]
    assert len(drawn) == 2 and all(0 < share < 1 for share in drawn)
    assert "drawn by the model, of the 100 best" in lines[0]
    # Nothing is computed again, and it is nobody else's.
    assert bench(*how)[0] == out
    out, err = bench(*how, "--model", "zinc250k", code=1)
    assert not out and "graphcnf-60-seed-0 holds a run of another model" in err
    bench(*how, "--model", "zinc250k", "--methods", "mol_ga")
    how += ["--tasks", "qed", "--methods", "graphcnf", "--prescreen", 20]
    assert "| 20 " in bench(*how)[0]
    assert Path("runs/pmo/qed/graphcnf-60-seed-0-prescreen-20/result.json").exists()


def test_larger_molecules_of_mol_ga_score_0(bench):
    how = ["pmo", "--tasks", "qed", "--budget", 20, "--methods", "mol_ga"]
    for options, above in ([], True), (["--largest", 5], False):
        bench(*how, *options)
        place = Path("runs/pmo/qed") / ("mol_ga-20-seed-0" + "-within-5" * (not above))
        assert (json.loads((place / "result.json").read_text())["top"] > 0) == above


def test_guacamol_reads_the_searches_of_pmo(bench, model_folder):
    how = ["--budget", 20, "--model", model_folder]
    bench("pmo", "--tasks", "median1", "--methods", "graphcnf", *how)
    journal = Path("runs/pmo/median1/graphcnf-20-seed-0/calls.sqlite")
    before = journal.read_bytes()
    out, _ = bench("guacamol", "--tasks", "median1,isomers_c11h24", *how)
    assert journal.read_bytes() == before
    rows = out.splitlines()[2:]
    assert rows[0].startswith("| median1 ") and "1, 10, 100" in rows[0]
    assert rows[1].startswith("| isomers_c11h24 ") and rows[2].startswith("| sum of 2 ")
    # Of the 159 molecules that count, 139 are missing.
    assert 0 < json.loads(journal.with_name("guacamol.json").read_text())["score"] < 1
    isomers = Path("runs/pmo/isomers_c11h24/graphcnf-20-seed-0/guacamol.json")
    assert json.loads(isomers.read_text())["score"] <= 20 / 159


def test_molecules_are_improved_and_stay_similar(bench, model_folder, small_zinc, monkeypatch):
    monkeypatch.setattr(optimization, "MOLECULES", 2)
    monkeypatch.setattr(optimization, "zinc250k_source", zinc250k.zinc250k_source)
    how = ["-n", 1, "--budget", 30, "--model", model_folder, "--out", "x.json"]
    bench("constrained", "--similarities", "0,0.7", *how)
    rows = json.loads(Path("x.json").read_text())
    assert [row["threshold"] for row in rows] == [0, 0, 0.7]
    assert rows.pop(1)["method"] == "MoFlow (published)"
    assert {row["molecules"] for row in rows} == {1}
    gains = [row["improvement"] for row in rows]
    assert gains[0] > gains[1]


def test_figures_of_the_held_out_molecules_themselves(zinc_smiles, monkeypatch):
    monkeypatch.setattr(moses, "DISTANCES", ("snn", "scaf", "logp_w1"))
    monkeypatch.setattr(moses, "OF_THE_SET", ("int_div1",))
    monkeypatch.setattr(moses, "PROTOCOLS", {"official": 40, "graphs": 30})
    everything = encode("molecules", zinc_smiles[:60])
    dataset = replace(everything, test_indices=np.array([], dtype=int))
    held_out, known = dataset.smiles[:40], dataset.smiles[40:50]
    drawn = evaluate_records([*held_out[:20], held_out[0], *known[:5], "C.C", "C(C)(C)(C)(C)C"])
    references = {key: moses.describe(held_out, metrics=moses.DISTANCES) for key in moses.PARTS}
    found = dict(moses.figures(evaluate_records(held_out), dataset, references))
    assert list(found) == ["graphs", "official"]
    same = found["official"]
    assert same["valid"] == same["unique"] == 1 and same["novel"] == 0
    assert same["snn_test"] == same["scaf_testsf"] == pytest.approx(1)
    assert same["logp_w1_test"] == pytest.approx(0)
    assert "snn_test" not in found["graphs"]
    other = dict(moses.figures(drawn, dataset, references))["official"]
    assert other["valid"] == pytest.approx(26 / 28) and other["unique"] == pytest.approx(25 / 26)
    assert other["snn_test"] < 1


def test_fold_of_zinc250k(bench, small_zinc, model_folder, surroundings, monkeypatch):
    monkeypatch.setattr(moses, "FOLD", ("logp_w1",))
    monkeypatch.setattr(moses, "FOLD_SAMPLES", 40)
    (surroundings / "index.json").write_text(json.dumps(list(range(50))))
    bench("zinc_fold", "index.json", "--out", "x.csv")
    floor, *published = csv.DictReader(open("x.csv"))
    assert (floor["method"], floor["samples"]) == ("training data", "40")
    assert float(floor["validity"]) == float(floor["uniqueness"]) == 1 and floor["novelty"] == "0.0"
    assert 0 < float(floor["logp_w1"]) < 1
    assert len(published) > 10 and published[0]["method"] == "JT-VAE (published)"
    _, err = bench("zinc_fold", "index.json", model_folder, code=1)
    assert "not trained on the rows of ZINC250k outside index.json" in err
