import csv
import io
import json
import shutil

import numpy as np
import pytest
import tomli_w

from graphcnf.datasets import references
from graphcnf.datasets.smiles_file import load_smiles_file
from graphcnf.evaluation import measures
from graphcnf.graphs.symmetry import labelling_bits
from graphcnf.molecules.distributions import METRICS, Metric, SetStatistics
from graphcnf.molecules.metrics import CONVENTIONS, evaluate_records
from graphcnf.pretrained import config_file
from graphcnf.scripts.benchmarks import curves, scorer, speed
from graphcnf.scripts.benchmarks.runs import TrainedRun, find_runs, run_names
from graphcnf.scripts.benchmarks.tables import DATA
from graphcnf.scripts.evaluation import named_data

STEPS = (5, 10, 15)


@pytest.fixture
def make_run(model_folder, surroundings, zinc_smiles):
    """Write a run of 15 steps and 30 minutes that went on from one of 100 steps and 60 minutes."""
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles[:200]))
    smaller = {"batch_size": 1, "eval_batches": 1, "final_eval_batches": 2}

    def make(name, seed=0, minutes=30, order="canonical", data=None):
        place = surroundings / name
        place.mkdir(parents=True)
        config = {
            "model": {"order": order},
            "data": {"name": "smiles_file", "path": "x.smi", **(data or {})},
            "training": {"minutes": minutes, "seed": seed, **smaller},
        }
        (place / "config.toml").write_text(tomli_w.dumps(config))
        lines = ["step,phase,minutes,samples_per_second,bits_per_node,bits_per_molecule"]
        lines += [f"{step},train,{2 * step},{step},9,90" for step in STEPS]
        lines += [f"{step},eval,{2 * step},,{8 - step / 10},{100 - step}" for step in STEPS]
        (place / "metrics.csv").write_text("\n".join(lines) + "\n15,eval,3")
        for step in STEPS:
            save(place / "snapshots" / f"{step:08d}", step)
        save(place / "model", 15)
        shutil.copy(model_folder / "training_hashes.safetensors", place / "model")
        return place

    def save(folder, step):
        folder.mkdir(parents=True)
        shutil.copy(model_folder / "model.safetensors", folder)
        content = json.loads((model_folder / "config.json").read_text())
        content["metadata"]["training"] = {
            "steps": 100 + step,
            "minutes": 60 + 2 * step,
            "held_out": {"bits_per_node": 8 - step / 10, "bits_per_molecule": 100 - step},
        }
        (folder / "config.json").write_bytes(config_file(content))

    return make


@pytest.fixture
def sampled(monkeypatch):
    """Seeds of the samples that were drawn, in this process."""
    seeds, draw = [], scorer.score_part

    def counted(device, task):
        seeds.append(task[2])
        return draw(device, task)

    monkeypatch.setattr(scorer, "score_part", counted)
    return seeds


def table(text):
    """Rows of the models."""
    rows = list(csv.DictReader(io.StringIO(text)))
    return [row for row in rows if not row.get("variant", row.get("run")).startswith(DATA)]


def test_report(bench, make_run, sampled, surroundings):
    make_run("all/a/seed-0")
    make_run("all/a/seed-1", seed=1)
    make_run("all/b")
    code, out, err = bench("report", "all", "-n", 30, "--csv")
    assert code == 0, err
    first, second = table(out)
    assert (first["variant"], first["seeds"]) == ("a", "0,1")
    assert (second["variant"], second["seeds"]) == ("b", "0")
    # Time and steps of the run that it went on from count.
    assert second["minutes"] == "90.0" and second["steps"] == "115"
    assert second["bits_per_node"] == "6.5" and second["samples_per_second"] == "10.0"
    assert first["strict_validity"] == second["strict_validity"] and first["novelty"] != ""
    assert len(sampled) == 3
    data = list(csv.DictReader(io.StringIO(out)))[2]
    assert data["variant"] == DATA and data["samples"] == "30"
    assert data["strict_validity"] == data["valence"] == "1.0" and data["novelty"] == "0.0"
    assert not (surroundings / "all/b/benchmark.json").exists()
    code, out, _ = bench("report", "all/b", "all/a", "-n", 30)
    assert code == 0 and out.index("| b ") < out.index("| a ") and len(sampled) == 3
    assert bench("report", "all/b", "-n", 30, "--seed", 4)[0] == 0 and sampled[3:] == [4]


def test_speed_of_sampling_is_measured_on_request(bench, make_run, monkeypatch, surroundings):
    monkeypatch.setattr(speed, "SAMPLING_SECONDS", 0.01)
    make_run("a")
    arguments = ["report", "a", "-n", 10, "--workers", 1]
    assert "raw samples/s" not in bench(*arguments)[1]
    code, out, err = bench(*arguments, "--speed")
    assert code == 0 and "| raw samples/s " in out and "number of them: 1." in out, err
    # It is known from now on.
    measured = (surroundings / "a/benchmark.json").read_text()
    assert bench(*arguments, "--speed")[1] == bench(*arguments)[1] == out
    assert (surroundings / "a/benchmark.json").read_text() == measured


def test_new_weights_are_scored_anew(bench, make_run, sampled):
    place = make_run("a")
    bench("report", "a", "-n", 10)
    import torch

    from graphcnf.graphs import GraphCNF

    model = GraphCNF.from_pretrained(place)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.001)
    model.save_pretrained(place / "model")
    code, _, err = bench("report", "a", "-n", 10)
    assert code == 0 and len(sampled) == 2, err


def test_an_unfinished_run_is_not_compared(bench, make_run):
    make_run("a", minutes=31)
    code, out, err = bench("report", "a", "-n", 10)
    assert code == 1 and "a: the run is not finished" in err and "30 minutes" in err
    assert "graphcnf train --resume --out a" in err and not out


def test_curve(bench, make_run, sampled, surroundings):
    place = make_run("a")
    # Left by a killed run: a step that it was resumed before, and a snapshot half written.
    shutil.copytree(place / "snapshots/00000010", place / "snapshots/00000012")
    (place / "snapshots/00000005/model.safetensors").unlink()
    make_run("b", minutes=99)
    code, out, err = bench("curve", "a", "b", "-n", 20, "--out", "c.csv")
    assert code == 0 and not out, err
    rows = table((surroundings / "c.csv").read_text())
    assert [(row["run"], row["minutes"]) for row in rows] == [
        ("a", "80"), ("a", "90"), ("b", "70"), ("b", "80"), ("b", "90"),
    ]  # fmt: skip
    assert [row["bits_per_node"] for row in rows[2:]] == ["7.5", "7.0", "6.5"]
    # Snapshots have no training hashes of their own.
    assert all(row["novelty"] != "" for row in rows)
    assert bench("curve", "a", "b", "-n", 20)[0] == 0 and len(sampled) == 5


def test_a_killed_curve_goes_on(bench, make_run, monkeypatch):
    make_run("a")
    draw, left = scorer.score_part, [2]

    def draw_twice(*arguments, **options):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return draw(*arguments, **options)

    monkeypatch.setattr(scorer, "score_part", draw_twice)
    assert bench("curve", "a", "-n", 10)[0] == 130
    left[0] = 1
    assert bench("curve", "a", "-n", 10)[0] == 0


def test_several_processes_give_the_same_scores(make_run):
    trained = TrainedRun(make_run("a"))
    scores = []
    for workers in (1, 2):
        score = scorer.Scorer(150, 0, fcd=False, workers=workers)
        jobs = [scorer.Job(trained, f, f / f"{workers}.json") for f in trained.snapshots()[:2]]
        assert score._processes(len(jobs) * 2, len(jobs)) == workers
        scores.append(list(score(jobs)))
        assert list(score(jobs)) == scores[-1]
    assert scores[0] == scores[1] and scores[0][0]["samples"] == 150


def test_chemnet_distances(bench, make_run, monkeypatch, sampled):
    described = []

    def statistics(name, smiles, **options):
        described.append(name)
        assert options["metrics"] == ("fcd",)
        return SetStatistics(len(smiles), {"chemnet": list(smiles)})

    def distance(generated, reference):
        assert set(reference) <= set(held_out)
        return 1.5 + len(generated)

    monkeypatch.setattr(references, "cached_statistics", statistics)
    monkeypatch.setitem(METRICS, "fcd", Metric("chemnet", distance, "lower"))
    monkeypatch.setattr(named_data, "check_chemnet_installed", lambda: None)
    make_run("a")
    data = load_smiles_file("x.smi")
    held_out = [data.smiles[k] for k in data.split("test")]
    code, out, _ = bench("curve", "a", "-n", 20, "--csv")
    assert code == 0 and "fcd" not in table(out)[0]
    code, out, err = bench("curve", "a", "-n", 20, "--csv", "--fcd")
    assert code == 0, err
    for row in csv.DictReader(io.StringIO(out)):
        assert float(row["fcd"]) == 1.5 + int(row["strict_valid"])
    # The reference is looked at once, and scores without a distance are completed.
    assert described == [f"{data.name}-test", *["samples"] * 4] and len(sampled) == 6
    code, out, _ = bench("report", "a", "-n", 20, "--fcd")
    assert code == 0 and "FCD: of the strictly valid" in out and "| FCD " in out


def test_bits_of_an_unordered_model_are_of_the_molecule(bench, make_run):
    make_run("a", order="none")
    data = load_smiles_file("x.smi")
    spent = labelling_bits(data.graphs.subset(named_data.held_out(data, 8)))
    code, out, err = bench("report", "a", "-n", 10, "--csv")
    assert code == 0, err
    assert float(table(out)[0]["bits_per_molecule"]) == pytest.approx(85 - spent.mean(), 1e-6)
    code, out, _ = bench("curve", "a", "-n", 10, "--csv")
    found = [float(row["bits_per_molecule"]) for row in table(out)]
    # Evaluations on the way are of half as many molecules.
    expected = [95 - spent[:4].mean(), 90 - spent[:4].mean(), 85 - spent.mean()]
    assert found == pytest.approx(expected, 1e-6)
    assert "node order" not in out
    make_run("b")
    out = bench("report", "a", "b", "-n", 10)[1]
    assert "- a: no node order. The bits per node" in out
    assert f"(mean {spent.mean():.2f} for a); they compare" in out
    assert "| none " in out and "| canonical " in out


def test_models_without_charges(bench, make_run, monkeypatch):
    from graphcnf.datasets import smiles_file

    def load(path, charges=True):
        return load_smiles_file(path) if charges else load_smiles_file(path).without_charges()

    monkeypatch.setattr(smiles_file, "load_smiles_file", load)
    make_run("a")
    make_run("b", data={"charges": False})
    code, out, err = bench("report", "a", "b", "-n", 40, "--csv")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["variant"] for row in rows[2:]] == [
        f"{DATA}: x.smi", f"{DATA}: x.smi, charges = false"
    ]  # fmt: skip
    # What holds a charge does not come back.
    assert float(rows[3]["strict_validity"]) < float(rows[2]["strict_validity"]) == 1
    notes = bench("report", "a", "b", "-n", 40)[1]
    assert "- b: graphs without formal charges." in notes
    assert "b: graphs without" not in bench("report", "a", "-n", 40)[1]


def test_data_that_are_gone_are_left_out(bench, make_run, surroundings):
    make_run("a")
    (surroundings / "x.smi").unlink()
    code, out, err = bench("report", "a", "-n", 10)
    assert code == 0 and DATA not in out and "note: no row of the training data of a" in err


def test_plot(bench, make_run, monkeypatch, surroundings):
    from matplotlib.figure import Figure

    drawn, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **o: (drawn.append(self), save(self, *a, **o))
    )
    make_run("a")
    make_run("b", minutes=99)
    code, _, err = bench("curve", "a", "b", "-n", 20, "--png", "x.png", "--out", "x.md")
    assert code == 0, err
    content = (surroundings / "x.png").read_bytes()
    assert content.startswith(b"\x89PNG") and int.from_bytes(content[16:20]) == 1600
    bits, valid = drawn[0].axes
    assert bits.get_title("left") == "held-out bits per node" and "minutes" in bits.get_xlabel()
    # All samples of this model are connected.
    assert valid.get_title("left") == "strictly valid = largest fragment valid (%)"
    lines = bits.get_lines()
    assert [line.get_label() for line in lines] == ["a", "b"]
    assert list(lines[0].get_xdata()) == [70, 80, 90] and list(lines[0].get_ydata())[2] == 6.5
    assert lines[0].get_color() == valid.get_lines()[0].get_color() != lines[1].get_color()
    assert list(valid.get_lines()[2].get_ydata()) == [100, 100]
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "training data"]
    make_run("c", order="none")
    assert bench("curve", "a", "c", "-n", 20, "--png", "x.png", "--out", "x.md")[0] == 0
    assert drawn[1].axes[0].get_title("left") == "held-out bits per molecule"


def test_plot_of_fragments_and_distances(surroundings, make_run):
    trained = TrainedRun(make_run("a"))
    row = {"run": "a", "step": 1, "minutes": 600, "bits_per_node": 3.0, "samples": 10, "fcd": 5.0}
    shares = {"strict_validity": 0.5, "largest_fragment_validity": 0.75}
    assert [keys for keys, _ in curves._panels([row | shares], [trained])] == [
        ("bits_per_node",), ("strict_validity",), ("largest_fragment_validity",), ("fcd",)
    ]  # fmt: skip
    same = row | {"strict_validity": 0.5, "largest_fragment_validity": 0.5}
    panels = curves._panels([same], [trained])
    assert len(panels) == 4 and panels[-1][0] == ("novelty", "uniqueness")
    # A snapshot whose samples are too bad for a distance leaves a gap.
    rows = [row | shares, row | shares | {"minutes": 700, "fcd": None}]
    curves.plot(rows, [trained], surroundings / "x.png")
    assert (surroundings / "x.png").read_bytes().startswith(b"\x89PNG")


def test_runs_without_snapshots_are_named(bench, make_run):
    place = make_run("a")
    shutil.rmtree(place / "snapshots")
    code, _, err = bench("curve", "a")
    assert code == 1 and "note: a has no snapshots" in err and "--set snapshots=true" in err


def test_names_tell_runs_apart(make_run, surroundings):
    for name in ("x/a/seed-0", "x/a/seed-1", "x/b/seed-0", "y/c", "z/c"):
        make_run(name)
    runs = find_runs([surroundings / name for name in ("x", "y", "z/c")])
    names = run_names(runs)
    assert names[:3] == ["a, seed 0", "a, seed 1", "b"]
    assert names[3:] == [str(surroundings / "y/c"), str(surroundings / "z/c")]


def test_a_torn_line_is_no_evaluation(make_run):
    trained = TrainedRun(make_run("a"))
    assert [row["step"] for row in trained.evaluations] == ["5", "10", "15"]
    assert trained.finished() and trained.finished(15) and not trained.finished(10)


def test_valence_share_allows_fragments_and_repairs_nothing():
    smiles = ["CCO", "CC.O", "C(C)(C)(C)(C)C", "CC.C(C)(C)(C)(C)C", "C[N](C)(C)C", "C[N](C)(C)C.O"]
    frame = evaluate_records([*smiles, None], conventions=CONVENTIONS)
    assert measures.valence_share(frame) == 2 / 7
    assert np.isclose(frame["valence_only"].notna().mean(), 4 / 7)
