"""A driver is killed at any moment; another process completes its run, from the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import headrace
from headrace.core.settings import settings_override
from headrace.storage.store import ArrowStore

JOB = Path(__file__).with_name("job.py")
SIZE = 300
EXPECTED = [sum(2 * (n + 1) for n in range(first, first + SIZE)) for first in (0, SIZE)]
INPUT_OF = {"add_one": lambda value: value - 1, "double": lambda value: value // 2}
FLUSHED = 1.0
"""Seconds of work that may be lost with a driver: what has not been flushed."""


def starts(file: Path) -> Counter[str]:
    return Counter(file.read_text().splitlines()) if file.exists() else Counter()


@pytest.mark.parametrize("executor", ["processes", "dask", "ray", "threads"])
def test_a_killed_driver_s_run_goes_on(executor: str, tmp_path: Path, monkeypatch):
    counted = tmp_path / "starts"
    monkeypatch.setenv("STARTS", str(counted))
    monkeypatch.setenv("EXECUTOR", executor)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    driver = subprocess.Popen(
        [sys.executable, JOB, str(SIZE)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert driver.stdout is not None
    run = driver.stdout.readline().strip()
    while starts(counted).total() < SIZE:  # in the middle of the first of two halves
        assert driver.poll() is None
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    committed = committed_items(tmp_path / "home")
    assert committed
    before = starts(counted)
    again = subprocess.run(
        [sys.executable, "-m", "headrace.cli.main", "resume", run, "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path.parent,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["result"] == EXPECTED
    restarted = starts(counted) - before
    assert not committed & restarted.keys(), "a committed item ran again"
    assert restarted.total() + before.total() < 2 * (2 * SIZE + 2) + FLUSHED / 0.004 * 2


def committed_items(home: Path) -> set[str]:
    """What had a partition when the driver died, as the starts are named."""
    store = ArrowStore(home / "storage")
    names: set[str] = set()
    for child in map(store.run, store.runs()):
        for receipt in child.receipts(None):
            task = receipt.key.rpartition("-")[0]
            values = child.open_part(receipt.part).table[0].to_pylist()
            if task in INPUT_OF:
                names |= {f"{task} {INPUT_OF[task](value)}" for value in values}
    return names


SLOW = """
import os, sys, time
from headrace import flow, task

@task
def slow(number):
    with open(os.environ["STARTS"], "ab", buffering=0) as file:
        file.write(b"x\\n")
    time.sleep(1)
    return number + 1

@flow(executor="processes")
def main():
    return slow.map([1]).result()

run = main.start()
print(run.id, flush=True)
run.wait()
"""


def test_what_a_killed_driver_s_child_is_about_to_commit_is_awaited(tmp_path: Path, monkeypatch):
    counted = tmp_path / "starts"
    monkeypatch.setenv("STARTS", str(counted))
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    driver = subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert driver.stdout is not None
    run = driver.stdout.readline().strip()
    while not starts(counted):
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    driver.stdout.close()
    with settings_override(home=tmp_path / "home"):
        assert headrace.resume(run, executor="threads").result() == [2]
        assert len(headrace.attach(run).partitions()) == 1, "history knows what nobody told"
    assert starts(counted).total() == 1
