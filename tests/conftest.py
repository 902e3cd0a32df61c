"""One thread per process, and the same random numbers whatever ran before a test."""

import gc
import os
import random
import signal
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from counted_lines import lines_of
from hypothesis import HealthCheck, settings

# The same examples in every run, however slow the machine is.
settings.register_profile(
    "usual", derandomize=True, deadline=None, database=None, max_examples=40,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
settings.load_profile("usual")

# Small tensors are not worth sharing: threads would wait for each other. Before torch is imported,
# and for the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts them in the background lets them, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    """Here, since a folder's own options come too late for a run of all tests."""
    parser.addoption("--fuzz-all", action="store_true", help="play all cases of tests/fuzz")
    parser.addoption("--fuzz-seed", type=int, default=0, help="of the cases of tests/fuzz")
    parser.addoption(
        "--roundtrip-all", action="store_true", help="82,000 molecules in test_codec.py"
    )


def pytest_collection_finish():
    """What has been imported stays: collections of garbage need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


def pytest_terminal_summary(terminalreporter):
    """How the cases of tests/fuzz ended."""
    found = Counter(
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "fuzz" and report.when == "call"
    )
    if found:
        bad = {name: found[name] for name in ("traceback", "raw", "accepted")}
        others = sum(found.values()) - found["refused"] - sum(bad.values())
        terminalreporter.write_line(
            f"bad input: {sum(found.values()):,} cases, tracebacks {bad['traceback']}, raw "
            f"messages {bad['raw']}, silent acceptances {bad['accepted']}, otherwise wrong {others}"
        )
    root = Path(__file__).resolve().parent.parent
    folders = [root / "datasets", root / "scripts", *(root / "graphcnf").iterdir()]
    shares = {}
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        lines = [lines_of(path) for path in folder.rglob("*.py")]
        said, code = map(sum, zip(*lines, strict=True)) if lines else (0, 0)
        if code:
            shares[folder.name] = f"{folder.name} {said / code:.2f}"
    terminalreporter.write_line("docstring lines per line of code: " + ", ".join(shares.values()))


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quick_training():
    """No training reads the entry points of all packages, or counts copies among 200 molecules."""
    with pytest.MonkeyPatch.context() as patch:  # of what is imported: from the first training on
        if fabric := sys.modules.get("lightning_fabric.fabric"):
            patch.setattr(fabric, "_load_external_callbacks", lambda group: [])
        if experiments := sys.modules.get("graphcnf.training.experiments"):
            patch.setattr(experiments, "SAMPLES", 20)
        yield


@pytest.fixture
def double():
    """Everything in float64, and reproducible."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def zinc_smiles():
    """800 molecules of ZINC250k as the file writes them, and all of the rare categories."""
    from graphcnf.datasets.zinc250k import zinc250k_source

    lines = zinc250k_source().read_text().split()
    rare = [s for s in lines if "P" in s or "[O+]" in s or "[S+]" in s or "[o+]" in s]
    return random.Random(0).sample(lines, 800) + rare[:50]


@pytest.fixture(scope="session")
def data(zinc_smiles):
    """300 of them as a data set."""
    from graphcnf.datasets.molecules import encode

    return encode("zinc250k", zinc_smiles[:300])


@pytest.fixture(scope="module")
def flow(data):
    """A small model of molecules, away from its initialisation."""
    from small_molecules import small_flow

    return small_flow(data)


@pytest.fixture
def few_walks(monkeypatch):
    """Few walks around fragments, and few proposals of analogues, in a round."""
    from graphcnf.design import analogues, growing

    for name, count in (("ROUND", 48), ("TRIAL", 16), ("CHECKED", 32)):
        monkeypatch.setattr(growing, name, count)
    monkeypatch.setattr(analogues, "PROPOSALS", 32)


@pytest.fixture
def small_zinc(tmp_path, monkeypatch, zinc_smiles):
    """ZINC250k with these rows alone."""
    from graphcnf.datasets import zinc250k

    path = tmp_path / "zinc250k.smiles"
    path.write_text("\n".join(zinc_smiles) + "\n")
    monkeypatch.setattr(zinc250k, "zinc250k_source", lambda: path)
    monkeypatch.setattr(zinc250k, "ROWS", len(zinc_smiles))


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """A cache of its own: such a test does not read or write the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRAPHCNF_CACHE", str(folder))
    return folder


@cache
def built(app):
    """The commands of an app, built once: the app itself would build all of them in every call."""
    from typer.main import get_command

    return get_command(app)


@pytest.fixture
def in_this_process(capfd):
    """Function that gives a command line as a function: exit code, stdout, stderr."""
    from graphcnf.scripts.cli import run

    def command(app):
        def call(*arguments):
            with pytest.raises(SystemExit) as caught:
                run(built(app), [str(a) for a in arguments])
            out, err = capfd.readouterr()
            assert "Traceback" not in err
            return caught.value.code or 0, out, err

        return call

    return command


@pytest.fixture
def graphcnf(in_this_process):
    """Run the command in this process: exit code, stdout, stderr."""
    from graphcnf.scripts.cli import app

    return in_this_process(app)
