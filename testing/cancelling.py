"""Cancelling ends an item, a map or a run: nothing more is handed out, and what runs is ended."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ..core.annotations import unmapped
from ..core.errors import Cancelled
from ..core.settings import settings_override
from ..core.tasks import task
from .faults import deaf, hold_gil, spend
from .interrupting import patient
from .leftovers import alive
from .suite import GRACE_SECONDS, Suite
from .tally import Tally

_LONG_SECONDS = 30.0
_SOON_SECONDS = 15.0


@task
def linger(tally: Tally, item: int, seconds: float) -> int:
    """Begin, take time, end."""
    tally.note("began", str(item))
    spend(seconds)
    tally.note("ended", str(item))
    return item


@task
def cling(tally: Tally, seconds: float) -> None:
    """Begin, and hear nothing for so long; then go on in Python."""
    with deaf():  # or it could be cancelled in good order before it holds on
        tally.note("began")
        hold_gil(seconds)
    spend(_LONG_SECONDS)
    tally.note("ended")


class CancellingConformance(Suite):
    """What is cancelled ends Cancelled, soon; what is not is not touched.

    Where the pool kills, code that does not cooperate is ended by force after the grace; else it
    ends at its next Python instruction.
    """

    def test_an_item_is_cancelled_and_the_others_complete(self, shared: Path) -> None:
        tally = Tally(shared / "tally")

        def body() -> Any:
            mapped = linger.map(unmapped(tally), range(6), [_LONG_SECONDS] + [0.0] * 5)
            self._when_begun(tally, mapped[0].cancel)
            mapped.wait()
            return [state.name for state in mapped.states], mapped[0].result(raise_on_failure=False)

        names, error = self.run(body)
        assert names == ["Cancelled"] + ["Completed"] * 5
        assert isinstance(error, Cancelled)
        assert tally.count("ended") == 5

    def test_a_map_is_cancelled_and_its_neighbour_completes(self, shared: Path) -> None:
        tally, other = Tally(shared / "tally"), Tally(shared / "other")

        def body() -> Any:
            mapped = linger.map(unmapped(tally), range(200), unmapped(_LONG_SECONDS))
            neighbour = linger.submit(other, 0, 0.0)
            self._when_begun(tally, mapped.cancel)
            mapped.wait()
            return mapped.state.name, neighbour.result(), {s.name for s in mapped.states}

        began = time.monotonic()
        assert self.run(body) == ("Cancelled", 0, {"Cancelled"})
        assert time.monotonic() - began < _SOON_SECONDS
        assert tally.count("ended") == 0

    def test_a_run_is_cancelled(self, shared: Path) -> None:
        tally, calm, go = Tally(shared / "tally"), Tally(shared / "calm"), shared / "go"

        def body() -> Any:
            return linger.map(unmapped(tally), range(200), unmapped(_LONG_SECONDS)).result()

        other = self.start(lambda: patient.submit(calm, 0, go).result())
        calm.wait("began", over=other.done)
        run = self.start(body)
        tally.wait("began", over=run.done)
        run.cancel(reason="the suite says so")
        run.wait(_SOON_SECONDS)
        assert run.done(), "the run goes on"
        assert run.state.name == "Cancelled"
        with pytest.raises(Cancelled, match="the suite says so"):
            run.result()
        assert not other.done(), "another run on the pool is not touched"
        go.touch()
        assert other.result() == 0
        assert calm.count("began") == 1
        begun = tally.count("began")
        assert self.run(lambda: linger.submit(tally, -1, 0.0).result()) == -1, "the pool is usable"
        assert tally.count("began") == begun + 1, "nothing was handed out after the end"
        assert [note.text for note in tally.notes("ended")] == ["-1"]

    def test_a_call_that_keeps_the_gil_is_cancelled_too(self, shared: Path) -> None:
        """By force, with its process, where the pool kills; else when the call returns."""
        tally = Tally(shared / "tally")
        seconds = _LONG_SECONDS if self.able.kills else 2 * GRACE_SECONDS
        with settings_override(grace_seconds=_LONG_SECONDS):
            run = self.start(lambda: cling.submit(tally, seconds).result())
        tally.wait("began", over=run.done)
        (note,) = tally.notes("began")
        run.cancel(grace=GRACE_SECONDS)
        run.wait(_SOON_SECONDS)
        assert run.state.name == "Cancelled"
        assert tally.count("ended") == 0
        if self.able.kills:
            assert not alive(note.pid), "its process is gone"

    def _when_begun(self, tally: Tally, cancel: Any) -> None:
        """Cancel from beside: where the caller runs the items, the flow itself is busy."""

        def wait_and_cancel() -> None:
            tally.wait("began")
            cancel()

        threading.Thread(target=wait_and_cancel, daemon=True).start()
