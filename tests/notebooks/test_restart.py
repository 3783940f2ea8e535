"""A kernel is killed in the middle of a run; a new one attaches to the run, and completes it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

import headrace
from headrace.core.interfaces import RunStore
from headrace.core.runs import attach

ROOT = Path(headrace.__file__).parent
SECONDS = 120.0
ITEMS = 200

FLOW = f"""
import os, time, headrace

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
print(run.id)
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[tuple[KernelManager, Callable[[str], str]]]:
    """A kernel in a folder of its own, and how to run code in it: gives what that prints."""
    search = os.pathsep.join([str(ROOT.parent), *sys.path])
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(
        cwd=str(tmp_path),
        env=os.environ | {"PYTHONPATH": search, "IPYTHONDIR": str(tmp_path / "ipython")},
    )

    def run(code: str) -> str:
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=SECONDS)
        told: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            told.append(content.get("text", "") + "".join(content.get("traceback", [])))

        reply = client.execute_interactive(code, timeout=SECONDS, output_hook=hear)
        client.stop_channels()
        assert reply["content"]["status"] == "ok", "".join(told)
        return "".join(told)

    yield manager, run
    manager.shutdown_kernel(now=True)


def committed(store: RunStore) -> set[int]:
    """Items that have a partition."""
    return {p for receipt in store.receipts(None) for p in receipt.positions}


def test_a_run_goes_on_in_a_new_kernel(
    kernel: tuple[KernelManager, Callable[[str], str]], tmp_path: Path
) -> None:
    manager, run = kernel
    name = run(FLOW).split()[0]
    handle = attach(name)
    store = handle._storage()
    end = time.monotonic() + SECONDS
    while len(committed(store)) < ITEMS // 10:
        assert time.monotonic() < end
        time.sleep(0.05)
    manager.restart_kernel(now=True)  # SIGKILL
    before = committed(store)
    starts = (tmp_path / "starts").read_text().split()
    assert len(before) < ITEMS
    told = run(
        f"import headrace\nrun = headrace.attach({name!r}).resume()\nprint(run.result(), run.state.name)"
    )
    assert told.split()[-2:] == [str(sum(i * i for i in range(ITEMS))), "Completed"]
    again = (tmp_path / "starts").read_text().split()[len(starts) :]
    assert not before & set(map(int, again))
