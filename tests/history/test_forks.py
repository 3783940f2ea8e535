"""A history that is in use when its process is forked, or has been."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from headrace.history.sql import SqlHistory

from .records import a_run

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def in_fork(work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_parent_and_fork_write_and_read_side_by_side(history: SqlHistory):
    first, theirs, last = (a_run() for _ in range(3))
    history.append(first.id, 0, [first], driver="parent")

    def write() -> None:
        assert history.run(first.id) == first
        history.append(theirs.id, 0, [theirs], driver="child")

    in_fork(write)
    assert history.run(theirs.id) == theirs
    history.append(last.id, 0, [last], driver="parent")
    assert {run.id for run in history.runs()} == {first.id, theirs.id, last.id}


def test_a_fork_in_a_transaction_finds_nothing_locked(history: SqlHistory):
    mine, theirs = a_run(), a_run()
    asked = list[threading.Thread]()
    within, over = threading.Event(), threading.Event()

    def gone(_run: object) -> bool:
        asked.append(threading.current_thread())
        if len(asked) == 2:  # the first time it is read, the second time written
            within.set()
            over.wait(30)
        return len(asked) == 1

    history.append(mine.id, 0, [mine], driver="parent")
    transaction = threading.Thread(target=history.lapse, args=(mine.created, 1e9, gone))
    transaction.start()
    assert within.wait(30)
    threading.Timer(0.2, over.set).start()
    in_fork(lambda: history.append(theirs.id, 0, [theirs], driver="child"))
    transaction.join()
    assert asked[1] is not transaction
    assert history.run(theirs.id) == theirs
