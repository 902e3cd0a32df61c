"""Shards and `merge`: the file of one command, or the names of what keeps them from being it."""

import csv
import gzip
import json
import os
import random
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
from interruptions import at_block, interrupt

from graphcnf.chemistry.standardize import protonation_hash
from graphcnf.graphs.records import blocks
from graphcnf.sampling import shards as parts
from graphcnf.sampling.shards import block_count, share_of

pytestmark = pytest.mark.usefixtures("small_blocks")

NUMBER = 264
"""Graphs in 5 blocks."""

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def generate(run, model_folder):
    return partial(run, "generate", "--model", model_folder, "--workers", 1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Where shards are kept that several tests look at."""
    return tmp_path_factory.mktemp("shards")


@pytest.fixture
def shards(generate, drawn, surroundings):
    """Five shards of the molecules among these graphs, in the working folder."""
    for k in range(1, 6):
        name = f"part{k}.smi"
        if not (drawn / name).exists():
            generate("-n", NUMBER, "--shard", f"{k}/5", "--out", drawn / name)
        for suffix in ("", ".shard.json"):
            (surroundings / (name + suffix)).write_bytes((drawn / (name + suffix)).read_bytes())
    return [Path(f"part{k}.smi") for k in range(1, 6)]


def test_shards_hold_every_record_once_and_no_block_twice():
    dice = random.Random(0)
    for _ in range(200):
        records = range(start := dice.randrange(3000), start + dice.randrange(1, 9000))
        count = block_count(records)
        parts = dice.randint(1, count)
        shares = [share_of(records, k, parts) for k in range(1, parts + 1)]
        assert [k for share in shares for k in share] == list(records)
        held = [{next(blocks(record)).start for record in share} for share in shares]
        assert sum(map(len, held)) == len(set().union(*held)) == count
        assert max(map(len, held)) - min(map(len, held)) <= 1


def test_first_is_the_number_of_the_first_graph(generate):
    whole = generate("-n", 60, "--all")[0].splitlines()
    tail, err = generate("-n", 20, "--all", "--first", 40)
    assert tail.splitlines() == whole[:1] + whole[41:] and err.startswith("sampled 20 graphs")
    # A number of molecules is one, wherever it begins.
    found = generate("-n", 20, "--first", 40, "--json")[0].splitlines()
    numbers = [json.loads(line)["record"] for line in found]
    assert len(numbers) == 20 and numbers[0] >= 40 and numbers == sorted(numbers)
    beginning = [row["smiles"] for row in csv.DictReader(whole) if row["strict"] == "True"]
    assert not set(numbers) & set(range(40)) and json.loads(found[0])["smiles"] in beginning


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("csv", ("--all", "--likelihood")), ("sdf", ("--require", "atoms > 2")),
        ("parquet", ("--properties", "qed,rings")), ("smi.gz", ("--likelihood", "--size", "3-5")),
    ],
)  # fmt: skip
def test_merged_shards_are_the_file_of_one_command(run, generate, suffix, options):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    options, names = ("--first", 12, *options), []
    for k in (3, 1, 2):
        names.append(f"part{k}.{suffix}")
        generate("-n", 80, "--shard", f"{k}/3", *options, "--out", names[-1])
    figures = json.loads(run("merge", *names, "--out", f"x.{suffix}", "--json")[1])
    # Where repeats are left out, one command that writes as many molecules is the same.
    number = 80 if "--all" in options else figures["written"]
    generate("-n", number, *options, "--out", f"whole.{suffix}")
    assert Path(f"x.{suffix}").read_bytes() == Path(f"whole.{suffix}").read_bytes()
    assert figures["sampled"] == 80 and (figures["shards"], figures["of"]) == (3, 3)
    assert figures["written"] == (80 if "--all" in options else figures["distinct"])
    assert not [name for name in os.listdir() if name.startswith(".")]


def test_unique_keeps_the_first_of_each(run, generate):
    generate("-n", 88, "--all", "--shard", "all/2", "--out", "x.csv")
    rows = list(csv.DictReader(run("merge", "x-1.csv", "x-2.csv")[0].splitlines()))
    unique, err = run("merge", "x-1.csv", "x-2.csv", "--unique")
    # Protonation states of a molecule are one.
    first = {protonation_hash(row["smiles"]): row for row in reversed(rows)}
    expected = sorted(first.values(), key=lambda row: int(row["record"]))
    assert list(csv.DictReader(unique.splitlines())) == expected
    assert f"{88 - len(first):,} repeats left out" in err and 0 < len(first) < 88


def test_all_shards_in_a_folder(run, generate):
    options = ("-n", 80, "--seed", 5, "--all")
    err = generate(*options, "--shard", "all/3", "--out", "parts/some.csv.gz")[1]
    names = [f"parts/some-{k}.csv.gz" for k in (1, 2, 3)]
    assert len(err.splitlines()) == 3
    files = {Path(name + suffix) for name in names for suffix in ("", ".shard.json")}
    assert {*Path("parts").iterdir()} == files
    generate(*options, "--shard", "2/3", "--out", "second.csv.gz")
    assert Path(names[1]).read_bytes() == Path("second.csv.gz").read_bytes()
    # What is there already is left; what is missing is drawn.
    Path(names[2]).unlink()
    err = generate(*options, "--shard", "all/3", "--out", "parts/some.csv.gz")[1]
    notes = [line.startswith("note: parts/some-") for line in err.splitlines()]
    assert notes == [True, True, False]
    generate(*options, "--out", "whole.csv.gz")
    run("merge", *names, "--out", "merged.csv.gz")
    one, other = (gzip.decompress(Path(f"{n}.csv.gz").read_bytes()) for n in ("whole", "merged"))
    assert one == other


def test_everything_that_is_wrong_is_named_and_the_rest_is_whole(run, generate, shards):
    one, two, three, four, five = shards
    two.unlink()
    four.write_bytes(four.read_bytes()[:-40])
    generate("-n", NUMBER, "--seed", 7, "--shard", "2/5", "--out", "other.smi")
    generate("-n", NUMBER, "--temperature", 0.5, "--shard", "2/5", "--out", "cold.smi")
    Path("copy.smi").write_bytes(one.read_bytes())
    Path("copy.smi.shard.json").write_bytes(Path("part1.smi.shard.json").read_bytes())
    Path("alien.smi").write_text("CCO\n")
    text = five.read_text()
    five.write_text(text.replace("C", "N", 1))
    names = [*shards, "other.smi", "cold.smi", "copy.smi", "alien.smi"]
    out, err = run("merge", *names, "--out", "x.smi", code=1)
    size = four.stat().st_size
    assert out == "" and not Path("x.smi").exists()
    assert set(err.splitlines()) == {
        "part2.smi: there is no such file",
        f"part4.smi: shard 4/5, truncated: {size:,} of {size + 40:,} bytes",
        "part5.smi: shard 5/5, damaged: it is not what was written",
        "other.smi: of another sample than most: seed 7 instead of 0",
        "cold.smi: of another sample than most: temperature 0.5 instead of 1.0",
        "copy.smi: shard 1/5, like part1.smi",
        "alien.smi: no shard of generate --shard: without alien.smi.shard.json",
        "missing: shard 2/5, graphs 16 to 63",
        "error: 2 of 5 shards are whole: draw the others again, or merge these with --partial",
    }
    err = run("merge", *names, "--out", "x.smi", "--partial")[1]
    assert err.splitlines()[-1].startswith("merged 2 of 5 shards: 80 graphs, ")
    kept = {}
    for smiles in (one.read_text() + three.read_text()).splitlines():
        kept.setdefault(protonation_hash(smiles), smiles)
    assert Path("x.smi").read_text().splitlines() == list(kept.values())
    # Drawn again, they are whole.
    for k, path in ((2, two), (4, four), (5, five)):
        generate("-n", NUMBER, "--shard", f"{k}/5", "--out", path, "--force")
    run("merge", *shards, "--out", "x.smi", "--force")
    generate("-n", len(Path("x.smi").read_text().splitlines()), "--out", "whole.smi")
    assert Path("x.smi").read_bytes() == Path("whole.smi").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.update(part=[9, 5]), lambda found: found.update(records=[0, 7]),
        lambda found: found.update(recipe={}), lambda found: found.pop("sha256"),
        lambda found: found["recipe"].update(kind="exe"), lambda found: found.update(progress=3),
        lambda found: found.update(sample=[0, "x"]), lambda found: found["recipe"].clear(),
        lambda found: found["progress"].update(seconds=None),
        lambda found: found["recipe"].update(filters=5),
    ],
)  # fmt: skip
def test_what_is_said_of_a_shard_is_not_believed(run, shards, damage):
    described = Path("part3.smi.shard.json")
    found = json.loads(described.read_text())
    damage(found)
    described.write_text(json.dumps(found))
    err = run("merge", *shards, code=1)[1]
    assert err.splitlines()[0] == "part3.smi: part3.smi.shard.json is damaged"
    described.write_text("[" * 100_000)
    assert "shard.json is damaged" in run("merge", *shards, code=1)[1]


def test_a_shard_is_drawn_once_and_goes_on_where_it_stopped(run, generate, shards):
    # By whatever machine.
    described = Path("part3.smi.shard.json")
    described.write_text(described.read_text().replace('"torch":', '"jax":'))
    err = generate("-n", NUMBER, "--shard", "3/5", "--out", "part3.smi")[1]
    assert err == "note: part3.smi is there already, shard 3/5 as asked for\n"
    err = run("merge", *shards, "--out", "merged.smi")[1].splitlines()
    assert err[0].startswith("note: ") and "jax" in err[0] and len(err) == 2
    err = generate("-n", NUMBER, "--shard", "4/5", "--out", "part3.smi", code=1)[1]
    assert "part3.smi exists" in err
    arguments = ["-n", 250, "--shard", "2/2", "--out", "x.smi"]
    with at_block(1, interrupt):
        err = generate(*arguments, code=130)[1]
    assert "after 64 graphs of x.smi" in err
    assert "64 graphs are there" in generate(*arguments)[1]
    generate(*arguments[:-1], "whole.smi")
    assert Path("x.smi").read_bytes() == Path("whole.smi").read_bytes()


def test_a_merge_that_fails_leaves_nothing(run, shards, monkeypatch):
    assert "merged into that" in run("merge", *shards, "--out", "x.csv", code=2)[1]
    assert "is an input file" in run("merge", *shards, "--out", shards[0], "--force", code=2)[1]
    before, found = sorted(os.listdir()), parts.survey(shards)
    # Between the check and the reading.
    shards[-1].write_bytes(shards[-1].read_bytes()[:-30])
    monkeypatch.setattr(parts, "survey", lambda paths: found)
    err = run("merge", *shards, "--out", "x.smi", code=1)[1]
    assert err == "error: part5.smi changes while it is read\n"
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="a script for bash")
def test_the_array_job_of_the_documentation(run, generate, model_folder, tmp_path):
    page = (DOCS / "clusters.md").read_text()
    scripts = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    (script,) = (found for found in scripts if "SLURM_ARRAY_TASK_ID" in found)
    Path("molecules.sh").write_text(script)
    # In the place of the command a program that writes down what it is asked.
    shim = tmp_path / "bin" / "graphcnf"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > asked\n")
    shim.chmod(0o755)
    surroundings = {
        **os.environ,
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        **{"NUMBER": "200", "SHARDS": "2", "MODEL": str(model_folder), "SLURM_CPUS_PER_TASK": "1"},
    }
    for task in ("2", "1", "2"):
        environment = {**surroundings, "SLURM_ARRAY_TASK_ID": task}
        subprocess.run(["bash", "molecules.sh"], env=environment, check=True)
        _, err = run(*Path("asked").read_text().splitlines())
    # A task that is run again finds its work done.
    assert "is there already" in err
    run("merge", *sorted(Path("parts").glob("*.smi.gz")), "--out", "x.smi")
    generate("-n", len(Path("x.smi").read_text().splitlines()), "--out", "whole.smi")
    assert Path("x.smi").read_bytes() == Path("whole.smi").read_bytes()
