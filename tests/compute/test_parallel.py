"""Maps in child processes: the results of a loop, in its order, or one clear error."""

import errno
import os
import signal
import subprocess
import sys
import time
import types
from functools import partial
from itertools import count, islice

import pytest
import worker_tasks as work

from graphcnf.compute import parallel
from graphcnf.compute.cpu import cpu_quota
from graphcnf.compute.parallel import WorkerDied, available_cores, ordered_map, parallel_map
from graphcnf.errors import UserError


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_chunks(workers):
    with ordered_map(work.slow_first, range(20), workers=workers) as results:
        values, pids = zip(*results, strict=True)
    assert values == tuple(k * k for k in range(20))
    if workers == 1:
        assert set(pids) == {os.getpid()}
    else:
        assert os.getpid() not in pids


@pytest.mark.parametrize("workers", [1, 2])
def test_endless_chunks_are_taken_as_they_are_needed(workers):
    taken = []
    chunks = (taken.append(k) or k for k in count())
    double = partial(work.scaled, 2)
    with ordered_map(double, chunks, workers=workers) as results:
        assert list(islice(results, 5)) == [0, 2, 4, 6, 8]
        time.sleep(0.2)
        assert len(taken) <= 5 + (workers * parallel.AHEAD if workers > 1 else 0)
    assert taken == list(range(len(taken)))


def test_nothing_is_waited_for_when_the_context_ends_early(monkeypatch):
    processes = []

    class Recorded(parallel.Worker):
        def __init__(self, function):
            super().__init__(function)
            processes.append(self.process)

    monkeypatch.setattr(parallel, "Worker", Recorded)
    began = time.perf_counter()
    with ordered_map(time.sleep, [0, 60, 60, 60], workers=2) as results:
        assert next(results) is None
    assert time.perf_counter() - began < 30
    assert [p.returncode for p in processes] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_comes_in_its_place(workers):
    found = []
    with (
        pytest.raises(ZeroDivisionError) as caught,
        ordered_map(work.reciprocal, count(), workers=workers) as results,
    ):
        found.extend(results)
    assert found == [1 / 3, 1 / 2, 1]
    # The traceback of the other process is not lost.
    if workers > 1:
        assert "in reciprocal" in caught.value.__notes__[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_of_the_chunks_is_not_taken_for_a_dead_worker(workers):
    def chunks():
        yield 1
        raise FileNotFoundError("no chunks.txt")

    with (
        pytest.raises(FileNotFoundError, match="no chunks.txt"),
        ordered_map(abs, chunks(), workers=workers) as results,
    ):
        list(results)


def test_exceptions_and_results_that_cannot_be_pickled_are_told():
    for function, message in ((work.stubborn, "Stubborn: 0 and 0"), (work.lambdas, "lambda")):
        with (
            pytest.raises(Exception, match=message),
            ordered_map(function, range(2), workers=2) as results,
        ):
            list(results)


def test_a_function_that_the_children_cannot_import_is_named(monkeypatch):
    module = types.ModuleType("only_in_this_process")
    exec("def work(k): return k", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_in_this_process", module)
    with (
        pytest.raises(ModuleNotFoundError, match="only_in_this_process"),
        ordered_map(module.work, range(9), workers=2) as results,
    ):
        list(results)


def test_a_killed_worker_is_told_in_one_line_after_what_is_complete():
    found = []
    with (
        pytest.raises(WorkerDied, match="worker process died.*signal 9") as caught,
        ordered_map(work.killed_at_three, range(100), workers=2) as results,
    ):
        found.extend(results)
    # What another worker was at may be missing.
    assert found == [0, 1, 2][: len(found)] and "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)


def test_a_process_that_cannot_be_started_is_told_and_leaves_none_behind(monkeypatch):
    started, popen = [], subprocess.Popen

    def second_fails(*arguments, **options):
        if started:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(popen(*arguments, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", second_fails)
    with (
        pytest.raises(UserError, match="cannot start 2 worker processes: .*unavailable"),
        ordered_map(abs, range(9), workers=2),
    ):
        pass
    assert started[0].returncode is not None


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_children_end_when_their_parent_is_killed():
    program = (
        "import itertools, os, time\n"
        "from graphcnf.compute.parallel import ordered_map\n"
        "with ordered_map(eval, itertools.repeat('__import__(\"os\").getpid()'), workers=2) as r:\n"
        "    for pid in itertools.islice(r, 2000): time.sleep(0.001); print(pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    pids = set()
    while len(pids) < 2 and (line := parent.stdout.readline()):
        pids.add(int(line))
    parent.kill()
    # The children hold the other end of stderr for as long as they live.
    _, err = parent.communicate(timeout=60)
    assert len(pids) == 2 and err == ""


def test_parallel_map_is_the_loop():
    assert parallel_map(work.scaled, []) == []
    for workers in (None, 1, 2):
        found = parallel_map(partial(work.scaled, 3), range(10), workers=workers)
        assert found == [*range(0, 30, 3)]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),  # as `docker run --cpus 1.5` has it
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({}, 64),
    ],
)
def test_cores_are_those_that_a_container_may_use(monkeypatch, tmp_path, files, cores):
    assert 1 <= available_cores() <= os.cpu_count()
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(parallel, "cpu_quota", partial(cpu_quota, tmp_path))
    assert available_cores() == cores
