"""Errors are data: what the user raised comes back as it was, and everything else goes on."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from ..core.annotations import allow_failure, unmapped
from ..core.errors import TaskFailed, UnpicklableError, UnstorableError, UpstreamFailed
from ..core.tasks import task
from .faults import InjectedFault, TimingMap
from .suite import Suite


class TwoPartError(Exception):
    """Pickles, but does not unpickle: its arguments are not those of ``__init__``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")


class LockedError(Exception):
    """Does not even pickle."""

    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class RichError(LookupError):
    """Keeps its own attributes."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


@task
def odd_fails(x: int) -> int:
    if x % 2:
        raise RichError(f"at {x}")
    return x


@task
def raises(kind: str) -> None:
    if kind == "two-part":
        raise TwoPartError(7, "will not unpickle")
    if kind == "locked":
        raise LockedError
    if kind == "exit":
        sys.exit("user code left")
    raise AssertionError(kind)


@task
def same(x: Any) -> Any:
    return x


@task
def lock_if(x: bool) -> Any:
    return threading.Lock() if x else x


@task
def held(x: Any) -> bool:
    """Whether it got a lock as it was."""
    if hasattr(x, "locked"):
        return x.locked()
    return False


@task
def describe_with(x: int, other: Any) -> str:
    return f"{x} {type(other).__name__}"


@task(retries=2)
def timed(timing: TimingMap, item: int) -> int:
    return timing.act(item)


@task
def described(error: BaseException | int) -> str:
    return f"{type(error).__name__}: {error}"


class ErrorsConformance(Suite):
    """One item's error is that item's; retries are counted exactly."""

    def test_an_error_is_its_items_alone_and_keeps_its_type(self) -> None:
        def body() -> Any:
            mapped = odd_fails.map(range(8))
            mapped.wait()
            error = mapped[3].result(raise_on_failure=False)
            return error, [state.name for state in mapped.states], mapped.failures()

        error, names, failures = self.run(body)
        assert names == ["Completed", "Failed"] * 4
        assert type(error) is RichError
        assert error.place == "at 3"
        assert failures.column("item").to_pylist() == [1, 3, 5, 7]
        assert set(failures.column("message").to_pylist()) == {f"at {k}" for k in (1, 3, 5, 7)}

    def test_result_raises_the_items_own_error(self) -> None:
        def body() -> Any:
            with pytest.raises(RichError, match="at 1") as caught:
                odd_fails.submit(1).result()
            return getattr(caught.value, "__notes__", [])

        notes = self.run(body)
        assert "odd_fails" in "".join(notes), "its traceback on the worker is told"

    @pytest.mark.parametrize("kind", ["two-part", "locked"])
    def test_exceptions_that_do_not_travel_are_told(self, kind: str) -> None:
        def body() -> Any:
            return raises.submit(kind).result(raise_on_failure=False), same.submit(1).result()

        error, other = self.run(body)
        assert other == 1
        if isinstance(error, TaskFailed):
            name = "TwoPartError" if kind == "two-part" else "LockedError"
            assert name in str(error)
        else:
            assert isinstance(error, (TwoPartError, LockedError)), (
                "as it was, where nothing travels"
            )

    def test_a_task_that_exits_only_fails(self) -> None:
        def body() -> Any:
            return raises.submit("exit").result(raise_on_failure=False), same.submit(1).result()

        error, other = self.run(body)
        assert isinstance(error, SystemExit)
        assert other == 1

    def test_a_result_that_cannot_be_stored_fails_its_item(self) -> None:
        def body() -> Any:
            mapped = lock_if.map([False, True, False])
            mapped.wait()
            return [future.result(raise_on_failure=False) for future in mapped]

        first, error, last = self.run(body)
        assert (first, last) == (False, False)
        assert isinstance(error, UnstorableError)
        assert "lock" in str(error)

    def test_an_argument_that_does_not_pickle_fails_its_item(self) -> None:
        def body() -> Any:
            mapped = held.map([1, threading.Lock(), 3])
            mapped.wait()
            single = held.submit(threading.Lock())
            return [each.result(raise_on_failure=False) for each in (*mapped, single)]

        first, middle, last, single = self.run(body)
        assert (first, last) == (False, False)
        if self.able.in_process:
            assert (middle, single) == (False, False), (
                "in the driver's process objects pass as they are"
            )
            return
        for error in (middle, single):
            assert isinstance(error, UnpicklableError)
            assert "'x'" in str(error)
            assert "lock" in str(error)

    def test_a_shared_argument_that_does_not_pickle_is_told(self) -> None:
        def broken() -> Any:
            return describe_with.map(range(3), other=unmapped(threading.Lock())).result()

        if self.able.in_process:
            assert self.run(broken) == ["0 lock", "1 lock", "2 lock"]
            return
        with pytest.raises(UnpicklableError, match=r"'other'.*lock"):
            self.run(broken)

    def test_what_needs_a_failed_item_is_skipped(self) -> None:
        def body() -> Any:
            bad = odd_fails.submit(1)
            direct, nested = described.submit(bad), described.submit(cast("Any", {"in": [bad]}))
            waited, fine = same.submit(1, wait_for=[bad]), same.submit(2)
            chained = described.map(odd_fails.map(range(4)))
            chained.wait()
            each = [f.result(raise_on_failure=False) for f in (direct, nested, waited, fine)]
            return each, [future.result(raise_on_failure=False) for future in chained]

        (direct, nested, waited, fine), chained = self.run(body)
        for error in (direct, nested, waited, chained[1], chained[3]):
            assert isinstance(error, UpstreamFailed)
        assert fine == 2
        assert chained[0] == "int: 0"

    def test_allow_failure_passes_the_error_on(self) -> None:
        def body() -> Any:
            bad = odd_fails.submit(1)
            chained = described.map(allow_failure(odd_fails.map(range(3))))
            return described.submit(cast("Any", allow_failure(bad))).result(), chained.result()

        assert self.run(body) == (
            "RichError: at 1",
            ["int: 0", "RichError: at 1", "int: 2"],
        )

    def test_retries_are_counted_exactly(self, shared: Path) -> None:
        timing = TimingMap(
            shared / "attempts",
            {1: [-0.0, 0.0], 4: [-0.0], 6: [-0.0, -0.0, 0.01], 7: [0.02]},
        )

        def body() -> Any:
            mapped = timed.map(unmapped(timing), range(10))
            mapped.wait()
            return [future.result(raise_on_failure=False) for future in mapped]

        results = self.run(body)
        assert timing.counts(range(10)) == [1, 2, 1, 1, 3, 1, 3, 1, 1, 1]
        error = results.pop(4)
        assert type(error) is InjectedFault
        assert str(error) == "item 4, attempt 3"
        assert results == [1, 2, 1, 1, 1, 3, 1, 1, 1]

    def test_retries_wait_for_their_delays(self, shared: Path) -> None:
        timing = TimingMap(shared / "attempts", {0: [-0.0, -0.0, 0.0]})
        patient = timed.with_options(retry_delay_seconds=[0.1, 0.3])

        def body() -> Any:
            return patient.submit(timing, 0).result()

        assert self.run(body) == 3
        first, second, third = timing.times(0)
        assert second - first >= 0.1
        assert third - second >= 0.3

    def test_a_condition_may_refuse_a_retry(self, shared: Path) -> None:
        timing = TimingMap(shared / "attempts", {0: [-0.0, 0.0]})
        picky = timed.with_options(retry_condition_fn=lambda _task, _run, _state: False)

        def body() -> Any:
            return picky.submit(timing, 0).result(raise_on_failure=False)

        assert isinstance(self.run(body), InjectedFault)
        assert timing.count(0) == 1
