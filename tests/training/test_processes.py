"""Runs of several processes, with gloo."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from graphcnf.training import TrainingSettings, fit
from graphcnf.training.checkpoint import load_checkpoint
from graphcnf.training.loop import Run

SETTINGS = dict(steps=24, threads=1, accelerator="cpu", log_every=4, warmup_steps=5,
                eval_minutes=0, final_eval_batches=5, batch_size=8,
                decay_fraction=0.0)  # fmt: skip


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """No launcher around the tests, one thread, and nothing of it afterwards."""
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def start(tiny, out: Path, environment=None, **options) -> subprocess.Popen:
    """A run of the tiny model on two devices; without noise it is a function of data."""
    options = {**SETTINGS, "out": str(out), "resume": False, "delay": 0.0, "noise": False,
               "devices": 2, **options}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, tiny.__file__, json.dumps(options)],
        env={**os.environ, **(environment or {})},
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> str:
    """What a process said that has to end well."""
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    return said


def last(run: Path) -> dict:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")


def rows(run: Path, phase: str) -> list[tuple[float, ...]]:
    with (run / "metrics.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["phase"] == phase]
    return [tuple(float(r[k]) for k in ("step", "bits_per_variable", "accuracy")) for r in found]


def here(tiny, out: Path, resume=False, **options):
    """The same in this process."""
    fit(tiny.make_experiment(noise=False), TrainingSettings(**{**SETTINGS, **options}), out, resume)


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    here(tiny, folder)
    return folder


def assert_same_course(a: Path, b: Path, phases=("train", "eval")):
    """Weights, figures and place in the data, up to the order of sums in float32."""
    for key in ("model", "average"):
        left, right = last(a)[key], last(b)[key]
        for name in left:
            if not name.endswith("seen"):  # a process counts its own samples
                torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-5)
    for key in ("step", "epoch", "batch"):
        assert last(a)["at"][key] == last(b)["at"][key]
    for phase in phases:
        np.testing.assert_allclose(rows(a, phase), rows(b, phase), rtol=1e-4)


def test_one_two_one_processes(tiny, tmp_path, alone):
    # A job of one task starts its own processes.
    slurm = {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "job",
             "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip
    run = tmp_path / "run"
    here(tiny, run, steps=7)
    assert "2 x cpu" in ended(start(tiny, run, slurm, steps=15, resume=True))
    here(tiny, run, resume=True)
    assert_same_course(alone, run, phases=())
    assert rows(run, "eval")[-1] == pytest.approx(rows(alone, "eval")[-1], rel=1e-4)


def test_a_killed_process_ends_the_others_and_the_run_goes_on(tiny, tmp_path, alone):
    run = tmp_path / "run"
    process = start(tiny, run, delay=0.15, checkpoint_minutes=0.005)
    metrics = run / "metrics.csv"
    until = time.monotonic() + 180
    while not (metrics.exists() and "\n8,train" in metrics.read_text()):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    second = next(c for c in children if "tiny_run.py" in Path(f"/proc/{c}/cmdline").read_text())
    os.kill(int(second), signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1, said
    assert re.search("another process of this run has ended.*resuming the run goes on", said)
    assert "Traceback" not in said
    assert 0 < last(run)["at"]["step"] < 24
    ended(start(tiny, run, resume=True))
    assert_same_course(alone, run)


def test_a_signal_during_the_agreement_counts_at_the_next_one(tiny, tmp_path, monkeypatch):
    # Not at once: the other processes have not heard of it, and would wait for this one for ever.
    run = Run(tiny.make_experiment(), TrainingSettings(steps=1), tmp_path, None)
    run.fabric = SimpleNamespace(world_size=2, device=torch.device("cpu"))
    monkeypatch.setattr("torch.distributed.all_reduce", lambda *_: run._on_signal(15, None))
    assert run._agree(torch.tensor(1.0)) == [1.0] and run.signal is None
    assert run._agree(torch.tensor(1.0)) == [1.0] and run.signal == 15
