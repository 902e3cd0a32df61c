"""`generate --out` in every format: killed at any moment, on a full disk, and twice at once."""

import errno
import os
import resource
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from graphcnf.sampling.blocks import Blocks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

KINDS = ("smi", "csv.gz", "parquet")
"""Plain text, compressed text, and a binary format; the others are written like the first."""

NUMBER = 200
"""Records: two pieces, of 128 and of 72."""

KILLS = (1, 2, 3, 4, 5, 6)
"""Calls of the kernel that put something on the disk, before which a process is killed."""


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return request.param


@pytest.fixture
def generate(graphcnf, model_folder):
    def run(out, code=0):
        more = () if out.endswith("smi") else ("--likelihood",)
        arguments = ("--model", model_folder, "-n", NUMBER, "--all", "--workers", 1, *more)
        found, printed, err = graphcnf("generate", *arguments, "--out", out)
        assert (found, printed) == (code, "") and len(err.splitlines()) <= 2, err
        return err

    return run


@pytest.fixture(scope="module")
def written():
    return {}


@pytest.fixture
def whole(generate, kind, tmp_path, written):
    """What an undisturbed command writes."""
    if kind not in written:
        path = tmp_path / f"whole.{kind}"
        generate(str(path))
        written[kind] = path.read_bytes()
    return written[kind]


def hidden(folder="."):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def in_child(work):
    """Do some work in a copy of this process, and say how that ended: -9 for killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(call, work):
    """Work that is killed before a call of fsync or replace; False where it does not come to it."""
    calls = []

    def counted(function):
        def counting(*arguments):
            calls.append(function)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return counting

    def disturbed():
        for name in ("fsync", "replace"):
            setattr(os, name, counted(getattr(os, name)))
        work()

    return in_child(disturbed) == -signal.SIGKILL


def test_killed_at_any_moment(generate, kind, whole):
    out = f"x.{kind}"
    kills = [call for call in KILLS if killed_at(call, lambda: generate(out))]
    # Every attempt goes on where the one before was: the later ones have less left to do.
    assert len(kills) >= 3
    assert not Path(out).exists() or Path(out).read_bytes() == whole
    if not Path(out).exists():
        generate(out)
    assert Path(out).read_bytes() == whole and hidden() == []


@contextmanager
def small_files(folder):
    """No file may be larger than 2,000 bytes: the kernel refuses to write more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        yield errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder):
    """A file system of its own of two pages, which grows when the context ends."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield errno.ENOSPC
    finally:
        subprocess.run(["mount", "-o", "remount,size=9m", str(folder)], check=True)


@pytest.mark.parametrize("shortage", [small_files, small_disk])
def test_a_full_disk(generate, kind, whole, tmp_path, shortage):
    folder = tmp_path / "disk"
    folder.mkdir()
    out = folder / f"x.{kind}"
    try:
        with shortage(folder) as reason:
            err = generate(str(out), code=1)
        assert err == f"error: cannot write {out}: {os.strerror(reason)}\n"
        assert not out.exists()
        generate(str(out))
        assert out.read_bytes() == whole and hidden(folder) == []
    finally:
        if shortage is small_disk:
            subprocess.run(["umount", str(folder)], capture_output=True)


def test_two_at_once(generate, kind, whole, monkeypatch):
    out = f"x.{kind}"
    began, waiting = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            put = Blocks.put

            def slow(self, block):
                put(self, block)
                os.write(began[1], b"x")
                os.read(waiting[0], 1)

            monkeypatch.setattr(Blocks, "put", slow)
            generate(out)
            os._exit(0)
        finally:
            os._exit(1)
    os.read(began[0], 1)
    err = generate(out, code=1)
    assert err == f"error: {out}: another process is writing it; wait or stop it\n"
    os.write(waiting[1], b"xx")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for end in (*began, *waiting):
        os.close(end)
    assert Path(out).read_bytes() == whole and hidden() == []
