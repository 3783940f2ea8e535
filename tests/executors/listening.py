"""What the executor tests stand on: a sink that waits, children with a stand-in body, leftovers."""

from __future__ import annotations

import gc
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest

from headrace.executors.launch import Launch, here

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

    def said_when_ended(self):
        self.end()
        return self.said()

    def failed(self):
        return [(f.position, f.kind) for report in self.reports for f in report.failures]


def launch_here(**options):
    """Children of this process that run the stand-in body."""
    return Launch(setup=replace(here(), body=BODY, grace_seconds=1.0), **options)


@contextmanager
def nothing_left(*, descriptors=True):
    """No process, thread or descriptor of ours outlives this."""
    me = psutil.Process()
    before = {process.pid for process in me.children(recursive=True)}
    threads = set(threading.enumerate())
    known = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while True:
        left = {p.pid: p.status() for p in me.children(recursive=True) if p.pid not in before}
        more = [t for t in threading.enumerate() if t not in threads and "headrace" in t.name]
        # libuuid keeps its clock open, once per process
        fresh = set(os.listdir("/proc/self/fd")) - known if descriptors else ()
        opened = {n: _target(n, "") for n in fresh if "libuuid" not in _target(n, "libuuid")}
        if not left and not more and not opened:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: processes {left}, threads {more}, descriptors {opened}")
        time.sleep(0.05)


def _target(number, gone):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return gone


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
