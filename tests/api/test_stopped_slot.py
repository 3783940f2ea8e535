"""One of two children is stopped by SIGSTOP while it runs items: what becomes of the map."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from headrace import ProcessesExecutor, flow, task
from headrace.core import pools
from headrace.core.settings import settings_override
from headrace.testing import Tally

ITEMS = 20


def stopped(mark: Path) -> bool:
    """Has the process that a file names been stopped?"""
    pid = mark.read_text() if mark.exists() else ""
    return bool(pid) and psutil.Process(int(pid)).status() == psutil.STATUS_STOPPED


@pytest.mark.parametrize("backups", [True, False])
def test_a_stopped_child_loses_nothing_and_backups_do_not_wait_for_it(
    tmp_path: Path, backups: bool
) -> None:
    """With backups the map ends while the child is still stopped; without, when it goes on.

    Several heartbeats are missed meanwhile.
    """
    mark = tmp_path / "pid"
    executor = ProcessesExecutor(max_workers=2)

    @task(backups=backups)
    def work(value: int) -> int:
        Tally(tmp_path / "starts").note(str(value))
        time.sleep(0.02)
        if value == ITEMS // 2 and not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
        return value

    @flow(executor=executor, storage=str(tmp_path))
    def stalled() -> list[int]:
        values = work.map(range(ITEMS))
        if not backups:
            while not stopped(mark) or len(values) < ITEMS:
                time.sleep(0.01)
            values.wait(0.5)
            assert not values.done()
            os.kill(int(mark.read_text()), signal.SIGCONT)
        values.wait()
        if backups:
            assert stopped(mark)
        return values.result()

    with pools.opened(executor), settings_override(heartbeat_seconds=0.1):
        assert stalled() == list(range(ITEMS))
        if not backups:
            tally = Tally(tmp_path / "starts")
            assert [tally.count(str(item)) for item in range(ITEMS)] == [1] * ITEMS
            assert psutil.pid_exists(int(mark.read_text())), "nobody killed it"
