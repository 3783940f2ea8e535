"""One item runs again in this process with what it was given."""

import random
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import headrace
from headrace import context, flow, get_run_logger, task, unmapped
from headrace.core.errors import ConfigurationError, RunError
from headrace.core.recorded import RecordedRun
from headrace.core.settings import settings_override

given: list[Any] = []


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path):
    given.clear()
    with settings_override(storage=str(tmp_path)):
        yield


def recorded(run: Any) -> RecordedRun:
    """The run as another process sees it."""
    return RecordedRun(run.info.history, run.id)


@task(on_error="quarantine")
def odd_ones(value: Any, plus: int, names: Any = None) -> Any:
    get_run_logger().info("got %s", value)
    given.append((value, plus, names))
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value + plus


@task(on_error="quarantine")
def below(value: Any, most: int = 4) -> int:
    given.append(value)
    if value > most:
        raise ValueError(f"{value} is too much at attempt {context.attempt}")
    return value


@flow(executor="threads")
def drawn() -> None:
    """Its input is gone when it has been used."""
    given.extend(numbers := [random.randrange(1 << 40) * 2 + 1 for _ in range(30)])
    odd_ones.map(iter(numbers), unmapped(1), names=unmapped(["a"])).wait()


@pytest.mark.parametrize("see", [lambda run: run, recorded], ids=["live", "recorded"])
def test_a_failed_item_gets_what_it_was_given(see: Any, capsys: pytest.CaptureFixture[str]):
    run = drawn.start()
    run.wait()
    numbers = given[:30]
    given.clear()
    item = see(run).item("odd_ones-0", 17)
    assert item.input == {"value": numbers[17], "plus": 1, "names": ["a"]}
    with pytest.raises(ValueError, match=f"{numbers[17]} is odd") as raised:
        item.replay()
    assert given == [(numbers[17], 1, ["a"])]
    assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "odd_ones"
    assert f"odd_ones-0[17] - got {numbers[17]}" in capsys.readouterr().err
    assert item.replay(lambda value, plus, names: value * plus) == numbers[17]
    assert item.attempts[-1].input.startswith(f"value={numbers[17]}")
    assert "odd_ones" in item.traceback
    assert [line.message for line in item.logs] == [f"got {numbers[17]}"]
    assert f"{numbers[17]} is odd" in str(item)
    assert str(item.state.message) in str(item.error)


@flow(executor="processes")
def chain(**options: Any) -> None:
    first = odd_ones.with_options(**options).map([0, 2, 4, 6], unmapped(1))
    below.with_options(retries=1).map(first, most=unmapped(4)).wait()


@pytest.mark.parametrize("kept", [True, False])
def test_an_item_of_a_chain(kept: bool):
    run = chain.start(persist_result=kept)
    run.wait()
    item = recorded(run).item("below-0", 3)
    with pytest.raises(ValueError, match="7 is too much at attempt 2"):
        item.replay()
    assert given == ([7] if kept else [(6, 1, None), 7]), "what is above it runs if it must"
    assert item.input == {"value": 7, "most": 4}
    assert ("data/00000" if kept else "odd_ones-0[3], not kept") in item.attempts[-1].input


def test_an_item_that_went_well_is_read_again():
    run = chain.start()
    run.wait()
    assert run.item("below-0", 1).replay() == 3
    assert run.item("odd_ones-0", 2).replay() == 5
    assert given == [3, (4, 1, None)]
    assert run.item("odd_ones-0", 2).output == 5
    with pytest.raises(RunError, match="is not kept: that is done for items that failed"):
        recorded(run).item("odd_ones-0", 2).replay()


changing: list[int] = []


@flow(executor="threads")
def of_what_changes() -> Any:
    return [odd_ones.map(changing, unmapped(0)), odd_ones.map(iter([2]), unmapped(0))]


def test_other_input_is_not_taken_for_the_item_s():
    changing[:] = [2, 4]
    run = of_what_changes.start()
    run.wait()
    changing[:] = [6]
    with pytest.raises(RunError, match="is not what it was given"):
        run.item("odd_ones-0", 0).replay()
    with pytest.raises(RunError, match="has no element 1 any more"):
        run.item("odd_ones-0", 1).replay()
    with pytest.raises(RunError, match="list_iterator, which can be read only once"):
        run.item("odd_ones-1", 0).replay()


@task
async def later(first: int, second: Any) -> int:
    return first // second["by"]


@flow(executor="threads")
def single() -> Any:
    return later.submit(below(1), {"by": below.submit(0)})


def test_a_single_call_and_a_coroutine():
    run = single.start()
    run.wait()
    item = recorded(run).item("later-0")
    assert item.input == {"first": 1, "second": {"by": 0}}
    with pytest.raises(ZeroDivisionError):
        item.replay()


@flow(executor="threads")
def guarded() -> Any:
    return [
        holding.map([SecretStr("hush"), threading.Lock(), 3]),
        holding.submit(SecretStr("hush")),
    ]


@task
def holding(value: Any) -> None:
    raise ValueError("in vain")


def test_neither_secrets_nor_what_cannot_be_pickled_are_kept(tmp_path: Path):
    run = guarded.start()
    run.wait()
    assert not [path for path in tmp_path.glob("*/given/*") if b"hush" in path.read_bytes()]
    for node, position in (("holding-0", 0), ("holding-0", 1), ("holding-1", 0)):
        with pytest.raises(RunError, match="unless it holds a secret"):
            recorded(run).item(node, position).replay()
        with pytest.raises(ValueError, match="in vain"):
            run.item(node, position).replay()
    assert recorded(run).item("holding-0", 2).input == {"value": 3}
    with settings_override(trust_storage=False), pytest.raises(ConfigurationError, match="trusted"):
        recorded(run).item("holding-0", 2).replay()


@flow(executor="threads")
def skipping() -> Any:
    first = odd_ones.with_options(on_error="raise").map([1, 2], unmapped(0))
    second = below.map(first)
    return [second, below.submit(first)]


def test_a_skipped_item_names_its_cause():
    run = skipping.start()
    run.wait()
    found = recorded(run)
    assert found.item("below-0", 0).state.message == (
        "'odd_ones-0' item 0 is Failed (ValueError: 1 is odd)"
    )
    assert found.item("below-1").state.message == "'odd_ones-0' did not complete"


SCRIPT = """
from headrace import flow, task

scale = 3

@task
def halve(x):
    if x % 10 == 9:
        raise ValueError(f"{x * scale} is odd")
    return x / 2

@flow(executor="threads")
def wide():
    return halve.map(iter(range(20)))

wide(return_state=True)
"""


def test_a_script_s_item_in_another_process(tmp_path: Path):
    with settings_override(home=tmp_path, storage=str(tmp_path / "s")):
        env = {"HEADRACE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
        env["HEADRACE_STORAGE"] = str(tmp_path / "s")
        subprocess.run([sys.executable, "-c", SCRIPT], env=env, check=True)
        run = headrace.attach(headrace.runs()[0].id)
        assert run.item("halve-0", 19).input == {"x": 19}
        with pytest.raises(ValueError, match="57 is odd"):
            run.item("halve-0", 19).replay()
