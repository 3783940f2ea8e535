"""What every pool must do, whatever engine is below it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from listening import BODY, Heard, gone, nothing_left
from standin import make_batch

import headrace
from headrace.core import pools
from headrace.core.errors import ExecutorError, ResourceError
from headrace.core.interfaces import Control, Isolation, Outcome, Resources
from headrace.executors import wire
from headrace.executors.capacity import Capacity
from headrace.executors.dask import DaskExecutor
from headrace.executors.inline import InlineExecutor
from headrace.executors.processes import ProcessesExecutor
from headrace.executors.ray import RayExecutor
from headrace.executors.threads import ThreadsExecutor

# Ray and Dask leave handles of processes that have ended to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

EXECUTORS = {
    "inline": InlineExecutor(),
    "threads": ThreadsExecutor(max_workers=2),
    "processes": ProcessesExecutor(max_workers=2),
    "dask": DaskExecutor(),
    "ray": RayExecutor(num_cpus=2),
}


class Bench:
    """A pool, and the thread that works for it where the caller must."""

    def __init__(self, pool, name=""):
        self.name = name
        self.pool, self.number, self.over = pool, 0, threading.Event()
        self.worker = threading.Thread(target=self.work, name="headrace-test-work")
        if pool.capabilities.caller_runs:
            self.worker.start()

    def work(self):
        while not self.over.is_set():
            self.pool.work(0.05)

    def submit(self, steps, **options):
        self.number += 1
        heard = Heard()
        batch = make_batch(steps, self.number, **options)
        heard.key = batch.run_id, batch.id
        self.pool.submit(batch, heard)
        return heard

    def close(self):
        self.pool.close()
        self.over.set()
        if self.worker.ident:
            self.worker.join()


@pytest.fixture(scope="module", params=list(EXECUTORS))
def bench(request):
    name = request.param
    pools.close_all()  # a process can be in one Ray only, and earlier tests may have left theirs
    # Ray keeps descriptors of its own open in a process that has used it.
    with pytest.MonkeyPatch.context() as patch, nothing_left(descriptors=name != "ray"):
        patch.setattr(wire, "BODY", BODY)
        bench = Bench(EXECUTORS[name].open(), name)
        yield bench
        bench.close()


def test_reports_come_in_order_and_the_end_comes_once(bench):
    heard = bench.submit([("raise",), ("pid",), ("raise",)])
    assert heard.end().outcome is Outcome.DONE
    assert [position % 100 for position, _ in heard.failed()] == [0, 2]
    assert heard.reports[0].worker is not None


def test_many_batches_all_end(bench):
    many = [bench.submit([("pid",)]) for _ in range(60)]
    assert all(heard.end().outcome is Outcome.DONE for heard in many)
    assert all(len(heard.said()) == 1 for heard in many)


def test_user_code_runs_in_a_child_where_it_can_be_killed(bench):
    pid = int(bench.submit([("pid",)]).said_when_ended()[0])
    assert (pid == os.getpid()) is bench.pool.capabilities.in_process


def test_isolation_none_runs_in_the_engine_s_worker(bench):
    first, second = (
        bench.submit([("pid",)], isolation=isolation).said_when_ended()
        for isolation in (Isolation.NONE, Isolation.CHILD)
    )
    assert (first == second) is bench.pool.capabilities.in_process


def test_a_killed_child_is_told_of_and_the_pool_goes_on(bench):
    if bench.pool.capabilities.in_process:
        return
    end = bench.submit([("ok",), ("kill", signal.SIGKILL)]).end()
    assert end.outcome is Outcome.DIED
    assert end.running is not None
    assert end.running[1] % 100 == 1
    assert "SIGKILL" in end.cause
    assert bench.submit([("ok",)]).end().outcome is Outcome.DONE


def test_time_limits_end_python_code_everywhere(bench):
    heard = bench.submit([("spin", 60), ("pid",)], timeout=0.3)
    end = heard.end()
    if bench.pool.capabilities.in_process:
        assert end.outcome is Outcome.DONE, "only the one item ends"
        assert len(heard.failed()) == 1
    else:  # the stand-in has no limit of its own
        assert end.outcome is Outcome.TIMEOUT


def test_kill_reaches_running_python_code(bench):
    heard = bench.submit([("spin", 60)])
    assert heard.begun.wait(60)
    bench.pool.control(*heard.key, Control.KILL)
    assert heard.end(20).outcome is Outcome.KILLED


def test_recall_lets_the_running_item_end(bench, tmp_path):
    go = tmp_path / "go"
    heard = bench.submit([("wait", str(go)), *[("ok",)] * 9])
    while not (tmp_path / "go.waits").exists():  # "begun" may be told before an item runs
        assert not heard.ended.wait(0.005)
    bench.pool.control(*heard.key, Control.RECALL)
    assert not heard.ended.wait(0.3)
    go.touch()
    assert heard.end(20).outcome is Outcome.RECALLED
    assert heard.reports[-1].started <= 1


@pytest.mark.parametrize(
    ("request_", "outcome"),
    [(Control.KILL, Outcome.KILLED), (Control.RECALL, Outcome.RECALLED)],
)
def test_what_waits_can_be_withdrawn(bench, tmp_path, request_, outcome):
    go = tmp_path / "go"
    running = [bench.submit([("wait", str(go))]) for _ in range(bench.pool.slots(Resources()))]
    assert all(heard.begun.wait(60) for heard in running)
    queued = bench.submit([("touch", str(tmp_path / "ran"))])
    bench.pool.control(*queued.key, request_)
    assert queued.end(20).outcome is outcome
    go.touch()
    assert all(heard.end(20).outcome is Outcome.DONE for heard in running)
    assert not (tmp_path / "ran").exists()


def test_control_of_ended_and_unknown_batches_is_ignored(bench):
    heard = bench.submit([("ok",)])
    heard.end()
    bench.pool.control(*heard.key, Control.KILL)
    bench.pool.control("no such run", 1, Control.KILL)
    assert bench.submit([("ok",)]).end().outcome is Outcome.DONE


def test_a_batch_of_two_cpus_runs_alone_on_two(bench, tmp_path):
    if bench.pool.capabilities.caller_runs:
        return
    go = tmp_path / "go"
    wide = bench.submit([("wait", str(go))], resources=Resources(cpus=2))
    narrow = bench.submit([("touch", str(tmp_path / "narrow"))])
    assert wide.begun.wait(60)
    assert not narrow.ended.wait(0.5)
    go.touch()
    assert wide.end().outcome is narrow.end().outcome is Outcome.DONE


def test_a_need_that_can_never_be_met_says_what_there_is(bench):
    with pytest.raises(ResourceError, match=r"gpus=1.*it has .*cpus="):
        bench.pool.slots(Resources(gpus=1))
    with pytest.raises(ResourceError, match="teapot"):
        bench.pool.submit(
            make_batch([("ok",)], resources=Resources(custom=(("teapot", 1),))), print
        )


def test_memory_is_told_as_people_read_it():
    with pytest.raises(
        ResourceError, match=r"memory=64\.0 GB, .* it has cpus=2, .*memory=12\.6 GB"
    ):
        Capacity(cpus=2, memory=12_600_000_000).fits(Resources(memory=64 * 10**9), "processes")


@pytest.mark.parametrize("name", ["inline", "threads", "processes", "dask"])
def test_close_ends_what_runs_and_what_waits(name, monkeypatch, tmp_path):
    monkeypatch.setattr(wire, "BODY", BODY)
    bench = Bench(EXECUTORS[name].open())
    batches = [bench.submit([("spin", 60)]) for _ in range(8)]
    assert any(heard.begun.wait(30) for heard in batches[:1])
    bench.close()
    assert {heard.end(10).outcome for heard in batches} == {Outcome.KILLED}
    with pytest.raises(RuntimeError):
        bench.submit([("ok",)])
    bench.pool.close()


@pytest.mark.parametrize("name", list(EXECUTORS))
def test_naming_an_executor_does_not_import_its_engine(name):
    code = (
        f"import sys, headrace.executors.{name}; "
        "sys.exit(any(m in sys.modules for m in ('dask', 'distributed', 'ray', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_child_is_replaced_after_so_many_items(monkeypatch):
    monkeypatch.setattr(wire, "BODY", BODY)
    pool = ProcessesExecutor(max_workers=1, max_items_per_child=2).open()
    bench = Bench(pool)
    pids = [bench.submit([("pid",)]).said_when_ended()[0] for _ in range(4)]
    bench.close()
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert all(gone(int(pid)) for pid in pids)


def test_main_thread_sleep_is_ended_by_a_limit(monkeypatch):
    monkeypatch.setattr(wire, "BODY", BODY)
    pool, heard = InlineExecutor().open(), Heard()
    pool.submit(make_batch([("sleep", 60), ("pid",)], timeout=0.2), heard)
    assert pool.work(1.0)
    pool.close()
    assert heard.end(0).outcome is Outcome.DONE
    assert len(heard.failed()) == 1


def test_a_killed_ray_worker_loses_its_batch_and_the_pool_goes_on(bench, monkeypatch):
    if bench.name != "ray":
        return
    monkeypatch.setattr("headrace.executors.ray_slots._SURE_SECONDS", 0.0)
    heard = bench.submit([("ok",)])
    assert heard.end().outcome is Outcome.DONE
    actor = psutil.Process(heard.reports[0].worker.pid).parent()
    actor.kill()
    actor.wait()
    assert bench.submit([("ok",)]).end().outcome is Outcome.DONE, "it was idle when it died"
    end = bench.submit([("kill", signal.SIGKILL)], isolation=Isolation.NONE).end()
    assert end.outcome is Outcome.LOST
    heard = bench.submit([("sleep", 60)])
    assert heard.begun.wait(60)
    child = psutil.Process(heard.reports[0].worker.pid)
    child.parent().kill()
    assert heard.end(30).outcome is Outcome.LOST
    assert gone(child.pid), "the child follows its supervisor"
    assert bench.submit([("ok",)]).end().outcome is Outcome.DONE


def test_another_ray_than_there_is_is_refused(bench):
    if bench.name != "ray":
        return
    for other in (RayExecutor(num_cpus=1), RayExecutor(init_kwargs={"resources": {"disk": 1}})):
        with pytest.raises(ExecutorError, match=r"has a Ray already.*(num_cpus|resources)"):
            other.open()
    shared = RayExecutor().open()
    assert shared.slots(Resources()) == 2
    shared.close()
    assert bench.submit([("ok",)]).end().outcome is Outcome.DONE


def test_a_ray_of_its_own_joins_no_other_one():
    code = (
        "from headrace import RayExecutor; from headrace.core.interfaces import Resources;"
        "pool = RayExecutor(num_cpus=1).open(); assert pool.slots(Resources()) == 1; pool.close()"
    )
    package = str(Path(headrace.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": package, "RAY_ADDRESS": "127.0.0.1:1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_ray_address_where_nobody_answers_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ExecutorError, match=address):
        RayExecutor(address=address).open()


@pytest.mark.parametrize("wanted", [True, False])
def test_a_dask_of_its_own_looks_at_itself_where_the_user_has_set_that(wanted, monkeypatch):
    from distributed import Worker

    if wanted:
        monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED", "true")
    before = set(Worker._instances)
    pool = DaskExecutor(n_workers=1).open()
    try:
        (worker,) = set(Worker._instances) - before
        assert ("profile" in worker.periodic_callbacks) is wanted
    finally:
        pool.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_is_refused_the_dask_that_its_parent_uses():
    pool = DaskExecutor(n_workers=1).open()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            DaskExecutor(n_workers=1).open()
        except ExecutorError as error:
            code = 0 if f"fork of process {os.getppid()}" in str(error) else 2
        finally:
            os._exit(code)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        pool.close()
