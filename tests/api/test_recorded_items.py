"""A new process reads single items of a run whose driver is gone: value, state and start time."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

import headrace
from headrace.core.recorded import RecordedRun
from headrace.core.settings import settings_override

SCRIPT = """
from headrace import flow, task

@task(on_error="quarantine")
def halve(x):
    if x % 10 == 9:
        raise ValueError(f"{x} is odd")
    return {"half": x / 2}

@flow(executor="threads")
def wide():
    halve.map(range(50)).wait()

wide()
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedRun]:
    home = tmp_path_factory.mktemp("home")
    with settings_override(home=home):
        env = {"HEADRACE_HOME": str(home), "PYTHONPATH": ":".join(sys.path)}
        subprocess.run([sys.executable, "-c", SCRIPT], env=env, check=True)
        found = headrace.attach(headrace.runs()[0].id)
        assert isinstance(found, RecordedRun)
        yield found


def test_a_completed_item(run: RecordedRun) -> None:
    item = run.item("halve-0", 12)
    assert item.state.name == "Completed"
    assert item.state.result() == {"half": 6.0}
    assert item.attempt == 1
    times = [run.record().started, item.started, item.ended, run.record().ended]
    known = [time for time in times if time is not None]
    assert len(known) == 4
    assert known == sorted(known)


def test_a_failed_item(run: RecordedRun) -> None:
    item = run.item("halve-0", 19)
    assert item.state.name == "Failed"
    assert "19 is odd" in item.state.message
    assert isinstance(item.started, datetime)
    with pytest.raises(headrace.errors.TaskFailed, match="19 is odd"):
        item.state.result()


def test_what_is_not_there(run: RecordedRun) -> None:
    with pytest.raises(IndexError, match="has 50 items"):
        run.item("halve-0", 50)
    with pytest.raises(headrace.errors.RunNotFoundError, match="halve-0"):
        run.item("double-0", 0)
