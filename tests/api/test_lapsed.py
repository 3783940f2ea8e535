"""A run whose driver was killed does not stay Running for ever."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import headrace
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


def test_a_killed_driver_is_seen_as_crashed(tmp_path: Path) -> None:
    env = os.environ | {"HEADRACE_HOME": str(tmp_path), "HEADRACE_HEARTBEAT_SECONDS": "0.1"}
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=env, stderr=subprocess.PIPE, text=True
    )
    assert driver.stderr is not None
    for line in driver.stderr:
        if "started" in line:
            break
    try:
        with settings_override(home=tmp_path, heartbeat_seconds=600):
            while not (found := headrace.runs()):  # history is written in groups
                assert driver.poll() is None
        assert found[0].state == "Running"
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        driver.stderr.close()
    with settings_override(home=tmp_path, heartbeat_seconds=0.0001):
        (run,) = headrace.runs()
    assert run.state == "Crashed"
    assert "heartbeat" in run.message


@pytest.fixture(autouse=True)
def _own_histories() -> object:
    from headrace.core.registry import close_histories

    yield
    close_histories()
