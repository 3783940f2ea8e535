"""A Dask cluster of other processes, started as users start one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from headrace.executors.launch import path_to_package

PATH = path_to_package(str(Path(__file__).parent))
MODULES = {"scheduler": "distributed.cli.dask_scheduler", "worker": "distributed.cli.dask_worker"}


class Cluster:
    """A scheduler and workers as subprocesses."""

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        self.file = folder / "scheduler.json"
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        until(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]

    def start(self, kind, *arguments, **environment):
        with open(self.folder / f"{kind}.log", "ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    MODULES[kind],
                    "--scheduler-file",
                    str(self.file),
                    *arguments,
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": PATH, **environment},
            )
        self.processes.append(process)
        return process

    def worker(self, *arguments, threads=2, **environment):
        return self.start(
            *("worker", "--nthreads", str(threads), "--no-dashboard", "--memory-limit", "0"),
            *("--local-directory", str(self.folder), *(arguments or ("--no-nanny",))),
            **environment,
        )

    def close(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
            process.wait()


def until(true, timeout=60):
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
