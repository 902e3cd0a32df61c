import contextlib
import random
import sys

import numpy as np
import pytest

from graphcnf.datasets import zinc250k
from graphcnf.datasets.molecules import encode
from graphcnf.scripts import cli


@pytest.fixture(scope="session")
def zinc_smiles():
    """400 molecules of ZINC250k as the file writes them."""
    return random.Random(0).sample(zinc250k.zinc250k_source().read_text().split(), 400)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """An empty folder to work in; no test reads or writes the user's cache."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GRAPHCNF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("GRAPHCNF_DEBUG", raising=False)
    return folder


@pytest.fixture(scope="session")
def cache_of_zinc(tmp_path_factory):
    """A cache in which ZINC250k with these rows alone is encoded once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_zinc(small_zinc, cache_of_zinc, monkeypatch):
    monkeypatch.setenv("GRAPHCNF_CACHE", str(cache_of_zinc))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, zinc_smiles):
    """A small model after a few steps of training; it draws 2 to 6 atoms, and most are valid."""
    import torch
    from small_molecules import small_model

    from graphcnf.graphs import GraphBatch

    data = encode("zinc250k", zinc_smiles)
    with torch.random.fork_rng():
        model = small_model(
            data,
            {"dataset": "zinc250k", "size_histogram": [0, 0, 4, 4, 3, 2, 1]},
            training_hashes=np.unique(data.hashes[data.split("train")]),
            # Small molecules are nearly always valid with it.
            support=False,
        )
        optimizer, random = torch.optim.Adam(model.parameters(), 1e-2), np.random.default_rng(0)
        for _ in range(20):
            batch = GraphBatch.collate(data.graphs, random.choice(len(data.graphs), 16))
            loss, _ = model.train().training_loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of records an eighth as large: of 16, 48 and 64 records, then of 128."""
    from graphcnf.graphs import records
    from graphcnf.sampling import sample

    monkeypatch.setattr(records, "FIRST_BLOCKS", (0, 16, 64))
    for module in (records, sample):
        monkeypatch.setattr(module, "BLOCK", 128)


def checked(command):
    """The same command, its exit code checked: stdout and stderr."""

    def call(*arguments, code=0):
        found, out, err = command(*arguments)
        assert found == code, err
        return out, err

    return call


@pytest.fixture
def run(graphcnf):
    """Run the command in this process; `code` is the exit code that it must end with."""
    return checked(graphcnf)


@pytest.fixture
def refused(run):
    """Run a command that must fail and write nothing to stdout: stderr."""

    def call(*arguments, code=1):
        out, err = run(*arguments, code=code)
        assert not out
        return err

    return call


@pytest.fixture
def bench(in_this_process):
    """Run a benchmark in this process, as `run` does."""
    from graphcnf.scripts.benchmarks.__main__ import app as benchmarks

    return checked(in_this_process(benchmarks))


@pytest.fixture
def trained_here(monkeypatch):
    """Benchmarks train in this process, not in one of its own that imports everything again."""
    from graphcnf.scripts.benchmarks import runner

    def call(command, **options):
        with contextlib.redirect_stdout(sys.stderr), pytest.raises(SystemExit) as caught:
            cli.run(cli.app, command[command.index("train") :])
        return caught.value.code or 0

    monkeypatch.setattr(runner.subprocess, "call", call)
