"""The figures of MOSES and of ZINC250k's fold on sets whose figures are known."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from graphcnf.datasets.molecules import encode
from graphcnf.molecules.validity import evaluate_records
from graphcnf.scripts.benchmarks import moses


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
    code, _, err = bench("zinc_fold", "index.json", "--out", "x.csv")
    assert code == 0, err
    floor, *published = csv.DictReader(open("x.csv"))
    assert (floor["method"], floor["samples"]) == ("training data", "40")
    assert float(floor["validity"]) == float(floor["uniqueness"]) == 1 and floor["novelty"] == "0.0"
    assert 0 < float(floor["logp_w1"]) < 1
    assert len(published) > 10 and published[0]["method"] == "JT-VAE (published)"
    code, _, err = bench("zinc_fold", "index.json", model_folder)
    assert code == 1 and "not trained on the rows of ZINC250k outside index.json" in err
