"""Values: their order, what they depend on, their types and sizes; seeds, subflows, shared pools."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from ..core.annotations import unmapped
from ..core.context import TaskRunContext, context
from ..core.flows import flow
from ..core.runs import runs
from ..core.tasks import task
from ..storage.datasets import open_dataset
from .suite import Suite
from .tally import Tally

_LARGE = 50 << 20


@dataclass(frozen=True)
class Point:
    """A value that is not Arrow's."""

    x: int
    y: int


@task
def square(x: int) -> int:
    return x * x


@task
def add(x: int, y: int) -> int:
    return x + y


@task
def total(values: Any) -> int:
    """Sum of all numbers in nested lists, tuples and dicts."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return sum(total.fn(each) for each in values)
    return values


@task
def same(value: Any) -> Any:
    return value


@task
def affine(x: int, *, factor: int = 1, table: dict[str, int]) -> int:
    return factor * x + table["offset"]


@task
def note(tally: Tally, name: str) -> int:
    return tally.note(name)


@task
def noted(tally: Tally, name: str) -> int:
    return tally.count(name)


@task
def meet(tally: Tally, name: str, count: int) -> int:
    """Wait until so many have come."""
    tally.note(name)
    tally.wait(name, count)
    return os.getpid()


@task
async def meet_async(tally: Tally, item: int, count: int) -> int:
    """Wait, without a thread, until so many have come."""
    tally.note("met", str(item))
    for _ in range(10_000):
        if tally.count("met") >= count:
            return item
        await asyncio.sleep(0.005)
    raise TimeoutError(f"only {tally.count('met')} of {count} items ran at a time")


@task
def checksum(data: np.ndarray[Any, Any]) -> tuple[int, int]:
    return data.nbytes, int(data[::4096].sum())


@task
def large(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, _LARGE, np.uint8)


@task
def pieces(count: int) -> Iterator[dict[str, int]]:
    for k in range(count):
        yield {"piece": k}


@task(retries=1)
def seed_of(item: int, fail_first: bool) -> int:
    if fail_first and context.attempt == 1:
        raise ValueError("a retry has the same seed")
    return context.seed


class ResultsConformance(Suite):
    """Values are those that a plain loop would give, in its order, with their types."""

    def test_results_are_in_item_order(self) -> None:
        def body() -> Any:
            return square.map(range(300)).result()

        assert self.run(body) == [x * x for x in range(300)]

    def test_inputs_may_be_any_iterable_also_an_empty_one(self) -> None:
        def body() -> Any:
            lazy, empty = square.map(iter(range(40))), square.map([])
            return lazy.result(), empty.result(), len(lazy), len(empty)

        assert self.run(body) == ([x * x for x in range(40)], [], 40, 0)

    def test_arguments_that_all_items_share(self) -> None:
        def body() -> Any:
            return affine.map(range(5), factor=3, table=unmapped({"offset": 1})).result()

        assert self.run(body) == [1, 4, 7, 10, 13]

    def test_futures_as_arguments_at_any_depth(self) -> None:
        def body() -> Any:
            a, b = square.submit(2), square.submit(3)
            c = add.submit(a, y=b)
            return c.result(), total.submit([a, {"b": (b, [c])}, 1]).result()

        assert self.run(body) == (13, 4 + 9 + 13 + 1)

    def test_futures_inside_mapped_inputs(self) -> None:
        def body() -> Any:
            a = square.submit(5)
            return total.map([[a, 1], [2, a], [3]]).result()

        assert self.run(body) == [26, 27, 3]

    def test_chains_and_reductions(self) -> None:
        def body() -> Any:
            first = square.map(range(30))
            second = add.map(first, y=unmapped(1))
            single = add.submit(second[3], 100)
            return total.submit(second).result(), single.result(), first[7].result()

        assert self.run(body) == (sum(x * x + 1 for x in range(30)), 110, 49)

    def test_mapping_over_a_result_of_unknown_length(self) -> None:
        def body() -> Any:
            return square.map(same.submit([1, 2, 3])).result()

        assert self.run(body) == [1, 4, 9]

    def test_wait_for_orders_what_shares_no_data(self, shared: Path) -> None:
        tally = Tally(shared / "tally")

        def body() -> Any:
            first = note.map(unmapped(tally), ["n"] * 6)
            return noted.submit(tally, "n", wait_for=[first]).result()

        assert self.run(body) == 6

    def test_values_keep_their_types(self) -> None:
        table = pa.table({"a": [1, 2], "b": ["x", None]})
        array = np.arange(6, dtype=np.int16).reshape(2, 3)
        values: list[Any] = [
            *(1, 1.0, True, None, "text", b"bytes", (1, "a"), {1, 2}, [1, 2.5], 2**70, 1 + 2j),
            *({"a": 1}, [{"a": 1}, {"a": 2, "b": "late"}], Point(1, 2), float("inf"), ""),
        ]

        def body() -> Any:
            return same.map(values).result(), same.map([table, array]).result()

        plain, (table_back, array_back) = self.run(body)
        assert plain == values
        assert [type(value) for value in plain] == [type(value) for value in values]
        assert table_back.equals(table)
        assert array_back.dtype == array.dtype
        assert (array_back == array).all()

    def test_the_dataset_of_rows_is_a_table(self) -> None:
        def body() -> Any:
            return same.map([{"k": k, "name": f"n{k}"} for k in range(50)]).dataset().to_table()

        assert self.run(body).to_pydict() == {
            "k": list(range(50)),
            "name": [f"n{k}" for k in range(50)],
        }

    def test_history_tells_what_was_made_of_a_file(self, shared: Path) -> None:
        for number in range(3):
            (shared / f"{number}.csv").write_text(f"n\n{number}\n")
        files = open_dataset(shared)

        def body() -> Any:
            return same.map(same.map(files.partitions(files=1))).dataset().num_rows

        run = self.watched(body)
        assert run.result() == 3
        for file in files.files:
            told = run.partitions("same-0", made_from=file)
            assert file in {url for part in told for url, _ in part.inputs}
            assert run.partitions("same-1", made_from=file)
            assert [other.id for other in runs(made_from=file)] == [run.id]
        assert run.partitions(made_from=str(shared / "other.csv")) == []

    def test_generators_give_their_pieces(self) -> None:
        def body() -> Any:
            return pieces.submit(3).result()

        assert list(self.run(body)) == [{"piece": 0}, {"piece": 1}, {"piece": 2}]

    def test_large_arguments_and_results(self) -> None:
        def body() -> Any:
            made = large.submit(7)
            sent = checksum.submit(large.fn(7))
            return made.result(), checksum.submit(made).result(), sent.result()

        made, there, sent = self.run(body)
        expected = checksum.fn(large.fn(7))
        assert made.nbytes == _LARGE
        assert there == sent == expected

    def test_async_items_run_concurrently(self, shared: Path) -> None:
        tally, count = Tally(shared / "tally"), max(8, 2 * self.slots())

        def body() -> Any:
            return meet_async.map(unmapped(tally), range(count), count=unmapped(count)).result()

        assert self.run(body) == list(range(count))

    def test_slots_run_at_the_same_time(self, shared: Path) -> None:
        tally = Tally(shared / "tally")
        count = 1 if self.able.caller_runs else 2
        assert self.able.caller_runs or self.slots() >= count, "give the executor two slots"

        def body() -> Any:
            calls = [meet.submit(tally, "here", count) for _ in range(count)]
            return [call.result() for call in calls]

        assert len(self.run(body)) == count

    def test_seeds_depend_on_nothing_but_the_item(self) -> None:
        def body() -> Any:
            return seed_of.map(range(6), [False, True] * 3).result()

        expected = [
            TaskRunContext("any", "seeded", "any", 0, "seed_of-0", "seed_of", k, 1).seed
            for k in range(6)
        ]
        assert self.run(body, name="seeded") == expected
        assert len(set(expected)) == len(expected)

    def test_flows_call_flows(self) -> None:
        @flow
        def inner(n: int) -> int:
            return sum(square.map(range(n)).result())

        def body() -> Any:
            return add.submit(inner(4), cast("Any", square.submit(2))).result()

        assert self.run(body) == 14 + 4

    def test_two_runs_share_a_warm_pool(self, shared: Path) -> None:
        tally, pool = Tally(shared / "tally"), self.pool

        def body(base: int) -> Any:
            note.submit(tally, "began").wait()
            tally.wait("began", 2)
            return add.map(range(base, base + 40), y=unmapped(1)).result()

        runs = [self.start(body, base) for base in (0, 1000)]
        assert [run.result(60) for run in runs] == [
            list(range(1, 41)),
            list(range(1001, 1041)),
        ]
        assert self.pool is pool
