"""Runs that need the same keys at the same time: both compute them, or one does and the other waits."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace import INPUTS, context, flow, task, unmapped
from headrace.core import caching, claims, engine
from headrace.core.cache_policies import CachePolicy
from headrace.core.caching import Caching
from headrace.core.claims import Claims
from headrace.core.errors import ConfigurationError
from headrace.core.registry import open_store
from headrace.core.runs import FlowRun
from headrace.core.settings import settings_override
from headrace.testing import Tally

ITEMS = 12
ONE_AT_A_TIME = INPUTS.configure(isolation_level="SERIALIZABLE")


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (caching, engine):
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.2)
    with settings_override(storage=str(tmp_path / "store"), flush_seconds=0.1):
        yield


def slow(folder: Path, item: int) -> int:
    Tally(folder).note(str(item))
    time.sleep(0.1)
    if context.flow_name == "broken":
        raise RuntimeError("broken")
    return item * item


def begin(
    policy: CachePolicy, folder: Path, items: Any = range(ITEMS), *, name: str = "squares"
) -> FlowRun[list[int]]:
    @flow(name=name, executor="threads")
    def squares() -> list[int]:
        return task(slow, cache_policy=policy).map(unmapped(folder), items).result()

    return squares.start()


def counts(folder: Path) -> set[int]:
    return {Tally(folder).count(str(item)) for item in range(ITEMS)}


def test_one_run_computes_what_others_wait_for(tmp_path: Path) -> None:
    folder = tmp_path / "starts"
    runs = [begin(ONE_AT_A_TIME, folder, order) for order in (range(ITEMS), range(ITEMS)[::-1])]
    values = [run.result() for run in runs]
    assert values[0] == values[1][::-1] == [item * item for item in range(ITEMS)]
    assert counts(folder) == {1}


def test_by_default_each_computes_what_it_needs(tmp_path: Path) -> None:
    folder = tmp_path / "starts"
    runs = [begin(INPUTS, folder), begin(INPUTS, folder)]
    assert [run.result() for run in runs] == [[item * item for item in range(ITEMS)]] * 2
    assert 2 in counts(folder)


def test_what_fails_in_one_run_is_computed_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "starts"
    first = begin(ONE_AT_A_TIME, folder, name="broken")
    Tally(folder).wait("0")
    second = begin(ONE_AT_A_TIME, folder)
    first.wait()
    assert not first.state.is_completed()
    assert second.result() == [item * item for item in range(ITEMS)]


def test_two_runs_that_need_what_failed_in_the_other_do_not_wait_for_ever() -> None:
    done: list[object] = []
    go = threading.Event()

    def broken(item: object) -> object:
        done.append(item)
        if item in (1, 2):
            raise RuntimeError("broken")
        return item

    def items(own: int, other: int) -> Iterator[object]:
        yield own
        yield from (f"{own}-{number}" for number in range(3_000))
        go.wait()
        yield other

    def begin(own: int, other: int) -> FlowRun[None]:
        @flow(executor="threads")
        def both() -> None:
            task(broken, cache_policy=ONE_AT_A_TIME).map(items(own, other)).wait()

        return both.start()

    runs = [begin(1, 2), begin(2, 1)]
    while not {1, 2} <= set(done):
        time.sleep(0.01)
    go.set()
    for run in runs:
        run.wait(60)
        assert run.state.is_final()
    assert done.count(1) == done.count(2) == 2


def test_an_item_that_was_cancelled_is_left_to_others_at_once() -> None:
    """Its run goes on: another item of the map is not done."""
    go, started = threading.Event(), threading.Event()

    def wait(item: int) -> int:
        if item == 0:
            started.set()
            go.wait(60)
        return item

    def begin(items: list[int], *, cancel: int | None = None) -> FlowRun[None]:
        @flow(executor="threads")
        def waits() -> None:
            future = task(wait, cache_policy=ONE_AT_A_TIME).map(items)
            if cancel is not None:
                started.wait(60)
                assert future[cancel].cancel()
            future.wait()

        return waits.start()

    first = begin([0, *range(7, 40)], cancel=20)  # the first batch holds one item
    started.wait(60)
    second = begin([26])
    second.wait(60)
    try:
        assert second.state.is_completed(), "the first run holds what it does not compute"
        assert not first.state.is_final()
    finally:
        go.set()
    first.wait()


def test_equal_items_of_a_map_are_computed_once(tmp_path: Path) -> None:
    folder = tmp_path / "starts"
    assert begin(ONE_AT_A_TIME, folder, [3, 1, 3, 3, 2, 1]).result() == [9, 1, 9, 9, 4, 1]
    assert [Tally(folder).count(str(item)) for item in (1, 2, 3)] == [1, 1, 1]


def test_an_equal_item_is_computed_where_the_first_has_failed(tmp_path: Path) -> None:
    done = Tally(tmp_path / "starts")

    def once(item: int) -> int:
        if done.note(str(item)) == 1:
            raise RuntimeError("the first time")
        return item

    @flow(executor="threads")
    def twice() -> tuple[list[str], int]:
        future = task(once, cache_policy=ONE_AT_A_TIME).map([5, 5, 5])
        future.wait()
        return [state.name for state in future.states], done.count("5")

    states, starts = twice()
    assert sorted(states) == ["Cached", "Completed", "Failed"]
    assert starts == 2


def test_claims_of_a_driver_that_is_gone_lapse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LEASE_SECONDS", 0.5)
    shared = open_store(str(tmp_path / "store"), {}).shared()
    taken: list[set[bytes]] = []
    real = Caching._claim

    def after_another(self: Any, plan: Any, own: Claims, keys: Any) -> None:
        if not taken:
            other = Claims(shared, plan.base.task, plan.base.digest, "dead", "driver", 0)
            taken.append(other.take(set(keys), 0.0))
        real(self, plan, own, keys)
        taken.append(set(plan.held))

    monkeypatch.setattr(Caching, "_claim", after_another)
    assert begin(ONE_AT_A_TIME, tmp_path / "starts").result() == [i * i for i in range(ITEMS)]
    assert taken[0] == set()
    assert taken[1], "at first they were the other one's"
    assert not taken[-1]
    assert not shared.list("holders/"), "neither of them holds anything"


def test_claims_of_a_driver_that_was_killed_here_are_free_at_once(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from headrace.core.claims import Claims;"
        "from headrace.core.registry import open_store;"
        "claims = Claims(open_store(sys.argv[1], {}).shared(), 'task', 'base', sys.argv[2], 'd', 0);"
        "claims.take({b'k' * 16}, time.monotonic()); os.kill(os.getpid(), 9)"
    )
    store = str(tmp_path / "store")
    subprocess.run([sys.executable, "-c", script, store, "killed"], check=False)
    shared = open_store(store, {}).shared()
    (holder,) = shared.list("holders/")
    told = json.loads(shared.read(holder.path))
    keys = {b"k" * 16}
    mine = Claims(shared, "task", "base", "mine", "d", 0)
    shared.write(holder.path, json.dumps({**told, "host": "elsewhere"}).encode())
    assert mine.take(keys, time.monotonic()) == keys, "nobody knows whether it lives"
    shared.write(holder.path, json.dumps(told).encode())
    assert mine.take(keys, time.monotonic()) == set()
    assert [each.path for each in shared.list("holders/")] == ["holders/mine-d-0"]


def test_there_are_two_levels_and_they_are_no_part_of_keys() -> None:
    assert repr(ONE_AT_A_TIME) == repr(INPUTS), "by which keys are made"
    assert (ONE_AT_A_TIME + INPUTS - "x").serializable
    with pytest.raises(ConfigurationError, match="isolation_level='whatever'"):
        INPUTS.configure(isolation_level="whatever")
