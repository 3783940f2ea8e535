"""Runs whose driver is a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

import headrace
from headrace.core.errors import ExecutorError, RunError, StorageError
from headrace.core.headers import read_launch
from headrace.testing import Tally

PACKAGE = str(Path(headrace.__file__).parent.parent)

SCRIPT = """
import os, sys, time, headrace
from pathlib import Path

@headrace.task
def double(i: int) -> int:
    while not Path(os.environ["GATE"]).exists():
        time.sleep(0.02)
    return 2 * i

@headrace.flow(executor="threads")
def job(n: int) -> list[int]:
    return double.map(range(n)).result()

import headrace
run = job.start(20, detach=True)
assert type(headrace.attach(run.id)) is type(run)  # and no handle of this process
print(run.id, run.state.name, flush=True)
if "die" in sys.argv:
    os.kill(0, 9)
"""


@pytest.mark.parametrize("end", ["die", "end"])
def test_it_outlives_the_process_that_started_it(tmp_path: Path, end: str) -> None:
    script, gate = tmp_path / "script.py", tmp_path / "gate"
    script.write_text(SCRIPT)
    started = subprocess.run(
        [sys.executable, script, end],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": PACKAGE, "GATE": str(gate)},
        start_new_session=True,
        check=False,
    )
    assert started.returncode == (-signal.SIGKILL if end == "die" else 0)
    run, state = started.stdout.split()
    assert state == "Running"
    handle = headrace.attach(run)
    assert not handle.done()
    gate.touch()
    handle.wait(60)
    assert handle.state.name == "Completed"
    assert handle.item("double-0", 7).output == 14


def test_it_can_be_cancelled_from_outside(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    started = subprocess.run(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": PACKAGE,
            "GATE": str(tmp_path / "gate"),
            "HEADRACE_HEARTBEAT_SECONDS": "0.2",
        },
        check=True,
    )
    handle = headrace.attach(started.stdout.split()[0])
    handle.cancel()  # the gate stays closed: it would complete before its driver looks for requests
    handle.wait(60)
    assert handle.state.name == "Cancelled"


@headrace.flow(executor="threads")
def secretive(token: SecretStr) -> None:
    """Does nothing."""


@pytest.mark.parametrize("travels", [True, False])
def test_tasks_that_go_by_value_keep_what_workers_do_not_need(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, travels: bool
) -> None:
    told = Tally(tmp_path / "told")
    lock = None if travels else threading.Lock()

    def connect() -> str:
        return "connection"

    def may_retry(*_: object) -> bool:
        told.note("asked")
        return True

    def completed(*_: object) -> None:
        told.note("hooked")
        assert lock is None

    @headrace.task(
        setup=connect,
        retries=1,
        retry_condition_fn=may_retry,
        on_completion=[completed],
        cache_policy=headrace.INPUTS,
    )
    def use(item: int) -> str:
        if told.note("used") == 1:
            raise ValueError("the first time")
        return f"{headrace.context.setup} {item}"

    @headrace.flow(executor="threads", storage=str(tmp_path / "storage"))
    def uses() -> list[str]:
        if told.note("begun") == 1:
            raise RuntimeError("nothing has run")
        return [*use.map([7, 7]).result(), use(7)]

    run = uses.start()
    run.wait()
    launch = read_launch(run.info.store.run(str(run.id)), {}, trusted=True)
    assert ("goes on without hooks" in caplog.text) is not travels
    if travels:
        assert launch.flow() == ["connection 7"] * 3
        assert (told.count("asked"), told.count("hooked")) == (1, 3)
        assert told.count("used") == 3, "the call was a hit"


def test_what_cannot_be_written_down_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"'secretive' cannot be started detached: token holds a sec"
    ):
        secretive.with_options(storage=tmp_path).start(SecretStr("s"), detach=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_driver_that_does_not_begin_tells_why(tmp_path: Path) -> None:
    nobody = headrace.DaskExecutor(address="tcp://127.0.0.1:1")

    @headrace.flow(executor=nobody, storage=tmp_path)
    def nowhere() -> None:
        """Does nothing."""

    with pytest.raises(ExecutorError, match="before it began the run"):
        nowhere.start(detach=True)
    (record,) = headrace.runs(flow="nowhere")
    assert record.state == "Crashed"


def test_a_storage_that_only_this_process_has_is_refused() -> None:
    with pytest.raises(StorageError, match=r"memory://.* is in this process only"):
        secretive.with_options(storage="memory://own").start(SecretStr("s"), detach=True)


def test_a_flow_with_a_parameter_of_that_name_gets_it() -> None:
    @headrace.flow(executor="threads")
    def own(detach: bool) -> bool:
        return detach

    assert own.start(detach=True).result() is True


def test_not_inside_of_another_flow() -> None:
    @headrace.flow(executor="threads")
    def inner() -> None:
        """Does nothing."""

    @headrace.flow(executor="threads")
    def outer() -> None:
        inner.start(detach=True)

    with pytest.raises(RunError, match="detached inside of another flow"):
        outer()
