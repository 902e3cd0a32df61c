"""Runs of several processes, and of several nodes, on loopback with gloo."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_run as tiny
import torch

from graphcnf.training import TrainingSettings
from graphcnf.training.loop import Run, fit
from graphcnf.training.settings import is_main, load_preset

SETTINGS = dict(steps=24, threads=1, accelerator="cpu", log_every=4, warmup_steps=5,
                eval_minutes=0, final_eval_batches=5, batch_size=8,
                decay_fraction=0.0)  # fmt: skip
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID",
             "MASTER_ADDR", "MASTER_PORT", "GRAPHCNF_RUN")  # fmt: skip


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """No launcher around the tests, one thread, and nothing of it afterwards."""
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def options_of(out: Path, **options) -> dict:
    """Options of a run of the tiny model; without noise it is a function of data."""
    return {**SETTINGS, "out": str(out), "resume": False, "delay": 0.0, "noise": False, **options}


def two_nodes(folder: Path, *outs: Path, **options) -> list[tuple[int, str]]:
    """Exit codes and messages of two nodes, each with the variables that `torchrun` sets."""
    both = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
            "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}  # fmt: skip
    said = [folder / f"said{rank}" for rank in range(2)]
    nodes = [
        tiny.forked(options_of(out, **options), said[rank], {**both, "RANK": str(rank)})
        for rank, out in enumerate(outs)
    ]
    codes = [os.waitstatus_to_exitcode(os.waitpid(node, 0)[1]) for node in nodes]
    return [(code, path.read_text()) for code, path in zip(codes, said, strict=True)]


def rows(run: Path, phase: str) -> list[tuple[float, ...]]:
    names = ("step", "bits_per_variable", "accuracy")
    return [tuple(float(row[name]) for name in names) for row in tiny.rows(run, phase)]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def here(out: Path, resume=False, **options):
    """The same in this process."""
    fit(tiny.make_experiment(noise=False), TrainingSettings(**{**SETTINGS, **options}), out, resume)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    here(folder)
    return folder


def assert_same_course(a: Path, b: Path, phases=("train", "eval")):
    """Weights, figures and place in the data, up to the order of sums in float32."""
    for key in ("model", "average"):
        left, right = tiny.last(a)[key], tiny.last(b)[key]
        for name in left:
            if not name.endswith("seen"):  # a process counts its own samples
                torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-5)
    for key in ("step", "epoch", "batch"):
        assert tiny.last(a)["at"][key] == tiny.last(b)["at"][key]
    for phase in phases:
        np.testing.assert_allclose(rows(a, phase), rows(b, phase), rtol=1e-4)


def test_two_nodes_take_the_course_of_one_process(tmp_path, alone):
    run = tmp_path / "run"
    ended = two_nodes(tmp_path, run, run)
    assert [code for code, _ in ended] == [0, 0], ended
    assert sum("2 x cpu" in said for _, said in ended) == 1
    assert_same_course(alone, run)
    assert load_preset(run / "config.toml").training.devices == 1


def test_one_process_two_of_which_one_is_killed_and_one_again(tmp_path, alone):
    # A job of one task starts its own processes.
    slurm = {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "job",
             "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}  # fmt: skip
    run = tmp_path / "run"
    here(run, steps=7)
    options = {"devices": 2, "delay": 0.1, "checkpoint_minutes": 0.002, "resume": True}
    process = subprocess.Popen(
        [sys.executable, tiny.__file__, json.dumps(options_of(run, **options))],
        env={**os.environ, **slurm}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    metrics = run / "metrics.csv"
    until = time.monotonic() + 180
    while "\n12,train" not in metrics.read_text():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    second = next(c for c in children if "tiny_run.py" in Path(f"/proc/{c}/cmdline").read_text())
    os.kill(int(second), signal.SIGKILL)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "2 x cpu" in said, said
    assert re.search("another process of this run has ended.*resume the run", said)
    assert "Traceback" not in said
    assert 7 < tiny.last(run)["at"]["step"] < 24
    here(run, resume=True)
    assert_same_course(alone, run, phases=())
    assert rows(run, "eval")[-1] == pytest.approx(rows(alone, "eval")[-1], rel=1e-4)


def test_a_signal_during_the_agreement_counts_at_the_next_one(tmp_path, monkeypatch):
    # Not at once: the other processes have not heard of it, and would wait for this one for ever.
    run = Run(tiny.make_experiment(), TrainingSettings(steps=1), tmp_path, None)
    run.fabric = SimpleNamespace(world_size=2, device=torch.device("cpu"))
    monkeypatch.setattr("torch.distributed.all_reduce", lambda *_: run._on_signal(15, None))
    assert run._agree(torch.tensor(1.0)) == [1.0] and run.signal is None
    assert run._agree(torch.tensor(1.0)) == [1.0] and run.signal == 15


def test_a_folder_that_is_not_shared_is_noticed(tmp_path):
    here(tmp_path / "first", steps=4)
    outs = tmp_path / "first", tmp_path / "elsewhere"
    for code, said in two_nodes(tmp_path, *outs, resume=True):
        assert code == 1 and "a file system that all nodes share" in said


@pytest.mark.parametrize(
    ("environment", "main", "devices"),
    [
        ({}, True, 1),
        ({"LOCAL_RANK": "1"}, True, 1),  # of no launcher of this run
        ({"RANK": "1", "WORLD_SIZE": "2"}, True, 1),
        ({"LOCAL_RANK": "1", "GRAPHCNF_RUN": "x"}, False, 1),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"},
         True, 3),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"},
         False, 3),
    ],
)  # fmt: skip
def test_what_a_launcher_says(monkeypatch, environment, main, devices):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_main() == main
    assert TrainingSettings(steps=1).as_launched().devices == devices
