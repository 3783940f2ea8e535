"""A kernel is killed in the middle of a run; a new one attaches to the run, and completes it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

import headrace

ROOT = Path(headrace.__file__).parent
SECONDS = 120.0
ITEMS = 100
COMMITTED = 20
"""Items that are done before the kernel is killed, at least."""

Kernel = tuple[KernelManager, Callable[[str], str]]

FLOW = f"""
import time, headrace

@headrace.task
def step(i):
    with open("starts", "a") as file:
        file.write(f"{{i}}\\n")
    time.sleep(0.05)
    return i * i

@headrace.flow(executor="processes")
def job(n):
    return sum(step.map(range(n)).result())

run = job.start({ITEMS})
while not run.status.nodes or run.status.nodes[0].counts.get("Completed", 0) < {COMMITTED}:
    time.sleep(0.05)
print(run.id)
"""

RESUME = """
import json, headrace

run = headrace.attach(ID)
before = [p for receipt in run._storage().receipts(None) for p in receipt.positions]
again = run.resume()
print(json.dumps([type(run).__name__, before, again.result(), again.state.name]))
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    """A kernel with a folder and a home of its own, and how to run code in it: what that prints."""
    search = os.pathsep.join([str(ROOT.parent), *sys.path])
    own = {"HEADRACE_HOME": str(tmp_path / "home"), "IPYTHONDIR": str(tmp_path / "ipython")}
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path), env=os.environ | own | {"PYTHONPATH": search})

    def run(code: str) -> str:
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=SECONDS)
        told: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            if content.get("name") != "stderr":
                told.append(content.get("text", "") + "".join(content.get("traceback", [])))

        reply = client.execute_interactive(code, timeout=SECONDS, output_hook=hear)
        client.stop_channels()
        assert reply["content"]["status"] == "ok", "".join(told)
        return "".join(told)

    yield manager, run
    manager.shutdown_kernel(now=True)


def test_a_run_goes_on_in_a_new_kernel(kernel: Kernel, tmp_path: Path) -> None:
    manager, run = kernel
    name = run(FLOW).split()[0]
    manager.restart_kernel(now=True)  # SIGKILL
    told = run(f"ID = {name!r}{RESUME}").splitlines()[-1]
    handle, before, result, state = json.loads(told)
    assert handle == "RecordedRun"
    assert COMMITTED <= len(before) < ITEMS
    assert (result, state) == (sum(i * i for i in range(ITEMS)), "Completed")
    starts = Counter(map(int, (tmp_path / "starts").read_text().split()))
    assert starts.keys() == set(range(ITEMS))
    assert {i: starts[i] for i in before} == dict.fromkeys(before, 1)
