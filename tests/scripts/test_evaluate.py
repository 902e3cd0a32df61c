import csv
import gzip
import io
import json
import shutil
import statistics
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from installed import installed
from rdkit import Chem

import graphcnf as graphcnf_package
from graphcnf.datasets import load_zinc250k
from graphcnf.errors import UserError
from graphcnf.evaluation import METRICS, summary
from graphcnf.evaluation.evaluate import Reference
from graphcnf.evaluation.layout import markdown, text
from graphcnf.evaluation.summary import Records
from graphcnf.graphs import GraphModel
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.vocabulary import CODEC_VERSION

FRACTIONS = ("strict_validity", "largest_fragment_validity", "uniqueness", "novelty",
             "reconstruction", "vun", "valence_only_validity", "repaired_validity")  # fmt: skip
LINES = ["CCO", "OCC", "c1ccccc1O", "CCN.O", "C(C)(C)(C)(C)C", "nonsense", "CC(C)=O", "C[N](C)(C)C"]


@pytest.fixture
def score(run):
    def call(*arguments):
        out, err = run("evaluate", *arguments, "--json")
        return json.loads(out), err

    return call


@pytest.fixture
def lines(surroundings):
    (surroundings / "x.smi").write_text("\n".join(LINES) + "\n")
    (surroundings / "known.smi").write_text("CC(C)=O\nCCCC\nCCCCC\n" + "c1ccccc1CN\n" * 3)
    return "x.smi"


def test_figures_of_a_file(score, lines):
    result, err = score(lines, "--reference", "known.smi")
    assert result["samples"] == 8 and result["unreadable"] == 1
    assert "1 of 8 records" in err and "line 6" in err and "'nonsense'" in err
    assert result["strict_validity"] == 4 / 8 and result["strict_valid"] == 4
    assert result["largest_fragment_validity"] == 5 / 8
    assert result["valence_only_validity"] == 6 / 8
    assert result["repaired_validity"] == 7 / 8
    assert result["uniqueness"] == 3 / 4  # CCO comes twice
    assert result["novelty"] == 3 / 4 and result["vun"] == 2 / 8
    assert result["reconstruction"] == 1
    # CCN.O keeps three of four atoms, four other molecules all of theirs.
    assert result["largest_fragment_atom_share"] == pytest.approx(4.75 / 5)
    data = result["training_data"]
    assert data["strict_validity"] == data["reconstruction"] == 1 and data["novelty"] == 0


def test_where_the_smiles_come_from(score, lines, surroundings, monkeypatch):
    plain, _ = score(lines, "--reference", "none")
    assert plain["novelty"] is None and "training_data" not in plain
    (surroundings / "x.csv").write_text("id,structure\n" + "".join(f"1,{s}\n" for s in LINES))
    (surroundings / "y.smi.gz").write_bytes(gzip.compress("\n".join(LINES).encode()))

    class Standard:
        buffer = io.BytesIO("\n".join(LINES).encode())

    monkeypatch.setattr("sys.stdin", Standard)
    for source in (["x.csv", "--column", "structure"], ["y.smi.gz"], ["-"]):
        other, _ = score(*source, "--reference", "none")
        assert {**other, "name": plain["name"]} == plain


def test_formats_agree(run, score, lines, surroundings):
    result, _ = score(lines, "--reference", "known.smi")
    tail = [lines, "--reference", "known.smi"]
    table, _ = run("evaluate", *tail, "--csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 2 and rows[1]["name"] == "training data through the same pipeline"
    assert float(rows[0]["strict_validity"]) == result["strict_validity"]
    text, _ = run("evaluate", *tail)
    header, bar, first, second, *_ = text.splitlines()
    assert header.startswith("|") and set(bar) == {"|", "-"}
    assert header.count("|") == first.count("|") == second.count("|")
    assert "50.00 %" in first and "75.00 % of 4" in first and "25.00 % of 8" in first
    assert "temperature" not in header
    for suffix, expected in (("md", text), ("csv", table)):
        out, _ = run("evaluate", *tail, "--out", f"t.{suffix}")
        assert out == "" and (surroundings / f"t.{suffix}").read_text() == expected


def test_model_against_its_data(run, score, model_folder, small_zinc):
    options = ["--model", model_folder, "-n", 70, "--reconstruct", 20, "--likelihood", 12]
    result, _ = score(*options, "--seed", 3)
    assert result["samples"] == 70 and result["seed"] == 3 and result["temperature"] == 1
    assert result["decoding"] == "argmax" and result["reference"] == "zinc250k"
    assert all(0 <= result[key] <= 1 for key in FRACTIONS)
    assert result["reconstruction"] == 1 and result["reconstruction_molecules"] == 20
    assert result["bits_molecules"] == 12 and result["connected"] == 1
    # 23 atoms and 25 bonds, twenty steps of training: between the shipped weights and none at all.
    assert 1.3 < result["bits_per_node"] < 6
    assert result["bits_per_molecule"] == pytest.approx(23 * result["bits_per_node"], rel=0.15)
    assert result["novelty"] == 1
    data = result["training_data"]
    assert data["samples"] == 70 and data["strict_validity"] == 1 and data["novelty"] == 0
    # The same graphs as generate --all writes.
    out, _ = run("generate", "--model", model_folder, "-n", 70, "--all", "--seed", 3)
    assert out.count(",True,") == result["strict_valid"]


def test_held_out_molecules_that_a_model_was_trained_on_are_counted(model_folder, small_zinc):
    flow = MoleculeFlow.from_pretrained(model_folder)
    few = {"samples": 4, "reconstruct": 3, "likelihood": 0}
    assert "another split" not in str(graphcnf_package.evaluate(flow, **few))
    flow.model.training_hashes = np.unique(load_zinc250k().hashes)
    note = "3 of 3 held-out molecules are training molecules of this model, which was trained on"
    assert note in str(graphcnf_package.evaluate(flow, **few))


def test_the_row_of_the_data_is_about_the_training_molecules_of_each_model(small_zinc):
    reference = Reference("zinc250k")
    _, dataset = reference.load()
    known = dataset.training_hashes()
    for hashes, novelty in ((known, 0), (known[:0], 1), (known, 0)):
        row, _ = reference.data_row(dataset, 20, 0, hashes)
        assert row["novelty"] == novelty


def test_a_page_without_training_data_says_what_is_missing():
    with pytest.raises(UserError, match="--html needs the training data: .* --reference"):
        Reference(metrics=("logp_w1",)).held_out(None)


def test_bars_in_names_do_not_cut_cells():
    assert markdown([{"name": "a|b"}], [("name", text("name"))]).splitlines()[-1] == r"| a\|b |"


def test_seeds_and_switches(score, model_folder, small_zinc, run):
    none = ["--model", model_folder, "-n", 40, "--reconstruct", 0, "--likelihood", 0]
    singles = [score(*none, "--seed", k)[0] for k in (0, 1, 2)]
    result, _ = score(*none, "--seeds", "0,1,2")
    values = [single["strict_validity"] for single in singles]
    assert result["strict_validity"] == pytest.approx(statistics.fmean(values))
    assert result["strict_validity_sd"] == pytest.approx(statistics.stdev(values))
    assert [run["strict_validity"] for run in result["runs"]] == values
    assert result["seed"] == "0,1,2" and result["samples"] == 40
    flow, of_model = MoleculeFlow.from_pretrained(model_folder), {"reconstruct": 0, "likelihood": 0}
    found = graphcnf_package.evaluate(flow, name="tiny", samples=40, seeds=(0, 1, 2), **of_model)
    assert {**found.figures, "name": result["name"], "training_data": found.data} == result
    for wrong, message in (
        ({"samples": 0}, "samples must be an integer of at least 1, got 0"),
        ({"seeds": ()}, "number of seeds must be"),
        ({"seeds": (-1,)}, "seed must be"),
        ({"temperature": 0}, "temperature"),
    ):
        with pytest.raises(UserError, match=message):
            graphcnf_package.evaluate(flow, **{**of_model, **wrong})
    assert result["reconstruction"] is None and result["bits_per_node"] is None
    text, _ = run("evaluate", *none, "--seeds", "0,1", "--reference", "none")
    assert " ± " in text and "training data" not in text and "bits" not in text


def test_weights_of_another_order_of_atoms(score, model_folder, small_zinc, tmp_path):
    model = GraphModel.from_pretrained(model_folder)
    model.metadata["codec"] = CODEC_VERSION - 1
    model.save_pretrained(tmp_path)
    options = ["-n", 20, "--reconstruct", 5, "--likelihood", 5]
    result, _ = score("--model", tmp_path, *options)
    right, _ = score("--model", model_folder, *options)
    assert result["strict_validity"] == right["strict_validity"]
    assert result["bits_per_node"] is result["reconstruction"] is None
    assert right["reconstruction"] == 1


def test_distribution_metrics_against_the_held_out_part(
    run, score, zinc_smiles, small_zinc, surroundings
):
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles[:100]))
    (surroundings / "far.smi").write_text("\n".join("C" * n for n in range(1, 101)))
    names = ["logp_w1", "atoms_tv", "elements_tv", "frag", "snn"]
    near, far = (score(f, "--metrics", ",".join(names))[0] for f in ("x.smi", "far.smi"))
    floor = near["training_data"]
    for name in names:
        better = -1 if name in ("frag", "snn") else 1
        assert better * near[name] < better * far[name]
        assert better * floor[name] < better * far[name]
    text, _ = run("evaluate", "x.smi", "--metrics", "logp_w1,snn")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows[-2:] == ["SNN", "logP, Wasserstein"]
    assert f"{near['snn']:.4g}" in text and f"{floor['snn']:.4g}" in text
    # The order and the second mention of a name do not matter.
    again, _ = score("x.smi", "--metrics", "snn,logp_w1,snn")
    assert again["snn"] == near["snn"] and "frag" not in again


def test_a_metric_of_ones_own_is_one_file(run, score, lines, surroundings):
    site = surroundings / "site"
    site.mkdir()
    entry = {"graphcnf.metrics": {"oxygen_tv": "own_parts:OXYGEN_TV"}}
    code = (Path(__file__).parents[1] / "own_parts.py").read_text()
    with installed(site, "own_parts", code, entry, METRICS):
        evaluate_oxygens(run, score, lines, surroundings)


def evaluate_oxygens(run, score, lines, surroundings):
    (surroundings / "test.smi").write_text("CCO\nCCO\nCCO\nCCCC\n")
    tail = [lines, "--reference", "known.smi", "--test", "test.smi", "--metrics", "oxygen_tv"]
    # All four valid molecules have one oxygen atom, a quarter of the others has none.
    alone, _ = score(*tail)
    assert alone["oxygen_tv"] == pytest.approx(1 / 4) and "oxygen_tv" in alone["training_data"]
    text, _ = run("evaluate", *tail)
    assert "| oxygen atoms " in text and "| lower " in text
    if find_spec("itables") and find_spec("matplotlib"):
        run("evaluate", *tail, "--html", "r.html")
        assert 'alt="Histogram of oxygen atoms here"' in (surroundings / "r.html").read_text()


def test_python_evaluates_as_the_command_does(score, lines, surroundings):
    known = score(lines, "--reference", "known.smi", "--metrics", "snn", "--test", "known.smi")[0]
    against = Reference("known.smi", "known.smi", ["snn"])
    smiles = (surroundings / lines).read_text().splitlines()
    mols = [s if "nonsense" in s else Chem.MolFromSmiles(s, sanitize=False) for s in smiles]
    for subject in (lines, Records.read(lines), smiles, mols):
        found = graphcnf_package.evaluate(subject, against)
        assert {**found.figures, "name": lines, "training_data": found.data} == known
    assert str(found).startswith("|") and "Distances to held-out molecules" in str(found)
    with pytest.raises(UserError, match="no molecules"):
        graphcnf_package.evaluate([], "none")
    with pytest.raises(UserError, match="molecules, record 2: 5 is no SMILES and no molecule"):
        graphcnf_package.evaluate(["C", 5], "none")
    table = pd.DataFrame({"name": ["a", "b"], "smiles": ["CCO", "CC.O"]})
    assert graphcnf_package.evaluate(table, "none").figures["strict_validity"] == 0.5
    with pytest.raises(UserError, match="no such file: CCO"):
        graphcnf_package.evaluate("CCO", "none")
    with pytest.raises(UserError, match="unknown metric 'fdc'; did you mean 'fcd'"):
        Reference("none", metrics=["fdc"])


def conventions_of(text):
    """The rows of the second table, the heading first."""
    table = text.partition("**Conventions of validity")[2].split("\n\n")[1]
    return [line for line in table.splitlines() if line.startswith("| ")]


def test_where_the_conventions_agree_there_is_one_validity(run, score, lines, surroundings):
    # As RDKit writes files, or filters leave them; one record cannot be read.
    (surroundings / "valid.smi").write_text("CCO\nOCC\nc1ccccc1O\nnonsense\n")
    tail = ["--reference", "known.smi"]
    text, _ = run("evaluate", "valid.smi", *tail)
    assert "| readable and valid |" in text.splitlines()[0] and "repaired" not in text
    rows = [line for line in conventions_of(text) if line.startswith("| readable and valid ")]
    assert len(conventions_of(text)) == 2 and len(rows) == 1 and " 75.00 % of 4 " in rows[0]
    assert "- readable and valid: " in text and "conventions of validity agree" in text
    assert "says nothing about the model" not in text  # a quarter is unreadable
    # The keys of figures stay, and so do all rows of a set on which the conventions differ.
    figures = score("valid.smi", *tail)[0]
    assert set(FRACTIONS) <= set(figures) and figures["repaired_validity"] == 3 / 4
    text, _ = run("evaluate", "valid.smi", lines, *tail)
    named = [[cell.strip() for cell in row.split("|")[1:3]] for row in conventions_of(text)[1:]]
    assert [name for name, _ in named] == ["valid.smi", *4 * [lines]]
    assert [title for _, title in named[:2]] == ["readable and valid", "strict"]
    assert "| strict " in text.splitlines()[0]


def test_what_keeps_samples_from_being_valid(run, score, lines):
    result, _ = score(lines, "--reference", "none")
    assert result["failures"] == {
        "2 fragments": 1, "C with 5 bonds": 1, "unreadable": 1, "N with 4 bonds": 1,
    }  # fmt: skip
    text, _ = run("evaluate", lines, "--reference", "none")
    assert "1 × C with 5 bonds" in text


def test_files_side_by_side(run, score, lines, surroundings):
    (surroundings / "y.smi").write_text("CCO\nCCCC\nCC(C)(C)(C)C\n")
    (surroundings / "test.smi").write_text("CCO\nCCO\nc1ccccc1O\n")
    tail = ["--reference", "known.smi", "--test", "test.smi", "--metrics", "atoms_tv,elements_tv"]
    alone = [score(name, *tail)[0] for name in (lines, "y.smi")]
    both, err = score(lines, "y.smi", *tail)
    assert both == alone and "line 6" in err
    text, _ = run("evaluate", lines, "y.smi", *tail)
    overview, conventions, distances = text.split("**")[0::2]
    first = [row.split("|")[1].strip() for row in overview.splitlines() if row]
    # For each number of molecules the data have a row.
    data = "training data through the same pipeline"
    assert first[2:6] == ["x.smi", "y.smi", f"{data}, 6 of known", f"{data}, 3 of known"]
    assert "x.smi" in conventions and conventions.count("y.smi") == 4
    header = [cell.strip() for cell in distances.splitlines()[2].split("|")]
    assert header[3:5] == ["x.smi", "y.smi"]
    table, _ = run("evaluate", lines, "y.smi", *tail, "--csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["name"] for row in rows[:2]] == [lines, "y.smi"]
    assert both[1]["strict_validity"] == 2 / 3
    assert float(rows[1]["strict_validity"]) == pytest.approx(2 / 3, abs=1e-7)
    # What holds for one only names it.
    notes = [line for line in text.splitlines() if line.startswith("- ")]
    assert any(note.startswith("- y.smi: not strictly valid because of") for note in notes)
    assert sum("sanitizes as it is" in note for note in notes) == 1


def test_files_and_models_side_by_side(score, model_folder, small_zinc, lines, surroundings):
    shutil.copytree(model_folder, surroundings / "other")
    options = ["-n", 30, "--reconstruct", 5, "--likelihood", 0]
    found, _ = score(lines, "--model", model_folder, "--model", "other", *options)
    assert [row["name"] for row in found] == [lines, "tiny", "other"]
    assert [row["samples"] for row in found] == [8, 30, 30]
    assert {**found[2], "name": "tiny"} == found[1] == score("--model", model_folder, *options)[0]
    assert "temperature" not in found[0] and found[0]["reference"] == "zinc250k"


def test_one_floor_for_sets_of_like_size(run, zinc_smiles, small_zinc, surroundings):
    for name, count in (("a", 60), ("b", 59), ("c", 30)):
        (surroundings / f"{name}.smi").write_text("\n".join(zinc_smiles[:count]))
    tail = ["--metrics", "atoms_tv"]
    text, _ = run("evaluate", "a.smi", "b.smi", *tail)
    header = text.split("**")[-1].splitlines()[2]
    assert header.count("training molecules") == 1 and "a.smi" in header and "b.smi" in header
    text, _ = run("evaluate", "a.smi", "c.smi", *tail)
    header = text.split("**")[-1].splitlines()[2]
    assert "60 training molecules of zinc250k" in header
    assert "30 training molecules of zinc250k" in header


def test_a_missing_file_among_several_comes_to_light_first(refused, lines):
    err = refused("evaluate", lines, "nothing.smi", "--reference", "none")
    assert err.splitlines() == ["error: no such file: nothing.smi"]
    err = refused("evaluate", lines, "--model", "nothing", "--reference", "none")
    assert "nothing" in err and len(err.splitlines()) == 1


@pytest.mark.slow
def test_chemnet_distance(score, zinc_smiles, small_zinc, surroundings):
    pytest.importorskip("fcd_torch")
    (surroundings / "x.smi").write_text("\n".join(zinc_smiles[:16]))
    (surroundings / "far.smi").write_text("\n".join("C" * n for n in range(1, 17)))
    near, far = (score(f, "--fcd")[0] for f in ("x.smi", "far.smi"))
    assert 0 < near["fcd"] < far["fcd"] and near["fcd_molecules"] == 16
    assert 0 < near["training_data"]["fcd"] < far["fcd"]


def test_a_folder_of_files_is_one_set(run, refused, score, zinc_smiles, small_zinc, surroundings):
    lines = [*zinc_smiles[:30], "nonsense", "CCO", "CCO"]
    (surroundings / "whole.smi").write_text("\n".join(lines))
    parts = surroundings / "parts"
    parts.mkdir()
    (parts / "notes.txt").write_text("no molecules")
    for number, cut in enumerate((slice(0, 20), slice(20, 32), slice(32, None))):
        (parts / f"{number}.smi.gz").write_bytes(gzip.compress("\n".join(lines[cut]).encode()))
    options = ("--reference", "zinc250k", "--metrics", "snn,scaf,logp_w1,rings_tv")
    whole, parted = (score(name, *options) for name in ("whole.smi", "parts"))
    assert "is line 31: not a SMILES" in whole[1] and "line 11 of parts/1.smi.gz" in parted[1]
    assert {**parted[0], "name": "whole.smi"} == whole[0]
    (parts / ".hidden.smi").write_bytes(b"\0")
    (parts / "empty.smi").write_bytes(b"")
    # Shards in which nothing was accepted.
    (parts / "empty.smi.gz").write_bytes(gzip.compress(b""))
    (parts / "head.csv").write_text("record,smiles\n")
    pd.DataFrame({"smiles": pd.Series([], dtype=str)}).to_parquet(parts / "none.parquet")
    (parts / "folder.smi").mkdir()
    assert score("parts", *options)[0] == parted[0]
    before = (parts / "0.smi.gz").read_bytes()
    (parts / "table.csv").write_text("smiles\nCCO\n")
    _, err = run("evaluate", "parts", "--reference", "none", "--out", "parts/table.csv", code=2)
    assert "whose files are read" in " ".join(err.split())
    assert (parts / "table.csv").read_text() == "smiles\nCCO\n"
    assert (parts / "0.smi.gz").read_bytes() == before
    (parts / "3.smi").write_bytes(b"\0")
    _, err = run("evaluate", "parts", *options, code=1)
    assert "parts/3.smi is no text file" in err and err.count("\n") == 1
    (surroundings / "none").mkdir()
    assert "none is a folder without files of molecules" in refused("evaluate", "none")


def test_many_samples_need_no_table_of_all(score, zinc_smiles, lines, monkeypatch):
    known = score(lines, "--reference", "none")
    monkeypatch.setattr(summary, "HEAD", 3)
    monkeypatch.setattr(summary, "CHUNK", 1)
    assert score(lines, "--reference", "none") == known


def test_standardized_molecules_are_those_of_the_reference(refused, run, surroundings):
    (surroundings / "known.smi").write_text(
        "".join(f"{'C' * k}C(=O)[O-]\n{'C' * k}C[NH3+]\n" for k in range(1, 15))
    )
    (surroundings / "mine.smi").write_text("CCCC(=O)O.[Na+]\nCCCCN\nnothing\n[#119]\n")
    options = ("mine.smi", "--reference", "known.smi", "--json")
    plain = json.loads(run("evaluate", *options)[0])
    out, err = run("evaluate", *options, "--standardize")
    found = json.loads(out)
    assert "2 of 4 records" in err
    assert (plain["novelty"], found["novelty"]) == (1.0, 0.0)
    assert found["strict_validity"] == 0.5
    refused("evaluate", "--model", "zinc250k", "--standardize", code=2)
