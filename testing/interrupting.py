"""The driver is told to end, by a signal: its run is Cancelled, nothing is left, and it can go on."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from ..core.resumption import resume
from ..core.runs import runs
from ..core.tasks import task
from .faults import hold_gil, spend
from .leftovers import alive, processes_with
from .scripts import Script
from .suite import Suite
from .tally import Tally

_MARK = "HEADRACE_SUITE_MARK"
_LONG_SECONDS = 60.0
_SOON_SECONDS = 30.0
_PRELUDE = """
import os, tempfile
from pathlib import Path
folder = Path(arguments[0])
tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "temporary")
os.environ["HEADRACE_SUITE_MARK"] = str(folder)
os.environ["HEADRACE_GRACE_SECONDS"] = arguments[1]
from headrace import flow, unmapped
from headrace.testing import Tally
from headrace.testing.interrupting import cling_when_told, patient
tally = Tally(folder / "tally")
"""
_PATIENT = """
@flow(executor=executor)
def waiting(name):
    return patient.map(unmapped(tally), range(3), unmapped(folder / "go")).result()

waiting(folder.name)
"""
_CLINGING = """
@flow(executor=executor)
def clinging(name):
    return cling_when_told.submit(tally, arguments[2] == "True").result()

clinging(folder.name)
"""


@task
def patient(tally: Tally, item: int, go: Path) -> int:
    """Begin, and wait until one may go."""
    tally.note("began", str(item))
    while not go.exists():
        time.sleep(0.003)
    return item


@task
def cling_when_told(tally: Tally, hard: bool) -> None:
    """Begin; when told to end, hold on: so hard that only force helps, or for a while."""
    try:
        tally.note("began")
        spend(_LONG_SECONDS)
    except BaseException:
        tally.note("told")
        hold_gil(_LONG_SECONDS) if hard else spend(1.0)
        raise


class InterruptingConformance(Suite):
    """Signals to a driver in a process of its own."""

    files_left: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def near(self) -> Iterator[Path]:
        """A folder whose path is short: those of sockets have limits."""
        with tempfile.TemporaryDirectory(prefix="hr-") as folder:
            (Path(folder) / "temporary").mkdir()
            yield Path(folder)

    def test_sigterm_cancels_its_run_which_can_be_resumed(self, near: Path, shared: Path) -> None:
        driver = self._driver(_PATIENT, near, shared, "5")
        tally = Tally(near / "tally")
        _wait(driver, tally, "began")
        driver.signal(signal.SIGTERM)
        done = driver.end()
        assert done.code >= 0, f"it ended in order\n{done.told}"
        self._nothing_is_left(near, tally)
        (run,) = [run for run in runs(limit=5) if near.name in run.parameters]
        assert (run.state, "SIGTERM" in run.message) == ("Cancelled", True)
        (near / "go").touch()
        assert resume(run.id, executor=self.described).result() == [0, 1, 2]

    def test_ctrl_c_is_patient_once_and_not_twice(self, near: Path, shared: Path) -> None:
        tally = Tally(near / "tally")
        driver = self._driver(_CLINGING, near, shared, "600", str(self.able.kills))
        _wait(driver, tally, "began")
        driver.signal(signal.SIGINT)
        _wait(driver, tally, "told")
        began = time.monotonic()
        driver.signal(signal.SIGINT)
        done = driver.end()
        assert time.monotonic() - began < _SOON_SECONDS
        assert "KeyboardInterrupt" in done.told
        self._nothing_is_left(near, tally)
        (run,) = [run for run in runs(limit=5) if near.name in run.parameters]
        assert run.state == "Cancelled"

    def _driver(self, text: str, near: Path, shared: Path, *arguments: str) -> Script:
        given = [str(near), *arguments]
        return Script(_PRELUDE + text, self.elsewhere(), shared, arguments=given)

    def _nothing_is_left(self, near: Path, tally: Tally) -> None:
        def left() -> list[str]:
            found = list(processes_with(_MARK, str(near)).values())
            found += [f"child {note.pid}" for note in tally.notes("began") if alive(note.pid)]
            names = [path.name for path in (near / "temporary").iterdir()]
            return found + [n for n in names if not any(map(n.startswith, self.files_left))]

        until = time.monotonic() + 10
        while (found := left()) and time.monotonic() < until:
            time.sleep(0.02)  # what was told to end may need a moment to be gone
        assert found == []


def _wait(driver: Script, tally: Tally, name: str) -> None:
    """Wait for a note of the driver's run."""
    try:
        tally.wait(name, over=driver.ended)
    except TimeoutError as error:
        driver.signal(signal.SIGKILL)
        raise AssertionError(driver.end().told) from error
