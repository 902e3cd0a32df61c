"""A file that grows piece by piece: what a kill leaves, whoever opens it next takes up."""

import json
import os
import sys
from contextlib import suppress

import pytest

from graphcnf.compute import partial_file as partial
from graphcnf.compute.partial_file import fingerprint, partial_file
from graphcnf.errors import UserError

NAME = fingerprint({"seed": 0})
PIECES = [f"piece {k} {'ä' * k}\n" for k in range(4)]


def write(target, convert=None, name=NAME):
    """Write the pieces that are missing; return how many were there."""
    with partial_file(target, name) as file:
        there = (file.entry or {"pieces": 0})["pieces"]
        for k in range(there, len(PIECES)):
            file.commit(PIECES[k], {"pieces": k + 1})
        file.finish(convert)
    return there


def interrupted(target, pieces, name=NAME):
    """What is left by a command that is interrupted after some pieces."""
    with suppress(KeyboardInterrupt), partial_file(target, name) as file:
        for k in range(pieces):
            file.commit(PIECES[k], {"pieces": k + 1})
        raise KeyboardInterrupt


def doubled(source, target):
    target.write_text(2 * source.read_text())


@pytest.mark.parametrize("pieces", range(len(PIECES) + 1))
def test_what_was_committed_is_taken_up(tmp_path, pieces):
    target = tmp_path / "x.csv"
    interrupted(target, pieces)
    assert not target.exists() and bool(os.listdir(tmp_path)) == bool(pieces)
    assert write(target) == pieces
    assert target.read_text() == "".join(PIECES) and os.listdir(tmp_path) == ["x.csv"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("convert", [None, doubled])
def test_a_kill_at_any_line_loses_nothing_that_was_committed(tmp_path, convert):
    target, expected = tmp_path / "x.csv", "".join(PIECES) * (2 if convert else 1)
    moment, committed, taken_up = 0, 0, set()
    while True:
        pid = os.fork()
        if pid == 0:
            die_at_line(moment, lambda: write(target, convert))
        killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
        if not killed:
            break
        # Either it was finished, or what the journal vouches for is there.
        if target.exists():
            assert target.read_text() == expected
        committed = pieces_in_journal(tmp_path)
        if committed is not None:
            found = (tmp_path / f".x.csv.{NAME}.partial").read_text()
            assert found.startswith("".join(PIECES[:committed]))
        there = write(target, convert)
        assert there == (committed or 0)
        taken_up.add(there)
        assert target.read_text() == expected and os.listdir(tmp_path) == ["x.csv"]
        target.unlink()
        moment += 5
    assert moment > 100 and taken_up == set(range(len(PIECES) + 1))


def die_at_line(number, work):
    """Do some work, and die when a line of the module is reached, without any handler."""
    reached = 0

    def trace(frame, event, argument):
        nonlocal reached
        if frame.f_code.co_filename != partial.__file__:
            return None
        if event == "line":
            reached += 1
            if reached > number:
                os._exit(9)
        return trace

    sys.settrace(trace)
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def pieces_in_journal(tmp_path):
    """As many as are committed; None without a journal, or where only that is left."""
    journal, part = (tmp_path / f".x.csv.{NAME}.{suffix}" for suffix in ("json", "partial"))
    if not journal.exists() or not part.exists():
        return None
    return json.loads(journal.read_text())["entry"]["pieces"]


DAMAGES = {
    "part": lambda part, journal: part.write_bytes(part.read_bytes().replace(b"1", b"7")),
    "short": lambda part, journal: part.write_bytes(part.read_bytes()[:-1]),
    "empty journal": lambda part, journal: journal.write_text(""),
    "binary journal": lambda part, journal: journal.write_bytes(bytes(range(256))),
    "other journal": lambda part, journal: journal.write_text("[1, 2]"),
    "entry": lambda part, journal: journal.write_text(
        journal.read_text().replace('"pieces": 3', '"pieces": 2')
    ),
    "bytes": lambda part, journal: journal.write_text(
        journal.read_text().replace('"bytes": ', '"bytes": -')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_thrown_away(tmp_path, damage):
    target = tmp_path / "x.csv"
    interrupted(target, 3)
    part, journal = (tmp_path / f".x.csv.{NAME}.{suffix}" for suffix in ("partial", "json"))
    before = part.read_bytes(), journal.read_bytes()
    DAMAGES[damage](part, journal)
    assert (part.read_bytes(), journal.read_bytes()) != before
    with partial_file(target, NAME) as file:
        assert file.damaged and file.entry is None and file.path.read_text() == ""
    assert os.listdir(tmp_path) == []
    assert write(target) == 0 and target.read_text() == "".join(PIECES)


def test_another_content_has_a_part_of_its_own_until_one_is_finished(tmp_path):
    target, other = tmp_path / "x.csv", fingerprint({"seed": 1})
    assert other != NAME and fingerprint({"seed": 0}) == NAME
    interrupted(target, 3)
    interrupted(tmp_path / "x.csv.gz", 3)
    interrupted(target, 1, other)
    with partial_file(target, other) as file:
        assert file.entry == {"pieces": 1}
        assert {path.name.split(".")[3] for path in file.others()} == {NAME}
        with pytest.raises(UserError, match="another process"):
            write(target)
    assert write(target) == 3
    # The part of the file with the longer name is not touched.
    assert all(name == "x.csv" or name.startswith(".x.csv.gz.") for name in os.listdir(tmp_path))
    assert write(tmp_path / "x.csv.gz") == 3
