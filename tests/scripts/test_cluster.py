"""Dask in the place of processes: the same results, whoever dies or joins, or one clear line."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import count
from pathlib import Path
from threading import Timer

import pytest
import worker_tasks as work

from graphcnf.compute import parallel as clusters
from graphcnf.compute.parallel import (
    LOCAL,
    Cluster,
    WorkerDied,
    open_workers,
    ordered_map,
    parallel_map,
)
from graphcnf.optimization.objectives import Goal
from graphcnf.optimization.oracle import Oracle
from graphcnf.sampling.blocks import Blocks

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


IMPORTED = ["distributed", "graphcnf.sampling.sample", "graphcnf.optimization.oracle"]
"""Modules that the work below imports."""


@pytest.fixture(scope="module")
def local():
    """Two worker processes."""
    options = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    method = {"distributed.worker.multiprocessing-method": "forkserver"}
    with dask.config.set(method):  # what all workers import, also those that come back, once
        distributed.utils.get_mp_context().set_forkserver_preload(IMPORTED)
    with (
        dask.config.set({**LOCAL, **method}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, silence_logs=50, **options
        ) as started,
    ):
        yield started


@pytest.fixture
def two(local):
    """The processes as an engine."""
    with distributed.Client(local, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        yield Cluster(client)


@pytest.fixture
def few():
    """A cluster in this process, without a worker at first."""
    options = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    with (
        distributed.LocalCluster(
            n_workers=0, threads_per_worker=1, processes=False, silence_logs=50, **options
        ) as started,
        distributed.Client(started, set_as_default=False) as client,
    ):
        yield started, client


def pids(engine):
    return sorted(engine.client.run(os.getpid).values())


def test_results_come_in_the_order_of_the_chunks_from_all_workers(two, capfd):
    found = parallel_map(work.slow_first, list(range(40)), workers=two)
    assert [value for value, _ in found] == [k * k for k in range(40)]
    assert {pid for _, pid in found} == set(pids(two)) and "note: " not in capfd.readouterr().err


def test_errors_come_after_what_is_before_them(two):
    found = []
    with (
        pytest.raises(ZeroDivisionError) as caught,
        ordered_map(work.reciprocal, range(9), workers=two) as results,
    ):
        for value in results:
            found.append(value)
    assert len(found) == 3 and "worker_tasks.py" in caught.value.__notes__[0]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_work_that_kills_its_workers_is_given_up(two, local, monkeypatch):
    monkeypatch.setattr(local.scheduler, "allowed_failures", 0)
    with (
        pytest.raises(WorkerDied, match="several workers died"),
        ordered_map(work.killed_at_three, [1, 2, 3], workers=two) as results,
    ):
        list(results)
    two.client.wait_for_workers(2, timeout=60)


def test_without_a_worker_it_waits_for_one(few, monkeypatch, capfd):
    monkeypatch.setattr(clusters, "PATIENCE", 0.1)
    started, client = few
    joining = Timer(0.5, started.scale, [1])
    joining.start()
    found = parallel_map(work.slow_first, [3, 4], workers=Cluster(client))
    joining.join()
    assert [value for value, _ in found] == [9, 16]
    assert capfd.readouterr().err.count("note: there is no Dask worker; waiting for one\n") == 1


def test_a_scheduler_that_ends_is_one_error(few, monkeypatch):
    monkeypatch.setattr(clusters, "PATIENCE", 0.1)
    started, client = few
    client._timeout = 0.5  # for which it tries to come back
    started.scale(1)
    client.wait_for_workers(1, timeout=60)
    with ordered_map(work.slow_first, count(), workers=Cluster(client)) as results:
        stream = iter(results)
        assert next(stream)[0] == 0
        started.close()
        with pytest.raises(WorkerDied, match="the Dask scheduler is gone"):
            list(stream)
    with (
        pytest.raises(WorkerDied, match="the Dask scheduler is gone"),
        Cluster(client).ordered_map(work.slow_first, count()),
    ):
        pass


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_generate_writes_the_file_of_one_process(run, model_folder, two, local):
    arguments = ("generate", "--model", model_folder, "-n", 1060, "--all", "--likelihood")
    run(*arguments, "--workers", 1, "--out", "one.csv")
    victim, put = pids(two)[0], Blocks.put

    def deadly(self, block):
        nonlocal victim
        put(self, block)
        if victim and block.numbers.stop > 600:
            os.kill(victim, signal.SIGKILL)
            victim = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blocks, "put", deadly)
        address = local.scheduler_address
        out, err = run(*arguments, "--cluster", address, "--out", "two.csv")
    assert (out, victim) == ("", None) and len(err.splitlines()) == 1, err
    assert Path("two.csv").read_bytes() == Path("one.csv").read_bytes()
    two.client.wait_for_workers(2, timeout=60)


def test_evaluate_finds_the_figures_of_one_process(run, model_folder, two, local):
    figures = []
    for options in ((), ("--cluster", local.scheduler_address)):
        tail = ("-n", 700, "--reference", "none", "--reconstruct", 0, "--likelihood", 0, "--json")
        out, _ = run("evaluate", "--model", model_folder, *tail, *options)
        figures.append(json.loads(out))
    assert figures[0] == figures[1] and figures[0]["samples"] == 700


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_oracle_asks_the_workers_and_survives_what_they_do(two, tmp_path):
    script = tmp_path / "odd.py"
    script.write_text(
        "import os, time\n"
        "def odd(mol):\n"
        "    n = mol.GetNumAtoms()\n"
        "    if n == 3: raise ValueError('three')\n"
        "    if n == 4: os._exit(1)\n"
        "    if n == 5: time.sleep(100)\n"
        "    return 0.1 * n\n"
    )
    goal = Goal.of(f"{script}:odd")
    molecules = ["C" * n for n in range(1, 8)]
    with Oracle(goal, tmp_path / "run", workers=two, timeout=3.0) as oracle:
        answers = oracle(molecules)
        assert oracle.calls == 7 and oracle(molecules) == answers and oracle.calls == 7
    assert [a.error for a in answers] == [
        None, None, "ValueError: three", "the process that computed it died",
        "no answer within 3 s", None, None,
    ]  # fmt: skip
    assert [a.score for a in answers if a.error is None] == pytest.approx([0.1, 0.2, 0.6, 0.7])
    with Oracle(goal, tmp_path / "run", workers=0) as again:
        kept = again.answers
    assert list(map(repr, kept.values())) == list(map(repr, oracle.answers.values()))


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_worker_that_takes_long_to_come_back_is_not_given_up():
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": 0.01}),
        open_workers("local", 1) as engine,
    ):
        ((first, pid),) = engine.client.run(os.getpid).items()
        # Profiles would grow with the time that it runs.
        profiles = engine.client.run(dask.config.get, "distributed.worker.profile.enabled")
        assert profiles == {first: False}
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 180
        while not engine.client.nthreads().keys() - {first}:
            assert time.monotonic() < deadline, "no worker came back"
            time.sleep(0.1)
        # One that was given up is ended as soon as it is there.
        assert len(engine.client.cluster.workers) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_a_local_cluster_with_one_line(model_folder):
    tail = ("generate", "--model", str(model_folder), "-n", "200000", "--all", "--out", "x.csv")
    command = [sys.executable, "-m", "graphcnf", *tail, "--cluster", "local", "--workers", "1"]
    # What is started in the background by a shell ignores the signal, and so would its children.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard
    ) as process:
        while process.poll() is None and journal() < 600:
            time.sleep(0.05)
        # As a terminal does: the workers are told as well.
        os.killpg(process.pid, signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130 and err.startswith("interrupted after "), err
    assert len(err.splitlines()) == 1, err
    assert 600 <= journal() < 200_000
    deadline = time.monotonic() + 60
    while running(process.pid):
        assert time.monotonic() < deadline, "a process of the cluster is left"
        time.sleep(0.1)


def journal():
    """Records in the blocks of what is being written in this folder."""
    names = [path.name.split(".")[0] for path in Path().glob(".*.blocks/0*.json.gz")]
    return max((int(name.split("-")[1]) + 1 for name in names), default=0)


def running(group):
    """Whether there is a process left of a group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_scheduler_that_does_not_answer(refused, model_folder, monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT", 0.3)
    tail = ("--cluster", "tcp://127.0.0.1:9", "--out", "x.smi")
    err = refused("generate", "--model", model_folder, *tail)
    assert os.listdir() == [] and len(err.splitlines()) == 1
    assert err.startswith("error: cannot reach the Dask scheduler of tcp://127.0.0.1:9")
