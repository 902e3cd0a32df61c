"""Files that are written: no link is followed, nobody writes the same thing twice at once."""

import errno
import gzip
import os
import signal
import socket
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from forks import in_a_copy, kill_at

from graphcnf import data_files
from graphcnf.data_files import NotUnpacked, gunzip, read_data
from graphcnf.errors import UserError
from graphcnf.file_reading import inside, read_file, read_json
from graphcnf.file_writing import file_lock, lock_of, replace_file, temporary_of, write_file
from graphcnf.run_folder import claim, is_claimed


def test_a_link_in_the_way_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(UserError, match="a link"), file_lock(tmp_path / "lock", "x"):
        pass
    # A temporary file that somebody has put there is replaced, not followed.
    temporary_of(tmp_path / "x").symlink_to(victim)
    replace_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_text() == "new" and victim.read_text() == "precious"


HOLD = """
import sys
from pathlib import Path
from graphcnf.file_writing import file_lock
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


def test_a_gzip_file_that_was_made_to_fill_the_memory_does_not(monkeypatch):
    monkeypatch.setattr(data_files, "LEAST_UNPACKED", 1 << 20)
    bomb = gzip.compress(bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(NotUnpacked, match="a gzip file of .* bytes that holds more than"):
        gunzip(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # What is read, the buffer that it is read into, and that buffer while it grows.
    assert peak < 4 * data_files.LARGEST_RATIO * len(bomb) < 32 << 20
    # What is larger than the least, but shrinks as data do, is taken.
    content = os.urandom(1 << 20).hex().encode()
    assert gunzip(gzip.compress(content)) == content
    # Members one after the other are one file.
    assert gunzip(gzip.compress(b"") + gzip.compress(b"a") + gzip.compress(b"b")) == b"ab"


def a_pipe(path):
    os.mkfifo(path)


def a_device(path):
    path.symlink_to("/dev/zero")


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def too_large(path):
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("make", [a_pipe, a_device, a_socket, too_large, Path.mkdir])
def test_what_is_no_regular_file_of_usual_size_is_refused_at_once(tmp_path, make):
    make(tmp_path / "x")
    for read in (read_data, read_json):
        with pytest.raises(OSError) as caught:
            read(tmp_path / "x")
        assert caught.value.strerror


def test_a_users_own_link_to_a_file_is_read_and_one_below_a_run_is_not(tmp_path):
    (tmp_path / "x").write_text("[1]")
    (tmp_path / "y").symlink_to("x")
    assert read_data(tmp_path / "y") == b"[1]" and read_json(tmp_path / "y") == [1]
    with pytest.raises(OSError, match="3 bytes, the limit is 2"):
        read_file(tmp_path / "y", 2)
    run = tmp_path / "run"
    (run / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("run")
    (run / "away").symlink_to(tmp_path)
    assert inside(tmp_path / "link", "deep", "x") == tmp_path / "link" / "deep" / "x"
    for parts in (("away",), ("away", "x"), ("away", "none", "x")):
        with pytest.raises(UserError, match="run/away is a symbolic link"):
            inside(run, *parts)


@pytest.mark.parametrize("put", [a_pipe, a_device, Path.mkdir, lambda p: p.symlink_to("nowhere")])
def test_nothing_but_a_file_is_replaced(tmp_path, put):
    def entry():
        found = os.lstat(tmp_path / "x")  # a look may change its time of access
        return found.st_ino, found.st_mode, found.st_ctime_ns

    put(tmp_path / "x")
    before = entry()
    with pytest.raises(UserError, match="x is "):
        write_file(tmp_path / "x", b"new")
    assert entry() == before and len(os.listdir(tmp_path)) == 1


def test_a_run_marks_a_new_or_empty_folder_and_no_other(tmp_path):
    assert claim(tmp_path / "a" / "b", "training") and not claim(tmp_path / "a" / "b", "training")
    (tmp_path / "a" / "b" / "notes").touch()
    assert is_claimed(tmp_path / "a" / "b", "training")
    with pytest.raises(UserError, match="holds no optimization run"):
        claim(tmp_path / "a" / "b", "optimization")
    with pytest.raises(UserError, match="not empty"):
        claim(tmp_path / "a", "training")
    assert os.listdir(tmp_path / "a") == ["b"]
    # Whoever was killed while it marked the folder has left this.
    (tmp_path / "c").mkdir()
    for name in (temporary_of, lock_of):
        name(tmp_path / "c" / "run.json").touch()
    assert claim(tmp_path / "c", "training") and os.listdir(tmp_path / "c") == ["run.json"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_whoever_is_killed_leaves_the_old_file_and_what_the_next_one_deletes(tmp_path, call):
    path = tmp_path / "x"
    write_file(path, b"old")

    def killed():
        kill_at(1, call)
        write_file(path, b"new")

    assert in_a_copy(killed) == -signal.SIGKILL and path.read_bytes() == b"old"
    assert {*tmp_path.iterdir()} == {path, temporary_of(path), lock_of(path)}
    write_file(path, b"newer")
    assert path.read_bytes() == b"newer" and os.listdir(tmp_path) == ["x"]
