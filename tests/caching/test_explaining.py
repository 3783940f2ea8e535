"""Why an item was taken from the cache, or not, in the words of its future and of the command."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace import FLOW_PARAMETERS, INPUTS, RUN_ID, TASK_SOURCE, flow, task, unmapped
from headrace.core.caching import Caching
from headrace.core.explaining import Explanation
from headrace.core.settings import settings_override

FACTOR = [2]


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path) -> Iterator[Path]:
    with settings_override(storage=str(tmp_path / "store")):
        yield tmp_path / "store"


@task(cache_policy=INPUTS)
def scale(x: int, by: int = 2) -> int:
    return x * by


@task(cache_policy=INPUTS + TASK_SOURCE)
def scaled(x: int) -> int:
    return x * FACTOR[0]


def explained(*tasks: Any, arguments: tuple[Any, ...] = (1,)) -> list[Explanation]:
    @flow(executor="threads")
    def calls() -> list[Explanation]:
        return [each.submit(*arguments).explain() for each in tasks]

    return calls()


def test_a_task_without_a_policy_is_not_cached():
    (told,) = explained(scale.with_options(cache_policy=None))
    assert told.hit is None
    assert "no cache policy" in told.reason


def test_the_first_call_has_nothing_to_be_held_against_and_the_second_hits():
    first, second = explained(scale, scale)
    assert (first.hit, second.hit) == (False, True)
    assert "no earlier entry" in first.reason
    assert second.run and second.run in str(second)


def test_the_argument_that_differs_is_named_with_both_values():
    explained(scale, arguments=(1, 5))
    (told,) = explained(scale, arguments=(1, 6))
    assert (told.hit, told.part, told.before, told.now) == (False, "argument 'by'", "5", "6")


def test_the_nearest_entry_is_the_one_that_shares_most():
    for arguments in ((7, 6), (1, 5), (8, 8)):
        explained(scale, arguments=arguments)
    (told,) = explained(scale, arguments=(1, 6))
    assert (told.part, told.before, told.now) in {
        ("argument 'x'", "7", "1"),
        ("argument 'by'", "5", "6"),
    }


def test_code_that_differs_is_named(monkeypatch: pytest.MonkeyPatch):
    explained(scaled)
    monkeypatch.setitem(globals(), "FACTOR", [3])
    (told,) = explained(scaled)
    assert (told.hit, told.part) == (False, "code: global 'FACTOR'")


def test_the_policy_the_run_and_flow_parameters_are_named():
    (first,) = explained(scale)
    told = explained(scale.with_options(cache_policy=INPUTS + RUN_ID))[0]
    assert (told.part, told.before, told.now) == ("policy", "INPUTS", "INPUTS + RUN_ID")
    again = explained(scale.with_options(cache_policy=INPUTS + RUN_ID))[0]
    assert (again.part, again.before) == ("run", again.run)

    @flow(executor="threads")
    def region(name: str) -> Explanation:
        own = scale.with_options(cache_policy=INPUTS + FLOW_PARAMETERS)
        return own.submit(1).explain()

    region("north")
    told = region("south")
    assert (told.part, told.before, told.now) == ("flow parameter 'name'", "'north'", "'south'")
    assert not first.hit


def test_expiry_refreshing_and_loss_are_told(own_store: Path):
    explained(scale)
    brief = scale.with_options(cache_expiration=timedelta(microseconds=1), cache_policy=INPUTS)
    fresh = scale.with_options(refresh_cache=True)
    expired, refreshed = explained(brief, fresh)
    assert "expired" in expired.reason
    assert "refresh_cache" in refreshed.reason
    for partition in own_store.glob("*/data/*/*.arrow"):
        partition.unlink()
    (lost,) = explained(scale)
    assert "gone" in lost.reason


def test_an_item_of_a_map_and_one_that_failed():
    @flow(executor="threads")
    def maps(by: Any) -> list[Explanation]:
        futures = scale.map([1, 2, 3], by=unmapped(by))
        futures.wait()
        return [future.explain() for future in futures]

    maps(5)
    for position, told in enumerate(maps(6)):
        assert told.item == f"scale-0/{position}"
        assert (told.part, told.before, told.now) == ("argument 'by'", "5", "6")
    assert all(told.hit for told in maps(6))

    @flow(executor="threads")
    def failing() -> Explanation:
        return scale.submit(1, by=None).explain()  # type: ignore[arg-type]

    told = failing.start()
    told.wait()
    assert told._value.part == "argument 'by'"


def test_an_item_that_has_just_ended_is_told_what_its_entry_says(monkeypatch: pytest.MonkeyPatch):
    """Its state is final before the engine's thread has told the journal of it."""
    committed = Caching.committed

    def late(*arguments: Any) -> None:
        committed(*arguments)
        time.sleep(0.3)

    monkeypatch.setattr(Caching, "committed", late)

    @flow(executor="threads")
    def asks(by: int) -> Explanation:
        future = scale.submit(1, by)
        while not future.done():
            time.sleep(0.001)
        return future.explain()

    asks(5)
    told = asks(6)
    assert (told.part, told.before, told.now) == ("argument 'by'", "5", "6"), told.reason


def test_the_command_tells_it_of_a_run_that_is_over(own_store: Path):
    @flow(executor="threads")
    def maps(by: int) -> list[int]:
        return scale.map([1, 2], by=unmapped(by)).result()

    maps(5)
    run = maps.start(6)
    run.wait()
    assert run.explain("scale-0", 1).part == "argument 'by'"
    command = [sys.executable, "-m", "headrace.cli.main", "explain", str(run.id)]
    whole = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "scale-0/0  miss     argument 'by' was 5" in whole
    one = [*command, "scale-0", "1", "--json"]
    (told,) = json.loads(subprocess.run(one, check=True, capture_output=True, text=True).stdout)
    assert (told["part"], told["before"], told["now"]) == ("argument 'by'", "5", "6")
