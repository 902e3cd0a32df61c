"""`generate --out`: whatever stops it, the same command goes on to the file of an unbroken run."""

import errno
import gzip
import json
import os
import re
import resource
import signal
from pathlib import Path

import pytest
from forks import in_a_copy, kill_at
from interruptions import at_block, interrupt

from graphcnf.compute import parallel
from graphcnf.file_writing import file_lock, lock_of

pytestmark = pytest.mark.usefixtures("small_blocks")

FEW = ("-n", 20, "--all", "--workers", 1, "--out", "x.csv")
"""A command that draws two blocks, of which it needs a part of the second."""


@pytest.fixture
def generate(run, model_folder):
    def call(*arguments, code=0):
        out, err = run("generate", "--model", model_folder, *arguments, code=code)
        assert out == ""
        return err

    return call


@pytest.fixture
def same(generate):
    """Assert that a file is that of an unbroken command, and that nothing else is left."""

    def compare(*arguments):
        *options, out = arguments
        whole = out.replace("x.", "whole.")
        generate(*options, whole)
        assert Path(out).read_bytes() == Path(whole).read_bytes() and hidden() == []

    return compare


def hidden(folder="."):
    return [name for name in os.listdir(folder) if name.startswith(".")]


def stored():
    """Records in the blocks of an unfinished sample in this folder."""
    ranges = [path.name.split(".")[0].split("-") for path in Path().glob(".*.blocks/0*.json.gz")]
    return sum(int(last) + 1 - int(first) for first, last in ranges)


def terminate():
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("sdf", ("-n", 40, "--temperature", 0.7)),
        ("jsonl", ("-n", 88, "--likelihood", "--all", "--size", "3-5")),
        ("smi", ("-n", 60, "--properties", "qed,atoms", "--require", "atoms > 2")),
    ],
)  # fmt: skip
def test_an_interrupted_command_goes_on_to_the_same_file(generate, same, suffix, options):
    Path(out := f"x.{suffix}").write_text("old")
    arguments = ["--workers", 1, *options, "--force", "--out", out]
    left = 0
    for action, before, code in (
        (interrupt, False, 130), (interrupt, True, 130), (terminate, False, 143),
    ):  # fmt: skip
        with at_block(1, action, before=before):
            err = generate(*arguments, code=code)
        # One line where there is something to tell, and the old file until the end.
        assert stored() >= left and Path(out).read_text() == "old"
        left = stored()
        assert left and f"interrupted after {left} graphs of {out}; the same command goes" in err
    err = generate(*arguments)
    assert err.startswith(f"note: going on with {out}: {left} graphs are there")
    same(*arguments)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["csv.gz", "parquet"])
def test_killed_before_anything_is_put_on_the_disk(generate, same, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    arguments = ("-n", 25, "--all", "--workers", 1, "--out", f"x.{kind}")
    kills = 0
    # Every attempt goes on where the one before was, and so has less left to do.
    for call in range(1, 9):

        def written(call=call):
            kill_at(call, "fsync", "replace")
            generate(*arguments)

        kills += in_a_copy(written) == -signal.SIGKILL
    assert 3 <= kills < 8
    same(*arguments)


def test_a_full_disk(generate, same):
    """No file may be larger than 2,000 bytes: the kernel refuses to write more."""
    many, before = ("-n", 160, *FEW[2:]), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        err = generate(*many, code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert err == f"error: cannot write x.csv: {os.strerror(errno.EFBIG)}\n"
    assert not Path("x.csv").exists()
    generate(*many)
    same(*many)


def test_two_at_once(generate):
    with file_lock(lock_of(Path("x.csv")), "x.csv"):
        err = generate(*FEW, code=1)
    assert err == "error: x.csv: another process is writing it; wait or stop it\n"
    assert os.listdir() == []


def test_a_killed_worker_is_one_line(generate, same):
    class Killed(parallel.Worker):
        def __init__(self, function):
            # The first molecules do not wait for the processes.
            assert stored() == 16
            super().__init__(function)
            self.kill()

    arguments = ["-n", 188, "--all", "--out", "x.csv"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "Worker", Killed)
        err = generate("--workers", 2, *arguments, code=1)
    assert len(err.splitlines()) == 1 and err.startswith("error: a worker process died (killed by ")
    assert err.endswith("; the same command goes on from there\n") and stored() == 16
    generate("--workers", 1, *arguments)
    same("--workers", 1, *arguments)


def test_larger_and_smaller_numbers_after_an_interruption(generate, same):
    for number, more in ((112, ()), (25, ("--force",))):
        tail = ["--all", "--workers", 1, *more, "--out", "x.csv"]
        with at_block(2, interrupt):
            generate("-n", 100, *tail, code=130)
        assert "going on with x.csv: 64 graphs" in generate("-n", number, *tail) or number == 25
        same("-n", number, *tail)


def test_a_file_that_is_there_is_kept_without_force(generate):
    Path("x.smi").write_text("precious\n")
    Path("link.smi").symlink_to("x.smi")
    os.mkfifo("fifo.smi")
    for name, more, message in (
        ("x.smi", (), "x.smi exists: choose another --out, or replace it with --force"),
        ("link.smi", ("--force",), "link.smi is a link or no regular file"),
        ("fifo.smi", ("--force",), "fifo.smi is a link or no regular file"),
    ):
        assert message in generate("-n", 3, "--out", name, *more, code=1)
        assert Path("x.smi").read_text() == "precious\n"
    generate("-n", 3, "--out", "x.smi", "--force")
    assert len(Path("x.smi").read_text().splitlines()) == 3


def rewritten(change):
    """A damage that changes the values in a block, which is otherwise intact."""

    def damage(path):
        content = json.loads(gzip.decompress(path.read_bytes()))
        change(content)
        path.write_bytes(gzip.compress(json.dumps(content).encode()))

    return damage


def entry(place, value):
    return rewritten(lambda content: content["records"][3].__setitem__(place, value))


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-9] + bytes(9)),
    "bomb": lambda path: path.write_bytes(gzip.compress(bytes(100 << 20))),
    "deep": lambda path: path.write_bytes(gzip.compress(b"[" * 100_000)),
    "other": rewritten(lambda content: content.pop("seconds")),
    "fewer": rewritten(lambda content: content["records"].pop()),
    "number": entry(0, 7), "hash": entry(3, -1), "text": entry(4, None),
    "reached": entry(5, {"qed": [1, "x"]}),
}  # fmt: skip


@pytest.fixture
def interrupted(generate):
    """Function that gives what `FEW` leaves after its first block: the block and the manifest."""
    with at_block(1, interrupt):
        generate(*FEW, code=130)
    kept = {path: path.read_bytes() for path in Path(".x.csv.blocks").iterdir()}

    def again():
        Path(".x.csv.blocks").mkdir(exist_ok=True)
        for path, content in kept.items():
            path.write_bytes(content)
        return sorted(kept)

    return again


def test_a_damaged_block_is_drawn_again(generate, same, interrupted):
    written = set()
    for name, damage in DAMAGES.items():
        block, _ = interrupted()
        damage(block)
        err = generate("--force", *FEW)
        assert err.startswith(f"note: {block} is damaged; drawing it again\n"), name
        written.add(Path("x.csv").read_bytes())
    same("--force", *FEW)
    assert len(written) == 1


def test_blocks_without_an_intact_manifest_are_thrown_away(generate, same, interrupted):
    note = "note: what an interrupted command left of x.csv is damaged; starting afresh\n"
    for content in (b"", b"[1", bytes(range(256)), None):
        _, manifest = interrupted()
        manifest.unlink() if content is None else manifest.write_bytes(content)
        assert generate("--force", *FEW).startswith(note if content is not None else "sampled ")
    same("--force", *FEW)


@pytest.mark.parametrize("name", ["", "manifest.json", "000000000000-000000000015.json.gz"])
def test_no_link_among_the_blocks_is_followed(generate, interrupted, name):
    link, away = Path(".x.csv.blocks", name), Path("away").absolute()
    link.rename(away)
    link.symlink_to(away)
    before = [path.read_bytes() for path in (away, *away.rglob("*")) if path.is_file()]
    err = generate(*FEW, code=1)
    assert f"{link} is a symbolic link" in err and len(err.splitlines()) == 1
    assert before == [path.read_bytes() for path in (away, *away.rglob("*")) if path.is_file()]


def test_other_options_do_not_go_on_with_it_and_clear_it_away(generate, same, interrupted):
    for options in (("--temperature", 0.5), ("--size", 4), ("--likelihood",), ("--seed", 1)):
        err = generate(*options, *FEW, code=1)
        assert "with other options" in err and "left an unfinished x.csv" in err
        assert stored() == 16
    generate("--seed", 2, "--force", *FEW)
    same("--seed", 2, *FEW)


def test_what_a_search_found_before_it_was_given_up_is_kept(generate, monkeypatch):
    monkeypatch.setattr("graphcnf.sampling.sample.PATIENCE", 200)
    tail = ["--size", 1, "--workers", 1, "--out", "x.smi"]
    err = generate("-n", 500, *tail, code=1)
    number = int(re.search(r"ask for -n (\d+)", err)[1])
    assert "(it is kept in .x.smi.blocks)" in err and not Path("x.smi").exists()
    monkeypatch.setattr("graphcnf.sampling.sample.block_records", None)  # nothing is drawn
    generate("-n", number, *tail)
    assert len(Path("x.smi").read_text().splitlines()) == number and hidden() == []
