"""`graphcnf analogs` and `graphcnf interpolate`."""

import csv
import gzip
import io
import json

import pandas as pd
import pytest
from rdkit import Chem

from graphcnf.molecules import growth, substitution


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch):
    monkeypatch.setattr(growth, "ROUND", 32)
    monkeypatch.setattr(growth, "TRIAL", 8)
    monkeypatch.setattr(substitution, "PROPOSALS", 16)


@pytest.fixture
def analogs(graphcnf, model_folder):
    def run(*arguments):
        return graphcnf("analogs", *arguments, "--model", model_folder, "--particles", 2)

    return run


def test_every_format_has_the_same_analogues(analogs, surroundings):
    code, out, err = analogs("CCO", "-n", 3)
    smiles = out.splitlines()
    assert code == 0, err
    assert len(set(smiles)) == 3 and "CCO" not in smiles
    assert "3 distinct analogues of CCO with its skeleton" in err
    assert all(Chem.MolFromSmiles(s).GetNumAtoms() == 3 for s in smiles)
    for name in ("a.csv", "a.parquet", "a.smi.gz"):
        code, out, err = analogs("CCO", "-n", 3, "--out", name, "--properties", "qed,atoms")
        assert code == 0 and not out, err
    rows = list(csv.DictReader(io.StringIO((surroundings / "a.csv").read_text())))
    assert [row["smiles"] for row in rows] == smiles and {row["atoms"] for row in rows} == {"3"}
    assert list(rows[0]) == ["record", "smiles", "similarity", "qed", "atoms"]
    table = pd.read_parquet("a.parquet")
    assert table.smiles.tolist() == smiles and table.similarity.between(0, 1).all()
    with gzip.open("a.smi.gz", "rt") as file:
        assert [line.split("\t")[0] for line in file][1:] == smiles
    assert len(list(surroundings.iterdir())) == 3
    code, _, err = analogs("CCO", "-n", 2, "--out", "a.csv")
    assert code == 1 and "exists" in err


def test_similar_ones_and_their_share(analogs):
    code, out, err = analogs("OCCN", "--keep", "bonds", "--similar", 0.2, "-n", 3, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(rows) == 3 and all(row["similarity"] >= 0.2 for row in rows)
    assert "valid ones reach 0.2" in err


def test_generate_with_a_fragment_writes_properties(graphcnf, model_folder):
    code, out, err = graphcnf(
        "generate", "-n", 3, "--scaffold", "CN", "--model", model_folder, "--size", "3-5",
        "--json", "--properties", "atoms",
    )  # fmt: skip
    assert code == 0, err
    assert all(3 <= json.loads(line)["atoms"] <= 5 for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("C1CC",), 1, "not a SMILES"),
        (("CCO", "--keep", "nothing"), 2, "'--keep'"),
        (("CCO", "--similar", 2), 2, "'--similar'"),
        (("CCO", "--size", "3-5"), 1, "same number of atoms"),
        (("CCO", "--keep", "scaffold"), 1, "no ring"),
        (("CCO", "--properties", "beauty"), 2, "no property"),
        (("CCO", "--out", "a.xyz"), 2, "must end in"),
    ],
)
def test_one_line_says_what_is_wrong(analogs, surroundings, arguments, code, message):
    found, out, err = analogs(*arguments)
    assert found == code and message in " ".join(err.split()) and not out
    assert not list(surroundings.iterdir())


def test_a_path_and_its_picture(graphcnf, model_folder, surroundings):
    ends = ("interpolate", "CCO", "CCCN", "--steps", 4, "--model", model_folder)
    code, out, err = graphcnf(*ends, "--picture", "path.svg")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0, err
    assert rows[0]["smiles"] == "CCO" and rows[-1]["smiles"] == "CCCN" and len(rows) == 5
    assert float(rows[0]["similarity_a"]) == float(rows[-1]["similarity_b"]) == 1
    assert "<svg" in (surroundings / "path.svg").read_text()
    code, out, _ = graphcnf(*ends, "--out", "path.smi")
    lines = (surroundings / "path.smi").read_text().split()
    assert lines == [row["smiles"] for row in rows if row["smiles"]] and not out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("CCO", "C1C"), 1, "not a SMILES"),
        (("CCO", "C" * 60), 1, "at most"),
        (("CCO", "CCN", "--picture", "a.gif"), 2, "one of .png, .svg"),
        (("CCO", "CCN", "--steps", 0), 2, "--steps"),
    ],
)
def test_one_line_for_paths(graphcnf, model_folder, surroundings, arguments, code, message):
    found, out, err = graphcnf("interpolate", *arguments, "--model", model_folder)
    assert found == code and message in " ".join(err.split()) and not out
    assert not list(surroundings.iterdir())
