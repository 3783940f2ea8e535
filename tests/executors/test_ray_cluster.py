"""A Ray of two nodes, of which one is killed or told to end in the middle of a map."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from dask_cluster import PATH, until

import headrace
from headrace import flow, task, unmapped
from headrace.core import pools
from headrace.core.registry import close_histories
from headrace.core.settings import settings_override
from headrace.testing import Tally

ITEMS = 40


@task(infra_retries=0)
def square(folder: Path, item: int) -> int:
    Tally(folder).note(str(item), str(os.getppid()))
    while not (folder.parent / "both").exists():  # the second worker may take its time
        time.sleep(0.02)
    time.sleep(0.15)
    return item * item


@pytest.fixture
def ray_cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    pools.close_all()  # a process can be in one Ray only, and earlier tests may have left theirs
    monkeypatch.setenv("PYTHONPATH", PATH)
    lean: Any = {"object_store_memory": 80 << 20, "include_log_monitor": False}
    head = {
        "num_cpus": 1,
        "include_dashboard": False,
        "no_monitor": True,
        **lean,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, **lean)
    yield cluster
    pools.close_all()
    close_histories()
    cluster.shutdown()


class Map:
    """A flow that runs on the cluster, and what is known of it from outside."""

    def __init__(self, cluster, folder):
        self.folder = folder

        @flow(executor=headrace.RayExecutor(address=cluster.address))
        def squares() -> list[int]:
            return square.map(unmapped(folder / "starts"), range(ITEMS)).result()

        self.run = squares.start()

    def on_both_nodes(self):
        """Wait until two workers have begun items, and let these go on."""
        until(lambda: self.run.done() or len(self.actors()) == 2, 120)
        assert not self.run.done(), self.run.state
        (self.folder / "both").touch()

    def committed(self):
        """Items that have a partition."""
        store = self.run.info.store.run(str(self.run.id))
        return {p for receipt in store.receipts(None) for p in receipt.positions}

    def notes(self):
        tally = Tally(self.folder / "starts")
        return {item: tally.notes(str(item)) for item in range(ITEMS)}

    def actors(self):
        """The workers that have begun items, the last one last."""
        notes = sorted((n for each in self.notes().values() for n in each), key=lambda n: n.time)
        return list(dict.fromkeys(int(note.text) for note in reversed(notes)))[::-1]

    def check(self, once):
        assert self.run.result() == [item * item for item in range(ITEMS)]
        starts = {item: len(notes) for item, notes in self.notes().items()}
        assert {item: starts[item] for item in once} == dict.fromkeys(once, 1)
        assert not self.run.info.history.items(self.run.id), "no attempt was charged"


def test_nodes_and_workers_go_and_nothing_that_is_committed_runs_again(ray_cluster, tmp_path):
    with settings_override(
        history=f"sqlite:///{tmp_path}/history.db",
        storage=str(tmp_path / "storage"),
        display="none",
    ):
        with settings_override(flush_seconds=60):  # what is not kept now would run again
            told = Map(ray_cluster, tmp_path / "told")
            told.on_both_nodes()
            os.kill(told.actors()[-1], signal.SIGTERM)
            told.check(range(ITEMS))
        with settings_override(flush_seconds=0.1):
            lost = Map(ray_cluster, tmp_path / "lost")
            lost.on_both_nodes()
            until(lambda: len(lost.committed()) > 5)
            had = lost.committed()
            (node,) = ray_cluster.worker_nodes
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            assert raylet.pid in [psutil.Process(pid).ppid() for pid in lost.actors()]
            for process in [*raylet.children(recursive=True), raylet]:
                process.kill()
            lost.check(had)
        outcomes = {b.outcome for b in lost.run.info.history.batches(lost.run.id)}
        assert "lost" in outcomes
