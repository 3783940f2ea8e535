"""Workers are lost while a flow runs on them: what is committed never starts again, and no item pays."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil
import pytest
from dask_cluster import Cluster, until

import headrace
from headrace import flow, task, unmapped
from headrace.core import orphans, pools
from headrace.core.registry import close_histories
from headrace.core.settings import settings_override
from headrace.storage.failpoints import VARIABLE
from headrace.testing import Tally

# Dask leaves handles of processes that have ended to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
ITEMS = 60
HELD_FROM = 20
"""Items from here on wait while the gate is there."""


@task(infra_retries=0)
def square(folder: Path, item: int) -> int:
    Tally(folder).note(str(item))
    time.sleep(0.02)
    gate = folder.with_name("gate")
    if item >= HELD_FROM and gate.exists():
        Tally(folder).note("held")
        while gate.exists():
            time.sleep(0.01)
    return item * item


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    points = tmp_path / "points"
    points.mkdir()
    monkeypatch.setenv(VARIABLE, str(points))
    cluster = Cluster(tmp_path)
    with settings_override(
        history=f"sqlite:///{tmp_path}/history.db",
        storage=str(tmp_path / "storage"),
        flush_seconds=0.1,
        display="none",
    ):
        yield cluster
    pools.close_all()
    close_histories()
    cluster.close()


class Losing:
    """A flow that runs on a cluster, and what is known of it from outside."""

    def __init__(self, cluster, folder):
        self.folder, self.cluster = folder, cluster

        @flow(executor=headrace.DaskExecutor(address=cluster.address))
        def squares() -> list[int]:
            return square.map(unmapped(folder / "starts"), range(ITEMS)).result()

        self.run = squares.start()

    def committed(self):
        """Items that have a partition."""
        store = self.run.info.store.run(str(self.run.id))
        return {p for receipt in store.receipts(None) for p in receipt.positions}

    def started(self, items):
        """How often each of these items has started."""
        tally = Tally(self.folder / "starts")
        return {item: tally.count(str(item)) for item in items}

    def busy(self):
        """A worker that runs a child which is at work."""
        notes = [Tally(self.folder / "starts").notes(str(item)) for item in range(ITEMS)]
        last = max((note for each in notes for note in each), key=lambda note: note.time)
        return psutil.Process(last.pid).parent()

    def held(self):
        """A worker that runs an item which waits at the gate."""
        tally = Tally(self.folder / "starts")
        until(lambda: tally.count("held"))
        return psutil.Process(tally.notes("held")[0].pid).parent()

    def check(self, had):
        assert self.run.result() == [item * item for item in range(ITEMS)]
        assert had
        assert self.started(had) == dict.fromkeys(had, 1)
        outcomes = [b.outcome for b in self.run.info.history.batches(self.run.id)]
        assert "lost" in outcomes or "killed" in outcomes
        assert not self.run.info.history.items(self.run.id), "no attempt was charged"


def kill(worker, _address):
    worker.kill()


def kill_with_its_nanny(worker, _address):
    worker.parent().kill()
    until(lambda: not worker.is_running())


def retire(worker, address):
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        pids = client.run(os.getpid)
        [there] = [w for w, pid in pids.items() if pid == worker.pid]
        client.retire_workers([there], close_workers=True)


@pytest.mark.parametrize("lose", [kill, kill_with_its_nanny, retire])
def test_a_worker_is_lost_with_all_that_it_held(cluster, tmp_path, monkeypatch, lose):
    """Its batch cannot end before the driver takes it for lost, however slow the machine is."""
    lost, await_end = threading.Event(), orphans.await_end

    def awaited(*given):
        lost.set()
        await_end(*given)

    monkeypatch.setattr(orphans, "await_end", awaited)
    nanny = "--nanny" if lose is kill_with_its_nanny else "--no-nanny"
    for _ in range(2):
        cluster.worker(nanny, threads=1)
    gate = tmp_path / "gate"
    gate.touch()
    losing = Losing(cluster, tmp_path)
    worker = losing.held()
    until(lambda: len(losing.committed()) > 5)
    had = losing.committed()
    lose(worker, cluster.address)
    assert lost.wait(60)
    gate.unlink()
    losing.check(had)


def test_a_worker_is_killed_between_the_end_of_a_batch_and_its_gathering(cluster, tmp_path):
    point = tmp_path / "points" / "partition.after"
    point.write_text("wait 3")
    cluster.worker(threads=1)
    losing = Losing(cluster, tmp_path)
    passed = point.with_name("partition.after.passed")
    until(lambda: passed.exists() and len(passed.read_text().split()) == 3)
    had = losing.committed()
    psutil.Process(int(passed.read_text().split()[-1])).parent().kill()
    cluster.worker(threads=1)
    losing.check(had)


@pytest.mark.parametrize("nanny", ["--nanny", "--no-nanny"])
def test_a_worker_that_is_told_to_end_commits_and_tells_what_is_finished(cluster, tmp_path, nanny):
    """Its batches have flushed nothing before: what is not kept would run again.

    Without a nanny it breaks its connections off, and the driver finds the commits in the store.
    """
    for _ in range(2):
        cluster.worker(nanny, threads=1)
    with settings_override(flush_seconds=60):
        losing = Losing(cluster, tmp_path)
        until(lambda: sum(losing.started(range(ITEMS)).values()) > ITEMS // 2)
        told = losing.busy()
        (told.parent() if nanny == "--nanny" else told).terminate()
        assert losing.run.result() == [item * item for item in range(ITEMS)]
    assert losing.started(range(ITEMS)) == dict.fromkeys(range(ITEMS), 1)
    outcomes = {b.outcome for b in losing.run.info.history.batches(losing.run.id)}
    if nanny == "--nanny":
        assert "lost" not in outcomes, "the driver heard it from the worker"
    assert not losing.run.info.history.items(losing.run.id), "no attempt was charged"


def test_a_worker_that_misses_heartbeats_is_left_alone(cluster, tmp_path):
    """It is stopped for several of them, with its children at work, and goes on."""
    for _ in range(2):
        cluster.worker(threads=1)
    losing = Losing(cluster, tmp_path)
    until(lambda: len(losing.committed()) > 5)
    worker = losing.busy()
    worker.suspend()
    time.sleep(3)  # a heartbeat of Dask's is one of half a second
    worker.resume()
    assert losing.run.result() == [item * item for item in range(ITEMS)]
    assert losing.started(range(ITEMS)) == dict.fromkeys(range(ITEMS), 1)
    assert "lost" not in {b.outcome for b in losing.run.info.history.batches(losing.run.id)}


@task(infra_retries=0)
def long(folder: Path, item: int) -> int:
    Tally(folder).note(str(item))
    time.sleep(2)
    return item


def test_what_a_lost_worker_s_child_ends_and_commits_is_taken_in(cluster, tmp_path):
    cluster.worker("--no-nanny", threads=1)

    @flow(executor=headrace.DaskExecutor(address=cluster.address))
    def one() -> list[int]:
        return long.map(unmapped(tmp_path / "starts"), [7]).result()

    run = one.start()
    until(lambda: Tally(tmp_path / "starts").count("7") == 1)
    child = psutil.Process(Tally(tmp_path / "starts").notes("7")[0].pid)
    child.parent().kill()
    cluster.worker("--no-nanny", threads=1)
    assert run.result() == [7]
    assert Tally(tmp_path / "starts").count("7") == 1
