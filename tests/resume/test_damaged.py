"""Partitions that are not what was written: named when they are read, and made again by a resume."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace import flow, task
from headrace.core.errors import DamagedPartitionError, StorageError
from headrace.core.recorded import RecordedRun
from headrace.core.settings import settings_override
from headrace.storage import housekeeping
from headrace.storage import store as opened
from headrace.storage.store import ArrowRunStore, ArrowStore

starts: Counter[str] = Counter()
SIZE = 30


@task
def text(number: int) -> str:
    starts["text"] += 1
    return f"text {number}"


@task
def joined(texts: list[str]) -> str:
    starts["joined"] += 1
    return " ".join(texts)


@task
def length(text: str) -> int:
    return len(text)


@flow(executor="threads")
def texts() -> int:
    return length(joined(text.map(range(SIZE))))


EXPECTED = sum(len(f"text {n}") + 1 for n in range(SIZE)) - 1


@pytest.fixture(autouse=True)
def no_values_ride_along():
    """All is read from the store, as it is of large values."""
    starts.clear()
    with settings_override(inline_part_bytes=0, inline_bytes=0, inline_run_bytes=0):
        yield


def truncate(run: ArrowRunStore, path: str) -> None:
    run.write(path, run.read(path)[:-7])


def flip(run: ArrowRunStore, path: str) -> None:
    """One bit, at the end of the first third: in the data."""
    data = bytearray(run.read(path))
    data[len(data) // 3] ^= 1
    run.write(path, bytes(data))


def flip_footer(run: ArrowRunStore, path: str) -> None:
    data = bytearray(run.read(path))
    data[-40] ^= 1
    run.write(path, bytes(data))


def remove(run: ArrowRunStore, path: str) -> None:
    run.delete([path])


def done(store: Any) -> tuple[Any, ArrowRunStore, list[str]]:
    """A run that has completed, its store, and the partitions of its map."""
    run = texts.with_options(storage=store).start()
    assert run.result() == EXPECTED
    kept = run.info.store.run(str(run.id))
    starts.clear()
    opened._cache.cache_clear()  # as in another process
    return run, kept, [receipt.part.path for receipt in kept.receipts(0)]


@pytest.mark.parametrize("harm", [truncate, flip, flip_footer, remove])
@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_a_reader_names_it_and_a_resume_makes_it_again(
    scheme: str, harm: Callable[[ArrowRunStore, str], None], store_of: Callable[[str], Any]
):
    run, kept, _paths = done(store_of(scheme))
    (path,) = [r.part.path for r in kept.receipts(0) if SIZE - 1 in r.positions]
    harm(kept, path)

    def value() -> str:
        recorded = RecordedRun(run.info.history, run.id, run.info.store)
        return recorded.item("text-0", SIZE - 1).state.result()

    with pytest.raises(StorageError, match=path) as told:
        value()
    assert isinstance(told.value, DamagedPartitionError) == (harm is not remove)
    assert run.resume().result() == EXPECTED
    assert 0 < starts["text"] < SIZE, "only what was in it"
    assert value() == f"text {SIZE - 1}"
    starts.clear()
    assert run.resume().result() == EXPECTED
    assert not starts["text"]


@pytest.fixture
def store_of(tmp_path: Path) -> Callable[[str], Any]:
    def make(scheme: str) -> ArrowStore:
        if scheme == "local":
            return ArrowStore(tmp_path / "store")
        return ArrowStore(f"memory://{tmp_path}")

    return make


def test_without_a_reader_it_takes_verify(store_of: Callable[[str], Any]):
    """Remote stores check what they keep: there (as in memory) only a thorough look reads it all."""
    run, kept, paths = done(store_of("memory"))
    flip(kept, paths[0])
    assert run.resume().result() == EXPECTED
    assert not starts
    assert run.resume(verify=True).result() == EXPECTED
    assert 0 < starts["text"] < SIZE


@pytest.mark.parametrize("budget", [64 << 20, 1])
def test_the_newest_on_a_local_disk_are_always_looked_at(
    store_of: Callable[[str], Any], budget: int, monkeypatch: pytest.MonkeyPatch
):
    """The last one also where it is larger than what is read otherwise."""
    monkeypatch.setattr("headrace.storage.damage._NEWEST", budget)
    run, kept, paths = done(store_of("local"))
    flip(kept, paths[0])
    assert run.resume().result() == EXPECTED
    assert 0 < starts["text"] < SIZE


def test_a_task_that_meets_it_fails_with_its_name(store_of: Callable[[str], Any]):
    stored = store_of("local")

    @flow(executor="processes", storage=stored)
    def harmed() -> int:
        made = text.map(range(SIZE))
        made.wait()
        if not broken:
            (run_id,) = stored.runs()
            kept = stored.run(run_id)
            broken.append(kept.receipts(0)[-1].part.path)
            flip(kept, broken[0])
        return length(joined(made))

    broken: list[str] = []
    run = harmed.start()
    with pytest.raises(DamagedPartitionError) as told:
        run.result()
    assert broken[0] in str(told.value)
    assert run.resume().result() == EXPECTED


def test_a_mark_is_a_hint(store_of: Callable[[str], Any]):
    run, kept, paths = done(store_of("local"))
    kept.write(f"damaged/{paths[0]}", b"")
    assert run.resume().result() == EXPECTED
    assert not starts["text"]
    assert not kept.list("damaged/")


def test_a_damaged_partition_goes_with_a_sweep(store_of: Callable[[str], Any]):
    run, kept, paths = done(store_of("local"))
    flip(kept, paths[0])
    run.resume().wait()
    (swept,) = housekeeping.survey(kept.store, alive=lambda _: False, now=2e9 * 2, grace=1.0)
    assert swept.paths == (paths[0],)
