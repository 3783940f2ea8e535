"""Whether a run's driver lives: by more than a host's name and a number, which come again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from headrace import flow
from headrace.core.interfaces import RunRecord
from headrace.core.process_marks import ended, mark_of
from headrace.core.resumption import living_driver


@flow(executor="threads")
def nothing() -> None:
    return None


@pytest.fixture
def other() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def record() -> RunRecord:
    """Of a run that this process drives, for all that is recorded."""
    run = nothing.start()
    run.wait()
    made = run.info.history.run(run.id)
    assert (made.host, made.pid) == (socket.gethostname(), os.getpid())
    assert made.process == mark_of(os.getpid())
    return replace(made, state="Running", state_type="RUNNING", heartbeat=datetime.now(UTC))


def test_a_process_that_is_still_the_same_lives(record: RunRecord, other: int) -> None:
    told = living_driver(replace(record, pid=other, process=mark_of(other)))
    assert told == f"process {other}"
    assert living_driver(replace(record, pid=other, process="")), "written by an older version"
    assert not living_driver(record), "this process drives no such run"


def test_a_number_that_is_another_process_s_by_now_is_no_driver(
    record: RunRecord, other: int
) -> None:
    place, _, began = mark_of(other).rpartition("/")
    assert not living_driver(replace(record, pid=other, process=f"{place}/{int(began) - 1}"))


def test_a_container_of_the_same_name_is_another_place(record: RunRecord, other: int) -> None:
    """Nobody here has its number, or this very process; its heart beats all the same."""
    boot, _, began = mark_of(other).split("/")
    elsewhere = f"{boot}/1/{began}"
    for pid in (other, os.getpid(), 1 << 22):
        told = living_driver(replace(record, pid=pid, process=elsewhere))
        assert "last heard of 0 s ago" in told


def test_a_process_whose_end_nobody_has_noticed_yet_has_ended(other: int) -> None:
    mark = mark_of(other)
    assert not ended(socket.gethostname(), other, mark)
    os.kill(other, signal.SIGKILL)
    os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
    assert ended(socket.gethostname(), other, mark)
    assert ended(socket.gethostname(), other, "")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_process_of_another_user_lives_until_it_ends(other: int) -> None:
    """Its space of numbers is not told to others, but when it began."""
    code = (
        "import os, sys; from headrace.core.process_marks import ended, mark_of; os.setuid(65534);"
        "host, pid, *marks = sys.argv[1:];"
        "print(mark_of(int(pid)) == '', [ended(host, int(pid), each) for each in marks])"
    )
    mark = mark_of(other)
    asked = [socket.gethostname(), str(other), mark, mark + "1", ""]
    told = subprocess.check_output([sys.executable, "-c", code, *asked], text=True)
    assert told == "True [False, True, False]\n"
