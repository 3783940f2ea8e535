"""Tasks and flows called in every way they can be."""

import asyncio
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import headrace
from headrace import Flow, MapFuture, Task, allow_failure, flow, quote, tags, task, unmapped
from headrace.core.errors import (
    ConfigurationError,
    MapFailed,
    NestedSubmitError,
    ResourceError,
    RunError,
    UpstreamFailed,
)
from headrace.core.settings import settings_override
from headrace.core.waiting import OnLoop


@task
def inc(x: int, by: int = 1) -> int:
    return x + by


@task
def fail(x: object) -> int:
    raise ValueError(f"no {x}")


@task
def same(x: Any) -> Any:
    return x


@task
async def ainc(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


def test_direct_submitted_and_mapped():
    @flow
    def whole() -> Any:
        one = inc(1)
        two = inc.submit(one)
        many = inc.map([1, 2, 3], by=unmapped(10))
        chained = inc.map(many, two)
        return one, two.result(), many.result(), chained.result()

    assert whole() == (2, 3, [11, 12, 13], [14, 15, 16])


def test_a_direct_call_runs_in_the_calling_thread_on_the_very_function():
    seen: list[threading.Thread] = []
    lock = threading.Lock()

    @task
    def where() -> None:
        with lock:
            seen.append(threading.current_thread())

    @flow(executor="threads")
    def whole() -> None:
        where()
        where.submit().result()

    whole()
    assert seen[0] is threading.current_thread()
    assert seen[1] is not seen[0]


def test_return_state():
    @flow
    def whole() -> Any:
        good = inc(1, return_state=True)
        bad = fail(1, return_state=True)
        late = fail.submit(2, return_state=True)
        many = same.map([1, 2], return_state=True)
        return [good.result(), bad.name, late.name, [s.result() for s in many]]

    assert whole() == [2, "Failed", "Failed", [1, 2]]


def test_wait_for_and_allow_failure():
    @flow
    def whole() -> Any:
        bad = fail.submit(1)
        skipped = inc.submit(1, wait_for=[bad])
        told = same.submit(allow_failure(bad)).result()
        anyway = inc.submit(1, wait_for=[allow_failure(bad)]).result()
        return skipped.state.name if skipped.wait() is None else "", repr(told), anyway

    assert whole() == ("Skipped", "ValueError('no 1')", 2)


def test_futures_and_states_at_any_depth_become_values_and_quoted_ones_do_not_change():
    @flow
    def whole() -> Any:
        two = inc.submit(1)
        state = inc(5, return_state=True)
        return same({"a": [two, (state,)]}), same(quote([1])), same.submit(x=[two]).result()

    assert whole() == ({"a": [2, (6,)]}, [1], [2])


def test_tasks_in_tasks():
    @task
    def outer(x: int) -> int:
        return inc(x) + 1

    @task
    def wrong(x: int) -> int:
        return inc.submit(x).result()

    @task
    def wrong_flow() -> int:
        return never()

    @flow
    def never() -> int:
        return 1

    @flow
    def whole() -> Any:
        return (
            outer.submit(1).result(),
            wrong.submit(1).exception(),
            wrong_flow.submit().exception(),
        )

    value, nested, nested_flow = whole()
    assert value == 3
    assert isinstance(nested, NestedSubmitError)
    assert "call inc(...) there" in str(nested)
    assert isinstance(nested_flow, NestedSubmitError)


def test_waiting_for_a_future_inside_a_task_is_an_error_and_not_a_deadlock():
    @flow
    def whole() -> Any:
        late = inc.submit(1)

        @task
        def waits() -> int:
            return late.result()

        first = waits.submit().exception()
        return first if first is not None else None

    error = whole()
    assert error is None or isinstance(error, NestedSubmitError)


def test_outside_of_a_flow():
    assert inc(1) == 2
    with pytest.raises(ValueError, match="no 3"):
        fail(3)
    assert fail(3, return_state=True).name == "Failed"
    assert inc.submit(inc.submit(1)).result() == 3
    assert inc.map(inc.map([1, 2])).result() == [3, 4]
    assert asyncio.run(_outside()) == (2, [2, 3])


async def _outside() -> Any:
    return await ainc(1), await ainc.map([1, 2])


@pytest.mark.parametrize("how", ["submit", "map"])
def test_outside_of_a_flow_a_call_that_cannot_be_leaves_no_run_behind(how: str):
    @task(name=f"greedy {how}", resources={"gpus": 1000})
    def greedy(x: int) -> int:
        return x

    with settings_override(executor="threads"), pytest.raises(ResourceError):
        greedy.submit(1) if how == "submit" else greedy.map([1])
    (run,) = headrace.runs(flow=greedy.name)
    assert run.state == "Crashed"
    assert "ResourceError" in run.message


def test_outside_of_a_flow_a_call_s_run_is_known_to_be_alive():
    go = threading.Event()

    @task(name="held call")
    def held() -> None:
        go.wait(60)

    with settings_override(executor="threads"):
        future = held.submit()
    run = headrace.attach(headrace.runs(flow="held call")[0].id)
    with pytest.raises(RunError, match="alive"):
        run.delete()
    go.set()
    future.result()
    run.wait(60)
    assert run.state.name == "Completed"


def test_async_flows_run_direct_calls_on_their_own_loop():
    loops: list[Any] = []

    @task
    async def where(x: int) -> int:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0.001)
        return x

    @flow
    async def whole() -> Any:
        loops.append(asyncio.get_running_loop())
        direct = await asyncio.gather(*[where(k) for k in range(20)])
        state = await ainc(1, return_state=True)
        return direct, inc(1), await inc.submit(5), await ainc.map([1, 2]), state.result()

    assert asyncio.run(whole()) == (list(range(20)), 2, 6, [2, 3], 2)
    assert len(set(map(id, loops))) == 1


def test_a_sync_call_in_a_loop_that_waits_for_an_async_task_does_not_hang():
    @flow
    async def whole() -> Any:
        later = asyncio.ensure_future(ainc(1))
        await asyncio.sleep(0.05)
        now = inc(1)
        return now, await later

    assert asyncio.run(asyncio.wait_for(whole(), 20)) == (2, 2)


def test_an_awaited_call_that_is_cancelled_before_its_loop_has_begun_it_does_not_run():
    """The loop has been told to begin it, and is told to cancel it before it gets there."""
    ran: list[int] = []

    async def body() -> None:
        ran.append(1)

    class Slow:
        def __init__(self, loop: Any) -> None:
            self.loop = loop

        def call_soon_threadsafe(self, start: Any) -> None:
            self.loop.call_soon_threadsafe(called.cancel)
            self.loop.call_soon_threadsafe(start)

        def create_task(self, *given: Any, **more: Any) -> Any:
            return self.loop.create_task(*given, **more)

    async def whole() -> None:
        called.loop = Slow(asyncio.get_running_loop())  # type: ignore[assignment]
        with pytest.raises(asyncio.CancelledError):
            await asyncio.to_thread(called)

    called = OnLoop(body, asyncio.new_event_loop())
    called.loop.close()
    asyncio.run(whole())
    called.forget()
    assert ran == []


class Methods:
    def __init__(self, k: int) -> None:
        self.k = k

    @task
    def plain(self, x: int) -> int:
        return x * self.k

    @task
    @classmethod
    def of_class(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x

    @staticmethod
    @task
    def static(x: int) -> int:
        return x

    @flow
    def run(self, x: int) -> Any:
        return (
            self.plain(x),
            self.plain.submit(x).result(),
            self.plain.map([x]).result(),
            self.of_class.submit(x).result(),
            self.static.map([x]).result(),
        )


class Derived(Methods):
    pass


def test_methods():
    assert Derived(3).run(2) == (6, 6, [6], ("Derived", 2), [2])
    assert isinstance(Methods.plain, Task)
    assert isinstance(Methods.run, Flow)
    assert Methods.of_class(1) == ("Methods", 1)  # type: ignore[call-overload]


def test_map_failures():
    @task
    def odd(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        return x

    @flow
    def whole() -> Any:
        many = odd.map(range(4))
        table = many.failures()
        with pytest.raises((ValueError, MapFailed)):
            many.result()
        return table, many.result(raise_on_failure=False), many.counts()

    table, values, counts = whole()
    assert table.column("item").to_pylist() == [1, 3]
    assert [repr(v) for v in values] == ["0", "ValueError(1)", "2", "ValueError(3)"]
    assert counts == {"Completed": 2, "Failed": 2}


def test_map_as_a_sequence():
    @flow
    def whole() -> None:
        many = inc.map(range(5))
        assert isinstance(many, MapFuture)
        assert len(many) == 5
        assert many[4] == many[-1] != many[0]
        assert [f.position for f in many[1:3]] == [1, 2]
        with pytest.raises(IndexError):
            many[5]
        assert sorted(f.result() for f in many.as_completed()) == [1, 2, 3, 4, 5]
        assert [f.result() for f in many] == [1, 2, 3, 4, 5]
        assert many[2] in many
        assert [s.name for s in many.states] == ["Completed"] * 5
        assert many.done()
        assert not many.cancel()

    whole()


def test_the_length_of_an_iterable_is_known_when_it_has_ended():
    @flow
    def whole() -> None:
        go = threading.Event()

        def numbers() -> Iterator[int]:
            yield 0
            go.wait(20)
            yield from range(1, 100)

        many = inc.map(numbers())
        assert bool(many)
        with pytest.raises(TypeError, match="not known"):
            len(many)
        go.set()
        assert [f.result() for f in many] == list(range(1, 101))
        assert len(many) == 100

    whole()


def test_wait_and_as_completed():
    @flow
    def whole() -> None:
        several = [inc.submit(k) for k in range(3)]
        done, not_done = headrace.wait(several)
        assert (done, not_done) == (set(several), set())
        assert {f.result() for f in headrace.as_completed(several)} == {1, 2, 3}
        assert len(headrace.wait(inc.map([1, 2])).done) == 2

    whole()


def test_callbacks_and_ids():
    called = threading.Event()

    @flow
    def whole() -> str:
        future = inc.submit(1)
        future.add_done_callback(lambda f: called.set() if f.result() == 2 else None)
        future.wait()
        assert called.wait(10)
        assert future.done()
        return future.task_run_id

    assert whole().endswith("/inc-0/0")


def test_a_callback_is_called_where_the_run_has_ended_before():
    kept: list[Any] = []

    @flow
    def whole() -> None:
        kept.append(inc.submit(1))

    whole()
    called = threading.Event()
    kept[0].add_done_callback(lambda future: called.set())
    assert called.wait(60)


def test_a_future_does_not_pickle():
    @flow
    def whole() -> None:
        with pytest.raises(TypeError, match="pass it as a task's argument"):
            pickle.dumps(inc.submit(1))

    whole()


def test_node_keys_and_names():
    @flow
    def whole() -> list[str]:
        return [inc.submit(1).node.key, inc.map([1], name="mine").node.key, inc.submit(2).node.key]

    assert whole() == ["inc-0", "mine", "inc-1"]

    @task
    def named(name: str, key: int = 0) -> str:
        return name * key

    assert named.map(name=["a", "b"], key=unmapped(2)).result() == ["aa", "bb"]


def test_tags_reach_flows_and_tasks():
    @task
    def told() -> frozenset[str]:
        return headrace.context.tags

    @flow(tags=["flow"])
    def whole() -> Any:
        with tags("inner"):
            return headrace.context.tags, told.with_options(tags=["own"])()

    with tags("outer"):
        assert whole() == ({"flow", "outer"}, {"own", "inner", "outer"})


def test_seed_is_the_items_own_on_every_run_and_executor():
    @task
    def seed(x: int) -> int:
        return headrace.context.seed

    @flow
    def whole() -> list[int]:
        return seed.map(range(3)).result()

    first = whole()
    assert len(set(first)) == 3
    assert first == whole() == whole.with_options(executor="threads")()
    with pytest.raises(RuntimeError, match="no task runs"):
        _ = headrace.context.seed


def test_unknown_executor_is_one_line():
    with pytest.raises(
        ConfigurationError, match=r"unknown executor 'dusk' \(known: .*did you mean 'dask'"
    ):
        flow(executor="dusk")(lambda: 1)()


def test_upstream_failures_skip_what_needs_them():
    @flow
    def whole() -> Any:
        later = inc.submit(fail.submit(1))
        with pytest.raises(UpstreamFailed):
            later.result()
        return later.state.name

    assert whole() == "Skipped"
