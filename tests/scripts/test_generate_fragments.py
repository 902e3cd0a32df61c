import csv
import io
import json

import pytest
from rdkit import Chem

from graphcnf.molecules import growth


@pytest.fixture(autouse=True)
def few_walks(monkeypatch):
    monkeypatch.setattr(growth, "ROUND", 32)
    monkeypatch.setattr(growth, "TRIAL", 8)


@pytest.fixture
def generate(graphcnf, model_folder):
    def run(*arguments):
        return graphcnf("generate", "--model", model_folder, "--size", "3-6", *arguments)

    return run


def test_writes_what_holds_the_fragment(generate, surroundings):
    code, out, err = generate("-n", 6, "--scaffold", "CN", "--particles", 2)
    assert code == 0, err
    smiles = out.splitlines()
    assert len(set(smiles)) == 6 and "6 distinct molecules with CN" in err
    assert all(Chem.MolFromSmiles(s).HasSubstructMatch(Chem.MolFromSmiles("CN")) for s in smiles)
    # Other formats, the same molecules.
    same = ("-n", 3, "--scaffold", "CN", "--particles", 2)
    _, out, err = generate(*same, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["smiles"] for row in rows] == smiles[:3]
    figures = json.loads(err.splitlines()[-1])
    assert figures["written"] == 3 <= figures["valid"] <= figures["placed"] <= figures["walks"]
    code, out, err = generate(*same, "--out", "a.csv")
    assert code == 0 and not out
    rows = list(csv.DictReader(io.StringIO((surroundings / "a.csv").read_text())))
    assert [row["smiles"] for row in rows] == smiles[:3] and rows[2]["record"] == "2"
