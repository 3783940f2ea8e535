"""Batches on a Dask cluster of other processes: lost workers, vanished drivers, clear refusals."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dask_cluster import Cluster, until
from listening import BODY, Heard, gone
from standin import make_batch

from headrace.core.errors import ExecutorError, VersionMismatchError
from headrace.core.interfaces import Isolation, Outcome, Resources
from headrace.executors import wire
from headrace.executors.dask import DaskExecutor

# Dask leaves handles of processes that have ended to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(wire, "BODY", BODY)
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def pool(cluster):
    pool = DaskExecutor(address=cluster.address).open()
    yield pool
    pool.close()


def submit(pool, steps, number, **options):
    heard = Heard()
    pool.submit(make_batch(steps, number, **options), heard)
    return heard


@pytest.mark.parametrize("nanny", ["--no-nanny", "--nanny"])
def test_a_killed_worker_loses_its_batches_and_no_other_runs_them(cluster, pool, tmp_path, nanny):
    cluster.worker(nanny)
    note = tmp_path / "started"
    heard = submit(pool, [("touch", str(note)), ("sleep", 60)], 1)
    assert heard.begun.wait(60)
    child = psutil.Process(heard.reports[0].worker.pid)
    worker = child.parent()
    cluster.worker(nanny)
    until(lambda: pool.slots(Resources()) == 4)
    worker.kill()
    assert heard.end(20).outcome is Outcome.LOST
    assert "gone" in heard.reports[-1].end.cause
    assert gone(child.pid), "the child follows its supervisor"
    assert submit(pool, [("ok",)], 2).end().outcome is Outcome.DONE
    assert len(note.read_text().split()) == 1


def test_slots_follow_the_cluster_and_work_waits_for_its_first_worker(cluster, pool):
    early = submit(pool, [("pid",)], 1)
    assert pool.slots(Resources()) == 1
    cluster.worker()
    assert early.end().outcome is Outcome.DONE
    assert pool.slots(Resources()) == 2
    assert pool.slots(Resources(cpus=2)) == 1


def test_a_retired_worker_hands_nothing_to_dask_to_run_again(cluster, pool, tmp_path):
    from distributed import Client

    cluster.worker()
    note = tmp_path / "started"
    heard = submit(pool, [("touch", str(note)), ("sleep", 60)], 1)
    assert heard.begun.wait(60)
    cluster.worker()
    until(lambda: pool.slots(Resources()) == 4)
    child = heard.reports[0].worker.pid
    address = next(w for w in pool._runner._workers.values() if w.flights).address
    with Client(cluster.address, set_as_default=False) as client:
        client.retire_workers([address], close_workers=True)
    assert heard.end(30).outcome in (Outcome.LOST, Outcome.KILLED)
    assert gone(child)
    assert len(note.read_text().split()) == 1


def test_isolation_none_may_use_dask(cluster, pool):
    cluster.worker()
    heard = submit(pool, [("module", "dask_inside", "address")], 1, isolation=Isolation.NONE)
    assert heard.end().outcome is Outcome.DONE
    assert heard.said()[0].startswith("tcp://")


def test_an_address_where_nobody_answers_is_named_within_30_seconds():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(ExecutorError, match=address):
        DaskExecutor(address=address).open()
    assert time.monotonic() - began < 30


def test_a_worker_without_headrace_refuses_in_one_line(cluster, pool, tmp_path):
    hidden = tmp_path / "hidden" / "headrace.py"
    hidden.parent.mkdir()
    hidden.write_text("raise ModuleNotFoundError(\"No module named 'headrace'\")")
    cluster.worker(PYTHONPATH=str(hidden.parent))
    heard = submit(pool, [("ok",)], 1)
    end = heard.end()
    assert end.outcome is Outcome.REFUSED
    error = pickle.loads(end.error)
    assert isinstance(error, VersionMismatchError)
    assert "no headrace" in str(error)
    with pytest.raises(VersionMismatchError):
        pool.slots(Resources())
    assert "\n" not in str(error)


DRIVER = """
import sys, os, signal
sys.path[:0] = {path!r}
from listening import BODY, Heard
from standin import make_batch
from headrace.executors import wire
from headrace.executors.dask import DaskExecutor
wire.BODY = BODY
pool, heard = DaskExecutor(address={address!r}).open(), Heard()
pool.submit(make_batch([("sleep", 300)], 1), heard)
heard.begun.wait()
print(heard.reports[0].worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_end_when_the_driver_vanishes(cluster, tmp_path):
    cluster.worker()
    path = [str(Path(__file__).parent), *sys.path]
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(path=path, address=cluster.address))
    done = subprocess.run(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, timeout=80, check=False
    )
    assert gone(int(done.stdout), 8)
