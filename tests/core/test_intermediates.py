"""What becomes of values that other tasks have used: kept, removed at the end, or as the run goes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from core.engines import Run, running

from headrace.core.errors import RunError, UpstreamFailed
from headrace.core.interfaces import data_prefix
from headrace.core.records import receipts_in
from headrace.core.settings import settings_override
from headrace.core.states import Failed


def grow(x: int) -> bytes:
    return x.to_bytes(2, "big") * 5_000


def turn(data: bytes) -> bytes:
    return data[::-1]


def size(data: bytes) -> int:
    return len(data)


def objects(run: Run, future: Any) -> list[str]:
    return [each.path for each in run.engine.store.list(data_prefix(future.node.id))]


def chain(run: Run, **options: Any) -> list[Any]:
    first = run.map(grow, range(500), **options)
    second = run.map(turn, first, "data", **options)
    return [first, second, run.map(size, second, "data", **options)]


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("how", ["keep", "until_run_ends", "drop"])
def test_intermediates_stay_or_go_and_the_results_are_the_same(
    tmp_path: Path, how: str, fuse: bool
) -> None:
    with running(tmp_path, "processes", intermediates=how) as run:
        futures = chain(run, fuse=fuse)
        assert futures[2].result() == [10_000] * 500
        if how == "until_run_ends":
            assert len(futures[0].result()) == 500
    left = [bool(objects(run, future)) for future in futures]
    assert left == [how == "keep", how == "keep", True]
    known = receipts_in(run.engine.store.journal().records())
    there = {path for future in futures for path in objects(run, future)}
    assert {receipt.part.path for receipt in known} == there, "the journal tells of what there is"
    assert futures[2].result() == [10_000] * 500
    if how != "keep":
        for ask in (futures[0].result, futures[0][7].result, futures[1].dataset):
            with pytest.raises(RunError, match="intermediates='keep'"):
                ask()


def test_they_go_while_the_run_goes_on(tmp_path: Path) -> None:
    gate = threading.Event()

    def wait(x: int) -> int:
        assert gate.wait(60)
        return x

    with running(tmp_path, intermediates="drop") as run:
        first, second, third = chain(run, fuse=False)
        open_ = run.submit(wait, x=1)
        run.end(third)
        run.engine.block(lambda: not objects(run, first) + objects(run, second), 60)
        assert not open_.done()
        assert not objects(run, first) + objects(run, second)
        assert run.engine.dispatcher.inline_left > run.engine.settings.inline_run_bytes - 100_000
        gate.set()


def test_a_value_stays_for_all_that_was_called_with_it_before_the_flow_waited(
    tmp_path: Path,
) -> None:
    with running(tmp_path, intermediates="drop") as run:
        first = run.map(grow, range(300))
        sizes = [run.map(size, first, "data"), run.map(size, run.map(turn, first, "data"), "data")]
        whole = run.submit(count, values=first)
        picked = run.map(size, [first[3], first[4]], "data")
        assert [future.result() for future in sizes] == [[10_000] * 300] * 2
        assert (whole.result(), picked.result()) == (300, [10_000] * 2)
        late = run.submit(count, values=first)
        with pytest.raises(RunError, match="were not kept: other tasks have used them"):
            late.result()
        later = run.map(size, first, "data")
        run.end(later)
        with pytest.raises(UpstreamFailed, match="intermediates='keep'"):
            later[0].result()


def count(values: list[bytes]) -> int:
    return len(values)


def test_until_the_flow_waits_it_may_call_further_tasks_with_a_value(tmp_path: Path) -> None:
    with running(tmp_path, intermediates="drop") as run:
        first = run.map(grow, range(300))
        second = run.map(size, first, "data")
        run.engine._wait_quietly(second.done)  # as a feeder does: it is not the flow that waits
        assert run.map(size, first, "data").result() == [10_000] * 300


def test_a_dataset_that_the_flow_holds_stays(tmp_path: Path) -> None:
    with (
        settings_override(inline_part_bytes=0),
        running(tmp_path, "processes", intermediates="drop") as run,
    ):
        first = run.map(grow, range(300))
        dataset = first.dataset()
        assert run.map(size, first, "data").result() == [10_000] * 300
    assert dataset.to_table().num_rows == 300


def test_a_retry_makes_what_was_passed_on_again(tmp_path: Path) -> None:
    tries: dict[int, int] = {}

    def picky(data: bytes) -> int:
        key = data[1]
        tries[key] = tries.get(key, 0) + 1
        if key % 5 == 0 and tries[key] < 3:
            raise ValueError(key)
        return key

    with running(tmp_path, intermediates="drop") as run:
        first = run.map(grow, range(50))
        second = run.map(picky, first, "data", retries=2)
        assert second.result() == list(range(50))
        assert first.node.items.named_counts() == {"Completed": 50}
    assert set(tries.values()) == {1, 3}


def test_a_run_that_failed_keeps_them_for_its_resume(tmp_path: Path) -> None:
    with running(tmp_path, intermediates="until_run_ends", state=Failed("not today")) as run:
        futures = chain(run)
        run.end(futures[2])
    assert all(objects(run, future) for future in futures)
