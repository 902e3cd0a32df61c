"""Configurations of MolScore as scores; those that run it are skipped where it is not installed."""

import importlib.util
import json
from pathlib import Path

import pytest
from rdkit import Chem

from graphcnf.errors import UserError
from graphcnf.optimization.objectives import Goal

SMILES = ["CC(C)(C)NCC(O)c1ccc(O)c(CO)c1", "CCO", "CNCc1ccccc1"]
CONFIG = {
    "task": "weight",
    "output_dir": "./",
    "load_from_previous": False,
    "logging": False,
    "monitor_app": False,
    "termination_exit": False,
    "scoring_functions": [
        {"name": "MolecularDescriptors", "run": True, "parameters": {"prefix": "desc"}}
    ],
    "scoring": {
        "metrics": [
            {
                "name": "desc_HeavyAtomMolWt",
                "filter": False,
                "weight": 1.0,
                "modifier": "norm",
                "parameters": {"objective": "maximize", "max": 500.0, "min": 0.0},
            }
        ],
        "method": "single",
    },
    "diversity_filter": {"run": False},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("x", "write a file.json, or a preset"),
        ("GuacaMol:../QED", "write a file.json, or a preset"),
        ("GuacaMol:none", "no such preset, or molscore is not installed"),
        ("none.json", "No such file"),
        ("broken.json", "molscore:broken.json: "),
        ("list.json", "must hold a JSON object"),
        ("other.json", '"scoring" must hold "metrics"'),
        ("open.json", "the modifier norm needs max and min"),
    ],
)
def test_wrong_configurations_are_one_line(config, message):
    Path("broken.json").write_text("{")
    Path("list.json").write_text("[]")
    Path("other.json").write_text('{"scoring": {"metrics": ["QED"]}}')
    unbounded = json.loads(json.dumps(CONFIG))
    del unbounded["scoring"]["metrics"][0]["parameters"]["max"]
    Path("open.json").write_text(json.dumps(unbounded))
    with pytest.raises(UserError, match=message):
        Goal.of(f"molscore:{config}")


@pytest.mark.skipif(importlib.util.find_spec("molscore") is not None, reason="it is installed")
def test_the_missing_package_is_named():
    Path("mine.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UserError, match="needs molscore: pip install molscore"):
        Goal.of("molscore:mine.json")


def test_scores_are_those_of_molscore():
    MolScore = pytest.importorskip("molscore").MolScore
    Path("mine.json").write_text(json.dumps(CONFIG))
    for config in ("mine.json", "GuacaMol:Albuterol_similarity"):
        goal = Goal.of(f"molscore:{config}")
        found = [goal(Chem.MolFromSmiles(smiles), smiles)[0] for smiles in SMILES]
        theirs = MolScore("test", config, output_dir="theirs").score(SMILES, flt=True)
        assert found == pytest.approx(list(theirs), abs=1e-6)
        assert len(set(found)) == 3
    # A file is a part of the identity of a goal.
    before = Goal.of("molscore:mine.json").identity
    Path("mine.json").write_text(json.dumps({**CONFIG, "task": "another"}))
    assert Goal.of("molscore:mine.json").identity != before
