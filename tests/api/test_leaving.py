"""A script's main thread ends while a run goes on in a thread of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest

import headrace

SCRIPT = """
import time
from pathlib import Path
from headrace import flow, task

@task
def wait(item, go):
    Path("began").touch()
    while not Path(go).exists():
        time.sleep(0.01)
    return item

@flow(executor="processes")
def waiting(name):
    return wait.map(range(3), go="go").result()

waiting.start("{name}")
"""


@pytest.mark.parametrize(
    ("number", "state"),
    [(None, "Completed"), (signal.SIGINT, "Cancelled"), (signal.SIGTERM, "Cancelled")],
)
def test_the_interpreter_waits_for_a_run_and_signals_cancel_it(number, state, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(name=tmp_path))
    path = os.pathsep.join(filter(None, sys.path))
    driver = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "HEADRACE_DISPLAY": "none"},
    )
    while not (tmp_path / "began").exists():
        assert driver.poll() is None
        time.sleep(0.01)
    if number is None:
        (tmp_path / "go").touch()
    else:
        driver.send_signal(number)
    driver.wait(60)
    (run,) = [run for run in headrace.runs(limit=5) if str(tmp_path) in run.parameters]
    assert run.state == state


HEEDING = """
import signal
import threading
import time
from pathlib import Path
from headrace import flow, task

@task
def wait(item):
    while not Path("go").exists():
        time.sleep(0.01)
    return item

@flow(executor="processes")
def waiting():
    return wait.map(range(3)).result()

def end():
    time.sleep(0.5)  # the main thread sleeps by then, and this thread gets the signal
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

run = waiting.start()
threading.Thread(target=end, daemon=True).start()
run.result()
"""


def test_a_signal_that_does_not_wake_the_main_thread_is_heeded(tmp_path):
    path = os.pathsep.join(filter(None, sys.path))
    ended = subprocess.run(
        [sys.executable, "-c", HEEDING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "HEADRACE_DISPLAY": "none"},
        timeout=60,
        check=False,
    )
    assert ended.returncode == 128 + signal.SIGTERM
