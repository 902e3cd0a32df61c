"""Stereo marks on the command line."""

import csv
import io
import json

import numpy as np
import pytest
from rdkit import Chem

from graphcnf.chemistry.hashing import hash_each
from graphcnf.datasets.stereo import load_stereo
from graphcnf.evaluation.evaluate import isomer_novelty
from graphcnf.evaluation.summary import score_chunk
from graphcnf.molecules.codec import canonical_smiles


def test_marks_change_no_graph(run, surroundings):
    marked, _ = run("generate", "-n", 60, "--seed", 3)
    plain = run("generate", "-n", 60, "--seed", 3, "--no-stereo")[0].split()
    assert not any(set("@/\\") & set(smiles) for smiles in plain)
    assert [canonical_smiles(Chem.MolFromSmiles(s)) for s in marked.split()] == plain
    assert sum("@" in smiles for smiles in marked.split()) > 15
    # What is written is what RDKit reads.
    assert [Chem.CanonSmiles(smiles) for smiles in marked.split()] == marked.split()


@pytest.mark.parametrize(
    "command",
    [("generate",), ("grow", "--grow", "CC"), ("analogs", "CCO", "--similar", 0),
     ("interpolate", "CCO", "CCN"),
     ("optimize", "--score", "qed"), ("evaluate", "--reference", "none")],
)  # fmt: skip
def test_a_model_without_stereo_says_so(refused, surroundings, command):
    err = refused(*command, "--model", "moses", "--stereo")
    assert err == "error: moses has no stereo: leave --stereo out\n"


def test_marks_that_are_given_stay(run, surroundings, few_walks):
    core = "[*:1]N1C[C@@H](O)[C@H](C)C1"
    out, err = run("grow", "--decorate", core, "-n", 2, "--size", "10-14")
    pattern = Chem.MolFromSmarts("N1C[C@@H](O)[C@H](C)C1")
    assert "note: " not in err
    for smiles in out.split():
        assert Chem.MolFromSmiles(smiles).HasSubstructMatch(pattern, useChirality=True)
    plain = run("grow", "--decorate", core, "-n", 2, "--size", "10-14", "--no-stereo")
    assert plain[0].split() == [canonical_smiles(Chem.MolFromSmiles(s)) for s in out.split()]
    assert plain[1].count("note: stereo dropped") == 1
    ends = "C[C@H](O)CN", "C[C@@H](O)CC"
    out, _ = run("interpolate", *ends, "--steps", 2, "--out", "x.smi")
    path = (surroundings / "x.smi").read_text().split()
    assert (path[0], path[-1]) == tuple(Chem.CanonSmiles(s) for s in ends)


def test_one_note_for_each_molecule(run, surroundings):
    molecule = "C[N@@H+](CC)C[C@H](F)C=[C@]=CC"
    _, err = run("stereoisomers", molecule)
    assert "note: stereo of allene and amine dropped: the model has none\n" in err
    assert err.count("note: ") == 1


def test_isomers_by_probability(run, surroundings):
    out, err = run("stereoisomers", "NC1CCCC1O", "--picture", "x.svg", "-n", 3)
    rows = list(csv.DictReader(io.StringIO(out)))
    shares = [float(row["probability"]) for row in rows]
    assert len(rows) == 3 and shares == sorted(shares, reverse=True)
    assert "4 stereoisomers, 3 of them written" in err and (surroundings / "x.svg").exists()
    out, err = run("stereoisomers", "C[N@@H+](CC)C[C@H](F)Cl", "--json")
    assert json.loads(out)["probability"] == 1.0
    assert err.count("note: ") == 1 and "stereo of amine dropped" in err


def test_evaluate_counts_marks(run, surroundings):
    smiles = ["C[C@H](F)Cl", "C[C@@H](F)Cl", "CC(F)Br", "C/C=C/C1CC1[C@H](C)O", "C[C@H](C)C"]
    (surroundings / "x.smi").write_text("\n".join(smiles) + "\n")
    out, _ = run("evaluate", "x.smi", "--reference", "none", "--json")
    found = json.loads(out)["stereo"]
    assert found["chain"] == 3 / 4 and found["double"] == 1 and found["ring"] == 0
    assert found["marks"] == [2 / 5, 2 / 5, 1 / 5] and found["kept"] == 3 / 4
    assert found["uniqueness"] == 1 and json.loads(out)["uniqueness"] == 4 / 5


def test_evaluate_counts_the_marks_that_a_model_draws(run, surroundings):
    how = ("--model", "zinc250k", "-n", 40, "--reference", "none", "--json")
    figures = [json.loads(run("evaluate", *how, *more)[0]) for more in ((), ("--no-stereo",))]
    marks = figures[0].pop("stereo")
    assert figures[0] == figures[1] and marks["uniqueness"] == marks["kept"] == 1
    assert marks["ring"] > 0.7 and sum(marks["marks"]) == pytest.approx(1)


def test_a_file_is_data(surroundings):
    (surroundings / "x.smi").write_text("C[C@H](F)Cl\nCCO\nC/C=C/C\nC1\n" + "CC(N)CC\n" * 20)
    data = load_stereo(surroundings / "x.smi", workers=1)
    assert len(data) == 22 and data.total == 23
    assert data.marks()["marks"] == [21 / 23, 2 / 23]
    batches = list(data.train_batches(8, 0, 0)) + list(data.test_batches(8))
    assert sum(len(batch) for batch in batches) == 22


def test_isomers_that_the_data_lack(zinc_smiles):
    marked = [smiles for smiles in zinc_smiles if "@" in smiles and "/" not in smiles][:6]
    plain = [canonical_smiles(Chem.MolFromSmiles(smiles)) for smiles in marked]
    both = (0, ["line"] * 6, marked[:3] + plain[3:])  # the data have marks at all of these
    summary = score_chunk((), None, True, both)
    assert isomer_novelty(summary, np.unique(hash_each(plain[1:]))) == pytest.approx(4 / 6)
