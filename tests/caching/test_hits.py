"""What is taken from the cache, and what is computed: over runs, flows, executors and processes."""

import os
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace import (
    FLOW_PARAMETERS,
    INPUTS,
    RUN_ID,
    TASK_SOURCE,
    flow,
    task,
    unmapped,
)
from headrace.core.cache_index import CacheTable, bases, read_base
from headrace.core.errors import FingerprintError, TaskFailed
from headrace.core.runs import FlowRun
from headrace.core.settings import settings_override

starts: Counter[str] = Counter()
lock = threading.Lock()
failing: list[Any] = []


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    store = tmp_path / "store"
    monkeypatch.setenv("HEADRACE_STORAGE", str(store))
    monkeypatch.setenv("HEADRACE_STARTS", str(tmp_path / "starts"))
    starts.clear()
    failing.clear()
    with settings_override(storage=str(store)):
        yield store


def begin(name: str, value: Any = "") -> None:
    """Counted here and, for other processes, in a file."""
    with lock:
        starts[name] += 1
    with open(os.environ["HEADRACE_STARTS"], "a") as file:
        file.write(f"{name}\n")
    if value in failing:
        raise ValueError(f"{value} is broken")


def counted() -> Counter[str]:
    """Starts since the last time."""
    found = Counter(starts)
    starts.clear()
    return found


@task(cache_policy=INPUTS)
def double(x: int, times: int = 2) -> int:
    begin("double", x)
    return times * x


@task
def plain(x: Any) -> Any:
    begin("plain", x)
    return x


@task(cache_policy=INPUTS)
def total(xs: Any) -> int:
    begin("total")
    return sum(xs)


def run(body: Any, executor: str = "threads", **options: Any) -> FlowRun[Any]:
    made: Any = flow(body, executor=executor, **options)
    made = made.start()
    made.wait()
    return made


# ------------------------------------------------------------------------------ single and mapped


def test_calls_of_all_kinds_share_the_cache():
    def first() -> int:
        return double.submit(3).result()

    def second() -> Any:
        single, mapped = double.submit(3), double.map([3, 4], times=unmapped(2))
        mapped.wait()
        return single.state.name, double(3), [s.name for s in mapped.states], mapped.result()

    assert run(first).result() == 6
    assert counted() == {"double": 1}
    assert run(second).result() == ("Cached", 6, ["Cached", "Completed"], [6, 8])
    assert counted() == {"double": 1}


def test_a_map_hits_item_by_item_wherever_they_stand():
    assert run(lambda: double.map(range(100)).result()).result() == [2 * i for i in range(100)]
    counted()

    def mixed() -> Any:
        future = double.map([*range(150, 90, -1), 5, 5, 5])
        return future.result(), future.counts(), future.state.name

    values, counts, state = run(mixed).result()
    assert values == [2 * i for i in [*range(150, 90, -1), 5, 5, 5]]
    assert counts == {"Completed": 51, "Cached": 12}
    assert state == "Completed"
    assert counted() == {"double": 51}


def test_hits_are_references_to_the_earlier_run(own_store: Path):
    def rows() -> Any:
        return make_rows.map(range(20)).dataset().to_table()

    @task(cache_policy=INPUTS)
    def make_rows(x: int) -> pa.Table:
        begin("rows")
        return pa.table({"x": [x] * x})

    first = run(rows)
    again = run(rows)
    assert again.result().equals(first.result())
    assert counted() == {"rows": 20}
    assert not list((own_store / str(again.id) / "data").rglob("*.arrow"))
    item = again.item(again.nodes()[0].key, 7)
    assert item.state.name == "Cached"
    assert item.state.result() == pa.table({"x": [7] * 7})


def test_values_of_a_run_that_was_deleted_are_computed_again(own_store: Path):
    first = run(lambda: double.map(range(5)).result())
    first.info.store.remove(str(first.id))
    assert run(lambda: double.map(range(5)).result()).result() == [0, 2, 4, 6, 8]
    assert counted() == {"double": 10}
    assert run(lambda: double.map(range(5)).result()).result() == [0, 2, 4, 6, 8]
    assert not counted()


def test_a_lost_or_damaged_index_costs_hits_only(own_store: Path):
    first = run(lambda: double.map(range(5)).result())
    (segment,) = (own_store / ".shared").rglob("*.jsonl")
    segment.write_text(segment.read_text()[:-40] + "\nnonsense\n")
    assert run(lambda: double.map(range(5)).result()).result() == first.result()
    segment.unlink()
    assert run(lambda: double.map(range(5)).result()).result() == first.result()


def test_runs_of_a_store_are_its_runs_alone(own_store: Path):
    made = run(lambda: double.submit(1).result())
    assert made.info.store.runs() == [str(made.id)]


# --------------------------------------------------------------------------------- which calls


def test_only_what_completed_is_cached():
    failing.append(1)
    broken = run(lambda: double.map([0, 1, 2], times=3).result())
    assert broken.state.name == "Failed"
    failing.clear()
    counted()
    assert run(lambda: double.map([0, 1, 2], times=3).result()).result() == [0, 3, 6]
    assert counted() == {"double": 1}


def test_arguments_count_and_those_left_out_do_not():
    told = double.with_options(cache_policy=INPUTS - "times")
    assert run(lambda: (double(1), double(1, times=3))).result() == (2, 3)
    assert run(lambda: (told(1), told(1, times=3))).result() == (2, 2)
    assert counted() == {"double": 3}


def test_equal_arguments_of_other_tasks_do_not_hit():
    @task(cache_policy=INPUTS)
    def half(x: int, times: int = 2) -> float:
        return x / times

    assert run(lambda: (double(4), half(4))).result() == (8, 2.0)


def test_lambdas_and_nested_functions_are_told_apart_by_their_code():
    def made(n: int) -> Any:
        @task(cache_policy=INPUTS)
        def add(x: int) -> int:
            begin("add")
            return x + n

        return add

    assert run(lambda: (made(1)(1), made(2)(1), made(1)(1))).result() == (2, 3, 2)
    assert counted() == {"add": 2}


def test_the_run_and_the_flow_s_parameters_count_where_they_are_asked_to():
    own = double.with_options(cache_policy=INPUTS + RUN_ID)
    each = double.with_options(cache_policy=INPUTS + FLOW_PARAMETERS)

    @flow(executor="threads")
    def calls(region: str) -> list[int]:
        return [own(1), own(1), each(1), each(1)]

    assert calls("a") == calls("a") == calls("b") == [2] * 4
    assert counted() == {"double": 3 + 2}


def test_values_expire():
    brief = double.with_options(cache_expiration=timedelta(microseconds=1), cache_policy=INPUTS)
    long = double.with_options(cache_expiration=timedelta(days=1), cache_policy=INPUTS)
    assert run(lambda: [brief(1), brief(1)]).result() == [2, 2]
    assert counted() == {"double": 2}
    assert run(lambda: [long(2), long(2), brief(2)]).result() == [4, 4, 4]
    assert counted() == {"double": 2}, "who asks may want it fresher than who wrote it"


def test_refreshing_computes_and_takes_the_place_of_what_is_there():
    @task(cache_policy=INPUTS)
    def drawn(x: int) -> int:
        begin("drawn")
        return starts["drawn"]

    fresh = drawn.with_options(refresh_cache=True)
    assert run(lambda: [drawn(0), drawn(0), fresh(0), drawn(0)]).result() == [1, 1, 2, 2]
    assert run(lambda: drawn(0)).result() == 2


def test_a_function_of_the_user_s_makes_keys():
    def by_name(context: Any, parameters: dict[str, Any]) -> str | None:
        assert context.task.name == "upper"
        name = parameters["row"]["name"]
        return None if name == "never" else name

    @task(cache_key_fn=by_name)
    def upper(row: dict[str, Any]) -> str:
        begin("upper")
        return row["name"].upper()

    rows = [{"name": n, "at": i} for i, n in enumerate(["a", "b", "never"])]
    later = [{**row, "at": 9} for row in rows]
    assert run(lambda: upper.map(rows).result()).result() == ["A", "B", "NEVER"]
    assert run(lambda: upper.map(later).result()).result() == ["A", "B", "NEVER"]
    assert run(lambda: upper.submit(plain.submit(rows[0])).result()).result() == "A"
    assert counted() == {"upper": 4, "plain": 1}


def test_a_key_function_that_fails_fails_its_item():
    def odd(context: Any, parameters: dict[str, Any]) -> Any:
        return 5 if parameters["x"] == 1 else str(parameters["x"])

    keyed = double.with_options(cache_policy=None, cache_key_fn=odd)
    made = run(lambda: [s.name for s in keyed.map([0, 1, 2], return_state=True)])
    assert made._value == ["Completed", "Failed", "Completed"]


def test_what_has_no_fingerprint_is_an_error_that_names_task_and_argument():
    def calls() -> Any:
        future = total.map([[1], iter([1]), [2]])
        future.wait()
        return [s.name for s in future.states], future[1].result(raise_on_failure=False)

    states, error = run(calls).result()
    assert states == ["Completed", "Failed", "Completed"]
    assert isinstance(error, FingerprintError | TaskFailed)
    assert "argument 'xs' of task 'total'" in str(error)
    assert "NO_CACHE" in str(error)


def test_a_nested_task_that_closes_over_what_has_none_is_an_error():
    values = iter([1, 2, 3])

    @task(cache_policy=INPUTS)
    def drawn(x: int) -> int:
        return next(values)

    with pytest.raises(FingerprintError, match="task 'drawn', closure variable 'values'"):
        run(lambda: drawn(0)).result()


def test_code_without_fingerprint_is_an_error_where_the_task_is_called():
    @task(cache_policy=TASK_SOURCE)
    def reads() -> int:
        return next(handle)

    with pytest.raises(FingerprintError, match="task 'reads', global 'handle'"):
        run(lambda: [reads()]).result()


handle: Iterator[int] = iter([1])


# -------------------------------------------------------------------------------------- chains


def test_chains_of_cached_and_uncached_maps():
    def chain() -> Any:
        heads = double.map(range(50))
        middle = plain.map(heads)
        tail = double.map(heads, times=unmapped(3))
        last = double.map(middle)
        return [f.result() for f in (middle, tail, last)]

    expected = [[2 * i for i in range(50)], [6 * i for i in range(50)], [4 * i for i in range(50)]]
    assert run(chain).result() == expected
    assert counted()["plain"] == 50
    made = run(chain)
    assert made.result() == expected
    assert counted() == {"plain": 50, "double": 50}, "what hangs on an uncached map is computed"
    counts = {node.key: dict(node.counts) for node in made.nodes()}
    assert counts["double-0"] == counts["double-1"] == {"Cached": 50}
    assert counts["double-2"] == {"Completed": 50}


def test_a_partly_cached_head_feeds_what_is_fused_to_it():
    run(lambda: double.map(range(0, 100, 3)).result())
    counted()
    made = run(lambda: plain.map(double.map(range(100))).result())
    assert made.result() == [2 * i for i in range(100)]
    assert counted() == {"plain": 100, "double": 66}


def test_futures_count_by_the_commit_that_holds_their_value():
    def calls() -> Any:
        head = double.submit(1)
        head.wait()
        whole = double.map(range(3))
        return total.submit([head, head]).result(), total.submit(whole).result()

    assert run(calls).result() == (4, 6)
    assert run(calls).result() == (4, 6)
    assert counted() == {"double": 3, "total": 2}  # range(3) has the 1 that was called before


def test_futures_inside_a_map_s_inputs():
    def calls() -> Any:
        heads = [double.submit(i) for i in range(3)]
        return total.map([[h, 1] for h in heads]).result()

    assert run(calls).result() == run(calls).result() == [1, 3, 5]
    assert counted() == {"double": 3, "total": 3}


def test_intermediates_of_cached_tasks_stay():
    def chain() -> Any:
        return plain.map(double.map(range(10))).result()

    assert run(chain, intermediates="drop").result() == [2 * i for i in range(10)]
    counted()
    assert run(chain, intermediates="until_run_ends").result() == [2 * i for i in range(10)]
    assert counted() == {"plain": 10}
    run(chain)
    assert counted() == {"plain": 10}


# ------------------------------------------------------------------------------- other processes

SCRIPT = """
    import os, sys
    from headrace import INPUTS, TASK_SOURCE, flow, task
    from job_helper import helped

    @task(cache_policy=INPUTS + TASK_SOURCE)
    def work(x):
        with open(os.environ["HEADRACE_STARTS"], "a") as file:
            file.write("work\\n")
        return helped(x)

    @flow
    def job():
        return sum(work.map(range(10)).result())

    print(job.with_options(executor=sys.argv[1])())
"""


def script(folder: Path, executor: str, helper: str) -> tuple[str, int]:
    """What the script prints, and how often its task was started."""
    begun = Path(os.environ["HEADRACE_STARTS"])
    begun.unlink(missing_ok=True)
    (folder / "job.py").write_text(textwrap.dedent(SCRIPT))
    (folder / "job_helper.py").write_text(f"def helped(x):\n    return {helper}\n")
    environment = {**os.environ, "PYTHONHASHSEED": str(len(executor)), "HEADRACE_DISPLAY": "none"}
    command = [sys.executable, "-B", str(folder / "job.py"), executor]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip(), len(begun.read_text().split()) if begun.exists() else 0


def test_hits_across_processes_and_executors_until_a_helper_changes(tmp_path: Path):
    assert script(tmp_path, "processes", "x + 1") == ("55", 10)
    assert script(tmp_path, "threads", "x + 1  # the same") == ("55", 0)
    assert script(tmp_path, "inline", "x + 2") == ("65", 10)
    assert script(tmp_path, "processes", "x + 2") == ("65", 0)


# ------------------------------------------------------------------------------------ and resume


def test_a_resumed_run_takes_its_own_commits_first_and_the_cache_s_then():
    run(lambda: double.map(range(10)).result())
    failing.append(12)

    @flow(executor="threads")
    def maps() -> Any:
        return sum(plain.map(double.map(range(20))).result())

    made = maps.start()
    made.wait()
    assert made.state.name == "Failed"
    failing.clear()
    counted()
    again = made.resume()
    assert again.result() == 2 * sum(range(20))
    # 12 failed as an input of double; 6 of double's values is 12, at which plain failed.
    assert counted() == {"double": 1, "plain": 2}
    counts = {node.key: dict(node.counts) for node in again.nodes()}
    assert counts["double-0"] == {"Completed": 10, "Cached": 10}


# ----------------------------------------------------------------------------------- the index


def test_many_segments_are_put_together(own_store: Path):
    store = run(lambda: double(0)).info.store
    shared = store.shared()
    (name,) = {path.split("/")[1] for path in (info.path for info in shared.list("cache/"))}
    (folder,) = bases(shared, name)
    (path,) = (info.path for info in shared.list(folder))
    for number in range(40):
        shared.write(f"{folder}{number:020d}-00000000.jsonl", shared.read(path))
    table = CacheTable.load(store, folder)
    assert len(table.lines) == 41
    assert len(shared.list(folder)) == 1
    assert len(read_base(shared, folder)[1]) == 41
    assert run(lambda: double(0)).result() == 0
    assert counted() == {"double": 1}
