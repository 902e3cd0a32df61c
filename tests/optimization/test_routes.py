"""Synthesis routes by another program: asked once for each molecule, errors in one line."""

import shlex
import sys

import pytest

from graphcnf.errors import UserError
from graphcnf.optimization.routes import COLUMNS, check_command, routes_of

PROGRAM = """
import json, sys
for line in sys.stdin:
    smiles = line.strip()
    with open("asked", "a") as log:
        log.write(smiles + chr(10))
    if smiles == "CCCC":
        sys.exit("out" + chr(10) + "of stock")
    short = len(smiles) < 3
    answer = {"smiles": smiles, "solved": short, "steps": len(smiles) if short else None}
    print(json.dumps(answer | {"score": 1 / len(smiles), "more": []}), flush=True)
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my program.py").write_text(PROGRAM)
    return shlex.join([sys.executable, str(tmp_path / "my program.py")])


def test_a_molecule_is_asked_for_once(command, tmp_path):
    found, error = routes_of(["C", "CCC", "C"], command, tmp_path)
    assert error is None and tuple(found.columns) == COLUMNS
    rows = found.astype(object).where(found.notna(), None).values.tolist()
    assert rows == [[True, 1, 1.0], [False, None, pytest.approx(1 / 3)], [True, 1, 1.0]]
    again, _ = routes_of(["CCC", "CC"], command, tmp_path)
    assert again["route_solved"].tolist() == [False, True]
    assert (tmp_path / "asked").read_text().split() == ["C", "CCC", "CC"]
    # Another command has answers of its own.
    routes_of(["C"], f"{command} --other", tmp_path)
    assert (tmp_path / "asked").read_text().split()[3:] == ["C"]


def test_answers_before_a_failure_are_kept(command, tmp_path):
    found, error = routes_of(["C", "CCCC", "CC"], command, tmp_path)
    assert error is not None and error.endswith("exit code 1: of stock") and "\n" not in error
    assert found["route_solved"].tolist() == [True, None, None]
    again, error = routes_of(["C", "CC"], command, tmp_path)
    assert error is None and again["route_solved"].tolist() == [True, True]
    assert (tmp_path / "asked").read_text().split() == ["C", "CCCC", "CC"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no JSON", "must be a JSON object"), ("[" * 100_000, "must be a JSON object"),
        ("[]", "one that was asked for"), ('{"smiles": "O", "solved": true}', "one that was asked"),
        ('{"smiles": ["C"], "solved": true}', "one that was asked for"),
        ('{"smiles": "C"}', "solved must be true or false"),
        ('{"smiles": "C", "solved": true, "steps": -1}', "steps must be an integer >= 0"),
        ('{"smiles": "C", "solved": true, "steps": true}', "steps must be an integer >= 0"),
        ('{"smiles": "C", "solved": true, "score": "1"}', "score must be a number"),
        ('{"smiles": "C", "solved": true, "score": NaN}', "score must be a number"),
        ("", "gave no answer for 1 molecule, the first C"),
    ],
)  # fmt: skip
def test_what_is_no_answer(tmp_path, line, message):
    (tmp_path / "line").write_text(line + "\n")
    found, error = routes_of(["C"], f"cat {tmp_path / 'line'}", tmp_path)
    assert error is not None and message in error and "\n" not in error and len(error) < 300
    assert found["route_solved"].tolist() == [None]


@pytest.mark.parametrize("command", ["", "no-such-program x", "'unfinished"])
def test_a_command_that_cannot_run(command):
    with pytest.raises(UserError, match="^routes: "):
        check_command(command)
