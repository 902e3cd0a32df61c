import csv
import io
import json
import os
import subprocess
import sys

import pytest
from rdkit import Chem, rdBase

from graphcnf.molecules.codec import canonical_smiles
from graphcnf.molecules.metrics import evaluate_records
from graphcnf.scripts import generate as command

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
    # Coordinates must not be taken for stereo that nobody sampled.
    assert not any(set("/\\@") & set(Chem.MolToSmiles(m)) for m in mols)
    assert [canonical_smiles(m) for m in mols] == smiles
    assert mols[0].GetProp("smiles") == smiles[0] and mols[-1].GetNumConformers() == 1
    assert sorted(os.listdir()) == ["x.csv", "x.jsonl", "x.sdf", "x.smi"]
    assert generate("-n", 8, "--json")[0] == (surroundings / "x.jsonl").read_text()


def test_all_writes_every_graph(generate, surroundings):
    out, err = generate("-n", 80, "--all")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["record", "smiles", "strict", "largest_fragment", "atoms"]
    assert [r["record"] for r in rows] == [str(k) for k in range(80)]
    invalid = [r for r in rows if r["strict"] == "False"]
    assert 0 < len(invalid) < 80 and f"{1 - len(invalid) / 80:.1%}" in err
    # What was written says the same about validity as the graph did.
    again = evaluate_records([r["smiles"] for r in rows])
    assert [str(v) for v in again["strict"]] == [r["strict"] for r in rows]
    assert [str(n) for n in again["atoms"]] == [r["atoms"] for r in rows]
    with rdBase.BlockLogs():
        assert all(Chem.MolFromSmiles(r["smiles"]) is None for r in invalid)
    generate("-n", 80, "--all", "--out", "all.sdf")
    with rdBase.BlockLogs():
        mols = list(Chem.SDMolSupplier("all.sdf", sanitize=False))
    assert [str(m.GetNumAtoms()) for m in mols] == [r["atoms"] for r in rows]


def test_gives_up_and_leaves_the_old_file(graphcnf, model_folder, monkeypatch, surroundings):
    monkeypatch.setattr(command, "PATIENCE", 200)
    (surroundings / "x.smi").write_text("old\n")
    tail = ["--size", 1, "--out", "x.smi", "--model", model_folder]
    code, out, err = graphcnf("generate", "-n", 500, *tail)
    assert code == 1 and out == "" and "distinct valid molecules among" in err and "-n" in err
    assert (surroundings / "x.smi").read_text() == "old\n" and os.listdir() == ["x.smi"]
    # A size at which an untrained model has no luck.
    code, _, err = graphcnf("generate", *tail[:1], 36, *tail[2:])
    assert code == 1 and "none of" in err


def test_batch_size_and_device(generate):
    assert len(generate("-n", 5, "--batch-size", 7, "--device", "cpu")[0].splitlines()) == 5


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, **options
    )


def test_help_is_light():
    program = (
        "import sys; from graphcnf.scripts.cli import app\n"
        "app(['generate', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'pandas', 'rdkit', 'lightning'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = run("-c", program)
    assert done.returncode == 0, done.stderr
    assert "--temperature" in done.stdout


def test_generation_imports_no_training_library(model_folder):
    program = (
        "import sys; from graphcnf.scripts.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch_geometric', 'lightning', 'matplotlib', 'networkx'} & set(sys.modules)\n"
        "print(*heavy)"
    )
    done = run("-c", program, "generate", "-n", 2, "--model", model_folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # torch itself may import networkx.
    assert len(lines) == 3 and not {"torch_geometric", "lightning"} & set(lines[2].split())


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_closed_pipe_is_no_failure(model_folder):
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [sys.executable, "-c", RUN, "generate", "-n", "2", "--model", str(model_folder)]
    done = subprocess.run(arguments, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 0 and "rror" not in done.stderr
