import csv
import gzip
import importlib.util
import io
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import rdDepictor

from graphcnf.datasets.smiles_file import read_smiles
from graphcnf.graphs.building import model_for_graphs
from graphcnf.molecules.validity import evaluate_records
from graphcnf.sampling import sample

RUN = "import sys; from graphcnf.scripts.cli import main; main(sys.argv[1:])"


@pytest.fixture
def generate(graphcnf, model_folder):
    def run(*arguments):
        code, out, err = graphcnf("generate", "--model", model_folder, *arguments)
        assert code == 0, err
        return out, err

    return run


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


def test_files(generate, surroundings):
    smiles = generate("-n", 8)[0].splitlines()
    for suffix in ("smi", "csv", "sdf", "jsonl"):
        out, _ = generate("-n", 8, "--out", f"x.{suffix}")
        assert out == ""
    assert (surroundings / "x.smi").read_text().splitlines() == smiles
    table = list(csv.DictReader((surroundings / "x.csv").open()))
    assert [r["smiles"] for r in table] == smiles and list(table[0]) == ["record", "smiles"]
    lines = [json.loads(line) for line in (surroundings / "x.jsonl").read_text().splitlines()]
    assert [r["smiles"] for r in lines] == smiles
    assert [str(r["record"]) for r in lines] == [r["record"] for r in table]
    mols = list(Chem.SDMolSupplier(str(surroundings / "x.sdf")))
    # Coordinates say the stereo that was drawn, and none where none was.
    assert [Chem.MolToSmiles(mol) for mol in mols] == smiles
    assert mols[0].GetProp("smiles") == smiles[0] and mols[-1].GetNumConformers() == 1
    assert sorted(os.listdir()) == ["x.csv", "x.jsonl", "x.sdf", "x.smi"]
    assert generate("-n", 8, "--json")[0] == (surroundings / "x.jsonl").read_text()


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
    generate("-n", 80, "--all", "--out", "all.sdf")
    with rdBase.BlockLogs():
        mols = list(Chem.SDMolSupplier("all.sdf", sanitize=False))
    assert [str(m.GetNumAtoms()) for m in mols] == [r["atoms"] for r in rows]


def test_flat_coordinates_do_not_depend_on_what_was_drawn_before():
    from graphcnf.molecules.drawing import draw_svg
    from graphcnf.sampling.writers import WRITERS

    row = {"record": 0, "smiles": "NS", "strict": True}
    before = WRITERS["sdf"](row)
    draw_svg("CCO", size=(200, 150))
    assert not rdDepictor.GetPreferCoordGen()
    with rdDepictor.UsingCoordGen(True):
        assert WRITERS["sdf"](row) == before


SELECT = ("--require", "weight > 40", "--require", "2 <= atoms <= 5", "--smarts", "[N,n]")


def test_selection_only_selects(generate):
    """What is written is what a whole sample holds of it, in its order."""
    out, err = generate("-n", 5, "--json", "--properties", "weight,qed,sa,charge", *SELECT)
    rows = [json.loads(line) for line in out.splitlines()]
    figures = json.loads(err.splitlines()[-1])
    everything, _ = generate("-n", figures["sampled"], "--all", "--json", "--properties", "weight")
    expected, valid, accepted = {}, 0, 0
    for row in map(json.loads, everything.splitlines()):
        if row["strict"]:
            mol = Chem.MolFromSmiles(row["smiles"])
            wanted = row["weight"] > 40 and 2 <= mol.GetNumAtoms() <= 5
            wanted = wanted and mol.HasSubstructMatch(Chem.MolFromSmarts("[N,n]"))
            valid, accepted = valid + 1, accepted + wanted
            if wanted:
                expected.setdefault(row["smiles"], row)
        else:
            assert row["weight"] is None
    assert [r["smiles"] for r in rows] == list(expected)
    assert [r["weight"] for r in rows] == [r["weight"] for r in expected.values()]
    assert (figures["strict_valid"], figures["accepted"]) == (valid, accepted)
    assert figures["acceptance"] == accepted / valid and 0 < accepted < valid
    assert np.prod([*figures["filters"].values()]) == pytest.approx(accepted / valid)
    assert figures["written"] == figures["distinct"] == 5
    # As well where it is written otherwise.
    other = ["--require=40<weight", "--require=atoms<=5.0", "--require=atoms>=2", *SELECT[4:]]
    again, err = generate("-n", 5, *other)
    assert again.splitlines() == list(expected) and "% pass the filters (has [N,n] " in err


def test_properties_are_columns_of_every_format(generate, surroundings):
    options = ("-n", 9, "--properties", "qed,rings", "--likelihood")
    rows = [json.loads(line) for line in generate(*options, "--json")[0].splitlines()]
    assert list(rows[0]) == ["record", "smiles", "log_likelihood", "qed", "rings"]
    for suffix in ("smi", "csv", "sdf", "parquet"):
        generate(*options, "--out", f"x.{suffix}")
    head, *lines = (surroundings / "x.smi").read_text().splitlines()
    assert head == "# smiles\tlog_likelihood\tqed\trings"
    assert [line.split("\t") for line in lines] == [
        [str(r[name]) for name in ("smiles", "log_likelihood", "qed", "rings")] for r in rows
    ]
    table = list(csv.DictReader((surroundings / "x.csv").open()))
    assert table == [{k: str(v) for k, v in row.items()} for row in rows]
    mols = Chem.SDMolSupplier("x.sdf")
    assert [m.GetProp("qed") for m in mols] == [str(r["qed"]) for r in rows]
    parquet = pytest.importorskip("pyarrow.parquet").read_table("x.parquet").to_pylist()
    assert parquet == rows and isinstance(parquet[0]["rings"], int)
    # Commands read what a command wrote.
    for suffix in ("smi", "csv", "sdf", "parquet"):
        assert read_smiles(f"x.{suffix}")[1] == [r["smiles"] for r in rows]
    for suffix in ("smi", "csv"):
        generate("-n", 20, "--all", "--out", f"all.{suffix}")
    head = (surroundings / "all.smi").read_text().splitlines()[0]
    assert head == "# smiles\trecord\tstrict\tlargest_fragment\tatoms"
    assert read_smiles("all.smi")[1] == read_smiles("all.csv")[1]


def test_gives_up_and_leaves_the_old_file(graphcnf, model_folder, monkeypatch, surroundings):
    monkeypatch.setattr(sample, "PATIENCE", 200)
    (surroundings / "x.smi").write_text("old\n")
    tail = ["--size", 1, "--out", "x.smi", "--model", model_folder, "--force"]
    code, out, err = graphcnf("generate", "-n", 500, *tail)
    assert (
        code == 1
        and out == ""
        and "molecules found and no further one in 200 tries" in err
        and "-n" in err
    )
    assert (surroundings / "x.smi").read_text() == "old\n"
    # A size at which an untrained model has no luck.
    monkeypatch.setattr(sample, "PATIENCE", 100)
    code, _, err = graphcnf("generate", *tail[:1], 36, *tail[2:])
    assert code == 1 and "train the model for longer" in err
    monkeypatch.setattr(sample, "PATIENCE", 20)
    heavy = ["-n", 5, "--require", "weight > 900", "--out", "y.smi", *tail[4:]]
    code, _, err = graphcnf("generate", *heavy)
    assert code == 1 and "0.0% pass the filters (weight > 900 0.0%)" in err
    assert not [name for name in os.listdir() if "y.smi" in name]


def test_python_writes_the_file_of_the_command(generate, model_folder, surroundings):
    from graphcnf.graphs import GraphModel
    from graphcnf.pretrained import model_digest
    from graphcnf.sampling.sample import Recipe
    from graphcnf.sampling.writers import columns_of
    from graphcnf.stereo.stereo_flow import shipped_stereo

    generate("-n", 20, "--seed", 2, "--size", "2-4", "--out", "command.csv")
    model = GraphModel.from_pretrained(model_folder)
    stereo = model_digest(shipped_stereo(model.metadata["dataset"]))
    recipe = Recipe(
        2, 1.0, (2, 4), kind="csv", columns=columns_of("csv"), everything=False, stereo=stereo
    )
    drawn = sample.Sample(model, recipe, range(10_000), 20)
    drawn.save(surroundings / "python.csv")
    files = [(surroundings / f"{name}.csv").read_bytes() for name in ("command", "python")]
    assert files[0] == files[1] and drawn.counts.written == 20 <= drawn.counts.sampled


def test_compressed_and_columnar_files_hold_the_same(generate, surroundings):
    parquet = pytest.importorskip("pyarrow.parquet")
    options = ("-n", 150, "--likelihood", "--all")
    plain, _ = generate(*options, "--json")
    for suffix in ("jsonl.gz", "csv.gz", "parquet"):
        generate(*options, "--force", "--out", f"x.{suffix}")
    assert gzip.decompress((surroundings / "x.jsonl.gz").read_bytes()).decode() == plain
    rows = [json.loads(line) for line in plain.splitlines()]
    assert parquet.read_table("x.parquet").to_pylist() == rows and len(rows[0]) == 6
    text = gzip.decompress((surroundings / "x.csv.gz").read_bytes()).decode()
    for row, expected in zip(csv.DictReader(io.StringIO(text)), rows, strict=True):
        assert row == {k: "" if v is None else str(v) for k, v in expected.items()}
    assert sorted(os.listdir()) == ["x.csv.gz", "x.jsonl.gz", "x.parquet"]


def test_molecules_do_not_depend_on_the_number_of_processes(generate):
    arguments = ["-n", 700, "--all", "--likelihood", "--json"]
    assert generate(*arguments, "--workers", 2)[0] == generate(*arguments, "--workers", 1)[0]


def test_a_missing_parquet_package_is_named(graphcnf, model_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, out, err = graphcnf("generate", "--model", model_folder, "--out", "x.parquet")
    assert (code, out) == (1, "") and "pip install 'graphcnf[parquet]'" in err
    assert len(err.splitlines()) == 1 and os.listdir() == []


def test_likelihoods_are_the_bound_of_the_graph(generate, model_folder):
    import torch

    from graphcnf.graphs import GraphBatch, GraphModel
    from graphcnf.graphs.record_blocks import RecordNoise

    model = GraphModel.from_pretrained(model_folder)
    rows = [json.loads(r) for r in generate("-n", 20, "--likelihood", "--json")[0].splitlines()]
    everything = generate("-n", 140, "--all", "--likelihood")[0]
    assert len({row["log_likelihood"] for row in rows}) == 20
    # Invalid graphs have one as well, and the same record has the same.
    table = {int(r["record"]): r for r in csv.DictReader(io.StringIO(everything))}
    graphs, chosen = model.sample_records(0, 140, seed=0), [0, 1, 2, 3, 50, 127, 128, 139]
    assert {table[k]["strict"] for k in chosen} == {"True", "False"}
    with torch.no_grad():
        nats = model.log_prob(GraphBatch.collate(graphs, chosen), noise=RecordNoise(0, chosen))
    found = [float(table[k]["log_likelihood"]) for k in chosen]
    np.testing.assert_allclose(found, nats, atol=1e-3)
    for row in rows:
        if row["record"] in table:
            assert row["log_likelihood"] == float(table[row["record"]]["log_likelihood"])


def test_likelihoods_without_an_order_are_those_of_the_molecule(zinc_smiles):
    import torch

    from graphcnf.datasets.molecules import encode
    from graphcnf.graphs.isomorphism import labelling_bits
    from graphcnf.graphs.record_blocks import RecordNoise
    from graphcnf.sampling.sample import molecule_log_likelihoods

    graphs, block = encode("zinc250k", zinc_smiles[:200]).graphs.subset(range(128)), range(128)
    step = {"couplings": 1, "width": 8, "layers": 1, "heads": 1}
    torch.manual_seed(0)
    model = model_for_graphs(
        graphs, node_categories=17, edge_categories=5, architecture="pairs", order="none",
        nodes=step, edges=step, adjacency=step,
    ).eval()  # fmt: skip
    frame = evaluate_records(zinc_smiles[:128])
    frame.loc[5, "strict"] = False
    labelled = model.log_probs(graphs, lambda chosen: RecordNoise(0, chosen))
    found = molecule_log_likelihoods(model, graphs, block, frame, 0)
    assert found[5] is None
    for k in (0, 6, 100):
        expected = labelled[k] + labelling_bits(graphs.subset([k]))[0] * math.log(2)
        assert found[k] == pytest.approx(expected, abs=1e-3) and found[k] > labelled[k]


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, **options
    )


def test_generation_imports_no_training_library(model_folder):
    program = (
        "import sys; from graphcnf.scripts.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch_geometric', 'lightning_fabric', 'matplotlib', 'networkx'}\n"
        "print(*heavy & set(sys.modules))"
    )
    done = run("-c", program, "generate", "-n", 2, "--model", model_folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # torch itself may import networkx.
    assert len(lines) == 3 and not {"torch_geometric", "lightning_fabric"} & set(lines[2].split())


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_closed_pipe_is_no_failure(model_folder):
    arguments = [sys.executable, "-c", RUN, "generate", "--model", str(model_folder), "--seed", "2"]
    endless = [*arguments, "-n", "10000000", "--all", "--workers", "2"]
    with subprocess.Popen(
        endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # The first block is there before any other process draws.
        lines = [process.stdout.readline() for _ in range(3)]
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 0
    assert lines[0].startswith("record,smiles") and lines[2].startswith("1,")
