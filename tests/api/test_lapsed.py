"""A run whose driver was killed does not stay Running for ever."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

import headrace
from headrace.core.registry import close_histories
from headrace.core.settings import settings_override

SCRIPT = """
import sys, time
from headrace import flow, task

@task
def wait(x):
    print("started", flush=True, file=sys.stderr)
    time.sleep(600)

@flow
def forever():
    wait.map(range(3)).wait()

forever()
"""


@pytest.fixture(autouse=True)
def _own_histories() -> Iterator[None]:
    yield
    close_histories()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    env = os.environ | {"HEADRACE_HOME": str(tmp_path), "HEADRACE_HEARTBEAT_SECONDS": "0.1"}
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=env, stderr=subprocess.PIPE, text=True
    )
    assert driver.stderr is not None
    for line in driver.stderr:
        if "started" in line:
            break
    with settings_override(home=tmp_path, heartbeat_seconds=600):
        while not (found := headrace.runs()):  # history is written in groups
            assert driver.poll() is None
    assert found[0].state == "Running"
    yield driver
    driver.kill()
    driver.wait()
    driver.stderr.close()


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "a zombie"])
def test_a_driver_that_was_killed_here_is_seen_as_crashed_at_once(
    driver: subprocess.Popen[str], tmp_path: Path, *, reaped: bool
) -> None:
    """Its heart beat just now, but there is no such process."""
    with settings_override(home=tmp_path, heartbeat_seconds=600):
        attached = headrace.attach(headrace.runs()[0].id)
        os.kill(driver.pid, signal.SIGKILL)
        if reaped:
            driver.wait()
        else:
            os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
        assert attached.state.name == "Crashed"
        (run,) = headrace.runs()
    assert run.state == "Crashed"
    assert f"process {driver.pid}" in run.message


def test_a_driver_that_is_silent_is_seen_as_crashed(
    driver: subprocess.Popen[str], tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "history.db", isolation_level=None)) as history:
        history.execute("BEGIN IMMEDIATE")  # it is not stopped in the middle of a heartbeat's write
        os.kill(driver.pid, signal.SIGSTOP)
        while psutil.Process(driver.pid).status() != psutil.STATUS_STOPPED:
            pass
    with settings_override(home=tmp_path, heartbeat_seconds=600):
        assert headrace.runs()[0].state == "Running"
    with settings_override(home=tmp_path, heartbeat_seconds=1e-9):
        (run,) = headrace.runs()
    assert run.state == "Crashed"
    assert "heartbeat" in run.message
