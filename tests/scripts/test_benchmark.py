import csv
import io
import shutil

import pytest

from graphcnf.scripts import benchmark
from graphcnf.scripts.cli import run


@pytest.fixture
def bench(capfd):
    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            run(benchmark.app, [str(a) for a in arguments], "benchmark")
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return caught.value.code or 0, out, err

    return call


def test_speed(bench, model_folder, small_zinc):
    arguments = ["speed", "--model", model_folder, "--steps", 2, "-n", 40, "--batch-size", 8,
                 "--repeats", 2]  # fmt: skip
    code, out, err = bench(*arguments)
    assert code == 0, err
    assert "training molecules/s" in out and "| tiny " in out
    code, out, _ = bench(*arguments, "--csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert code == 0 and float(row["training_molecules_per_second"]) > 0
    assert 0 < float(row["valid_molecules_per_second"]) < float(row["sampled_graphs_per_second"])
    assert float(row["peak_memory_mib"]) > 50 and int(row["parameters"]) > 1000


METRICS = """step,phase,minutes,samples_per_second,bits_per_node,bits_nodes
5,train,0.1,30,9.5,4
10,train,0.2,40,9.0,4
15,train,0.3,90,8.5,4
15,eval_raw,0.3,,8.2,4
15,eval,0.3,,8.125,3.5
"""


def test_presets_are_trained_and_compared(bench, model_folder, monkeypatch, surroundings):
    seen = []

    def train(preset, run, options):
        seen.append((preset, options))
        run.mkdir(parents=True)
        (run / "metrics.csv").write_text(METRICS)
        if preset == "a":
            shutil.copytree(model_folder, run / "model")

    monkeypatch.setattr(benchmark, "_train", train)
    arguments = ["train", "a", "b.toml", "--minutes", 0.5, "-n", 30, "--set", "x.y=1"]
    code, out, err = bench(*arguments)
    assert code == 0, err
    assert [preset for preset, _ in seen] == ["a", "b.toml"]
    assert seen[0][1] == ["--minutes", "0.5", "--seed", "0", "--set", "x.y=1"]
    assert "8.125" in out and "40.0" in out and "100.00 %" in out and "| b " in out
    code, _, _ = bench(*arguments, "--out", "t.csv")
    first, second = csv.DictReader((surroundings / "t.csv").open())
    assert first["connected"] == "1.0" and second["strict_validity"] == ""
    assert first["samples_per_second"] == "40.0" and first["bits_nodes"] == "3.5"


def test_errors(bench, monkeypatch):
    code, _, err = bench("train", "a", "--minutes", "-1")
    assert code == 2 and "greater than 0" in err
    code, _, err = bench("speed", "--model", "nosuch")
    assert code == 1 and "no model 'nosuch'" in err
    code, _, err = bench("speed", "--out", "x.json5")
    assert code == 2 and "must end in" in err


@pytest.mark.slow
def test_a_real_training_run(bench, zinc_smiles, surroundings):
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles))
    size = "{ width = 16, layers = 1, groups = 4 }"
    (surroundings / "tiny.toml").write_text(
        f"[model]\nnodes = {size}\nbonds = {size}\nadjacency_step = {size}\n"
        '[data]\nname = "smiles_file"\npath = "x.smi"\n'
        '[training]\nminutes = 9\naccelerator = "cpu"\n'
    )
    code, out, err = bench("train", "tiny.toml", "--minutes", 0.02, "-n", 20, "--csv")
    assert code == 0, err
    (row,) = csv.DictReader(io.StringIO(out))
    assert row["preset"] == "tiny" and float(row["bits_per_node"]) > 5
    assert row["samples"] == "20" and float(row["connected"]) == 1
