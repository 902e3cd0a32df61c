"""`generate --out`: whatever stops it, the same command goes on to the file of an unbroken run."""

import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from graphcnf.compute import parallel
from graphcnf.sampling.blocks import Blocks

RUN = "import sys; from graphcnf.scripts.cli import main; main(sys.argv[1:])"


@pytest.fixture
def generate(graphcnf, model_folder):
    def run(*arguments, code=0):
        found, out, err = graphcnf("generate", "--model", model_folder, *arguments)
        assert found == code and out == "", err
        return err

    return run


@contextmanager
def at_commit(number, action, before=False):
    """Let something happen after, or before, the block of this number is stored."""
    put, count = Blocks.put, []

    def counted(self, block):
        count.append(self)
        if before and len(count) == number:
            action()
        put(self, block)
        if not before and len(count) == number:
            action()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blocks, "put", counted)
        yield


def interrupt():
    raise KeyboardInterrupt


def terminate():
    signal.raise_signal(signal.SIGTERM)


def hidden():
    return [name for name in os.listdir() if name.startswith(".")]


def stored():
    """Records in the blocks of an unfinished sample in this folder."""
    ranges = [path.name.split(".")[0].split("-") for path in Path().glob(".*.blocks/0*.json.gz")]
    return sum(int(last) + 1 - int(first) for first, last in ranges)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("sdf", ("--temperature", 0.7)), ("csv.gz", ("--likelihood", "--size", "3-5")),
        ("jsonl", ("--likelihood", "--all")), ("parquet", ()),
        ("smi", ("--properties", "qed,atoms", "--require", "atoms > 2")),
    ],
)  # fmt: skip
def test_an_interrupted_command_goes_on_to_the_same_file(generate, suffix, options):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out, number = f"x.{suffix}", 700 if "--all" in options else 160
    arguments = ["-n", number, "--workers", 1, *options, "--force", "--out"]
    generate(*arguments, f"whole.{suffix}")
    Path(out).write_text("old")
    left = 0
    for action, before, code in (
        (interrupt, False, 130), (interrupt, True, 130), (terminate, False, 143),
    ):  # fmt: skip
        with at_commit(1, action, before=before):
            err = generate(*arguments, out, code=code)
        # One line where there is something to tell, and the old file until the end.
        assert stored() >= left and Path(out).read_text() == "old"
        left = stored()
        assert left and f"interrupted after {left} graphs of {out}; the same command goes" in err
    err = generate(*arguments, out)
    assert err.startswith(f"note: going on with {out}: {left} graphs are there")
    assert Path(out).read_bytes() == Path(f"whole.{suffix}").read_bytes()
    assert hidden() == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_file(generate, model_folder):
    # Blocks of 1,024 records: whatever kill it is, one is left to draw.
    dice, number, killed = random.Random(0), 6000, []
    tail = ["-n", str(number), "--all", "--model", str(model_folder), "--out"]
    command = [sys.executable, "-c", RUN, "generate", *tail, "x.csv", "--workers"]
    # The second block is the first one that comes from another process.
    for workers, more in (("2", 600), ("1", 1), ("1", 1)):
        least = stored() + more
        with subprocess.Popen([*command, workers], stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and stored() < least:
                time.sleep(0.01)
            time.sleep(dice.random() * 0.03)
            process.kill()
        assert process.returncode == -signal.SIGKILL, "it was done before it was killed"
        killed.append(stored())
        assert not Path("x.csv").exists()
    assert killed == sorted(set(killed))
    generate("--workers", 1, *tail, "x.csv")
    generate("--workers", 1, *tail, "whole.csv")
    assert Path("x.csv").read_bytes() == Path("whole.csv").read_bytes()
    records = [line.partition(",")[0] for line in Path("x.csv").read_text().splitlines()]
    assert records == ["record", *map(str, range(number))] and hidden() == []


def test_a_killed_worker_is_one_line(generate):
    class Killed(parallel.Worker):
        def __init__(self, function):
            # The first molecules do not wait for the processes.
            assert stored() == 128
            super().__init__(function)
            self.kill()

    arguments = ["-n", 1500, "--all", "--workers", 2, "--out", "x.csv"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "Worker", Killed)
        err = generate(*arguments, code=1)
    assert len(err.splitlines()) == 1 and err.startswith("error: a worker process died (killed by ")
    assert err.endswith("; the same command goes on from there\n") and stored() >= 128
    generate(*arguments)
    generate(*arguments[:-1], "whole.csv", "--workers", 1)
    assert Path("x.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_larger_and_smaller_numbers_after_an_interruption(generate):
    for number in (900, 200):
        generate("-n", number, "--all", "--workers", 1, "--out", f"whole{number}.csv")
    tail = ["--all", "--workers", 1, "--out", "x.csv"]
    with at_commit(2, interrupt):
        generate("-n", 800, *tail, code=130)
    assert "going on with x.csv: 512 graphs are there" in generate("-n", 900, *tail)
    assert Path("x.csv").read_bytes() == Path("whole900.csv").read_bytes()
    Path("x.csv").unlink()
    with at_commit(2, interrupt):
        generate("-n", 800, *tail, code=130)
    assert stored() == 512
    generate("-n", 200, *tail)
    assert Path("x.csv").read_bytes() == Path("whole200.csv").read_bytes()


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


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-9] + bytes(9)),
    "bomb": lambda path: path.write_bytes(gzip.compress(bytes(100 << 20))),
    "deep": lambda path: path.write_bytes(gzip.compress(b"[" * 100_000)),
    "no block": rewritten(lambda content: content.pop("seconds")),
    "a number": rewritten(lambda content: content["records"][3].__setitem__(0, 7)),
    "fewer": rewritten(lambda content: content["records"].pop()),
    "hash": rewritten(lambda content: content["records"][3].__setitem__(3, -1)),
    "text": rewritten(lambda content: content["records"][3].__setitem__(4, None)),
    "reached": rewritten(lambda content: content["records"][3].__setitem__(5, {"qed": [1, "x"]})),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_block_is_drawn_again(generate, damage):
    arguments = ["-n", 160, "--all", "--workers", 1, "--out", "x.csv"]
    with at_commit(1, interrupt):
        generate(*arguments, code=130)
    (block,) = Path().glob(".x.csv.blocks/0*")
    DAMAGES[damage](block)
    err = generate(*arguments)
    assert err.startswith(f"note: {block} is damaged; drawing it again\n") and hidden() == []
    generate(*arguments[:-1], "whole.csv")
    assert Path("x.csv").read_bytes() == Path("whole.csv").read_bytes()


@pytest.mark.parametrize("manifest", [b"", b"[1", bytes(range(256)), None])
def test_blocks_without_an_intact_manifest_are_thrown_away(generate, manifest):
    arguments = ["-n", 160, "--all", "--workers", 1, "--out", "x.csv"]
    with at_commit(1, interrupt):
        generate(*arguments, code=130)
    path = Path(".x.csv.blocks/manifest.json")
    path.unlink() if manifest is None else path.write_bytes(manifest)
    err = generate(*arguments)
    note = "note: what an interrupted command left of x.csv is damaged; starting afresh\n"
    assert err.startswith(note if manifest is not None else "sampled ") and hidden() == []


@pytest.mark.parametrize(
    "name", [".x.csv.blocks", "manifest.json", "000000000000-000000000127.json.gz"]
)
def test_no_link_among_the_blocks_is_followed(generate, name):
    Path("away").mkdir()
    link = Path(name) if name.startswith(".") else Path(".x.csv.blocks", name)
    if link.parent != Path():
        with at_commit(1, interrupt):
            generate("-n", 160, "--workers", 1, "--out", "x.csv", code=130)
        link.rename(Path("away", name))
    link.symlink_to(Path("away", name if link.parent != Path() else "").absolute())
    before = {path: path.read_bytes() for path in Path("away").iterdir()}
    err = generate("-n", 160, "--workers", 1, "--out", "x.csv", code=1)
    assert "is a symbolic link" in err and len(err.splitlines()) == 1
    assert {path: path.read_bytes() for path in Path("away").iterdir()} == before


def test_other_options_do_not_go_on_with_it_and_clear_it_away(generate):
    arguments = ["-n", 160, "--all", "--workers", 1, "--out", "x.csv"]
    for options in ((), ("--temperature", 0.5), ("--size", 4), ("--likelihood",), ("--seed", 1)):
        if options:
            err = generate(*arguments, *options, code=1)
            assert "with other options" in err and "left an unfinished x.csv" in err
        with at_commit(1, interrupt):
            generate(*arguments, *options, "--force", code=130)
    generate(*arguments, "--seed", 2, "--force")
    generate(*arguments[:-1], "whole.csv", "--seed", 2)
    assert Path("x.csv").read_bytes() == Path("whole.csv").read_bytes() and hidden() == []


def test_what_a_search_found_before_it_was_given_up_is_kept(generate, monkeypatch):
    monkeypatch.setattr("graphcnf.sampling.sample.PATIENCE", 200)
    tail = ["--size", 1, "--workers", 1, "--out", "x.smi"]
    err = generate("-n", 500, *tail, code=1)
    number = int(re.search(r"ask for -n (\d+)", err)[1])
    assert "(it is kept in .x.smi.blocks)" in err and not Path("x.smi").exists()
    monkeypatch.setattr("graphcnf.sampling.sample.block_records", None)  # nothing is drawn
    generate("-n", number, *tail)
    assert len(Path("x.smi").read_text().splitlines()) == number and hidden() == []
