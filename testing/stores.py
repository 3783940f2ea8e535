"""The suite that every store passes: objects put whole, one winner, values as they were, one journal."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest

from ..core.errors import (
    AlreadyExistsError,
    ConfigurationError,
    NotFoundError,
    StorageError,
    TakenOverError,
    UnstorableError,
)
from ..core.interfaces import (
    Batch,
    Encoder,
    Manifest,
    Positions,
    Receipt,
    RefColumn,
    RunStore,
    Stage,
    StageSpec,
    Store,
    data_prefix,
)

_WRITERS = 8
_NODE = 3


class Kept:
    """A value that is not Arrow's."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Kept) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


VALUES: Sequence[Any] = (
    *(1, 1.0, True, None, "text", "", b"bytes", 2**70, float("-inf")),
    *({"a": 1, "b": "x"}, {"a": 1.5, "b": "x"}, [{"a": 1}, {"b": 2}], (1, 2), {1, 2}, [1, 2.5]),
    Kept(4),
)


def encoder(run: RunStore, batch: int = 0, *, attempt: int = 1, inline_bytes: int = 0) -> Encoder:
    """An encoder as a worker has it."""
    spec = StageSpec("keep", b"", None, (), b"")
    made = Batch(
        run_id=run.run_id,
        id=batch,
        store=run,
        stages=(Stage(_NODE, "keep-0", "", attempt=attempt),),
        positions=Positions.span(0, 1_000),
        payload=b"",
        inline_bytes=inline_bytes,
    )
    return run.encoder(spec, made, 0)


def committed(
    run: RunStore, values: Sequence[Any], batch: int = 0, first: int = 0
) -> list[Receipt]:
    """Receipts of values, flushed as one batch from position ``first`` on."""
    worker = encoder(run, batch)
    for offset, value in enumerate(values):
        worker.add(first + offset, value, 10**18 + offset, 10**18 + offset + 5)
    return list(worker.flush())


def column_of(receipts: Sequence[Receipt], positions: Sequence[int]) -> RefColumn:
    """References to items, as the driver makes them from receipts."""
    places: dict[int, tuple[int, int, int, int]] = {}
    for number, receipt in enumerate(receipts):
        row = 0
        for index, position in enumerate(receipt.positions):
            rows = receipt.rows if isinstance(receipt.rows, int) else receipt.rows[index]
            places[position] = (number, index, row, rows)
            row += rows
    chosen = [places[position] for position in positions]
    return RefColumn(
        tuple(receipt.part for receipt in receipts),
        [place[0] for place in chosen],
        [place[1] for place in chosen],
        [place[2] for place in chosen],
        [place[3] for place in chosen],
        tuple(receipt.inline for receipt in receipts),
    )


class StoreConformance:
    """Subclass it as ``class TestMine`` and override the fixture ``store``."""

    @pytest.fixture
    def store(self) -> Store:
        """An empty store; a new one for each test."""
        raise NotImplementedError("override the fixture `store`")

    @pytest.fixture
    def run(self, store: Store) -> RunStore:
        """The prefix of one run."""
        return store.run(str(uuid4()))

    # ----------------------------------------------------------------------------------- objects

    def test_it_is_a_store_and_works(self, store: Store) -> None:
        assert isinstance(store, Store)
        store.check()
        assert store.runs() == []

    def test_objects_come_back_whole(self, run: RunStore) -> None:
        for path, data in {"header.json": b"{}", "a/b/c": b"", "a/big": bytes(3 << 20)}.items():
            run.write(path, data)
            assert run.read(path) == data
        run.write("header.json", b"another")
        assert run.read("header.json") == b"another"

    def test_what_is_not_there_is_told(self, run: RunStore) -> None:
        run.write("there", b"1")
        with pytest.raises(NotFoundError, match="missing/object"):
            run.read("missing/object")
        run.delete(["missing/object"])

    def test_paths_do_not_leave_the_prefix(self, run: RunStore) -> None:
        for path in ("../other", "/etc/passwd", "a/../../b", ""):
            with pytest.raises((ConfigurationError, StorageError)):
                run.write(path, b"no")

    def test_lists_are_sorted_and_by_prefix(self, run: RunStore) -> None:
        for path in ("data/b", "data/a", "data/a-2", "date", "data/c/d"):
            run.write(path, path.encode())
        assert [info.path for info in run.list("data/")] == [
            "data/a",
            "data/a-2",
            "data/b",
            "data/c/d",
        ]
        assert [info.path for info in run.list("data/a")] == ["data/a", "data/a-2"]
        assert [info.bytes for info in run.list("date")] == [4]
        assert run.list("nothing/") == []
        run.delete(["data/a", "data/c/d"])
        assert [info.path for info in run.list("")] == ["data/a-2", "data/b", "date"]

    def test_exactly_one_of_many_writers_wins(self, run: RunStore) -> None:
        def write(number: int) -> int | None:
            try:
                run.write("claim", str(number).encode(), if_absent=True)
            except AlreadyExistsError:
                return None
            return number

        with ThreadPoolExecutor(_WRITERS) as pool:
            winners = [number for number in pool.map(write, range(_WRITERS)) if number is not None]
        assert len(winners) == 1
        assert run.read("claim") == str(winners[0]).encode()

    def test_runs_are_apart_and_can_be_removed(self, store: Store) -> None:
        first, second = store.run("first"), store.run("second")
        for run in (first, second):
            run.write("header.json", run.run_id.encode())
        assert sorted(store.runs()) == ["first", "second"]
        assert store.remove("first") == len("first")
        assert store.runs() == ["second"]
        assert second.read("header.json") == b"second"
        assert first.list("") == []

    def test_it_travels(self, store: Store, run: RunStore) -> None:
        run.write("there", b"1")
        again = pickle.loads(pickle.dumps(run))
        assert again.run_id == run.run_id
        assert again.read("there") == b"1"
        assert pickle.loads(pickle.dumps(store)).url == store.url

    # ------------------------------------------------------------------------------------ values

    def test_values_come_back_with_their_types(self, run: RunStore) -> None:
        receipts = committed(run, VALUES)
        back = run.load(column_of(receipts, range(len(VALUES))))
        assert back == list(VALUES)
        assert [type(value) for value in back] == [type(value) for value in VALUES]

    def test_tables_come_back(self, run: RunStore) -> None:
        tables = [pa.table({"x": range(n)}) for n in (0, 1, 5)]
        back = run.load(column_of(committed(run, tables), [2, 0, 1]))
        assert [table.num_rows for table in back] == [5, 0, 1]
        assert back[0].equals(tables[2])

    def test_a_value_does_not_depend_on_its_neighbours(self, run: RunStore) -> None:
        alone = [committed(run, [value], batch=k, first=k) for k, value in enumerate(VALUES)]
        apart = [receipt for receipts in alone for receipt in receipts]
        positions = range(len(VALUES))
        together = committed(run, VALUES, batch=100)
        back, other = (run.load(column_of(r, positions)) for r in (apart, together))
        assert back == other
        assert [type(value) for value in back] == [type(value) for value in other]

    def test_small_partitions_ride_along(self, run: RunStore) -> None:
        worker = encoder(run, inline_bytes=1 << 20)
        worker.add(0, "value", 1, 2)
        (receipt,) = worker.flush()
        assert receipt.inline == run.read(receipt.part.path)
        run.delete([receipt.part.path])
        assert run.load(column_of([receipt], [0])) == ["value"]

    def test_a_snapshot_is_taken(self, run: RunStore) -> None:
        worker, value = encoder(run), {"a": [1]}
        worker.add(0, value, 1, 2)
        value["a"].append(2)
        assert run.load(column_of(list(worker.flush()), [0])) == [{"a": [1]}]

    def test_what_cannot_be_stored_is_told_and_harms_nobody(self, run: RunStore) -> None:
        worker = encoder(run)
        worker.add(0, 1, 1, 2)
        with pytest.raises(UnstorableError, match="lock"):
            worker.add(1, threading.Lock(), 1, 2)
        worker.add(2, 3, 1, 2)
        assert run.load(column_of(list(worker.flush()), [0, 2])) == [1, 3]

    def test_partitions_tell_of_themselves(self, run: RunStore) -> None:
        written = committed(run, [1, 2, "x"], batch=0) + committed(run, [5], batch=1, first=3)
        found = run.receipts(_NODE)
        assert {(r.part.path, r.positions, r.attempt, r.batch) for r in found} == {
            (r.part.path, r.positions, r.attempt, r.batch) for r in written
        }
        assert [r.batch for r in run.receipts(_NODE, 1)] == [1]
        assert run.receipts(_NODE + 1) == []
        assert all(r.part.path.startswith(data_prefix(_NODE)) for r in found)
        facts = run.item(found[0], next(iter(found[0].positions)))
        assert facts["attempt"] == 1

    def test_a_torn_partition_is_left_out(self, run: RunStore) -> None:
        (whole,) = committed(run, [1, 2, 3])
        (torn,) = committed(run, [4], batch=1, first=3)
        data = run.read(torn.part.path)
        run.delete([torn.part.path])
        run.write(torn.part.path, data[: len(data) // 2])
        assert [r.part.path for r in run.receipts(_NODE)] == [whole.part.path]
        with pytest.raises(StorageError):
            run.load(column_of([torn], [3]))

    def test_a_node_is_read_in_item_order(self, run: RunStore) -> None:
        late, early = committed(run, [3, 4], 1, first=3), committed(run, [0, 1, 2], 0)
        manifest = Manifest(_NODE, "keep-0", (*late, *early), 5)
        assert run.load_all(manifest) == [0, 1, 2, 3, 4]

    # ----------------------------------------------------------------------------------- journal

    def test_the_journal_keeps_records_in_order(self, run: RunStore) -> None:
        journal = run.journal()
        assert journal.take() == []
        journal.append([{"n": 1}, {"n": 2}])
        journal.append([{"n": 3}])
        assert [record["n"] for record in run.journal().records()] == [1, 2, 3]

    def test_a_second_writer_takes_over_and_the_first_stops(self, run: RunStore) -> None:
        first, second = run.journal(), run.journal()
        first.take()
        first.append([{"n": 1}])
        assert [record["n"] for record in second.take()] == [1]
        with pytest.raises(TakenOverError):
            first.append([{"n": 2}])
        second.append([{"n": 3}])
        assert [record["n"] for record in run.journal().records()] == [1, 3]
