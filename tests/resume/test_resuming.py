"""A run that did not complete goes on in the same process, and runs what is missing, once."""

import inspect
import random
import secrets
import threading
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

import headrace
from headrace import flow, task, unmapped
from headrace.core.errors import ConfigurationError, RunError, RunNotFoundError, TakenOverError
from headrace.core.recorded import RecordedRun


class Ledger(Counter[str]):
    """What the tests note down: its content is no part of the code that does."""

    def __headrace_fingerprint__(self) -> str:
        return "ledger"


class Names(set[str]):
    def __headrace_fingerprint__(self) -> str:
        return "names"


starts = Ledger()
broken = Names()


@pytest.fixture(autouse=True)
def fresh() -> None:
    starts.clear()
    broken.clear()


def begin(name: str, value: Any) -> None:
    starts[f"{name} {value}"] += 1
    if name in broken or f"{name} {value}" in broken:
        raise ValueError(f"{name} {value} is broken")


@task
def load(value: Any) -> Any:
    begin("load", value)
    return value


@task
def clean(value: Any, model: Any = None) -> str:
    begin("clean", value)
    return f"{value}{model or ''}"


@task
def count(text: str) -> int:
    begin("count", text)
    return len(text)


@task
def add(values: list[int]) -> int:
    begin("add", len(values))
    return sum(values)


def again(names: str) -> dict[str, int]:
    return {name: times for name, times in starts.items() if name.split()[0] in names.split()}


@flow(executor="threads")
def words(source: list[str]) -> int:
    return add(count.map(clean.map(source)))


def test_what_failed_runs_again_and_nothing_else():
    broken.add("clean b")
    run = words.start(["a", "b", "cc"])
    run.wait()
    assert run.state.name == "Failed"
    broken.clear()
    starts.clear()
    resumed = run.resume()
    assert resumed.id == run.id
    assert resumed.name == run.name
    assert resumed.result() == 4
    assert starts == {"clean b": 1, "count b": 1, "add 3": 1}
    assert RecordedRun(run.info.history, run.id).failures().num_rows == 0
    assert headrace.attach(run.id).record().state == "Completed"
    starts.clear()
    assert resumed.resume().result() == 4
    assert not starts


def test_a_call_of_the_flow_goes_on_with_its_run():
    broken.add("add")
    run = words.start(["a", "b"])
    run.wait()
    broken.clear()
    starts.clear()
    assert words(["a", "b"], resume=run.id) == 2
    assert starts == {"add 2": 1}
    with pytest.raises(RunError, match=r"other parameters \(source was"):
        words(["a", "b", "c"], resume=run)


@flow(executor="threads")
def listing() -> list[str]:
    cleaned = clean.map(available)
    cleaned.wait()  # a flow that raises pulls no more of its inputs
    return [future.result() for future in cleaned]


available: list[str] = []


def test_inputs_that_moved_are_known_again():
    available[:] = ["b", "c", "e", "x"]
    broken.add("clean x")
    run = listing.start()
    run.wait()
    broken.clear()
    starts.clear()
    available[:] = ["a", "c", "b", "d", "x"]
    assert run.resume().result() == ["a", "c", "b", "d", "x"]
    assert starts == {"clean a": 1, "clean d": 1, "clean x": 1}
    starts.clear()
    available.remove("a")
    assert run.resume().result() == ["c", "b", "d", "x"]
    assert not starts


def test_what_has_moved_in_pieces_is_known_to_the_next_driver_and_to_readers(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("headrace.core.engine._PULL_KNOWN", 50)
    available[:] = [str(number) for number in range(400)] + ["x"]
    broken.add("clean x")
    run = listing.start()
    run.wait()
    random.Random(1).shuffle(available)
    available[:0] = ["a", "b"]
    for expected in ({"clean a": 1, "clean b": 1, "clean x": 1}, {"clean x": 1}):
        starts.clear()
        run = run.resume()
        run.wait()
        assert starts == expected
        recorded = RecordedRun(run.info.history, run.id)
        for position, value in enumerate(available):
            item = recorded.item("clean-0", position)
            assert item.state.is_completed() == (value != "x")
            if value != "x":
                assert item.output == value


@flow(executor="threads", intermediates="drop")
def used_later() -> list[str]:
    loaded = load.map(available)
    loaded.wait()
    if broken:
        raise ValueError("enough")
    return clean.map(loaded).result()


def test_what_has_moved_in_pieces_is_dropped_when_all_of_it_was_used(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("headrace.core.engine._PULL_KNOWN", 50)
    available[:] = [str(number) for number in range(400)]
    broken.add("used_later")
    run = used_later.start()
    run.wait()
    broken.clear()
    random.Random(1).shuffle(available)
    assert run.resume().result() == available
    store = run.info.store.run(str(run.id))
    *told, _cleared = [r for r in store.journal().records() if r["type"] == "dropped"]
    paths = [path for record in told for path in record["parts"]]
    assert paths
    assert len(paths) == len(set(paths))


@flow(executor="threads")
def with_model() -> list[str]:
    model = load.submit("m")
    cleaned = clean.map(load.map(["a", "b"]), model=unmapped(model))
    return [clean.submit({"text": cleaned[0]}, model="!"), count.map(cleaned)]


@pytest.mark.parametrize("shape", ["single calls", "another order", "a chain"])
def test_what_stands_on_cached_values_is_known_whatever_computed_them(shape: str, tmp_path: Path):
    """Partitions of the run that did hold the ids of its own items."""
    texts = ["a" * size for size in range(10)]
    cached = load.with_options(cache_policy=headrace.INPUTS)
    cleaned = clean.with_options(cache_policy=headrace.INPUTS)

    @flow(executor="threads", storage=str(tmp_path))
    def before() -> None:
        if shape == "single calls":
            headrace.wait([cached.submit(text) for text in texts])
        else:
            cleaned.map(cached.map(texts[::-1]), unmapped("-")).wait()

    @flow(executor="threads", storage=str(tmp_path))
    def counted() -> list[int]:
        loaded = cached.map(texts)
        if shape == "a chain":
            loaded = cleaned.map(loaded, unmapped("-"))
        return count.map(loaded).result()

    before()
    long = "a" * 9 + "-" * (shape == "a chain")
    broken.add(f"count {long}")
    run = counted.start()
    run.wait()
    broken.clear()
    starts.clear()
    assert sum(run.resume().result()) == 45 + 10 * (shape == "a chain")
    assert starts == {f"count {long}": 1}


def test_futures_count_by_where_their_values_come_from():
    run = with_model.start()
    run.wait()
    assert run.state.is_completed()
    starts.clear()
    run.resume().wait()
    assert not starts


def test_what_was_made_from_a_lost_value_is_made_again(tmp_path: Path):
    run = with_model.with_options(storage=tmp_path).start()
    run.wait()
    model = min(run.engine.nodes.values(), key=lambda node: node.id)  # type: ignore[union-attr]
    (path,) = [receipt.part.path for receipt in model.items.receipts]
    (tmp_path / str(run.id) / path).unlink()
    starts.clear()
    run.resume().wait()
    assert starts["load m"] == 1
    assert starts["clean a"] == starts["clean b"] == 1
    assert not again("load").keys() - {"load m"}


@flow(executor="threads")
def keyed(rows: list[dict[str, Any]]) -> list[str]:
    return clean.map(rows, key=lambda row: row["id"])


def test_a_key_is_an_item_s_own_identity():
    rows = [{"id": 1, "seen": object}, {"id": 2, "seen": object}]
    run = keyed.start(rows)
    run.wait()
    starts.clear()
    rows[0]["seen"] = int
    run.resume().wait()
    assert not starts


@task(persist_result=False)
def passing(value: str) -> str:
    begin("passing", value)
    return value


@flow(executor="threads")
def not_kept() -> int:
    return add(count.map(passing.map(["a", "bb", "ccc"])))


def test_values_that_were_not_kept_are_not_made_again_in_vain():
    broken.add("count bb")
    run = not_kept.start()
    run.wait()
    broken.clear()
    starts.clear()
    assert run.resume().result() == 6
    # Where the two maps left one after the other, on a slow machine, its value had been kept on the way.
    assert starts.pop("passing bb", 1) == 1
    assert starts == {"count bb": 1, "add 3": 1}


@flow(executor="threads", intermediates="drop")
def dropping() -> int:
    cleaned = clean.map(["a", "bb", "ccc"])
    return add(count.map(cleaned))


def test_intermediates_that_were_dropped_are_not_made_again():
    broken.add("add")
    run = dropping.start()
    run.wait()
    assert not run.info.store.run(str(run.id)).receipts(0)
    broken.clear()
    starts.clear()
    assert run.resume().result() == 6
    assert starts == {"add 3": 1}


@flow(executor="threads", intermediates="drop")
def dropping_what_is_needed() -> Any:
    cleaned = clean.map(["a", "bb"])
    counted = count.map(cleaned)
    texts = total_length.submit(cleaned)
    return add.submit(counted).result() + texts.result()


@task
def total_length(texts: list[str]) -> int:
    begin("total_length", len(texts))
    return sum(map(len, texts))


def test_intermediates_that_were_dropped_and_are_needed_are_made_again():
    broken.add("add")
    run = dropping_what_is_needed.start()
    run.wait()
    broken.clear()
    assert run.resume().result() == 6
    assert starts["count a"] == starts["count bb"] == 1


source: list[int] = []


@flow(executor="threads")
def with_total() -> list[str]:
    total = add.submit(source)
    cleaned = clean.map(source, model=unmapped({"of": total, "by": len(source)}))
    return [future.result() for future in cleaned]


def test_other_static_arguments_make_other_items():
    source[:] = [1, 2]
    broken.add("clean 2")
    run = with_total.start()
    run.wait()
    broken.clear()
    source.append(3)
    starts.clear()
    (first, *_) = run.resume().result()
    assert first == "1{'of': 6, 'by': 3}"
    assert starts == {"add 3": 1, "clean 1": 1, "clean 2": 1, "clean 3": 1}


@flow(executor="threads")
def of_rows(rows: Any) -> int:
    return add(count.map([rows.pop()] if isinstance(rows, list) else rows))


def test_arguments_are_as_they_were_when_the_run_began():
    broken.add("add")
    run = of_rows.start(["a", "bb"])
    run.wait()
    used = of_rows.start(text for text in ("a", "bb"))
    used.wait()
    assert starts["count a"] == 1, "it was not read before its time"
    broken.clear()
    assert run.resume().result() == 2
    with pytest.raises(RunError, match=r"rows was a generator.*parameters="):
        used.resume()
    assert used.resume(parameters={"rows": iter(["a", "bb"])}).result() == 3


@flow(executor="threads")
def inner(which: str) -> str:
    return clean(load(which))


@flow(executor="threads")
def outer() -> list[str]:
    return [inner("a"), inner("b"), inner("a"), clean("end")]


def test_a_flow_s_own_calls_of_flows_are_the_same_runs_again():
    broken.add("clean end")
    run = outer.start()
    run.wait()
    children = {child.id for child in run.children}
    broken.clear()
    starts.clear()
    resumed = run.resume()
    assert resumed.result() == ["a", "b", "a", "end"]
    assert starts == {"clean end": 1}
    assert {child.id for child in resumed.children} == children


def test_history_may_be_gone(tmp_path: Path):
    broken.add("add")
    run = words.with_options(storage=tmp_path).start(["a", "bb"])
    run.wait()
    run.info.history.delete(run.id)
    broken.clear()
    starts.clear()
    with pytest.raises(RunNotFoundError):
        headrace.resume("nobody")
    with pytest.raises(RunError, match="there is no run at"):
        headrace.resume(uuid4(), storage=tmp_path)
    resumed = headrace.resume(run.id, storage=tmp_path)
    assert resumed.result() == 3
    assert starts == {"add 2": 1}
    assert headrace.attach(run.id).record().state == "Completed"


def test_the_journal_may_be_gone(tmp_path: Path):
    broken.add("clean bb")
    run = words.with_options(storage=tmp_path).start(["a", "bb", "c"])
    run.wait()
    for segment in (tmp_path / str(run.id) / "journal").iterdir():
        segment.unlink()
    broken.clear()
    starts.clear()
    assert run.resume().result() == 4
    assert starts == {"clean bb": 1, "count bb": 1, "add 3": 1}


def test_a_task_may_take_another_s_place():
    broken.add("clean b")
    run = words.start(["a", "b"])
    run.wait()
    starts.clear()

    @task(name="clean")
    def mended(value: str, model: Any = None) -> str:
        return value * 5

    assert run.resume(clean=mended).result() == 6
    assert starts == {"count bbbbb": 1, "add 2": 1}


@flow(executor="threads")
def secretive(password: dict[str, SecretStr], handle: Any = None) -> str:
    return clean("a")


def test_what_is_not_recorded_must_be_given_again(tmp_path: Path):
    secret = secrets.token_hex()
    run = secretive.with_options(storage=tmp_path).start(
        {"of": SecretStr(secret)}, handle=threading.Lock()
    )
    run.wait()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes()
    recorded = RecordedRun(run.info.history, run.id)
    with pytest.raises(
        RunError, match=r"(?=.*password holds a secret)(?=.*handle cannot be pickled).*parameters="
    ):
        recorded.resume()
    given = {"password": {"of": SecretStr(secret)}, "handle": None}
    assert recorded.resume(parameters=given).result() == "a"


def test_a_run_is_taken_over_only_by_force():
    release, waits, drivers = threading.Event(), threading.Event(), threading.Semaphore(0)

    @task
    def wait_here(value: int) -> int:
        waits.set()
        release.wait(60)
        return value

    @flow(executor="threads")
    def slow() -> int:
        drivers.release()
        clean("x")
        return wait_here(1)

    run = slow.start()
    assert waits.wait(60)
    with pytest.raises(RunError, match="its driver seems to be alive"):
        run.resume()
    taker = run.resume(force=True)
    assert drivers.acquire(timeout=60)
    assert drivers.acquire(timeout=60), "the second driver has the run"
    release.set()
    assert taker.result() == 1
    with pytest.raises(TakenOverError, match="was taken over by process"):
        run.result()


SOURCES = {clean.name: inspect.getsource(clean.fn)}


def rewritten(made: Any, old: str, new: str) -> Any:
    """A task whose text has been edited, as in a notebook cell that was run again."""
    text = SOURCES[made.name].replace(old, new)
    assert new in text
    space: dict[str, Any] = dict(globals())
    exec(compile(text, "<cell>", "exec"), space)
    return space[made.name]


@flow(executor="threads")
def three_steps(source: list[str]) -> Any:
    loaded = load.map(source)
    counted = count.map(clean.map(loaded))
    return [add.submit(counted).result(), clean.submit("alone").result(), load.submit("z")]


def test_what_other_code_made_runs_again_with_all_that_stands_on_it(monkeypatch: Any):
    run = three_steps.start(["a", "bb"])
    run.wait()
    starts.clear()
    run = run.resume(recompute="changed")
    run.wait()
    assert not starts, "nothing has changed"
    commented = rewritten(clean, "begin(", "# a remark\n    begin(")
    monkeypatch.setitem(globals(), "clean", commented)
    run = run.resume(recompute="changed")
    run.wait()
    assert not starts, "a comment is no code"
    monkeypatch.setitem(globals(), "clean", rewritten(clean, "{model or ''}", "!"))
    run = run.resume()
    run.wait()
    assert not starts, "what is finished stays"
    run = run.resume(recompute="changed")
    assert run.result()[0] == 5
    assert again("clean count") == {
        "clean a": 1, "clean bb": 1, "clean alone": 1, "count a!": 1, "count bb!": 1,
    }  # fmt: skip
    assert starts["add 2"] == 1
    assert not again("load")
    assert RecordedRun(run.info.history, run.id).item("clean-1").output == "alone!"
    starts.clear()
    run.resume(recompute="changed").wait()
    assert not starts
    with pytest.raises(ConfigurationError, match="recompute='all'"):
        run.resume(recompute="all")  # type: ignore[arg-type]


def test_what_was_made_of_older_values_is_not_taken_for_new(monkeypatch: Any):
    broken.update(["clean b", "count a"])
    run = words.start(["a", "b"])
    run.wait()
    broken.clear()
    monkeypatch.setitem(globals(), "clean", rewritten(clean, "{model or ''}", "!"))
    assert run.resume().result() == 3, "1 of the older value, 2 of the newer one"
    starts.clear()
    assert run.resume(recompute="changed").result() == 4
    assert again("clean") == {"clean a": 1}
    assert starts["count a!"] == 1


limit = 1


def bound(text: str) -> str:
    return text[:limit]


@task
def bounded(text: str) -> str:
    begin("bounded", text)
    return bound(text)


@flow(executor="threads")
def with_helper() -> str:
    return bounded("abc")


def test_a_helper_s_code_and_constants_count(monkeypatch: Any):
    run = with_helper.start()
    run.wait()
    monkeypatch.setitem(globals(), "limit", 2)
    assert run.resume(recompute="changed").result() == "ab"


@task
def climb(value: str) -> list[int]:
    step = headrace.context.checkpoint.load(0)
    starts[f"climb {value} {step}"] += 1
    if step < 3:
        headrace.context.checkpoint.save(step + 1)
        raise ValueError(f"{value} at {step}")
    return [step]


def test_a_resumed_item_goes_on_where_it_was_also_when_its_inputs_have_moved():
    moved = [["a", "b"], ["x", "a", "b"], ["b", "a", "x"], ["a", "x", "b"], ["a", "x", "b"]]

    @flow(executor="threads")
    def climbing() -> list[list[int]]:
        return climb.map(moved.pop(0)).result()

    run = climbing.start()
    run.wait()
    while moved:
        run = run.resume()
        run.wait()
    assert run.result() == [[3], [3], [3]]
    assert starts == {f"climb {value} {step}": 1 for value in "abx" for step in range(4)}
    assert run.info.store.run(str(run.id)).list("checkpoints/") == []


@flow(executor="threads")
def climbing_alone() -> list[int]:
    return climb.map(["a"]).result()[0]


def test_what_other_code_has_begun_is_begun_anew_where_changes_count(monkeypatch: Any):
    run = climbing_alone.start()
    run.wait()
    monkeypatch.setitem(SOURCES, "climb", inspect.getsource(climb.fn))
    monkeypatch.setitem(globals(), "climb", rewritten(climb, "[step]", "[step, step]"))
    run = run.resume()
    run.wait()
    run = run.resume(recompute="changed")
    run.wait()
    assert starts == {"climb a 0": 2, "climb a 1": 1}
