"""The language model of SMILES, systems side by side, and the codes of a model."""

import csv
import math

import numpy as np
import pytest
import torch

from graphcnf.datasets.molecules import encode
from graphcnf.errors import UserError
from graphcnf.scripts.benchmarks import smiles_lstm, systems, weights
from graphcnf.scripts.benchmarks.smiles_lstm import END, START, SmilesLSTM, bits_per_molecule, train


def test_probabilities_of_all_strings_sum_to_one_and_samples_follow_them():
    torch.manual_seed(0)
    model = SmilesLSTM(["C", "Cl"], hidden=8)
    with torch.no_grad():
        # Padding and start never follow, the string ends soon.
        model.out.bias[:2] = -1e9
        model.out.bias[END] = 1.0
        strings = [[]]
        for length in range(1, 9):
            strings += [s + [t] for s in strings if len(s) == length - 1 for t in (3, 4)]
        rows = [torch.tensor([START, *s, END]) for s in strings]
        p = torch.exp(-model.nats(rows).double())
    assert 0.97 < float(p.sum()) < 1
    drawn = list(model.sample(4000, seed=1))
    share = np.mean([s == "CCl" for s in drawn])
    expected = float(p[strings.index([3, 4])])
    assert abs(share - expected) < 5 * math.sqrt(expected / 4000)
    assert list(model.sample(4000, seed=1)) == drawn != list(model.sample(4000, seed=2))
    assert model.encode("ClC").tolist() == [START, 4, 3, END]


def test_training_lowers_the_bits_and_keeps_the_model(tmp_path, zinc_smiles, monkeypatch):
    monkeypatch.setattr(smiles_lstm, "BATCH", 16)
    monkeypatch.setattr(smiles_lstm, "RATE", 2e-2)
    data = encode("zinc250k", zinc_smiles)
    model = train(data, tmp_path / "lstm", minutes=0.04, seed=0)
    held_out = [data.smiles[k] for k in data.split("test")]
    torch.manual_seed(0)
    fresh = SmilesLSTM(model.config["tokens"])
    assert bits_per_molecule(model, held_out) < 0.9 * bits_per_molecule(fresh, held_out)
    again = SmilesLSTM.from_pretrained(tmp_path / "lstm")
    assert bits_per_molecule(again, held_out) == bits_per_molecule(model, held_out)
    assert again.metadata["training"]["minutes"] == pytest.approx(0.04, abs=0.03)
    with pytest.raises(UserError, match="no token"):
        bits_per_molecule(model, ["[Xe]"])


@pytest.mark.slow
def test_systems_are_trained_and_compared(
    bench, trained_here, zinc_smiles, surroundings, monkeypatch
):
    monkeypatch.setattr(systems, "METRICS", ["scaf"])  # others are columns like it
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles[:200]))
    common = '[data]\nname = "smiles_file"\npath = "x.smi"\n[training]\naccelerator = "cpu"\n'
    for name, model in (
        ("ours", "width = 16\nlayers = 1\nheads = 2\ntable_rows = 64"),
        ("other", 'architecture = "graphaf"\nwidth = 8\nlayers = 1\nrows = 2'),
    ):
        (surroundings / f"{name}.toml").write_text(f"[model]\n{model}\n{common}")
    how = ["-n", 20, "--held-out", 5, "--seeds", 3, "--language", "--folder", "runs"]
    arguments = ["systems", "ours.toml", "other.toml", "--minutes", 0.005, *how]
    bench(*arguments, "--out", "x.csv")
    assert (surroundings / "runs" / "ours" / "seed-3" / "metrics.csv").exists()
    ours, raw, checked, rival = rows = list(csv.DictReader(open("x.csv")))
    assert rival["model"] == "SMILES LSTM" and {row["seed"] for row in rows} == {"3"}
    for row in (ours, rival):
        assert float(row["minutes"]) == pytest.approx(0.005, abs=0.02)
        assert float(row["bits"]) > 30 and row["samples"] == "20"
        assert float(row["training_rate"]) > 0 and float(row["sampling_rate"]) > 0
    assert [row["model"] for row in (ours, raw)] == ["ours", "other"]
    assert checked["model"].endswith("not raw") and checked["strict_validity"] == "1.0"
    assert float(raw["strict_validity"]) < 1 == float(raw["reconstruction"])
    assert (raw["published_validity"], raw["temperature"]) == ("0.68", "0.6")
    assert checked["published_validity"] == ""  # that figure is of raw samples
    assert ours["published_validity"] == "" and ours["strict_validity"] == "1.0"
    # Nothing is trained again, and the table is no wider than a terminal.
    out, err = bench("systems", "ours.toml", "--minutes", 0.005, *how)
    assert "LSTM:" not in err
    lines = out.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["Model", "ours", "SMILES LSTM"]
    assert "| Scaf " in out and max(map(len, lines[: lines.index("")])) < 100
    assert "delete it" in bench("systems", "ours.toml", "--minutes", 0.2, *how, code=1)[1]


def test_codes_of_a_model(bench, model_folder, small_zinc, monkeypatch):
    monkeypatch.setattr(weights, "NUMBERINGS", (1, 8))
    monkeypatch.setattr(weights, "HELD_OUT", 5)
    few = ["-n", 60, "--reconstruct", 20, "--out", "x.csv"]
    bench("codes", "--model", model_folder, *few)
    rows = list(csv.DictReader(open("x.csv")))
    assert sum(float(r["share"]) for r in rows[:3]) == pytest.approx(1)
    assert float(rows[4]["bits"]) <= float(rows[3]["bits"])
    assert rows[5]["what"] == "come back in float64: all but 0 of 20" and rows[5]["share"] == "1.0"
