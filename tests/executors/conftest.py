"""What the executor tests share: a sink that waits, pools with a stand-in body, a look for leaks."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from headrace.executors.capacity import Capacity
from headrace.executors.launch import Launch, here
from headrace.executors.pool import SlotPool

BODY = "standin:run_batch"


class Heard:
    """A sink that remembers, and waits for the end."""

    def __init__(self):
        self.reports = []
        self.ended = threading.Event()
        self.begun = threading.Event()

    def __call__(self, report):
        assert not self.ended.is_set(), "a report after the end"
        self.reports.append(report)
        if report.worker is not None:
            self.begun.set()
        if report.end is not None:
            self.ended.set()

    def end(self, timeout=60):
        assert self.ended.wait(timeout), "the batch did not end"
        return self.reports[-1].end

    def said(self):
        return [line.message for report in self.reports for line in report.logs]

    def failed(self):
        return [(f.position, f.kind) for report in self.reports for f in report.failures]


def launch_here(**options):
    """Children of this process that run the stand-in body."""
    return Launch(setup=replace(here(), body=BODY, grace_seconds=1.0), **options)


@pytest.fixture
def children():
    """A pool of two child slots."""
    pool = SlotPool("children", Capacity(2, memory=1000, custom={"disk": 1.0}), launch_here())
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def nothing_left():
    """No process, thread or descriptor outlives a test."""
    me = psutil.Process()
    before = {process.pid for process in me.children(recursive=True)}
    threads = set(threading.enumerate())
    descriptors = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = {p.pid: p.cmdline() for p in me.children(recursive=True) if p.pid not in before}
        more = [t for t in threading.enumerate() if t not in threads and "headrace" in t.name]
        opened = {
            number: _target(number)
            for number in set(os.listdir("/proc/self/fd")) - descriptors
            if _target(number)
        }
        if not left and not more and not opened:
            return
        time.sleep(0.05)
    pytest.fail(f"left behind: processes {left}, threads {more}, descriptors {opened}")


def _target(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def gone(pid, timeout=10):
    """Has a process ended (or become a zombie) within the time?"""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def heard():
    return Heard
