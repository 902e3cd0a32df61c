"""Files that are written: no link is followed, nobody writes the same thing twice at once."""

import errno
import gzip
import os
import subprocess
import sys
import tracemalloc

import pytest

from graphcnf.compute import files
from graphcnf.compute.files import NotUnpacked, file_lock, gunzip, open_kept, replace_file
from graphcnf.errors import UserError


def test_a_link_in_the_way_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError), file_lock(tmp_path / "lock", "x"):
        pass
    with pytest.raises(OSError):
        open_kept(tmp_path / "lock")
    # A temporary file that somebody has put there is replaced, not followed.
    temporary = tmp_path / f".x.{os.getpid()}.tmp"
    temporary.symlink_to(victim)
    replace_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_text() == "new" and victim.read_text() == "precious"


HOLD = """
import sys
from pathlib import Path
from graphcnf.compute.files import file_lock
with file_lock(Path(sys.argv[1]), "x"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_where_the_kernel_has_no_locks_the_file_is_one(tmp_path, monkeypatch, recwarn):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with file_lock(tmp_path / "lock", "x"):
        with pytest.raises(UserError, match="another process"), file_lock(tmp_path / "lock", "x"):
            pass
    assert not list(tmp_path.iterdir()) and not recwarn
    with pytest.raises(FileNotFoundError), file_lock(tmp_path / "none" / "lock", "x"):
        pass
    assert not list(tmp_path.iterdir())


def test_one_at_a_time_and_a_dead_process_holds_nothing(tmp_path):
    lock = tmp_path / "lock"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=pipe, stdout=pipe) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match="runs/x: another process is writing it"),
            file_lock(lock, "runs/x"),
        ):
            pass
        other.kill()
    with file_lock(lock, "runs/x"):
        pass
    assert not lock.exists()


def test_gzip_files_are_unpacked_whole():
    content = os.urandom(100_000)
    # Members one after the other are one file.
    assert gunzip(gzip.compress(content) + gzip.compress(b"more")) == content + b"more"
    assert gunzip(gzip.compress(b"")) == b""


def test_a_gzip_file_that_was_made_to_fill_the_memory_does_not(monkeypatch):
    monkeypatch.setattr(files, "LEAST_UNPACKED", 1 << 20)
    bomb = gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(NotUnpacked, match="a gzip file of .* bytes that holds more than"):
        gunzip(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # What is read, the buffer that it is read into, and that buffer while it grows.
    assert peak < 4 * files.MOST_TIMES * len(bomb) < 32 << 20
    # What is larger than the least, but shrinks as data do, is taken.
    content = os.urandom(1 << 20).hex().encode()
    assert gunzip(gzip.compress(content)) == content
