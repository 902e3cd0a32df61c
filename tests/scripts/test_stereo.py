"""Stereo marks on the command line."""

import csv
import io
import json

import numpy as np
import pytest
from rdkit import Chem

from graphcnf.datasets.stereo import load_stereo
from graphcnf.evaluation.evaluate import isomer_novelty
from graphcnf.evaluation.summary import score_chunk
from graphcnf.molecules.codec import canonical_smiles
from graphcnf.molecules.hashing import hash_each


def test_marks_change_no_graph(graphcnf, surroundings):
    code, marked, _ = graphcnf("generate", "-n", 60, "--seed", 3)
    plain = graphcnf("generate", "-n", 60, "--seed", 3, "--no-stereo")[1].split()
    assert code == 0 and not any(set("@/\\") & set(smiles) for smiles in plain)
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
def test_a_model_without_stereo_says_so(graphcnf, surroundings, command):
    code, out, err = graphcnf(*command, "--model", "moses", "--stereo")
    assert (code, out, err) == (1, "", "error: moses has no stereo: leave --stereo out\n")


def test_marks_that_are_given_stay(graphcnf, surroundings):
    core = "[*:1]N1C[C@@H](O)[C@H](C)C1"
    code, out, err = graphcnf("grow", "--decorate", core, "-n", 2, "--size", "10-14")
    pattern = Chem.MolFromSmarts("N1C[C@@H](O)[C@H](C)C1")
    assert code == 0 and "note: " not in err
    for smiles in out.split():
        assert Chem.MolFromSmiles(smiles).HasSubstructMatch(pattern, useChirality=True)
    plain = graphcnf("grow", "--decorate", core, "-n", 2, "--size", "10-14", "--no-stereo")
    assert plain[1].split() == [canonical_smiles(Chem.MolFromSmiles(s)) for s in out.split()]
    assert plain[2].count("note: stereo dropped") == 1
    ends = "C[C@H](O)CN", "C[C@@H](O)CC"
    _, out, _ = graphcnf("interpolate", *ends, "--steps", 2, "--out", "x.smi")
    path = (surroundings / "x.smi").read_text().split()
    assert (path[0], path[-1]) == tuple(Chem.CanonSmiles(s) for s in ends)


def test_one_note_for_each_molecule(graphcnf, surroundings):
    molecule = "C[N@@H+](CC)C[C@H](F)C=[C@]=CC"
    _, _, err = graphcnf("stereoisomers", molecule)
    assert "note: stereo of allene and amine dropped: the model has none\n" in err
    assert err.count("note: ") == 1


def test_isomers_by_probability(graphcnf, surroundings):
    code, out, err = graphcnf("stereoisomers", "NC1CCCC1O", "--picture", "x.svg", "-n", 3)
    rows = list(csv.DictReader(io.StringIO(out)))
    shares = [float(row["probability"]) for row in rows]
    assert code == 0 and len(rows) == 3 and shares == sorted(shares, reverse=True)
    assert "4 stereoisomers, 3 of them written" in err and (surroundings / "x.svg").exists()
    _, out, err = graphcnf("stereoisomers", "C[N@@H+](CC)C[C@H](F)Cl", "--json")
    assert json.loads(out)["probability"] == 1.0
    assert err.count("note: ") == 1 and "stereo of amine dropped" in err


def test_contradictory_marks_are_one_line(graphcnf, surroundings):
    code, out, err = graphcnf("stereoisomers", "F/C=C(/F)/Cl")
    assert (code, out, err.count("\n")) == (1, "", 1) and "contradict each other" in err


def test_evaluate_counts_marks(graphcnf, surroundings):
    smiles = ["C[C@H](F)Cl", "C[C@@H](F)Cl", "CC(F)Br", "C/C=C/C1CC1[C@H](C)O", "C[C@H](C)C"]
    (surroundings / "x.smi").write_text("\n".join(smiles) + "\n")
    code, out, _ = graphcnf("evaluate", "x.smi", "--reference", "none", "--json")
    found = json.loads(out)["stereo"]
    assert code == 0 and found["chain"] == 3 / 4 and found["double"] == 1 and found["ring"] == 0
    assert found["marks"] == [2 / 5, 2 / 5, 1 / 5] and found["kept"] == 3 / 4
    assert found["uniqueness"] == 1 and json.loads(out)["uniqueness"] == 4 / 5


def test_evaluate_counts_the_marks_that_a_model_draws(graphcnf, surroundings):
    how = ("--model", "zinc250k", "-n", 40, "--reference", "none", "--json")
    figures = [json.loads(graphcnf("evaluate", *how, *more)[1]) for more in ((), ("--no-stereo",))]
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
