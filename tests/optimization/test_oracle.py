"""Calls of a score: kept, limited, and never made twice."""

import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from contextlib import suppress

import pytest

from graphcnf.errors import UserError
from graphcnf.optimization.journal import Answer, append, read
from graphcnf.optimization.objectives import Goal
from graphcnf.optimization.oracle import Oracle


def moody(folder):
    """A score with every kind of trouble, which notes its calls."""
    calls = str(folder / "called")

    def score(smiles):
        handle = os.open(calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{smiles}\n".encode())
        os.close(handle)
        print("noise on stdout")
        if smiles == "N":
            raise KeyError("two\nlines")
        if smiles == "O":
            return "0.5"
        if smiles == "F":
            return float("nan")
        if smiles == "S":
            time.sleep(1000)
        if smiles == "Cl":
            os._exit(3)
        return len(smiles)

    return Goal.of(score)


def test_every_trouble_is_an_answer_and_nothing_is_asked_twice(tmp_path, capfd):
    molecules = ["C", "N", "O", "F", "S", "CC", "CCC", "CCCC", "C"]
    with Oracle(moody(tmp_path), tmp_path, workers=2, timeout=5) as oracle:
        answers = oracle(molecules)
    assert [a.smiles for a in answers] == molecules
    scores = {a.smiles: a.score for a in answers if a.error is None}
    assert scores == {"C": 1, "CC": 2, "CCC": 3, "CCCC": 4}
    errors = {a.smiles: a.error for a in answers if a.error is not None}
    assert errors["N"].startswith("KeyError: 'two") and "\n" not in errors["N"]
    assert errors["O"] == "the score is '0.5', not a number"
    assert errors["F"] == "the score is nan, not a finite number"
    assert errors["S"] == "no answer within 5 s"
    assert not capfd.readouterr().out
    called = (tmp_path / "called").read_text().split()
    assert sorted(called) == sorted(set(molecules))
    # Somebody else asks again, in its own process: all is known.
    with Oracle(moody(tmp_path), tmp_path, workers=0) as oracle:
        again = oracle(molecules)
    assert oracle.calls == 0 and (tmp_path / "called").read_text().split() == called
    assert [(a.smiles, a.error) for a in again] == [(a.smiles, a.error) for a in answers]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_score_that_ends_python_costs_one_call(tmp_path, workers):
    def score(smiles):
        if smiles == "N":
            sys.exit("done")
        if smiles == "O":
            raise KeyboardInterrupt
        return len(smiles)

    with Oracle(Goal.of(score), tmp_path, workers=workers) as oracle:
        answers = oracle(["N", "O", "CC"])
    assert [a.error for a in answers] == ["SystemExit: done", "KeyboardInterrupt", None]
    assert oracle.calls == 3 and answers[2].score == 2


def test_ctrl_c_ends_the_search_even_where_the_score_swallows_it(tmp_path):
    def score(smiles):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return 1.0

    with Oracle(Goal.of(score), tmp_path, workers=0) as oracle:
        with pytest.raises(KeyboardInterrupt):
            oracle(["C"])
    assert not oracle.answers and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_file_of_a_score_that_ends_python_is_one_line(tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(UserError, match="mine.py: SystemExit: 0"):
        Goal.of(f"{tmp_path}/mine.py:score")


def test_processes_that_score_import_no_torch():
    code = "import sys, graphcnf.optimization.oracle; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a launcher may be in between")
def test_a_process_that_comes_after_its_parent_has_died_ends_at_once(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from graphcnf.optimization.oracle import _start;"
        "_start(None, Path('calls'), Path('lock'), os.getppid() + 1); sys.exit('it stays')"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_crash_costs_one_molecule(tmp_path):
    with Oracle(moody(tmp_path), tmp_path, workers=2, timeout=60) as oracle:
        answers = oracle(["C", "Cl", "CC"])
    assert [a.error for a in answers] == [None, "the process that computed it died", None]


def test_the_journal_reads_what_was_written(tmp_path):
    path = tmp_path / "calls.jsonl"
    assert read(path, "goal") == {}
    answers = [Answer("CC", 0.1 + 0.2, {"qed": 1 / 3}), Answer.failed("CCC", "no\n reason")]
    for answer in answers:
        append(path, answer)
    found = read(path, "goal")
    assert found["CC"] == answers[0]
    assert found["CCC"].error == "no reason" and math.isnan(found["CCC"].score)
    # A kill in the midst of a line.
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"smiles": "CCCC", "sc')
    assert list(read(path, "goal")) == ["CC", "CCC"] and path.read_bytes() == whole
    with pytest.raises(UserError, match="another score"):
        read(path, "other")
    path.write_bytes(whole.replace(b"0.3", b"x", 1))
    with pytest.raises(UserError, match=r"calls.jsonl, line 2: not an answer; delete the line"):
        read(path, "goal")


def test_a_process_that_dies_between_two_looks_costs_one_molecule(tmp_path, monkeypatch):
    def score(smiles):
        if smiles == "Cl":
            time.sleep(0.3)
            os._exit(3)
        return len(smiles)

    def late(*arguments, **options):
        found = wait(*arguments, **options)
        time.sleep(1)  # the machine is busy
        return found

    with Oracle(Goal.of(score), tmp_path, workers=2) as oracle:
        oracle(["CCCC"])  # the processes are there
        monkeypatch.setattr("graphcnf.optimization.oracle.wait", late)
        first, second, third = oracle(["C", "Cl", "CC"])
    assert (first.score, third.score) == (1, 2)
    assert second.error == "the process that computed it died"
