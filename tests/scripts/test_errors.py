"""Bad input: one clear line, exit code 1 (failed) or 2 (usage), no traceback, no output."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest
from installed import installed

MODEL = "--model", "{model}"
GENERATE, GROW, EVALUATE = (["generate", *MODEL], ["grow", *MODEL], ["evaluate", *MODEL])
ANALOGS, OPTIMIZE = ["analogs", "CCO", *MODEL], ["optimize", *MODEL, "--score"]
JOIN = ["datasets", "join", "good.smi"]
FINETUNE = ["finetune", "good.smi", "--weights", "{model}"]


@pytest.fixture
def places(model_folder, surroundings):
    """Names for the arguments below; the folder has the same files afterwards."""
    files = {"words.txt": "nothing here\nis a molecule\n", "table.csv": "a,b\n1,2\n",
             "good.smi": "CCO\nCCN\n", "bad.json": "{", "my.py": "", "broken.py": "def f(:\n",
             }  # fmt: skip
    for name, content in files.items():
        (surroundings / name).write_text(content)
    yield {"model": model_folder}
    assert set(os.listdir()) - {"__pycache__"} == set(files)


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ([*GENERATE, "--size", "30-90"], 1, "this model draws graphs of 1 to"),
        ([*GENERATE, "--size", "9-3"], 2, "smaller number first"),
        ([*GENERATE, "--out", ""], 2, "the argument after --out is empty"),
        (["", *GENERATE], 2, "the first argument is empty"),
        ([*GENERATE, "--device", "warp"], 1, "device 'warp'"),
        ([*GENERATE, "--out", "x.xyz"], 2, "must end in one of .smi, .csv, .sdf, .jsonl"),
        ([*GENERATE, "--out", ".csv"], 2, "must end in one of"),
        ([*GENERATE, "--out", "x.csv", "--json"], 2, "--json writes .jsonl files"),
        ([*GENERATE, "--out", "no/x.smi"], 1, "there is no folder no"),
        ([*GENERATE, "--shard", "1/2"], 2, "'--shard': it is a file: name it with --out"),
        ([*GENERATE, "--shard", "3/2"], 2, "for the parts of 20, or all/20, got '3/2'"),
        ([*GENERATE, "-n", "1000", "--shard", "1/9", "--out", "x.smi"], 1, "drawn in 3 blocks"),
        ([*GENERATE, "--all", "--require", "qed > 0.5"], 2, "--all writes every graph"),
        ([*GENERATE, "--require", "qed >"], 2, "'--require': 'qed >' is no comparison"),
        ([*GENERATE, "--smarts", "c1cc"], 2, "'--smarts': not a SMARTS that RDKit accepts"),
        ([*GENERATE, "--properties", "qid"], 2, "no property 'qid'; did you mean 'qed'?"),
        ([*GENERATE, "--property", "logp=2"], 1, "this model takes no properties"),
        ([*GENERATE, "--best-of", "2"], 2, "nearest to a --property"),
        ([*GENERATE, "--exclude", "c1cc"], 2, "'--exclude': not a SMARTS that RDKit accepts"),
        ([*GENERATE, "--smarts", "C", "--exclude", "C"], 1, "C is wanted and excluded"),
        ([*GENERATE, "--require", "qed > 0.8", "--require", "qed < 0.2"], 2, "no value of qed"),
        ([*GENERATE, "--alerts", "pain"], 2, "no catalogue of alerts 'pain'; did you mean 'pains'"),
        ([*GENERATE, "--min-similarity", "good.smi"], 2, "write known.smi:0.4"),
        ([*GENERATE, "--min-similarity", "good.smi:1.4"], 2, "between 0 and 1, got 1.4"),
        ([*GENERATE, "--max-similarity", "no.smi:0.4"], 2, "no such file: no.smi"),
        ([*GENERATE, "--max-similarity", "words.txt:0.4"], 2, "words.txt, line 1: not a SMILES"),
        ([*GROW, "--grow", "[*]C", "--link", "[*]C.[*]C"], 2, "exclude each other"),
        (GROW, 2, "name the fragment: --scaffold, --grow, --link, --close or --decorate"),
        ([*GROW, "--close", "[*]CC[*]", "--added-atoms", "6-3"], 2, "the smaller one first"),
        ([*GROW, "--grow", "CC", "--likeliest", "0"], 2, "'--likeliest': must be greater than or"),
        ([*GROW, "--decorate", "CC"], 1, "the task scaffold (--scaffold) needs none"),
        ([*GROW, "--scaffold", "[Xe]"], 1, "not among the atoms"),
        ([*GROW, "--size", "3-6", "--scaffold", "CCCCCCCCC"], 1, "molecules of up to 6"),
        ([*GROW, "--scaffold", "C" * 40], 1, "has 40 atoms and needs 41 or more in all, but mol"),
        ([*GROW, "--size", "50", "--scaffold", "CC"], 1, "sizes 50-50: this model draws graphs of"),
        (["analogs", "C" * 40, "--model", "{model}"], 1, "40 heavy atoms, at most 3"),
        ([*GENERATE, "--cluster", "here"], 2, "'--cluster': cluster must be local"),
        ([*GENERATE, "--cluster", "tcp://h:1", "--workers", "2"], 2, "has its own number"),
        ([*GENERATE, "--cluster", "local", "--device", "cuda"], 2, "'--device': workers of"),
        (["analogs", "C1CC", *MODEL], 1, "not a SMILES"),
        ([*ANALOGS, "--size", "3-5"], 1, "same number of atoms"),
        ([*ANALOGS, "--keep", "scaffold"], 1, "no ring"),
        ([*ANALOGS, "--properties", "beauty"], 2, "no property"),
        ([*ANALOGS, "--out", "a.xyz"], 2, "must end in"),
        (["interpolate", "CCO", "C1C", *MODEL], 1, "not a SMILES"),
        (["interpolate", "CCO", "C" * 60, *MODEL], 1, "at most"),
        (["interpolate", "CCO", "CCN", *MODEL, "--picture", "a.gif"], 2, "one of .png, .svg, .pdf"),
        ([*GENERATE, "--html", "x.pdf"], 2, "must end in .html"),
        ([*GENERATE, "--all", "--html", "x.html"], 2, "do not go with --all"),
        ([*OPTIMIZE, "quality"], 1, "no score 'quality': give FILE.py:FUNCTION or one of qed"),
        ([*OPTIMIZE, "none.toml"], 1, "none.toml: No such file"),
        ([*OPTIMIZE, "my.py:g"], 1, "my.py has no function 'g'"),
        ([*OPTIMIZE, "broken.py:f"], 1, "broken.py: SyntaxError"),
        ([*OPTIMIZE, "qed", "--out", "good.smi"], 1, "good.smi exists"),
        ([*OPTIMIZE, "qed", "--set", "batch=many"], 2, "batch must be an integer from 1"),
        ([*OPTIMIZE, "qed", "--set", "speed=1"], 2, "no option 'speed'"),
        ([*OPTIMIZE, "qed", "--timeout", "9", "--workers", "0"], 2, "no use with --workers 0"),
        ([*OPTIMIZE, "qed", "--all", "-n", "5"], 2, "leave out -n"),
        ([*OPTIMIZE, "qed", "--all", "--best", "5"], 2, "leave out --best"),
        ([*OPTIMIZE, "qed", "-n", "5", "--best", "5"], 2, "leave out -n"),
        ([*OPTIMIZE, "qed", "--decorate", "CC"], 1, "attachment points"),
        ([*OPTIMIZE, "qed", "--scaffold", "C" * 60], 1, "has 60 atoms and needs 61 or more"),
        ([*OPTIMIZE, "qed", "--grow", "C", "--scaffold", "C"], 2, "exclude each other"),
        ([*OPTIMIZE, "qed", "--start", "words.txt"], 1, "words.txt, line 1: not a SMILES"),
        (["generate", "--model", "nosuch"], 1, "no model 'nosuch'"),
        (["merge", "."], 1, ". is a folder: name the shards in it"),
        (["evaluate"], 2, "name files of SMILES"),
        (["evaluate", "good.smi", "good.smi"], 2, "good.smi is named twice"),
        (["evaluate", "table.csv"], 1, "no column 'smiles' (--column); it has: a, b"),
        (["evaluate", "words.txt", "--reference", "none"], 1,
         "line 1: not a SMILES that RDKit accepts: 'nothing'"),
        (["evaluate", "good.smi", "--reference", "no.smi"], 1, "no reference 'no.smi'"),
        (["evaluate", "good.smi", "--reference", "none", "--fcd"], 1, "--reference"),
        (["evaluate", "good.smi", "-n", "5"], 2, "-n goes with --model"),
        (["evaluate", "good.smi", "--device", "cpu"], 2, "--device goes with --model or --fcd"),
        (["evaluate", "good.smi", "--json", "--csv"], 2, "exclude each other"),
        (["evaluate", "good.smi", "--json", "--out", "x.csv"], 2, "does not fit x.csv"),
        (["evaluate", "good.smi", "--metrics", "fcd,beauty"], 2, "unknown metric 'beauty'"),
        (["evaluate", "good.smi", "--reference", "good.smi", "--metrics", "snn"], 1, "--test"),
        (["evaluate", "good.smi", "--reference", "none", "--test", "good.smi", "--fcd"], 1,
         "--reference"),
        (["evaluate", "good.smi", "--test", "good.smi"], 2, "--test goes with --metrics"),
        (["evaluate", "good.smi", "--html", "x.pdf"], 2, "must end in one of .html"),
        ([*EVALUATE, "--column", "x"], 2, "--column goes with a file"),
        ([*EVALUATE, "--seeds", "1,x"], 2, "'--seeds'"),
        ([*EVALUATE, "--seeds", "1,1"], 2, "distinct"),
        ([*EVALUATE, "--seeds", "1,2", "--seed", "3"], 2, "exclude each other"),
        ([*EVALUATE, "--reference", "words.txt"], 1, "no usable molecule"),
        (["score", "good.smi", "--json", "--out", "x.csv"], 2, "--json writes .jsonl files"),
        (["score", "good.smi", "--cluster", "bad.json"], 1, "not the file of a Dask scheduler"),
        ([*FINETUNE, "--set", "seed=4"], 2, "seed: give it as --seed alone"),
        ([*FINETUNE, "--steps", "2", "--set", "steps=3"], 2, "steps: give it as"),
        (FINETUNE, 1, "too few to fine-tune"),
        ([*FINETUNE, "--property", "taste"], 1, "no property 'taste'"),
        ([*FINETUNE, "--minutes", "0"], 2, "minutes must be"),
        ([*FINETUNE, "--set", "model.width=8"], 1, "only settings of training"),
        (["stereoisomers", "F/C=C(/F)/Cl"], 1, "contradict each other"),
        (["datasets", "info", "nothing"], 1, "no data set and no file 'nothing'"),
        ([*JOIN, "--atoms", "90-99"], 1, "2 molecules, joined to 90 to 99 atoms: 0 molecules"),
        ([*JOIN, "--atoms", "9-3"], 2, "smaller number first"),
        ([*JOIN, "--with", "none.smi"], 1, "no such file: none.smi"),
        ([*JOIN, "--out", "x.csv"], 2, "must end in .smi"),
        (["datasets", "prepare", "zinc250k", "--column", "x"], 2, "goes with a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_one_clear_line(graphcnf, places, arguments, code, message):
    found, out, err = graphcnf(*(a.format(**places) for a in arguments))
    assert (found, out) == (code, "") and message in err
    *told, line = err.splitlines()
    assert line.startswith("error: ") and len(line) < 600
    assert not told or told[0] == "loading data and libraries ..."


def test_command_without_anything_shows_help(run):
    for arguments in ([], ["datasets"]):
        out, err = run(*arguments, code=2)
        assert "Usage:" in out + err


def test_shells_complete_the_names_of_commands_and_options(run, monkeypatch):
    monkeypatch.setenv("_GRAPHCNF_COMPLETE", "complete_bash")
    for words, completed in {
        "graphcnf ima": "images",
        "graphcnf images inter": "interpolate",
        "graphcnf generate --temp": "--temperature",
    }.items():
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert run() == (f"{completed}\n", "")


def test_debug_shows_the_traceback(monkeypatch, places):
    from graphcnf.errors import UserError
    from graphcnf.scripts.cli import main

    monkeypatch.setenv("GRAPHCNF_DEBUG", "1")
    with pytest.raises(UserError, match="no model"):
        main(["generate", "--model", "nosuch"])
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "-n", "0"])


SEARCHING = """
import time, typer
from rdkit import Chem
from graphcnf.scripts.cli import run
app = typer.Typer()

@app.command()
def search():
    mol, query = Chem.MolFromSmiles("C" * 400), Chem.MolFromSmarts("C~" * 80 + "C")
    print("searching", flush=True)
    end = time.monotonic() + 15
    while time.monotonic() < end:
        count = len(mol.GetSubstructMatches(query, maxMatches=100_000))
    print(count, "matches")
run(app)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_is_heard_during_a_substructure_search():
    """RDKit cuts the search short and swallows the signal."""
    command = [sys.executable, "-c", SEARCHING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "searching\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    assert (process.returncode, out) == (130, "")


def test_terminals_that_know_ascii_alone(surroundings, monkeypatch):
    from graphcnf.scripts.cli import main

    name = "Mol\u00e9cules.smi"
    (surroundings / name).write_text("C1CC\nCCO\n")
    for arguments, code in (([name], 0), ([name, name], 2)):
        streams = {n: io.TextIOWrapper(io.BytesIO(), "ascii") for n in ("stdout", "stderr")}
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
            for stream, terminal in streams.items():
                patch.setattr(sys, stream, terminal)
            main(["evaluate", *arguments, "--reference", "none"])
        assert caught.value.code == code
        for stream in streams.values():
            stream.flush()
        told = {stream: file.buffer.getvalue() for stream, file in streams.items()}
        assert b"Mol\\xe9cules" in told["stderr" if code else "stdout"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("from pathlib import Path\ndef own(f: Path): pass", "TypeError: f of own needs a Role"),
    ],
)  # fmt: skip
def test_a_broken_command_of_another_package_takes_no_other_command_away(tmp_path, code, reason):
    names = {"graphcnf.commands": {"own": "broken_command:own"}}
    with installed(tmp_path, "broken_command", code, names):
        done = subprocess.run(
            [sys.executable, "-m", "graphcnf", "--version"], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("graphcnf ")
    line, *others = done.stderr.splitlines()
    assert line.startswith(f"warning: the command 'own' of another package is left out: {reason}")
    assert not others
