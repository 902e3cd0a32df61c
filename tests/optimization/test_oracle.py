"""Calls of a score: kept, limited, and never made twice."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from graphcnf.errors import UserError
from graphcnf.optimization.objectives import Goal
from graphcnf.optimization.oracle import Answer, Journal, Oracle


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
    molecules = ["C", "N", "O", "F", "S", "Cl", "CC", "CCC", "CCCC", "C"]
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
    assert errors["Cl"] == "the process that computed it died"
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


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_that_cannot_be_printed_costs_one_call(tmp_path, workers):
    def again(error):
        raise error

    shown = [again, lambda error: 3, lambda error: str(error), lambda error: sys.exit(0)]

    def unspeakable(text):
        return type("Unspeakable", (BaseException,), {"__str__": text})

    class Shy:
        def __repr__(self):
            raise unspeakable(again)

    def score(smiles):
        if len(smiles) <= len(shown):
            raise unspeakable(shown[len(smiles) - 1])
        return Shy() if smiles == "CCCCC" else len(smiles)

    with Oracle(Goal.of(score), tmp_path, workers=workers) as oracle:
        answers = oracle(["C" * n for n in range(1, 7)])
    assert [a.error for a in answers] == 5 * ["Unspeakable: its message cannot be shown"] + [None]
    assert answers[5].score == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_score_prints_and_where_it_goes_is_its_own_matter(tmp_path, capfd, workers):
    here = os.getcwd()

    def score(smiles):
        os.chdir("/")
        print("a line")
        os.write(1, b"a write\n")
        subprocess.run(["echo", "a program"], check=True)
        if smiles == "N":
            raise ValueError
        return 1.0

    with Oracle(Goal.of(score), tmp_path, workers=workers) as oracle:
        print("before")
        oracle(["C", "N"])
        print("after")
    out, err = capfd.readouterr()
    assert out == "before\nafter\n" and os.getcwd() == here
    assert all(err.count(text) == 2 for text in ("a line\n", "a write\n", "a program\n"))


def test_scores_in_two_threads_leave_stdout_and_the_folder_as_they_were(tmp_path, capfd):
    here, stdout, both = os.getcwd(), sys.stdout, threading.Barrier(2)

    def score(smiles):
        both.wait(10)
        os.chdir("/")
        print("a line")
        time.sleep(0.1 * len(smiles))
        return 1.0

    def call(smiles):
        with Oracle(Goal.of(score), tmp_path / smiles, workers=0) as oracle:
            return oracle([smiles])[0].score

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(call, ["C", "CCC"])) == [1.0, 1.0]
    print("after")
    assert capfd.readouterr().out == "after\n"
    assert sys.stdout is stdout and os.getcwd() == here


def test_ctrl_c_ends_the_search_even_where_the_score_swallows_it(tmp_path):
    def score(smiles):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return 1.0

    with Oracle(Goal.of(score), tmp_path, workers=0) as oracle:
        with pytest.raises(KeyboardInterrupt):
            oracle(["C"])
    assert not oracle.answers and signal.getsignal(signal.SIGINT) is signal.default_int_handler


SLOW = """
import time
from contextlib import suppress
from pathlib import Path
from graphcnf.optimization.objectives import Goal
from graphcnf.optimization.oracle import Oracle

def score(smiles):
    Path("called").touch()
    time.sleep(2)
    return 7

if __name__ == "__main__":
    with Oracle(Goal.of(score), "run", workers=1) as oracle:
        oracle(["C", "CC"])
"""


def test_a_call_that_is_under_way_when_the_run_is_killed_is_waited_for(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    with subprocess.Popen([sys.executable, "slow.py"], cwd=tmp_path) as run:
        while not (tmp_path / "called").exists():
            time.sleep(0.05)
        run.kill()
    with closing(sqlite3.connect(tmp_path / "run" / "calls.sqlite")) as database:
        (identity,) = database.execute("SELECT identity FROM goal").fetchone()
    notes, journal = [], Journal(tmp_path / "run", identity)
    journal.wait_for_writers(30, notes.append)
    assert notes == ["waiting for the calls that an interrupted run left behind"]
    assert journal.read() == {"C": Answer("C", 7.0, {"score_value": 7.0})}


def test_a_process_that_is_killed_between_two_calls_costs_nothing(tmp_path):
    with Oracle(Goal.of(lambda smiles: os.getpid()), tmp_path, workers=1) as oracle:
        (first,) = oracle(["C"])
        os.kill(int(first.score), signal.SIGKILL)
        time.sleep(1)
        (second,) = oracle(["CC"])
    assert second.error is None and second.score != first.score


def test_a_program_that_a_late_score_has_started_ends_with_it(tmp_path):
    alive = tmp_path / "alive"
    code = (
        f"import time, pathlib\nwhile time.sleep(0.1) is None: pathlib.Path({str(alive)!r}).touch()"
    )

    def docking(smiles):
        return subprocess.call([sys.executable, "-c", code])

    with Oracle(Goal.of(docking), tmp_path, workers=1, timeout=2) as oracle:
        assert oracle(["C"])[0].error == "no answer within 2 s"
    alive.unlink()
    time.sleep(1)
    assert not alive.exists()


def test_the_journal_reads_what_was_written(tmp_path):
    journal = Journal(tmp_path, "goal")
    assert journal.read() == {}
    answers = [Answer("CC", 0.1 + 0.2, {"qed": 1 / 3}), Answer.failed("CCC", "no\n reason \udc80")]
    for answer in answers:
        journal.add(answer)
    # The first answer to a molecule counts.
    assert journal.add(Answer("CC", 9.0)) == answers[0]
    found = Journal(tmp_path, "goal").read()
    assert list(found) == ["CC", "CCC"] and found["CC"] == answers[0]
    assert found["CCC"].error == r"no reason \udc80" and math.isnan(found["CCC"].score)
    with pytest.raises(UserError, match=r"calls.sqlite holds the answers of another score"):
        Journal(tmp_path, "other")


def overwritten(path):
    path.write_bytes(b"SQLite format 3" + path.read_bytes()[:-3000:-1])


def changed(*statements):
    def change(path):
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            for statement in statements:
                database.execute(statement)

    return change


@pytest.mark.parametrize(
    "damage",
    [
        overwritten,
        lambda path: path.write_text("CC 0.5\n" * 1000),
        changed("UPDATE answers SET score = 'x'"),
        changed("UPDATE answers SET score = 1e999"),
        changed("UPDATE answers SET score = NULL"),
        changed("UPDATE answers SET \"values\" = '[1]'"),
        changed('UPDATE answers SET "values" = \'{"qed": 1e999}\''),
        changed(f"UPDATE answers SET \"values\" = '{'[' * 100_000}'"),
        changed("CREATE TRIGGER mine AFTER INSERT ON answers BEGIN DELETE FROM answers; END"),
        changed(
            "DROP TABLE answers",
            "CREATE VIEW answers AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) "
            "SELECT x AS smiles, 1.0, '{}', NULL FROM n",
        ),
    ],
)
def test_a_damaged_journal_is_one_line_that_names_it(tmp_path, damage):
    journal = Journal(tmp_path, "goal")
    journal.add(Answer("CC", 0.5, {"qed": 0.5}))
    journal.close()
    damage(tmp_path / "calls.sqlite")
    with pytest.raises(UserError, match=r"calls.sqlite is damaged \(.*\): delete it") as error:
        Journal(tmp_path, "goal").read()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["calls.sqlite", "calls.sqlite-wal", "calls.lock"])
@pytest.mark.parametrize("put", [lambda path: path.symlink_to("mine"), os.mkfifo, Path.mkdir])
def test_the_journal_follows_no_link(tmp_path, name, put):
    (tmp_path / "mine").write_text("mine")
    put(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is a"):
        Journal(tmp_path, "goal")
    assert (tmp_path / "mine").read_text() == "mine"
