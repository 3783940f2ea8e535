"""The engine on real pools: values, errors, states, cancelling, and what is written of it all."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from core.engines import Run, running

from headrace.core.calls import Call, TaskOptions
from headrace.core.errors import (
    Cancelled,
    ExecutorError,
    HeadraceError,
    MapFailed,
    MappingError,
    RunError,
    TaskCrashed,
    TaskTimeout,
    UnpicklableError,
    UpstreamFailed,
)
from headrace.core.futures import Future, MapFuture, wait
from headrace.core.items import ItemState
from headrace.core.records import receipt_of
from headrace.core.registry import resolve_executor

EXECUTORS = ("threads", "processes")


@pytest.fixture(params=EXECUTORS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    with running(tmp_path, request.param) as run:
        yield run


@pytest.fixture
def threads(tmp_path: Path) -> Iterator[Run]:
    with running(tmp_path) as run:
        yield run


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Run]:
    with running(tmp_path, "processes") as run:
        yield run


def inc(x: int, y: int = 1) -> int:
    return x + y


def total(values: list[int]) -> int:
    return sum(values)


class Picky(Exception):
    """An exception of the user's own."""


def picky(x: int) -> int:
    if x % 5 == 2:
        raise Picky(f"not {x}")
    return x


def test_values_of_single_mapped_and_chained_calls(run: Run) -> None:
    one = run.submit(inc, x=1, y=2)
    many = run.map(inc, range(1000), static={"y": one})
    chained = run.map(inc, run.map(inc, many))
    whole = run.submit(total, values=chained)
    assert one.result(timeout=60) == 3
    assert [f.result() for f in many][:3] == [3, 4, 5]
    assert run.engine.values(run.end(chained)) == list(range(5, 1005))
    assert whole.result(timeout=60) == sum(range(5, 1005))
    assert run.engine.state(whole.node, 0).name == "Completed"


def test_user_errors_come_back_as_themselves_with_the_story(run: Run) -> None:
    future = run.map(picky, range(10))
    assert run.end(future).state == "Failed"
    with pytest.raises(Picky, match="not 2") as caught:
        future[2].result()
    assert "raised by 'picky-0' item 2, attempt 1" in caught.value.__notes__[0]
    assert "in picky\n    raise Picky" in caught.value.__notes__[0]
    assert future[3].result() == 3
    with pytest.raises((Picky, MapFailed)):
        run.engine.values(future.node)
    table = run.engine.failures()
    assert table["item"].to_pylist() == [2, 7]
    assert table["input"].to_pylist() == ["x=2", "x=7"]
    assert all(table["worker"].to_pylist())


def test_items_downstream_of_a_failed_one_are_skipped_with_the_cause_named(run: Run) -> None:
    first = run.map(picky, range(10))
    second = run.map(inc, first)
    third = run.map(inc, second)
    last = run.submit(total, values=third)
    for future in (first, second, third, last):
        run.end(future)
    assert second.node.state == "Failed" and last.node.state == "Skipped"
    assert third.node.items.named_counts() == {"Completed": 8, "Skipped": 2}
    with pytest.raises(
        UpstreamFailed,
        match=r"'inc-1' item 7 .*'inc-0' item 7 is Skipped.*'picky-0' item 7 is Failed.*not 7",
    ):
        third[7].result()
    with pytest.raises(UpstreamFailed, match="'inc-1' did not complete"):
        last.result()


def test_a_quarantined_map_goes_on_with_the_rest(threads: Run) -> None:
    first = threads.map(picky, range(10), on_error="quarantine")
    second = threads.map(inc, first)
    whole = threads.submit(total, values=second)
    assert whole.result(timeout=60) == sum(x + 1 for x in range(10) if x % 5 != 2)
    assert first.node.state == second.node.state == "Completed"


def test_allow_failure_passes_exceptions_on(run: Run) -> None:
    def told(x: Any) -> str:
        return type(x).__name__

    first = run.map(picky, range(5))
    second = run.map(told, first, allow_failure=frozenset({"x"}))
    assert run.engine.values(run.end(second)) == ["int", "int", "Picky", "int", "int"]


def test_mapping_over_a_failed_future_is_skipped(threads: Run) -> None:
    source = threads.submit(picky, x=2)
    mapped = threads.map(inc, source)
    assert threads.end(mapped).state == "Skipped"


def test_futures_inside_inputs_are_waited_for_one_by_one(run: Run) -> None:
    """A slow future holds up the items that need it, and nobody else."""
    first = run.map(inc, range(4))
    bad = run.submit(picky, x=2)

    def add(x: Any) -> int:
        return sum(x) if isinstance(x, list) else x

    inputs = [10, [first[0], first[3]], bad, {"plain": 1}["plain"], first[1]]
    future = run.map(add, inputs)
    run.end(future)
    assert [future[i].result() for i in (0, 1, 3, 4)] == [10, 5, 1, 2]
    with pytest.raises(UpstreamFailed):
        future[2].result()


def test_inputs_may_stand_on_earlier_items_of_the_same_map(threads: Run) -> None:
    future: Any = None
    ready = threading.Event()

    def inputs() -> Iterator[Any]:
        assert ready.wait(20)
        yield 1
        yield threads.submit(inc, x=Future[int](threads.engine, future.node, 0))
        yield 5

    future = threads.map(inc, inputs())
    ready.set()
    assert threads.engine.values(threads.end(future)) == [2, 4, 6]


def test_retries_run_as_often_as_allowed(run: Run, tmp_path: Path) -> None:
    def flaky(x: int) -> int:
        log = tmp_path / f"runs-{x}"
        with log.open("a") as file:
            file.write("x")
        if len(log.read_text()) <= x:
            raise Picky(x)
        return x

    future = run.map(flaky, range(5), retries=3, retry_delay_seconds=0.01)
    run.end(future)
    assert [len((tmp_path / f"runs-{x}").read_text()) for x in range(5)] == [1, 2, 3, 4, 4]
    assert future.node.items.named_counts() == {"Completed": 4, "Failed": 1}
    run.engine.scribe.sync()
    told = [r.state for r in run.history.items(run.id, future.node.id, position=4)]
    assert told == ["AwaitingRetry"] * 3 + ["Failed"]
    assert run.engine.failures()["attempt"].to_pylist() == [4]


def test_a_retry_condition_is_asked_off_the_engine(threads: Run) -> None:
    asked: list[tuple[str, int]] = []

    def condition(_task: Any, run_: Any, state: Any) -> bool:
        asked.append((threading.current_thread().name, run_.run_count))
        if run_.position == 1:
            raise RuntimeError("broken condition")
        return "not 2" in state.message

    future = threads.map(picky, [2, 7, 1], retries=2, retry_condition_fn=condition)
    threads.end(future)
    assert {name for name, _ in asked} == {"headrace-judge"}
    assert sorted(count for _, count in asked) == [1, 1, 2, 3]


def test_time_limits(run: Run) -> None:
    def nap(x: int) -> int:
        deadline = time.monotonic() + x
        while time.monotonic() < deadline:
            time.sleep(0.01)
        return x

    future = run.map(nap, [0, 30, 0], timeout_seconds=0.3)
    run.end(future)
    with pytest.raises(TaskTimeout):
        future[1].result()
    assert [future[i].result() for i in (0, 2)] == [0, 0]


def test_the_item_that_kills_its_child_crashes_and_the_others_complete(processes: Run) -> None:
    def deadly(x: int) -> int:
        if x == 5:
            os._exit(3)
        return x

    future = processes.map(deadly, range(20), infra_retries=1)
    assert processes.end(future).items.named_counts() == {"Completed": 19, "Crashed": 1}
    with pytest.raises(TaskCrashed, match="exit code 3"):
        future[5].result()
    assert future.node.state == "Crashed"


def test_children_that_die_before_they_begin_do_not_loop(processes: Run) -> None:
    future = processes.map(inc, range(5), setup=lambda: os._exit(4))
    assert processes.end(future).state == "Failed"
    assert isinstance(future.node.error, ExecutorError)
    assert "5 workers in a row" in str(future.node.error)
    assert "exit code 4" in str(future.node.error)


# ------------------------------------------------------------------------------------ arguments


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("never")


def test_an_argument_that_cannot_travel_fails_its_item_alone(processes: Run) -> None:
    future = processes.map(lambda x: 1, [1, Unpicklable(), 3])
    processes.end(future)
    with pytest.raises(UnpicklableError, match=r"argument 'x' .*Unpicklable"):
        future[1].result()
    assert [future[i].result() for i in (0, 2)] == [1, 1]


def test_an_argument_that_does_not_load_fails_its_item_alone(processes: Run) -> None:
    class Fragile:
        def __setstate__(self, _state: Any) -> None:
            raise LookupError("gone")

    fragile = Fragile()
    fragile.x = 1  # type: ignore[attr-defined]
    future = processes.map(lambda x: 1, [*range(10), fragile, *range(10)])
    assert processes.end(future).items.named_counts() == {"Completed": 20, "Failed": 1}
    assert future.node.failures[10].kind == "argument"


def test_a_value_that_cannot_be_stored_fails_its_item_alone(run: Run) -> None:
    def make(x: int) -> Any:
        return threading.Lock() if x == 1 else x

    future = run.map(make, range(3))
    run.end(future)
    with pytest.raises(HeadraceError, match="lock"):
        future[1].result()
    assert future[2].result() == 2


def test_a_value_that_was_not_kept_says_so(threads: Run) -> None:
    first = threads.map(inc, range(20), persist_result=False)
    second = threads.map(inc, first)
    threads.end(second)
    passed = not first.node.items.kept(first.node.items.where(ItemState.COMPLETED)).runs
    assert passed, "the chain shared its batches"
    with pytest.raises(RunError, match="persist_result=False"):
        first[3].result()
    late = threads.submit(total, values=first)
    with pytest.raises(RunError, match="not kept"):
        late.result(timeout=60)
    third = threads.map(inc, first)
    assert threads.end(third).state == "Skipped"
    with pytest.raises(UpstreamFailed, match="not kept"):
        third[0].result()


# --------------------------------------------------------------------------------------- inputs


def test_an_endless_generator_is_pulled_lazily_and_can_be_cancelled(run: Run) -> None:
    pulled = [0]

    def endless() -> Iterator[int]:
        while True:
            pulled[0] += 1
            yield pulled[0]

    future = run.map(inc, endless(), window=10)
    assert run.engine.block(lambda: future.node.item_done(30), 60)
    future[30].result()
    done = future.node.items.ended
    run.engine.cancel(future.node, reason="enough")
    assert run.end(future).state == "Cancelled"
    assert pulled[0] <= future.node.items.ended + 200
    assert future.node.items.ended >= done
    with pytest.raises(Cancelled, match="was cancelled: enough"):
        run.engine.values(future.node)


def test_an_iterable_that_blocks_cannot_hold_up_a_cancel(threads: Run) -> None:
    forever = threading.Event()

    def stuck() -> Iterator[int]:
        yield 1
        forever.wait()
        yield 2

    future = threads.map(inc, stuck())
    threads.engine.cancel(future.node, reason="enough")
    assert threads.end(future).state == "Cancelled"
    forever.set()


def test_an_iterable_may_wait_for_what_became_of_its_items(run: Run) -> None:
    def source() -> Iterator[int]:
        value = 1
        for position in range(4):
            yield value
            value = 10 * future[position].result(timeout=20)

    future = run.map(inc, source())
    assert run.engine.values(run.end(future)) == [2, 21, 211, 2111]


def test_a_cancel_keeps_what_is_done_of_an_iterable_that_blocks(run: Run) -> None:
    forever = threading.Event()

    def stuck() -> Iterator[int]:
        yield 1
        forever.wait()
        yield 2

    future = run.map(inc, stuck())
    assert future[0].result(timeout=20) == 2
    run.engine.cancel(future.node, reason="enough")
    assert run.end(future).state == "Cancelled"
    with pytest.raises(Cancelled, match="item 1 was cancelled: enough"):
        run.engine.values(future.node)
    forever.set()


def test_keys_of_what_a_slow_iterable_yields_are_made_in_the_flows_context(threads: Run) -> None:
    variable = contextvars.ContextVar("variable", default="")
    variable.set("the flow's")
    forever, seen = threading.Event(), list[tuple[str, int]]()

    def stuck() -> Iterator[int]:
        yield 1
        forever.wait()
        yield 2

    def key(x: int) -> int:
        seen.append((variable.get(), threading.get_ident()))
        if not forever.is_set():
            return x
        raise Picky("no key")

    future = threads.map(inc, stuck(), key_fn=key)
    assert future[0].result(timeout=20) == 2
    forever.set()
    assert threads.end(future).state == "Failed"
    assert {where for where, _ in seen} == {"the flow's"}
    assert threads.engine.thread.ident not in {thread for _, thread in seen}


def test_a_key_that_cannot_be_made_fails_a_map_whose_iterable_blocks(threads: Run) -> None:
    forever = threading.Event()

    def stuck() -> Iterator[int]:
        yield 1
        forever.wait()
        yield 2

    future = threads.map(inc, stuck(), key_fn=lambda x: 1 // (x - 1))
    assert threads.end(future).state == "Failed"
    with pytest.raises(MappingError, match="key= raised ZeroDivisionError"):
        threads.engine.values(future.node)
    forever.set()


def test_an_iterable_that_raises_fails_the_node_and_keeps_what_is_done(run: Run) -> None:
    def source() -> Iterator[int]:
        yield from range(10)
        raise Picky("no more")

    future = run.map(inc, source())
    assert run.end(future).state == "Failed"
    assert [future[i].result() for i in range(10)] == list(range(1, 11))
    with pytest.raises(Picky, match="no more"):
        run.engine.values(future.node)


def test_what_an_input_that_raised_has_kept_back_is_missed_by_all_that_stands_on_it(
    run: Run,
) -> None:
    """No reader takes the items that there are for all of them."""

    def source() -> Iterator[int]:
        yield from range(10)
        raise Picky("no more")

    future = run.map(inc, source())
    before = run.map(inc, future)
    last = run.map(inc, before)
    run.end(future)
    late = run.map(inc, future)
    beside = run.map(inc, [each for _, each in zip(range(10), future, strict=False)])
    for node in map(run.end, (before, last, late)):
        assert (node.state, node.counts()["Completed"]) == ("Failed", 10)
        with pytest.raises(
            UpstreamFailed, match=r"item 10 did not run: .* did not complete"
        ) as told:
            run.engine.values(node)
        assert isinstance(told.value.__cause__, Picky | UpstreamFailed)
    assert run.end(beside).state == "Completed"
    for read in (list, lambda futures: list(futures.as_completed()), lambda futures: futures[10]):
        with pytest.raises(Picky, match="no more"):
            read(future)
        with pytest.raises(UpstreamFailed, match="did not complete"):
            read(last)
    assert len(wait(last).done) == len(list(last.states)) == 10
    assert last.states.type_counts() == {"COMPLETED": 10, "FAILED": 1}


def test_two_maps_of_which_one_was_cut_short_feed_no_third(threads: Run) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise Picky("no more")

    first = threads.map(inc, source())
    node = threads.engine.add(
        Call(None, inc, TaskOptions(name="inc"), {}, {"x": first, "y": first}, single=False)
    )
    assert threads.end(MapFuture[Any](threads.engine, node)).state == "Failed"
    with pytest.raises(Picky, match="no more"):
        threads.engine.values(node)


def test_an_attempt_that_fails_as_its_map_is_cancelled_was_not_the_last_one(
    threads: Run, tmp_path: Path
) -> None:
    def fails_when_told_to_end(x: int, began: str) -> None:
        Path(began).touch()
        try:
            while True:
                time.sleep(0.01)
        finally:
            raise Picky(f"item {x} told to end")

    began = tmp_path / "began"
    future = threads.map(fails_when_told_to_end, [1], static={"began": str(began)}, retries=1)
    assert threads.engine.block(began.exists, 60)
    threads.engine.cancel(future.node, reason="enough")
    assert threads.end(future).state == "Cancelled"
    assert future[0].state.name == "Cancelled"
    with pytest.raises(Cancelled, match="was cancelled: enough"):
        threads.engine.values(future.node)


# ------------------------------------------------------------------------------------- cancelling


def wait_for_file(x: int, folder: str) -> int:
    Path(folder, f"began-{x}").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return x


def test_one_item_is_cancelled_and_the_others_complete(run: Run, tmp_path: Path) -> None:
    future = run.map(wait_for_file, range(3), static={"folder": str(tmp_path)})
    run.engine.block((tmp_path / "began-0").exists, 30)
    assert future[0].cancel() and future[2].cancel()
    assert run.engine.block(lambda: future[0].done() and future[2].done(), 60)
    (tmp_path / "go").touch()
    run.end(future)
    assert future[1].result() == 1
    with pytest.raises(Cancelled):
        future[0].result()
    assert future.node.state == "Cancelled"


def test_a_run_is_cancelled_whatever_it_does(run: Run, tmp_path: Path) -> None:
    first = run.map(wait_for_file, range(4), static={"folder": str(tmp_path)})
    second = run.map(inc, first)
    run.engine.block((tmp_path / "began-0").exists, 30)
    run.engine.cancel(reason="the test wants it")
    assert run.end(first).state == run.end(second).state == "Cancelled"
    with pytest.raises(Cancelled, match="the test wants it"):
        run.engine.add(run.engine.calls[first.node])


# ---------------------------------------------------------------------------------- what is kept


def test_journal_and_history_tell_all(run: Run) -> None:
    def noisy(x: int) -> int:
        print("item", x)
        if x == 3:
            raise Picky("three")
        return x

    future = run.map(noisy, range(200), log_prints=True)
    run.end(future)
    run.engine.finish(run.engine.state(future.node, None))
    journal = run.engine.store.journal().records()
    receipts = [receipt_of(r) for r in journal if r["type"] == "receipt"]
    held = sorted(p for receipt in receipts for p in receipt.positions)
    assert held == [p for p in range(200) if p != 3]
    (node,) = [r for r in journal if r["type"] == "node"]
    assert node["counts"] == {"Completed": 199, "Failed": 1}
    (row,) = run.history.nodes(run.id)
    assert (row.state, row.total, dict(row.counts)) == (
        "Failed",
        200,
        {"Completed": 199, "Failed": 1},
    )
    batches = run.history.batches(run.id, future.node.id)
    assert sum(b.items for b in batches) >= 200
    assert all(b.worker and b.ended for b in batches)
    (item,) = run.history.items(run.id, future.node.id)
    assert (item.position, item.message, item.input) == (3, "three", "x=3")
    lines = [record.message for _, record in run.history.logs(run.id, limit=1000)]
    assert sorted(lines) == sorted(f"item {x}" for x in range(200))


def test_hooks_are_called_once_per_item(threads: Run) -> None:
    calls: list[tuple[str, int]] = []

    def hook(name: str) -> Any:
        return (lambda _task, run_, state: calls.append((f"{name} {state.name}", run_.position)),)

    future = threads.map(
        picky, range(5), on_running=hook("running"),
        on_completion=hook("done"), on_failure=hook("failed"),
    )  # fmt: skip
    threads.end(future)
    threads.engine.finish(threads.engine.state(future.node, None))
    ended = sorted((name, p) for name, p in calls if not name.startswith("running"))
    assert ended == [*(("done Completed", p) for p in (0, 1, 3, 4)), ("failed Failed", 2)]
    assert sorted(p for name, p in calls if name.startswith("running")) == list(range(5))


def test_more_failures_than_memory_keeps_are_in_history(
    threads: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.core.returns.KEPT_FAILURES", 3)
    future = threads.map(picky, [2] * 20)
    threads.end(future)
    assert len(future.node.failures) == 3 == len(threads.engine.notes.items)
    table = threads.engine.failures(future.node)
    assert table["item"].to_pylist() == list(range(20))
    assert set(table["message"].to_pylist()) == {"not 2"}
    with pytest.raises(HeadraceError, match="not 2"):
        future[19].result()


def test_two_runs_share_one_warm_pool(tmp_path: Path) -> None:
    executor = resolve_executor("processes")
    pids: list[set[int]] = []
    for number in range(2):
        with running(tmp_path / str(number), executor) as run:
            future = run.map(lambda x: os.getpid(), range(50))
            pids.append(set(run.engine.values(run.end(future))))
    assert pids[0] & pids[1]


def test_runs_at_the_same_time_keep_apart(tmp_path: Path) -> None:
    with running(tmp_path / "a") as one, running(tmp_path / "b") as two:
        futures = [run.map(inc, range(300), static={"y": y}) for run, y in ((one, 1), (two, 2))]
        one.engine.cancel(futures[0].node, reason="only this")
        assert two.engine.values(two.end(futures[1])) == list(range(2, 302))
        assert one.end(futures[0]).state in ("Cancelled", "Completed")


# --------------------------------------------------------------------------------- broken engines


def test_an_internal_error_ends_the_run_and_says_so(
    threads: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = threads.map(wait_for_file, [0], static={"folder": "/nowhere"})

    def broken(*_args: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(threads.engine.machine, "tick", broken)
    assert threads.engine.block(lambda: future.node.ended, 30)
    with pytest.raises(HeadraceError, match=r"internal error.*ZeroDivisionError: a bug"):
        threads.engine.values(future.node)
    with pytest.raises(Cancelled, match="internal error"):
        threads.submit(inc, x=1)
    threads.engine.thread.join(10)
    assert not threads.engine.thread.is_alive()


def test_a_store_that_cannot_be_listed_ends_the_run(
    processes: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any) -> Any:
        raise RuntimeError("listing is broken")

    monkeypatch.setattr(type(processes.engine.store), "receipts", broken)
    future = processes.map(lambda x: os._exit(1), range(3))
    processes.engine.block(lambda: future.node.ended, 60)
    assert future.node.ended
    assert "listing is broken" in str(processes.engine.trouble)
