"""Limits hold: time limits end what runs too long, resources bound what runs at a time."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import pytest

from ..core.annotations import unmapped
from ..core.errors import ResourceError, TaskTimeout
from ..core.interfaces import Resources
from ..core.tasks import task
from .faults import TimingMap, hold_gil, spend
from .suite import GRACE_SECONDS, Suite
from .tally import Tally

_LIMIT_SECONDS = 0.3
_LONG_SECONDS = 30.0


@task(timeout_seconds=_LIMIT_SECONDS)
def limited(timing: TimingMap, item: int) -> int:
    return timing.act(item)


@task(timeout_seconds=_LIMIT_SECONDS)
def stubborn(seconds: float) -> None:
    """Let neither Python nor a signal handler run for so long; then go on in Python."""
    hold_gil(seconds)
    spend(_LONG_SECONDS)


@task(timeout_seconds=_LIMIT_SECONDS)
async def limited_async(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@task
async def nap(seconds: float) -> float:
    await asyncio.sleep(2 * GRACE_SECONDS + _LIMIT_SECONDS)
    return seconds


@task(timeout_seconds=_LIMIT_SECONDS, concurrency=4)
async def block(item: int) -> int:
    """One of those that share an event loop lets nobody else go on."""
    if item == 1:
        hold_gil(_LONG_SECONDS)
    await asyncio.sleep(0.01)
    return item


@task
def spans(tally: Tally, item: int) -> int:
    """Note when it begins and ends."""
    began = time.time()
    spend(0.02)
    tally.note("spans", f"{began!r} {time.time()!r}")
    return item


class LimitsConformance(Suite):
    """Time limits and resources mean the same everywhere; what cannot be honoured is an error."""

    def test_python_code_is_ended_at_its_limit(self, shared: Path) -> None:
        timing = TimingMap(shared / "attempts", {1: [_LONG_SECONDS], 4: [_LONG_SECONDS]})

        def body() -> Any:
            mapped = limited.map(unmapped(timing), range(6))
            mapped.wait()
            values = [future.result(raise_on_failure=False) for future in mapped]
            return values, [state.name for state in mapped.states]

        began = time.monotonic()
        values, names = self.run(body)
        assert time.monotonic() - began < _LONG_SECONDS
        assert names == ["Completed", "TimedOut", "Completed", "Completed", "TimedOut", "Completed"]
        assert isinstance(values[1], TaskTimeout)
        assert timing.counts(range(6)) == [1] * 6, "a time-out without retries is one attempt"

    def test_a_late_item_is_tried_again_as_its_retries_say(self, shared: Path) -> None:
        timing = TimingMap(shared / "attempts", {0: [_LONG_SECONDS, 0.0]})

        def body() -> Any:
            return limited.with_options(retries=1).submit(timing, 0).result()

        assert self.run(body) == 2

    def test_a_call_that_keeps_the_gil_is_ended_too(self, shared: Path) -> None:
        """By force where the pool kills; else when the call returns."""
        seconds = _LONG_SECONDS if self.able.kills else 2 * _LIMIT_SECONDS
        timing = TimingMap(shared / "attempts", {})

        def body() -> Any:
            unlimited = limited.with_options(timeout_seconds=None)  # they may share the GIL
            late, fine = stubborn.submit(seconds), unlimited.map(unmapped(timing), range(4))
            late.wait()
            return late.state.name, fine.result()

        began = time.monotonic()
        assert self.run(body) == ("TimedOut", [1] * 4)
        assert time.monotonic() - began < _LONG_SECONDS

    def test_async_items_have_limits_of_their_own(self) -> None:
        def body() -> Any:
            mapped = limited_async.map([0.01, _LONG_SECONDS, 0.02, _LONG_SECONDS])
            mapped.wait()
            return [state.name for state in mapped.states]

        assert self.run(body) == ["Completed", "TimedOut", "Completed", "TimedOut"]

    def test_a_limit_is_that_of_its_own_stage(self) -> None:
        def body() -> Any:
            mapped = nap.map(limited_async.map([0.01, _LONG_SECONDS, 0.02]))
            mapped.wait()
            return [state.name for state in mapped.states]

        assert self.run(body) == ["Completed", "Skipped", "Completed"]

    def test_who_blocks_an_event_loop_is_found(self) -> None:
        if not self.able.kills:
            pytest.skip("a C call that keeps the GIL cannot be ended in the driver's own process")

        def body() -> Any:
            mapped = block.map(range(4))
            mapped.wait()
            return [state.name for state in mapped.states]

        assert self.run(body) == ["Completed", "TimedOut", "Completed", "Completed"]

    @pytest.mark.parametrize(
        "need",
        [{"cpus": 10**9}, {"gpus": 1_000}, {"custom": {"unheard-of": 1}}],
        ids=["cpus", "gpus", "custom"],
    )
    def test_what_can_never_be_given_is_an_error(self, need: Any) -> None:
        def body() -> Any:
            return spans.with_options(resources=need).submit(cast("Any", None), 0).result()

        name = next(iter(need.get("custom", need)))
        with pytest.raises(ResourceError, match=name):
            self.run(body)

    @pytest.mark.parametrize("cpus", [1, 2])
    def test_no_more_run_at_a_time_than_resources_allow(self, shared: Path, cpus: int) -> None:
        try:
            most = self.slots(Resources(cpus=cpus))
        except ResourceError:
            assert cpus > 1, "a slot gives one cpu"
            with pytest.raises(ResourceError):
                self.run(
                    lambda: spans.with_options(resources={"cpus": cpus}).submit(
                        cast("Any", None), 0
                    )
                )
            return
        assert 1 <= self._at_a_time(shared, {"cpus": cpus}, most) <= most

    def test_custom_resources_bound_what_runs(self, shared: Path) -> None:
        if self.custom is None:
            pytest.skip("the executor declares no custom resource")
        assert self._at_a_time(shared, {"custom": {self.custom: 1}}, 1) == 1

    def _at_a_time(self, shared: Path, need: Any, most: int) -> int:
        """How many of a few single calls overlapped."""
        tally = Tally(shared / "tally")
        needy = spans.with_options(resources=need)

        def body() -> Any:
            calls = [needy.submit(tally, k) for k in range(min(12, 2 * most + 2))]
            return [call.result() for call in calls]

        self.run(body)
        edges: list[tuple[float, int]] = []
        for note in tally.notes("spans"):
            began, ended = map(float, note.text.split())
            edges += [(began, 1), (ended, -1)]
        running = highest = 0
        for _, step in sorted(edges):
            running += step
            highest = max(highest, running)
        return highest
