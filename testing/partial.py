"""Part of a map fails: what that means for the node, what is told of it, and how it is run again."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ..core.errors import MapFailed
from ..core.recorded import RecordedRun
from ..core.tasks import task
from .errors import RichError, odd_fails
from .suite import Suite


@task
def first_fails(x: int) -> int:
    if x == 0:
        raise RichError("at the first")
    time.sleep(0.05)
    return x


@task
def least_two(x: int) -> int:
    if x < 2:
        raise ValueError(f"{x} is less than two")
    return x * 10


class PartialFailureConformance(Suite):
    """``on_error``, ``min_success_ratio``, tables of failures and replay."""

    def test_what_a_map_lets_pass(self) -> None:
        def body() -> list[Any]:
            ways: list[dict[str, Any]] = [
                {"on_error": "raise"},
                {"on_error": "quarantine"},
                {"min_success_ratio": 0.6},
                {"min_success_ratio": 0.7},
            ]
            maps = [odd_fails.with_options(**way).map([0, 1, 2]) for way in ways]
            return [
                (each.result(raise_on_failure=False), _result(each), each.state.name)
                for each in maps
            ]

        told = self.run(body)
        for values, _, _ in told:
            assert [type(value) for value in values] == [int, RichError, int]
        assert [name for _, _, name in told] == ["Failed", "Completed", "Completed", "Failed"]
        assert [result for _, result, _ in told] == [None, [0, 2], [0, 2], None]

    def test_fail_fast_hands_out_no_more(self) -> None:
        def body() -> Any:
            mapped = first_fails.with_options(on_error="fail_fast").map(range(2_000))
            mapped.wait()
            return mapped.counts(), mapped.state.name

        counts, name = self.run(body)
        assert name == "Failed"
        assert counts["Failed"] == 1
        assert counts.get("Completed", 0) < 1_000

    def test_a_recorded_run_tells_the_same_failures_and_replays_them(self) -> None:
        def body() -> None:
            # An iterator: nobody can read it a second time.
            least_two.map(iter(range(5))).wait()

        run = self.watched(body)
        live, known = run.failures(), RecordedRun(run.info.history, run.id, run.info.store)
        assert live.equals(known.failures())
        for column in live.column_names:
            assert all(value not in (None, "") for value in live.column(column).to_pylist()), column
        assert live.column("item").to_pylist() == [0, 1]
        item = known.item("least_two-0", 1)
        assert item.input == {"x": 1}
        with pytest.raises(ValueError, match="1 is less than two"):
            item.replay()
        assert item.replay(lambda x: -x) == -1


def _result(mapped: Any) -> Any:
    try:
        return mapped.result()
    except (MapFailed, RichError):
        return None
