"""Every filter with every way of drawing: what is written passes, and the summary says the cost."""

import csv
import io
import json
import math
import re

import pytest
import torch
from rdkit import Chem

from graphcnf.chemistry import filters as filters_module
from graphcnf.chemistry.filters import Filters
from graphcnf.design import growing as growth
from graphcnf.errors import UserError
from graphcnf.graphs import GraphModel
from graphcnf.graphs.building import with_conditions
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.sampling import sample

distributed = pytest.importorskip("distributed")

KNOWN = ["CCO", "CCN", "CC(N)=O", "CCCN", "NCC=O"]

# Options of the command, and arguments of Filters.
FILTERS = {
    "one": (
        ("--require", "3 <= atoms <= 5", "--exclude", "[N,n]", "--max-similarity", "known.smi:.5"),
        {"require": ["3 <= atoms <= 5"], "exclude": ["[N,n]"], "max_similarity": (KNOWN, 0.5)},
    ),
    "other": (
        ("--smarts", "[N,O]", "--alerts", "pains, brenk", "--min-similarity", "known.smi:0.2"),
        {"smarts": ["[N,O]"], "alerts": ["pains", "brenk"], "min_similarity": (KNOWN, 0.2)},
    ),
}

WAYS = {
    "generate": ("generate", "-n", 8),
    "cluster": ("generate", "-n", 30, "--cluster", "SCHEDULER"),
    "property": ("generate", "-n", 8, "--property", "logp=1.5", "--best-of", 2),
    "likelihood": ("generate", "-n", 8, "--likelihood", "--properties", "qed"),
    "shard": ("generate", "-n", 120, "--shard", "1/1", "--out", "x.jsonl"),
    "scaffold": ("grow", "-n", 4, "--scaffold", "CC"),
    "grow": ("grow", "-n", 4, "--grow", "[*:1]CC"),
    "decorate": ("grow", "-n", 4, "--decorate", "[*:1]C[*:2]"),
    "link": ("grow", "-n", 1, "--link", "[*:1]C.[*:2]C", "--size", "4-6"),
    "skeleton": ("analogs", "OCCC", "-n", 4, "--similar", 0),
    "similar": ("analogs", "OCCC", "-n", 3, "--keep", "skeleton", "--similar", 0.1),
    "scaffold kept": ("analogs", "OCC1CC1", "-n", 1, "--keep", "scaffold", "--size", "4-7",
                      "--similar", 0),
    "interpolate": ("interpolate", "CCO", "CCCN", "--paths", 8),
}  # fmt: skip


@pytest.fixture(autouse=True)
def known(few_walks, surroundings):
    (surroundings / "known.smi").write_text("\n".join(KNOWN) + "\n")


@pytest.fixture(scope="module")
def scheduler():
    """Address of a Dask cluster with one worker, a thread, to which everything goes over TCP."""
    options = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
        silence_logs=50, **options,
    ) as started:  # fmt: skip
        yield started.scheduler_address


@pytest.fixture(scope="session")
def model_of_properties(model_folder, tmp_path_factory):
    """The small model with a condition, which changes what it draws."""
    tables = [{"name": "logp", "mean": 0.0, "deviation": 1.0}]
    model = with_conditions(GraphModel.from_pretrained(model_folder), tables)
    leave = "condition_embedding.leave.weight"
    (weight,) = (p for name, p in model.named_parameters() if name.endswith(leave))
    torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("models") / "conditional"
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_passes(request, run, model_folder, surroundings, way, name):
    options, arguments = FILTERS[name]
    path = way == "interpolate"
    command = [*WAYS[way], *options, *(() if path else ("--json",))]
    if way == "cluster":
        command[command.index("SCHEDULER")] = request.getfixturevalue("scheduler")
    model = request.getfixturevalue("model_of_properties") if way == "property" else model_folder
    out, err = run(*command, "--model", model)
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
    # The first block, which the command itself draws, was not all.
    assert way != "cluster" or json.loads(summary)["sampled"] > 128
    assert all(f"{check} " in summary or f'"{check}": ' in summary for check in filters.checks)


def test_filters_only_select_whatever_else_is_asked(run, model_folder, monkeypatch):
    """Of `generate`: what is written is what a whole sample holds of it, in its order."""
    (one, of_one), (other, of_other) = FILTERS.values()
    filters, chosen = Filters(**of_one, **of_other), (*one, *other)
    tail = ("--json", "--model", model_folder)
    out, err = run("generate", "-n", 4, *chosen, *tail)
    figures = json.loads(err.splitlines()[-1])
    everything, _ = run("generate", "-n", figures["sampled"], "--all", *tail)
    valid = [row["smiles"] for row in map(json.loads, everything.splitlines()) if row["strict"]]
    passing = [s for s in valid if not filters.refusal(Chem.MolFromSmiles(s))]
    written = [json.loads(line)["smiles"] for line in out.splitlines()]
    first: dict[str, str] = {}  # of the molecules of one graph, which may differ in their marks
    for smiles in passing:
        first.setdefault(Chem.CanonSmiles(smiles, useChiral=False), smiles)
    assert written == list(first.values())
    assert figures["accepted"] == len(passing) and figures["strict_valid"] == len(valid)
    assert figures["acceptance"] == len(passing) / len(valid) and 0 < len(passing) < len(valid)
    assert set(figures["filters"]) == set(filters.checks)
    assert math.prod(figures["filters"].values()) == pytest.approx(figures["acceptance"])
    # The library draws the same molecules, and ends where none comes up.
    flow = MoleculeFlow.from_pretrained(model_folder)
    sample = flow.sample(4, filters=filters)
    assert sample.smiles == written
    assert sample.graphs.node_counts.tolist() == [m.GetNumAtoms() for m in sample.molecules]
    monkeypatch.setattr(filters_module, "PATIENCE", 10)
    with pytest.raises(UserError, match="0 molecules found .* 0.0% pass the filters .rings == 5"):
        flow.sample(1, filters=Filters(require=["rings == 5"]))


@pytest.mark.parametrize("way", ["generate", "scaffold", "similar"])
def test_nothing_that_passes_is_said_again_and_again(run, model_folder, monkeypatch, way):
    """Also if stderr is no terminal, where no progress is shown."""
    monkeypatch.setattr(filters_module, "REMINDER", 0.0, raising=False)
    monkeypatch.setattr(sample, "PATIENCE", 30)
    monkeypatch.setattr(filters_module, "PATIENCE_FACTOR", 1)
    monkeypatch.setattr(growth, "PATIENCE", 4)
    out, err = run(*WAYS[way], "--require", "logp > 30", "--model", model_folder, code=1)
    assert not out
    *notes, last = err.splitlines()
    said = re.compile(
        r"note: no new molecule in the last \d+ s; [\d,]+ valid molecules? so far, of which 0.0% "
        r"pass the filters \(logp > 30 0.0%(, no reactive alert 0.0%)?\)"
    )
    assert len([line for line in notes if said.fullmatch(line)]) >= 2, err
    assert last.startswith("error: ") and "0.0% pass the filters" in last


@pytest.mark.parametrize("way", ["generate", "scaffold", "similar"])
def test_sizes_that_the_model_never_draws_are_refused_at_once(run, model_folder, way):
    most = GraphModel.from_pretrained(model_folder).max_nodes if way != "similar" else 4
    command = (*WAYS[way], "--require", "atoms > 99", "--model", model_folder)
    out, err = run(*command, code=1)
    assert not out
    assert err.endswith(f"error: atoms > 99: no value of atoms from 1 to {most} meets this\n")
