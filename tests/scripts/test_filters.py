"""Every filter with every way of drawing: what is written passes, and the summary says the cost."""

import csv
import io
import json

import pytest
from rdkit import Chem

from graphcnf.molecules import analogs, growth
from graphcnf.molecules.filters import Filters

KNOWN = ["CCO", "CCN", "CC(N)=O", "CCCN", "NCC=O"]

# Options of the command, and arguments of Filters.
FILTERS = {
    "require": (("--require", "3 <= atoms <= 5"), {"require": ["3 <= atoms <= 5"]}),
    "smarts": (("--smarts", "[N,O]"), {"smarts": ["[N,O]"]}),
    "exclude": (("--exclude", "[N,n]"), {"exclude": ["[N,n]"]}),
    "alerts": (("--alerts", "pains, brenk"), {"alerts": ["pains", "brenk"]}),
    "min_similarity": (("--min-similarity", "known.smi:0.2"), {"min_similarity": (KNOWN, 0.2)}),
    "max_similarity": (("--max-similarity", "known.smi:.5"), {"max_similarity": (KNOWN, 0.5)}),
}

WAYS = {
    "generate": ("generate", "-n", 8),
    "two processes": ("generate", "-n", 8, "--workers", 2),
    "likelihood": ("generate", "-n", 8, "--likelihood", "--properties", "qed"),
    "shard": ("generate", "-n", 120, "--shard", "1/1", "--out", "x.jsonl"),
    "scaffold": ("grow", "-n", 4, "--scaffold", "CC"),
    "grow": ("grow", "-n", 4, "--grow", "[*:1]CC"),
    "decorate": ("grow", "-n", 4, "--decorate", "[*:1]C[*:2]"),
    "link": ("grow", "-n", 1, "--link", "[*:1]C.[*:2]C", "--size", "4-6"),
    "skeleton": ("analogs", "OCCC", "-n", 4),
    "similar": ("analogs", "OCCC", "-n", 3, "--keep", "skeleton", "--similar", 0.1),
    "scaffold kept": ("analogs", "OCC1CC1", "-n", 3, "--keep", "scaffold", "--size", "4-7"),
    "interpolate": ("interpolate", "CCO", "CCCN", "--paths", 8),
}


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch, surroundings):
    monkeypatch.setattr(growth, "ROUND", 64)
    monkeypatch.setattr(growth, "TRIAL", 8)
    monkeypatch.setattr(analogs, "PROPOSALS", 24)
    (surroundings / "known.smi").write_text("\n".join(KNOWN) + "\n")


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_passes(graphcnf, model_folder, surroundings, way, name):
    options, arguments = FILTERS[name]
    path = way == "interpolate"
    json_ = () if path else ("--json",)
    code, out, err = graphcnf(*WAYS[way], *options, *json_, "--model", model_folder)
    assert code == 0, err
    filters, summary = Filters(**arguments), err.splitlines()[-1]
    if way == "shard":
        out = (surroundings / "x.jsonl").read_text()
    if path:
        rows = [row for row in csv.DictReader(io.StringIO(out)) if row["smiles"]][1:-1]
    else:
        rows = [json.loads(line) for line in out.splitlines()]
        assert rows
    refused = {row["smiles"]: filters.refusal(Chem.MolFromSmiles(row["smiles"])) for row in rows}
    assert not path or {"CCO", "CCCN"} >= {s for s, refusal in refused.items() if refusal}
    assert path or not any(refused.values())
    assert all(f"{check} " in summary or f'"{check}": ' in summary for check in filters.checks)


def test_filters_only_select_whatever_else_is_asked(graphcnf, model_folder):
    """Of `generate`: what is written is what a whole sample holds of it, in its order."""
    options, arguments = zip(*FILTERS.values(), strict=True)
    filters = Filters(**{k: v for one in arguments for k, v in one.items() if k != "exclude"})
    tail = ("--json", "--model", model_folder)
    chosen = [part for one in options for part in one if one[0] != "--exclude"]
    code, out, err = graphcnf("generate", "-n", 4, *chosen, *tail)
    assert code == 0, err
    figures = json.loads(err.splitlines()[-1])
    _, everything, _ = graphcnf("generate", "-n", figures["sampled"], "--all", *tail)
    valid = [row["smiles"] for row in map(json.loads, everything.splitlines()) if row["strict"]]
    passing = [s for s in valid if not filters.refusal(Chem.MolFromSmiles(s))]
    written = [json.loads(line)["smiles"] for line in out.splitlines()]
    assert written == list(dict.fromkeys(passing))
    assert figures["accepted"] == len(passing) and set(figures["filters"]) == set(filters.checks)
