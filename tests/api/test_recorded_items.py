"""A new process reads single items of a run whose driver is gone: value, state and start time."""

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest

import headrace
from headrace.core.log_lists import Logs
from headrace.core.recorded import RecordedRun
from headrace.core.runs import Runs
from headrace.core.settings import settings_override

SCRIPT = """
from headrace import flow, get_run_logger, task

@task(on_error="quarantine")
def halve(x):
    if x % 10 == 9:
        raise ValueError(f"{x} is odd")
    return {"half": x / 2}

@task
def twice(x):
    get_run_logger().warning("twice %d", x)
    return 2 * x

@flow(executor="threads", name="wide")
def wide():
    twice.map(range(3)).wait()
    halve.map(range(50)).wait()
    halve.submit(2).wait()

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
    with pytest.raises(headrace.errors.RunNotFoundError, match="name one of halve-0, halve-1"):
        run.item("halve", 0)


def test_the_name_of_a_task_will_do_where_the_run_has_one_node_of_it(run: RecordedRun) -> None:
    assert run.item("twice", 2).state.result() == 4
    assert run.dataset("twice").to_table()["value"].to_pylist() == [0, 2, 4]


def test_all_values_of_a_map(run: RecordedRun) -> None:
    halves = run.dataset("halve-0").to_table()["half"].to_pylist()
    assert halves == [i / 2 for i in range(50) if i % 10 != 9]
    with pytest.raises(headrace.errors.RunError, match="no map"):
        run.dataset("halve-1")
    with pytest.raises(headrace.errors.RunNotFoundError, match="halve-0"):
        run.dataset("double-0")


def test_what_the_flow_returned_is_not_to_be_had_but_what_its_tasks_did_is(
    run: RecordedRun,
) -> None:
    with pytest.raises(headrace.errors.RunError, match=r"run\.dataset.*'halve-0'"):
        run.result()


def test_they_are_short_where_they_are_looked_at(run: RecordedRun) -> None:
    assert repr(run.item("halve-0", 19)).startswith("<RecordedItem halve-0[19] Failed: ")
    first, _second = repr(Runs([run.record()] * 2)).splitlines()
    assert first.split()[:4] == [run.name, "wide", "Completed", "threads"]
    assert repr(Runs()) == "no runs"


def test_logs_read_like_a_log(run: RecordedRun) -> None:
    logs = run.logs(logging.WARNING)
    twice = [record for record in logs if record.message.startswith("twice")]
    assert sorted(record.message for record in twice) == ["twice 0", "twice 1", "twice 2"]
    line = logs.line(twice[0])
    assert re.match(r"\d\d:\d\d:\d\d WARNING twice-0\[\d\] - twice \d$", line)
    assert line in repr(logs[:]).splitlines()
    assert len(repr(logs).splitlines()) == len(logs) == 4
    assert repr(Logs([*logs] * 500, "run")).startswith("(1,000 earlier lines)\n")
    assert "WARNING twice-0[" in logs._repr_html_()
    assert repr(Logs()) == "no log lines"
