"""Starts a server of this folder in a process of its own, and ends it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
GRACE_SECONDS = 20


@contextmanager
def running(server: str) -> Generator[dict[str, str]]:
    """Run ``servers/<server>.py``; yield what it announces, once it can be used.

    The server ends when its standard input does (see ``lifeline.py``), so also when the tests are
    killed. One that has not ended by then is killed with its own children, by process group.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", f"servers.{server}"],
            cwd=TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for the tests, which then end the server
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            announcement = process.stdout.readline()
            if not announcement:
                errors.seek(0)
                raise RuntimeError(f"{server} did not start:\n{errors.read().decode()}")
            yield json.loads(announcement)
        finally:
            process.stdin.close()
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()
