import csv
import gzip
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor

from graphcnf.datasets.smiles_file import read_smiles
from graphcnf.flows.transform import RecordNoise
from graphcnf.graphs.building import model_for_graphs
from graphcnf.graphs.records import sample_records
from graphcnf.molecules.conventions import evaluate_records
from graphcnf.sampling import sample

RUN = "import sys; from graphcnf.scripts.cli import main; main(sys.argv[1:])"


@pytest.fixture
def generate(run, model_folder):
    return partial(run, "generate", "--model", model_folder)


def test_prints_distinct_valid_smiles(generate):
    out, err = generate("-n", 30)
    smiles = out.splitlines()
    assert len(smiles) == len(set(smiles)) == 30
    for s in smiles:
        mol = Chem.MolFromSmiles(s)
        assert mol is not None and "." not in s and Chem.MolToSmiles(mol) == s
        assert 2 <= mol.GetNumAtoms() <= 6
    # Nothing but the summary where stderr is no terminal.
    assert len(err.splitlines()) == 1 and "30 distinct" in err and err.startswith("sampled ")


def test_same_seed_same_molecules_and_more_begin_with_them(generate):
    few, many = generate("-n", 10)[0], generate("-n", 40)[0]
    assert many.startswith(few) and generate("-n", 10)[0] == few
    assert generate("-n", 10, "--seed", 1)[0] != few
    records = generate("-n", 150, "--all")[0].splitlines()
    assert records[:41] == generate("-n", 40, "--all")[0].splitlines()
    # The molecules are the valid distinct ones among all records, in their order.
    valid = [r["smiles"] for r in csv.DictReader(records) if r["strict"] == "True"]
    assert list(dict.fromkeys(valid))[:10] == (few.splitlines())[: len(set(valid))]


def test_sizes_and_temperature(generate):
    for size, allowed in (("4", {4}), ("2-3", {2, 3})):
        rows = csv.DictReader(io.StringIO(generate("-n", 60, "--all", "--size", size)[0]))
        assert {int(r["atoms"]) for r in rows} == allowed
    # A size that the training data lack is drawn all the same.
    assert generate("-n", 3, "--all", "--size", 30)[0].count(",30\n") == 3
    assert generate("-n", 20, "--all", "--temperature", 0.5)[0] != generate("-n", 20, "--all")[0]


def table_of(path):
    """The rows of a file as texts, none for what is missing."""
    open_text = gzip.open if path.endswith(".gz") else open
    if path.endswith(".parquet"):
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    elif ".jsonl" in path:
        rows = map(json.loads, open_text(path, "rt"))
    else:
        rows = csv.DictReader(open_text(path, "rt"))
    return [{name: "" if v is None else str(v) for name, v in row.items()} for row in rows]


@pytest.mark.parametrize(
    "options", [("-n", 8), ("-n", 9, "--properties", "qed,rings", "--likelihood"),
                ("-n", 150, "--all", "--likelihood")]
)  # fmt: skip
def test_every_format_holds_the_same(generate, options):
    text, _ = generate(*options, "--json")
    kinds = ("csv", "csv.gz", "jsonl", "jsonl.gz", "parquet", "sdf", "smi")
    names = [f"x.{kind}" for kind in kinds]
    for name in names:
        assert generate(*options, "--out", name)[0] == ""
    assert sorted(os.listdir()) == names and Path("x.jsonl").read_text() == text
    table = table_of("x.jsonl")
    for name in names[:-2]:
        assert table_of(name) == table, name
    columns = list(table[0])
    rows = [line.split("\t") for line in Path("x.smi").read_text().splitlines()]
    if options != ("-n", 8):  # lines of SMILES have numbers of records only where all are written
        left_out = {"smiles"} if "--all" in options else {"smiles", "record"}
        assert rows.pop(0) == ["# smiles", *(name for name in columns if name not in left_out)]
    # Commands read what a command wrote.
    smiles = [row["smiles"] for row in table]
    assert [row[0] for row in rows] == smiles == read_smiles("x.smi")[1]
    for name in names if "--all" not in options else ("x.smi", "x.csv"):
        assert read_smiles(name)[1] == smiles
    with rdBase.BlockLogs():
        mols = list(Chem.SDMolSupplier("x.sdf", sanitize="--all" not in options))
    for mol, row in zip(mols, table, strict=True):
        assert all(mol.GetProp(name) == value for name, value in row.items() if value)
        # Coordinates say the stereo that was drawn, and none where none was.
        assert "--all" in options or Chem.MolToSmiles(mol) == row["smiles"]
    assert mols[-1].GetNumConformers() == 1


def test_all_writes_every_graph(generate, surroundings):
    out, err = generate("-n", 80, "--all")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["record", "smiles", "strict", "largest_fragment", "atoms"]
    assert [r["record"] for r in rows] == [str(k) for k in range(80)]
    invalid = [r for r in rows if r["strict"] == "False"]
    assert 0 < len(invalid) < 80 and f"{(80 - len(invalid)) / 80:.1%}" in err
    # What was written says the same about validity as the graph did.
    again = evaluate_records([r["smiles"] for r in rows])
    assert [str(v) for v in again["strict"]] == [r["strict"] for r in rows]
    assert [str(n) for n in again["atoms"]] == [r["atoms"] for r in rows]
    with rdBase.BlockLogs():
        assert all(Chem.MolFromSmiles(r["smiles"]) is None for r in invalid)
    more = generate("-n", 80, "--all", "--properties", "atoms,qed")[0]
    assert [r["atoms"] for r in csv.DictReader(io.StringIO(more))] == [r["atoms"] for r in rows]


def test_flat_coordinates_do_not_depend_on_what_was_drawn_before():
    from graphcnf.chemistry.drawing import draw_svg
    from graphcnf.sampling.writers import WRITERS

    row = {"record": 0, "smiles": "NS", "strict": True}
    before = WRITERS["sdf"](row)
    draw_svg("CCO", size=(200, 150))
    assert not rdDepictor.GetPreferCoordGen()
    with rdDepictor.UsingCoordGen(True):
        assert WRITERS["sdf"](row) == before


def test_gives_up_and_leaves_the_old_file(refused, model_folder, monkeypatch, surroundings):
    monkeypatch.setattr(sample, "PATIENCE", 200)
    (surroundings / "x.smi").write_text("old\n")
    tail = ["--size", 1, "--out", "x.smi", "--model", model_folder, "--force", "--workers", 1]
    err = refused("generate", "-n", 500, *tail)
    assert "molecules found and no further one in 200 tries" in err and "-n" in err
    assert (surroundings / "x.smi").read_text() == "old\n"
    # A size at which an untrained model has no luck.
    monkeypatch.setattr(sample, "PATIENCE", 100)
    assert "train the model for longer" in refused("generate", *tail[:1], 36, *tail[2:])
    monkeypatch.setattr(sample, "PATIENCE", 20)
    heavy = ["-n", 5, "--require", "weight > 900", "--out", "y.smi", *tail[4:]]
    assert "0.0% pass the filters (weight > 900 0.0%)" in refused("generate", *heavy)
    assert not [name for name in os.listdir() if "y.smi" in name]


def test_python_writes_the_file_of_the_command(generate, model_folder, surroundings):
    from graphcnf.graphs import GraphModel
    from graphcnf.molecules.molecule_model import shipped_stereo
    from graphcnf.pretrained import model_digest
    from graphcnf.sampling.sample import Recipe
    from graphcnf.sampling.writers import columns_of

    generate("-n", 20, "--seed", 2, "--size", "2-4", "--out", "command.csv")
    model = GraphModel.from_pretrained(model_folder)
    stereo = model_digest(shipped_stereo(model.metadata["dataset"]))
    options = {"kind": "csv", "columns": columns_of("csv"), "everything": False, "stereo": stereo}
    recipe = Recipe(2, 1.0, (2, 4), **options)
    drawn = sample.Sample(model, recipe, range(10_000), 20)
    drawn.save(surroundings / "python.csv")
    files = [(surroundings / f"{name}.csv").read_bytes() for name in ("command", "python")]
    assert files[0] == files[1] and drawn.counts.written == 20 <= drawn.counts.sampled


def test_molecules_do_not_depend_on_the_number_of_processes(generate):
    arguments = ["-n", 700, "--all", "--likelihood", "--json"]
    assert generate(*arguments, "--workers", 2)[0] == generate(*arguments, "--workers", 1)[0]


def test_a_missing_parquet_package_is_named(refused, model_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    err = refused("generate", "--model", model_folder, "--out", "x.parquet")
    assert "pip install 'graphcnf[parquet]'" in err
    assert len(err.splitlines()) == 1 and os.listdir() == []


def test_likelihoods_are_the_bound_of_the_graph(generate, model_folder):
    import torch

    from graphcnf.graphs import GraphBatch, GraphModel

    model = GraphModel.from_pretrained(model_folder)
    rows = [json.loads(r) for r in generate("-n", 20, "--likelihood", "--json")[0].splitlines()]
    everything = generate("-n", 140, "--all", "--likelihood")[0]
    assert len({row["log_likelihood"] for row in rows}) == 20
    # Invalid graphs have one as well, and the same record has the same.
    table = {int(r["record"]): r for r in csv.DictReader(io.StringIO(everything))}
    invalid = next(number for number, row in table.items() if row["strict"] == "False")
    graphs = sample_records(model, range(140), seed=0)
    chosen = sorted({0, 1, 2, 3, 50, 127, 128, 139, invalid})
    assert {table[k]["strict"] for k in chosen} == {"True", "False"}
    with torch.no_grad():
        nats = model.log_prob(GraphBatch.collate(graphs, chosen))
    found = [float(table[k]["log_likelihood"]) for k in chosen]
    np.testing.assert_allclose(found, nats, atol=1e-3)
    for row in rows:
        if row["record"] in table:
            assert row["log_likelihood"] == float(table[row["record"]]["log_likelihood"])


def test_likelihoods_without_an_order_are_those_of_the_molecule(zinc_smiles):
    import torch

    from graphcnf.datasets.molecules import encode
    from graphcnf.graphs.isomorphism import labelling_bits
    from graphcnf.sampling.sample import molecule_log_likelihoods

    graphs, block = encode("zinc250k", zinc_smiles[:200]).graphs.subset(range(128)), range(128)
    step = {"couplings": 1, "width": 8, "layers": 1, "heads": 1}
    torch.manual_seed(0)
    model = model_for_graphs(
        graphs, node_categories=17, edge_categories=5, architecture="pairs", order="none",
        nodes=step, edges=step, adjacency=step,
    ).eval()  # fmt: skip
    strict = np.arange(128) != 5
    labelled = model.log_prob(graphs, noise=RecordNoise(0, np.arange(128))).numpy()
    found = molecule_log_likelihoods(model, graphs, block, strict, 0)
    assert found[5] is None
    for k in (0, 6, 100):
        expected = labelled[k] + labelling_bits(graphs.subset([k]))[0] * math.log(2)
        assert found[k] == pytest.approx(expected, abs=1e-3) and found[k] > labelled[k]


def test_generation_imports_what_it_needs_alone(model_folder):
    program = (
        "import sys, torch; from graphcnf.scripts.cli import app\n"
        "before = set(sys.modules)\n"  # Some versions of torch load networkx.
        "app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch_geometric', 'lightning_fabric', 'matplotlib', 'networkx', 'pandas',"
        " 'scipy'}\n"
        "print(*heavy & set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", program, "generate", "-n", "2", "--model", model_folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and not lines[2]


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_closed_pipe_is_no_failure(model_folder):
    arguments = [sys.executable, "-c", RUN, "generate", "--model", str(model_folder), "--seed", "2"]
    endless = [*arguments, "-n", "10000000", "--all", "--workers", "1"]
    with subprocess.Popen(
        endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # The first block is there before any other process draws.
        lines = [process.stdout.readline() for _ in range(3)]
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 0
    assert lines[0].startswith("record,smiles") and lines[2].startswith("1,")
