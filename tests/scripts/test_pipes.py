"""Molecules from standard input, and files as other programs write them, without an option."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rdkit import Chem

from graphcnf.datasets.smiles_file import read_smiles

ROOT = Path(__file__).resolve().parents[2]
LINES = ["CCO", "CC(=O)Nc1ccc(O)cc1", "c1ccccc1CN"]
FILES = {
    "REINVENT 4, sampling": "SMILES,SMILES_state,NLL\nCCO,1,12.5\nCC(=O)Nc1ccc(O)cc1,1,20.1\n"
    "c1ccccc1CN,2,19.0\n",
    "REINVENT 4, staged learning": "Agent,Prior,Target,Score,SMILES,SMILES_state,# rings (raw),step"
    "\n3.2,3.2,35.6,0.3,CCO,1,0,1\n4,4,30,0.2,CC(=O)Nc1ccc(O)cc1,1,1,1\n5,5,31,0.1,c1ccccc1CN,1,1,"
    "2\n",
    "REINVENT 4, scoring": 'SMILES,Comment,RDKit_SMILES (REINVENT),Score\nCCO,,CCO,0.5\n'
    'CC(=O)Nc1ccc(O)cc1,"a, b",CC(=O)Nc1ccc(O)cc1,0.1\nc1ccccc1CN,,NCc1ccccc1,0.2\n',
    "chemprop": "smiles,pIC50,pred_0\nCCO,,6.1\nCC(=O)Nc1ccc(O)cc1,7,7.2\nc1ccccc1CN,5,5.0\n",
    "MOSES": "SMILES,SPLIT\nCCO,train\nCC(=O)Nc1ccc(O)cc1,test\nc1ccccc1CN,test_scaffolds\n",
    "GuacaMol": "CCO\nCC(=O)Nc1ccc(O)cc1\nc1ccccc1CN\n",
    "RDKit, SmilesWriter": "SMILES Name \nCCO a\nCC(=O)Nc1ccc(O)cc1 b\nc1ccccc1CN c\n",
}  # fmt: skip


@pytest.fixture
def pipe(graphcnf, monkeypatch):
    """Run a command with a text on its standard input: its output and messages."""

    def run(text, *arguments, code=0):
        content = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        found, out, err = graphcnf(*arguments)
        assert found == code, err
        return out, err

    return run


@pytest.mark.parametrize("program", FILES)
def test_files_of_other_programs_need_no_option(program, tmp_path):
    content = FILES[program].encode()
    assert read_smiles("-", content=content).smiles == LINES
    path = tmp_path / ("x.csv" if b"," in content else "x.smi")
    path.write_bytes(content)
    assert read_smiles(path).smiles == LINES


def test_rdkit_reads_and_writes_what_is_piped(pipe, model_folder, tmp_path):
    with Chem.SmilesWriter(str(tmp_path / "x.smi")) as writer:
        for line in LINES:
            writer.write(Chem.MolFromSmiles(line))
    written = (tmp_path / "x.smi").read_text()
    assert read_smiles("-", content=written.encode()).smiles == [*map(Chem.CanonSmiles, LINES)]
    with Chem.SDWriter(str(tmp_path / "x.sdf")) as writer:
        for line in LINES:
            writer.write(Chem.MolFromSmiles(line))
    out, _ = pipe((tmp_path / "x.sdf").read_text(), "score", "-", "--model", model_folder)
    rows = Chem.SmilesMolSupplierFromText(out, ",", smilesColumn=1, nameColumn=0)
    assert [Chem.MolToSmiles(mol) for mol in rows] == [*map(Chem.CanonSmiles, LINES)]


def test_a_pipe_of_the_shell(model_folder, tmp_path):
    (tmp_path / "reinvent.csv").write_text(FILES["REINVENT 4, sampling"])
    score = f"{sys.executable} -m graphcnf score - --json --model {model_folder}"
    line = f"cat {tmp_path / 'reinvent.csv'} | {score} | head -n 2"
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    rows = [json.loads(text) for text in done.stdout.splitlines()]
    assert done.returncode == 0 and [row["NLL"] for row in rows] == ["12.5", "20.1"], done.stderr
    assert [row["smiles"] for row in rows] == LINES[:2] and rows[0]["log_likelihood"] < 0


def test_what_one_command_writes_the_next_one_reads(pipe, model_folder, zinc_smiles):
    """Each of the commands that read a file, after one that writes rows in two ways."""
    text = "\n".join(zinc_smiles[:12]) + "\n"
    model = ("--model", model_folder)
    for out in (pipe(text, "score", "-", *model)[0], pipe(text, "score", "-", *model, "--json")[0]):
        assert read_smiles("-", content=out.encode()).smiles == zinc_smiles[:12]
        for command in ("info", "prepare"):
            assert "12" in "".join(pipe(out, "datasets", command, "-"))
        assert pipe(out, "datasets", "check", "-", "--workers", 1)[0] == ""
        found, _ = pipe(out, "evaluate", "-", "--reference", "none", "--json")
        assert json.loads(found)["samples"] == 12
    joined, _ = pipe(out, "datasets", "join", "-", "-n", 2, "--atoms", "20-60")
    assert len(joined.splitlines()) == 2
    found, _ = pipe("CCO\nCCN\n", "optimize", "--score", "qed", "--start", "-", "--budget", 2,
                    "--workers", 0, "--json", "--all", *model)  # fmt: skip
    assert [json.loads(line)["smiles"] for line in found.splitlines()] == ["CCO", "CCN"]
    assert read_smiles("-", content=found.encode()).smiles == ["CCO", "CCN"]


def test_fine_tuning_keeps_what_it_read(pipe, model_folder, zinc_smiles, surroundings):
    text = "\n".join(zinc_smiles[:40]) + "\n"
    line = ("finetune", "-", "--weights", model_folder, "--steps", 1, "-n", 0, "--json")
    report = json.loads(pipe(text, *line)[0])
    kept = surroundings / "runs" / "finetune-stdin" / "molecules.txt"
    assert report["file"] == "runs/finetune-stdin/molecules.txt" and kept.read_text() == text
    # The same command goes on, also without input.
    assert json.loads(pipe("", *line)[0]) == report
    _, err = pipe("CCO\n", *line, code=1)
    assert "other molecules: choose another --out" in err and kept.read_text() == text
    for bad in ("", "CCO\nCCN\n"):
        pipe(bad, *line, "--out", "new", code=1)
        assert not (surroundings / "new").exists()


def test_training_reads_its_file_again(graphcnf):
    code, _, err = graphcnf("train", "zinc250k", "--set", "data.name=smiles_file",
                            "--set", "data.path=-", "--out", "run")  # fmt: skip
    assert code == 1 and "name one, not -" in err


def test_the_page_names_these_programs():
    page = (ROOT / "docs" / "pipes.md").read_text()
    table = re.findall(r"^\| (.+?) \| ", page.partition("| file |")[2], flags=re.MULTILINE)
    assert set(FILES) <= set(table)
