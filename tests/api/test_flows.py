"""Flow runs: states, hooks, retries, time limits, subflows, handles, graphs, logs."""

import asyncio
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import headrace
from headrace import Dataset, flow, get_run_context, get_run_logger, task
from headrace.core.errors import Cancelled, FlowTimeout, RunError
from headrace.core.flow_engine import Driver
from headrace.core.states import Completed, Failed
from headrace.executors.processes import ProcessesExecutor


@task
def inc(x: int) -> int:
    return x + 1


@task
def fail(x: object) -> int:
    raise ValueError(f"no {x}")


def test_states_by_return_and_raise():
    @flow
    def returns(value: Any) -> Any:
        if value == "raise":
            raise KeyError(value)
        if value == "future":
            return fail.submit(1)
        if value == "futures":
            return [inc.submit(1), fail.submit(1)]
        if value == "map":
            return fail.map([1, 2])
        if value == "manual":
            return Failed("by hand")
        if value == "swallowed":
            fail(1, return_state=True)
        return value

    def state(value: Any) -> tuple[str, str]:
        got = returns(value, return_state=True)
        return got.name, got.message

    assert state(3) == ("Completed", "")
    assert state("raise") == ("Failed", "Flow run encountered an exception: KeyError: 'raise'")
    assert state("future") == ("Failed", "1/1 states failed.")
    assert state("futures") == ("Failed", "1/2 states failed.")
    assert state("map") == ("Failed", "2/2 states failed.")
    assert state("manual") == ("Failed", "by hand")
    assert state("swallowed") == ("Completed", "")
    assert [s.name for s in returns("futures")] == ["Completed", "Failed"]
    with pytest.raises(KeyError):
        returns("raise")
    with pytest.raises(ValueError, match="no 1"):
        returns("future")
    assert returns(3) == 3


def test_a_map_that_is_returned_gives_its_dataset():
    @flow
    def mapped() -> Any:
        return inc.map(range(3))

    assert mapped().dataset().to_table().num_rows == 3


def test_a_printed_line_is_written_whole_where_output_is_unbuffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")

    @task
    def how() -> list[tuple[bool, bool]]:
        streams: Any = (sys.stdout, sys.stderr)
        return [(stream.line_buffering, stream.write_through) for stream in streams]

    @flow(executor=ProcessesExecutor(max_workers=1), storage=str(tmp_path))
    def asked() -> list[tuple[bool, bool]]:
        return how.submit().result()

    assert asked() == [(True, False)] * 2


def test_manual_states_give_their_data():
    @flow
    def manual() -> Any:
        return Completed("done", data=5)

    assert manual() == 5


def test_hooks_are_told_in_order_and_what_they_raise_is_only_logged(caplog: Any):
    told: list[tuple[str, str, str]] = []

    def hook(flow: Any, run: Any, state: Any) -> None:
        told.append((flow.name, run.name, state.name))

    async def later(flow: Any, run: Any, state: Any) -> None:
        await asyncio.sleep(0)
        told.append((flow.name, run.name, f"{state.name} again"))

    def broken(*_: Any) -> None:
        raise RuntimeError

    @flow(
        name="f",
        flow_run_name="r-{x}",
        on_running=hook,
        on_completion=[broken, hook, later],
        on_failure=[hook],
    )
    def hooked(x: int) -> int:
        return x if x < 2 else 1 // 0

    assert hooked(1) == 1
    hooked(2, return_state=True)
    assert told == [
        ("f", "r-1", "Running"),
        ("f", "r-1", "Completed"),
        ("f", "r-1", "Completed again"),
        ("f", "r-2", "Running"),
        ("f", "r-2", "Failed"),
    ]


def test_what_a_hook_of_an_ended_run_calls_is_a_run_of_its_own(tmp_path: Path):
    told: list[Any] = []

    @task
    def double(x: int) -> int:
        return 2 * x

    def hook(_flow: Any, run: Any, _state: Any) -> None:
        told.append(double(1))
        told.append(double.submit(2).result())
        told.append(double.map([3, 4]).result())
        told.append(run.result().write(tmp_path / "out").num_rows)

    async def later(_flow: Any, _run: Any, _state: Any) -> None:
        told.append(double.submit(5).result())

    @flow(executor="threads", on_completion=[hook, later])
    def hooked() -> Dataset:
        return double.map(range(10)).dataset()

    hooked()
    assert told == [2, 4, [6, 8], 10, 10]


def test_retries_run_the_function_again_in_the_same_run():
    ids: list[str] = []

    @flow(retries=2)
    def flaky() -> Any:
        ids.append(headrace.context.flow_run_id)
        values = inc.map([1, 2], name="same").result()
        if headrace.context.attempt < 3:
            raise ValueError(headrace.context.attempt)
        return values

    assert flaky() == [2, 3]
    assert len(ids) == 3
    assert len(set(ids)) == 1


def test_the_last_failure_counts():
    @flow(retries=1)
    def hopeless() -> None:
        raise ValueError(headrace.context.attempt)

    with pytest.raises(ValueError, match="2"):
        hopeless()


def test_time_limits():
    held = threading.Event()

    @task
    def hold() -> None:
        held.wait(20)

    @flow(timeout_seconds=0.2, executor="threads")
    def slow() -> None:
        threading.Timer(0.5, held.set).start()
        hold.submit().result()

    @flow(timeout_seconds=0.1)
    async def aslow() -> None:
        await asyncio.sleep(30)

    state = slow(return_state=True)
    assert (state.name, state.type) == ("TimedOut", "FAILED")
    with pytest.raises(FlowTimeout, match=r"'aslow' exceeded its timeout of 0\.1 seconds"):
        asyncio.run(aslow())
    with pytest.raises(TimeoutError):
        asyncio.run(aslow())


def test_subflows_have_runs_of_their_own():
    @flow
    def child(xs: list[int]) -> Any:
        return headrace.context.flow_run_id, inc.map(xs).result()

    @flow
    def parent() -> Any:
        first = inc.submit(1)
        many = inc.map([5, 6])
        return headrace.context.flow_run_id, child([first, 2], wait_for=[first]), child(many)  # type: ignore[list-item]

    own, (inner, values), (_, mapped) = parent()
    assert (values, mapped) == ([3, 3], [7, 8])
    assert own != inner
    assert str(headrace.attach(inner).record().parent) == own


def test_subflow_states():
    @flow
    def bad() -> None:
        raise ValueError("inner")

    @flow
    def parent() -> str:
        return bad(return_state=True).name

    assert parent() == "Failed"


def test_async_subflows():
    @flow
    async def child(x: int) -> int:
        return await inc.submit(x)

    @flow
    async def parent() -> list[int]:
        return list(await asyncio.gather(child(1), child(2)))

    assert asyncio.run(parent()) == [2, 3]


def test_start_gives_a_handle():
    go = threading.Event()

    @flow(executor="threads")
    def waits(x: int) -> int:
        go.wait(20)
        return inc.submit(x).result()

    run = waits.start(1)
    assert not run.done()
    with pytest.raises(TimeoutError):
        run.result(timeout=0.01)
    go.set()
    assert run.result(timeout=20) == 2
    assert run.state.is_completed()
    assert [node.key for node in run.nodes()] == ["inc-0"]
    assert "inc-0" in run.graph.mermaid
    assert run.failures().num_rows == 0
    assert headrace.attach(run.name) is run
    assert str(run.id) in {str(r.id) for r in headrace.runs()}


def test_a_started_run_tells_its_failure():
    @flow
    async def bad() -> None:
        raise KeyError("x")

    run = bad.start()
    with pytest.raises(KeyError):
        run.result(timeout=20)
    assert run.result(raise_on_failure=False).args == ("x",)  # type: ignore[attr-defined]


def test_cancel_ends_a_run_as_cancelled():
    running = threading.Event()
    go = threading.Event()
    told: list[str] = []

    @task
    def holds() -> None:
        running.set()
        go.wait(20)

    @flow(executor="threads", on_cancellation=lambda f, r, s: told.append(s.name))
    def waits() -> None:
        holds.submit().result()

    run = waits.start()
    assert running.wait(20)
    run.cancel()
    go.set()
    run.wait(20)
    assert run.state.name == "Cancelled"
    assert told == ["Cancelled"]
    with pytest.raises(Cancelled):
        run.result()


@pytest.mark.parametrize(("step", "state"), [("begin", "Cancelled"), ("conclude", "Completed")])
def test_a_coroutine_that_is_cancelled_as_its_run_begins_or_ends_leaves_a_run_that_has_ended(
    step: str, state: str, monkeypatch: pytest.MonkeyPatch
):
    there, go, concluded = threading.Event(), threading.Event(), list[str]()
    handles: list[Any] = []
    once, conclude = getattr(Driver, step), Driver.conclude

    def held(driver: Driver, *given: Any) -> Any:
        handles.append(driver.run)
        there.set()
        assert go.wait(60)
        return once(driver, *given)

    def counted(driver: Driver, ended: Any) -> Any:
        concluded.append(ended.name)
        return conclude(driver, ended)

    if step == "conclude":
        once = counted
    else:
        monkeypatch.setattr(Driver, "conclude", counted)
    monkeypatch.setattr(Driver, step, held)

    @flow(executor="threads")
    async def quick() -> int:
        return await inc.submit(1)

    async def cancelled() -> None:
        running = asyncio.ensure_future(quick())
        await asyncio.to_thread(there.wait, 60)
        running.cancel()
        await asyncio.sleep(0)  # it has heard
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert handles[0].done()

    asyncio.run(cancelled())
    assert concluded == [state]
    assert handles[0].state.name == handles[0].record().state == state


def test_interrupt_cancels_and_goes_on_to_the_caller():
    handles: list[Any] = []

    @flow(on_cancellation=lambda f, r, s: handles.append(r))
    def pressed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pressed()
    assert handles[0].state.name == "Cancelled"


def test_exit_crashes():
    @flow
    def leaves() -> None:
        raise SystemExit(3)

    run = leaves.start()
    run.wait(20)
    assert run.state.name == "Crashed"


def test_unseen_failures_are_one_warning():
    @flow
    def careless() -> None:
        fail.submit(1)
        fail.map([1, 2])

    @flow
    def careful() -> None:
        fail.submit(1, return_state=True)
        assert fail.map([1]).failures().num_rows == 1

    run = careless.start()
    run.wait(20)
    lines = [r.message for r in run.logs(logging.WARNING)]
    assert len(lines) == 1
    assert "fail-0 (1 Failed of 1); fail-1 (2 Failed of 2)" in lines[0]
    quiet = careful.start()
    quiet.wait(20)
    assert [r.message for r in quiet.logs(logging.WARNING)] == []


def test_logs_and_prints():
    @task
    def tells(x: int) -> None:
        print("printed", x, "\nand more")
        get_run_logger().warning("warned %s", x)

    @flow(log_prints=True)
    def whole() -> None:
        print("from", "the flow", sep="-")
        get_run_logger().info("logged")
        tells.map([7]).result()

    run = whole.start()
    run.result(timeout=20)
    lines = [(r.node, r.position, r.message) for r in run.logs()]
    assert (-1, -1, "from-the flow") in lines
    assert (-1, -1, "logged") in lines
    assert (0, 0, "printed 7 \nand more") in lines
    assert (0, 0, "warned 7") in lines
    assert print.__module__ == "builtins"


def test_where_nothing_runs():
    with pytest.raises(RunError, match=r"logging\.getLogger"):
        get_run_logger()
    with pytest.raises(RunError):
        get_run_context()


def test_run_context_of_a_task():
    @task
    def told(x: int) -> Any:
        return get_run_context()

    @flow(name="whole", flow_run_name="named")
    def whole(n: int) -> Any:
        return told.map(range(n)).result()

    context = whole(2)[1]
    assert (context.flow_name, context.run_name, context.node_key) == ("whole", "named", "told-0")
    assert (context.position, context.attempt, context.parameters) == (1, 1, (("n", "2"),))


def test_the_graph_before_a_run():
    ran: list[int] = []

    @task
    def touches(x: Any) -> Any:
        ran.append(x)

    @flow
    def sub(x: Any) -> Any:
        return touches.submit(x)

    @flow
    def shaped(n: int) -> Any:
        a = touches.map(range(n))
        b = touches.map(a)
        c = touches(b.result())
        d = sub(c)
        return touches.submit(1, wait_for=[d])

    graph = shaped.graph(4)
    assert ran == []
    assert [(node.label, node.mapped, node.total) for node in graph.nodes] == [
        ("touches-0", True, 4),
        ("touches-1", True, 4),
        ("touches-2", False, 1),
        ("touches-3", False, 1),
        ("touches-4", False, 1),
    ]
    assert [(e.source, e.target, e.kind) for e in graph.edges] == [
        (0, 1, "data"),
        (1, 2, "data"),
        (2, 3, "data"),
        (3, 4, "wait_for"),
    ]


def test_a_graph_that_depends_on_values_says_so():
    @flow
    def looks() -> None:
        if inc(1) > 1:
            inc(2)

    @flow
    async def alooks() -> None:
        assert await inc.submit(1)

    for each in (looks, alooks):
        with pytest.raises(RunError, match="depends on the value of 'inc-0'"):
            each.graph()


def test_recorded_runs_read_from_history():
    from headrace.core.recorded import RecordedRun
    from headrace.core.registry import open_history
    from headrace.core.settings import get_settings

    @flow(flow_run_name="recorded")
    def whole() -> None:
        fail.map([1, 2], return_state=True)

    whole()
    history = open_history(get_settings().history_url)
    run = RecordedRun(history, history.run("recorded").id)
    assert (run.name, run.flow_name, run.state.name, run.done()) == (
        "recorded",
        "whole",
        "Completed",
        True,
    )
    assert run.failures().column("message").to_pylist() == ["no 1", "no 2"]
    assert "fail-0" in run.graph.mermaid
    started = time.monotonic()
    run.wait()
    assert time.monotonic() - started < 5


def test_generators_are_no_flows():
    with pytest.raises(ValueError, match="cannot be a generator"):

        @flow
        def gen() -> Any:
            yield 1


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_a_map_that_never_had_items_ends_as_what_it_waited_for(executor: str):
    @task
    def both(x: int, y: int) -> int:
        return x + y

    @flow(executor=executor)
    def job() -> Any:
        stopped = both.map([1, 2], y=headrace.unmapped(fail.submit(1)))
        return [stopped, inc.map(stopped)]

    state = job(return_state=True)
    assert state.name == "Failed"
    assert state.message == "Given states: 2 skipped."
    with pytest.raises(headrace.errors.TaskFailed, match="2 skipped"):
        state.result()


def test_equal_calls_of_a_flow_at_a_time_are_runs_of_their_own():
    @flow
    async def inner(x: int) -> int:
        return inc.submit(x).result()

    @flow
    async def outer() -> list[int]:
        return await asyncio.gather(*(inner(1) for _ in range(16)))

    for _ in range(3):
        run = outer.start()
        assert run.result() == [2] * 16
        assert len({child.id for child in run.children}) == 16
