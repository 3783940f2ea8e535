"""A flow on a few items of its inputs, and what is forecast from them for the whole."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

import headrace
from headrace import flow, task, unmapped
from headrace.core.errors import ConfigurationError
from headrace.core.forecasts import Forecast, NodeForecast


@task
def double(x: int) -> int:
    return 2 * x


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def refuse(x: int) -> int:
    if x % 4 == 3:
        raise ValueError(f"no {x}")
    return x


@flow
def doubled(n: int) -> list[int]:
    return double.map(double.map(range(n))).result()


def nodes(forecast: Forecast) -> dict[str, NodeForecast]:
    return {node.node: node for node in forecast.nodes}


def totals(forecast: Forecast) -> dict[str, tuple[int, int | None, bool]]:
    """Items sampled, of how many, and whether that is a guess."""
    return {n.node: (n.sampled, n.total, n.estimated) for n in forecast.nodes}


def test_each_map_gets_the_first_items_and_maps_of_maps_follow() -> None:
    forecast = doubled.sample(5)(1000)
    assert forecast.run.result() == [0, 4, 8, 12, 16]
    assert totals(forecast) == {"double-0": (5, 1000, False), "double-1": (5, 1000, False)}
    first, second = forecast.nodes
    assert first.seconds is not None
    assert 0 <= first.seconds[0] <= first.seconds[1] <= first.seconds[2]
    assert first.batch > 0
    assert second.batch == 0  # it rides along
    assert forecast.seconds is not None
    assert forecast.bytes is not None
    assert forecast.bytes > 1000 * 2 * 8
    assert "5 of 1,000" in repr(forecast)
    assert "double-1" in repr(forecast)


def test_the_sample_run_is_a_run_in_history() -> None:
    forecast = doubled.sample(5)(1000)
    record = next(each for each in headrace.runs() if each.id == forecast.run.id)
    assert record.tags == ("sample",)
    assert [node.total for node in forecast.run.nodes()] == [5, 5]
    whole = doubled(3)
    assert whole == [0, 4, 8]
    assert headrace.runs(limit=1)[0].tags == ()


def test_the_whole_goes_on_from_the_sample() -> None:
    ran: list[int] = []

    @task
    def note(x: int) -> int:
        ran.append(x)
        return x

    @flow(executor="threads")
    def noted(n: int) -> list[int]:
        return note.map(range(n)).result()

    forecast = noted.sample(5, random=1)(40)
    assert len(ran) == 5
    assert forecast.run.resume().result() == list(range(40))
    assert sorted(ran) == list(range(40))


def test_random_items_are_those_of_the_seed_and_inputs_are_cut_alike() -> None:
    @flow
    def summed(n: int) -> list[int]:
        return add.map(range(n), (10 * i for i in range(n))).result()

    first, again = (summed.sample(6, random=7)(500).run.result() for _ in range(2))
    assert first == again != [11 * i for i in range(6)]
    assert len(first) == 6
    assert all(value % 11 == 0 for value in first)
    item = summed.sample(6, random=7)(500).run.item("add-0", 5)
    assert item.output == first[5]
    assert summed.sample(6, random=8)(500).run.result() != first
    assert summed.sample(600, random=7)(500).run.result() == [11 * i for i in range(500)]


def test_of_an_endless_input_the_first_items_and_no_forecast_of_the_whole() -> None:
    pulled = itertools.count()

    def endless() -> Iterator[int]:
        while True:
            yield next(pulled)

    @flow
    def long() -> list[int]:
        return double.map(endless()).result()

    forecast = long.sample(8, random=True)()
    assert forecast.run.result() == [2 * i for i in range(8)]
    assert next(pulled) == 8
    assert totals(forecast) == {"double-0": (8, None, False)}
    assert forecast.seconds is forecast.bytes is None
    assert "8 of ?" in repr(forecast)


def test_a_list_whose_length_a_future_tells_is_cut_too() -> None:
    @task
    def listed(n: int) -> list[int]:
        return list(range(n))

    @flow
    def later(n: int) -> list[int]:
        return double.map(listed.submit(n)).result()

    assert totals(later.sample(4)(100)) == {"listed-0": (1, 1, False), "double-0": (4, 100, False)}


def test_an_item_of_a_random_sample_runs_again_with_what_it_was_given() -> None:
    run = doubled.sample(6, random=7)(500).run
    assert run.item("double-0", 5).replay() == run.item("double-0", 5).output


def test_an_input_made_from_sampled_values_is_taken_to_grow_with_them() -> None:
    @flow
    def staged(n: int) -> None:
        once = double.map(range(n)).result()
        double.map([x for x in once for _ in range(3)], name="made").wait()
        double.map(range(n), name="beside").wait()

    assert totals(staged.sample(10)(1000)) == {
        "double-0": (10, 1000, False),
        "made": (10, 3000, True),
        "beside": (10, 1000, False),
    }


def test_what_every_item_is_given_makes_them_no_more_and_calls_in_a_row_are_waited_for() -> None:
    @task
    def total(xs: list[int]) -> int:
        time.sleep(0.01)
        return sum(xs)

    @task
    def slow(x: int) -> int:
        time.sleep(0.01)
        return x

    @flow
    def centred(n: int) -> None:
        mean = total.submit(double.map(range(n)))
        add.map(range(n), unmapped(mean), name="same").wait()
        add.map(range(7), unmapped(mean), name="other").wait()
        slow.submit(mean).wait()

    forecast = centred.sample(5)(1000)
    assert totals(forecast) == {
        "double-0": (5, 1000, False),
        "total-0": (1, 1, True),
        "same": (5, 1000, False),
        "other": (5, 7, False),
        "slow-0": (1, 1, True),
    }
    named = nodes(forecast)
    first, second = named["total-0"].work_seconds, named["slow-0"].work_seconds
    assert first is not None
    assert second is not None
    assert forecast.seconds is not None
    assert forecast.seconds >= first + second


def test_no_more_slots_than_items_may_be_in_flight() -> None:
    @flow
    def narrow(n: int) -> list[int]:
        return double.map(range(n), max_in_flight=1).result()

    assert [node.slots for node in narrow.sample(3)(50).nodes] == [1]


def test_a_flow_that_looks_at_each_of_many_values() -> None:
    @flow
    def looking() -> int:
        value = 1
        for _ in range(40):
            value = add(value, 1)
        return value

    forecast = looking.sample(1)()
    assert forecast.run.result() == 41
    assert {(node.total, node.estimated) for node in forecast.nodes} == {(1, False)}


def test_what_fails_is_told_and_the_rest_forecast() -> None:
    @flow
    def picky(n: int) -> list[int]:
        return double.map(refuse.map(range(n))).result()

    forecast = picky.sample(8)(100)
    assert forecast.run.state.name == "Failed"
    assert {name: node.failed for name, node in nodes(forecast).items()} == {
        "refuse-0": 2,
        "double-0": 0,
    }
    assert totals(forecast)["double-0"] == (8, 100, False)
    assert "no 3" in repr(forecast)


def test_of_a_node_that_never_ran_nothing_is_forecast() -> None:
    @flow
    def stopped(n: int) -> list[int]:
        return double.map(refuse.map(range(3, n, 4))).result()

    forecast = stopped.sample(2)(99)
    assert nodes(forecast)["double-0"].work_seconds is None
    assert forecast.seconds is None
    assert "no item of 'double-0' ran" in repr(forecast)


def test_a_flow_that_runs_no_task_has_nothing_to_forecast() -> None:
    @flow
    def idle() -> None: ...

    forecast = idle.sample(3)()
    assert forecast.nodes == ()
    assert "no task ran" in repr(forecast)


def test_values_that_a_run_does_not_keep_are_kept_in_a_sample() -> None:
    passing = double.with_options(persist_result=False)

    @flow(intermediates="drop")
    def dropped(n: int) -> list[int]:
        return double.map(passing.map(range(n))).result()

    forecast = dropped.sample(3)(10)
    assert all(node.seconds is not None for node in forecast.nodes)
    assert [forecast.run.item("double-0", i).output for i in range(3)] == [0, 2, 4]


def test_flows_that_it_calls_and_async_ones() -> None:
    @flow
    async def outer(n: int) -> Any:
        return doubled(n)

    forecast = asyncio.run(outer.sample(2)(50))
    assert totals(forecast) == {
        "doubled/double-0": (2, 50, False),
        "doubled/double-1": (2, 50, False),
    }


def a_node(**changes: Any) -> NodeForecast:
    given: dict[str, Any] = {
        "node": "a",
        "mapped": True,
        "sampled": 10,
        "total": 1000,
        "estimated": False,
        "failed": 0,
        "seconds": (1.0, 2.0, 3.0),
        "work_seconds": 2000.0,
        "slots": 4,
        "overlap": 1,
        "batch": 1,
        "memory": 100,
        "bytes": 50,
    }
    return NodeForecast(**given | changes)


def test_the_sums() -> None:
    run: Any = None
    two = Forecast(run, 1.0, (a_node(), a_node(overlap=10, slots=2, memory=300)))
    assert two.seconds == 2000 / 4 + 2000 / 20
    assert two.memory == 600
    assert two.bytes == 100
    assert Forecast(run, 1.0, (a_node(work_seconds=4.0),)).seconds == 3.0  # no item is cut
    assert a_node(total=1, work_seconds=20.0).wall_seconds == 20.0  # one call has one slot
    assert Forecast(run, 1.0, (a_node(), a_node(chain_seconds=2500.0))).seconds == 2500.0
    assert Forecast(run, 1.0, (a_node(), a_node(work_seconds=None))).seconds is None


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "7"])
def test_what_is_no_number_of_items(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'doubled'.*at least 1"):
        doubled.sample(wrong)


@pytest.mark.parametrize("wrong", ["x", 1.5, None])
def test_what_is_no_seed(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'doubled'.*random= is"):
        doubled.sample(3, random=wrong)
