"""The encoder commits what was added, once, also when the store fails or a thread flushes beside."""

import dataclasses
import sys
import threading
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from storage.batches import SPEC, commit, encoder

from headrace.core.errors import DamagedPartitionError, StorageError, UnstorableError
from headrace.core.identity import item_id, item_ids
from headrace.core.interfaces import Manifest, Part, Positions, RefColumn
from headrace.storage import partitions
from headrace.storage.conforming import conform
from headrace.storage.itemtables import Header, ItemTable
from headrace.storage.localfiles import LocalObjects
from headrace.storage.rowforms import freeze_rows
from headrace.storage.store import ArrowRunStore, ArrowStore


def test_receipts_tell_what_was_committed(local_run: ArrowRunStore):
    one = encoder(local_run, batch=7, node=3, attempt=2, inline_bytes=100)
    second = 10**9
    one.add(5, "a", 100 * second, 101 * second)
    one.add(4, "b", 102 * second, 104 * second)
    one.add(9, "c" * 1000, 103 * second, 103 * second)
    (receipt,) = one.flush()
    assert (receipt.node, receipt.batch, receipt.attempt) == (3, 7, 2)
    assert receipt.positions == Positions(((4, 6), (9, 10)))
    assert receipt.rows == 1
    assert (receipt.started, receipt.ended, receipt.busy_seconds) == (100, 104, 3)
    assert receipt.inline is None
    assert receipt.part.kind == "str"
    assert receipt.part.path.startswith("data/00003/00000007-")
    assert local_run.item(receipt, 4) == {"started": 102, "ended": 104, "attempt": 2, "id": None}
    assert local_run.item(receipt, 9)["ended"] == 103
    with pytest.raises(LookupError):
        local_run.item(receipt, 6)
    assert local_run.load_all(Manifest(3, "k", (receipt,), 10)) == ["b", "a", "c" * 1000]
    assert one.flush() == ()


def test_rows_of_items_are_told_where_they_differ(local_run: ArrowRunStore):
    tables = [pa.table({"a": pa.array(range(n), pa.int64())}) for n in (2, 0, 3)]
    manifest = commit(local_run, tables, inline_bytes=0)
    (receipt,) = manifest.receipts
    assert receipt.rows == (2, 0, 3)
    assert local_run.receipts(0) == [receipt]
    got = local_run.load_all(manifest)
    assert all(a.equals(b) for a, b in zip(got, tables, strict=True))


def test_small_partitions_ride_along(local_run: ArrowRunStore):
    manifest = commit(local_run, list(range(10)), inline_bytes=1 << 20)
    (receipt,) = manifest.receipts
    assert receipt.inline == local_run.read(receipt.part.path)
    local_run.delete([receipt.part.path])
    assert local_run.load_all(manifest) == list(range(10))


def test_ids_of_inputs_are_kept(local_run: ArrowRunStore):
    ids = item_ids([["a", "b", "c"]])
    one = encoder(local_run, positions=Positions.span(3, 6), ids=ids)
    one.add(5, 1, 1, 2)
    one.add(4, 2, 1, 2)
    (receipt,) = one.flush()
    assert receipt.ids == ids[16:] == item_id("b") + item_id("c")
    assert local_run.ids([receipt.part], [None]) == [receipt.ids]
    assert local_run.item(receipt, 5)["id"] == item_id("c").hex()


def test_one_exact_type_makes_one_partition(local_run: ArrowRunStore):
    manifest = commit(
        local_run, [1, 2, 1.5, "a", True, None, 2**70, {"a": 1}, {"a": None}, {"b": "x"}]
    )
    kinds = sorted(receipt.part.kind for receipt in manifest.receipts)
    assert kinds == ["bool", "float", "int", "none", "pickled", "row", "str"]


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns a thousand times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_a_thread_may_flush_while_another_adds(local_run: ArrowRunStore):
    one = encoder(local_run)
    count = 20_000
    done = threading.Event()
    receipts: list[Any] = []

    def flush() -> None:
        while not done.is_set():
            receipts.extend(one.flush())

    thread = threading.Thread(target=flush)
    thread.start()
    values = [i if i % 3 else {"a": i, "b": "x"} for i in range(count)]
    for i, value in enumerate(values):
        one.add(i, value, i, i + 1)
    done.set()
    thread.join()
    receipts.extend(one.flush())
    assert len(receipts) > 2
    assert one.pending_bytes == 0
    assert local_run.load_all(Manifest(0, "k", tuple(receipts), count)) == values
    assert sum(len(receipt.positions) for receipt in receipts) == count


def test_what_could_not_be_put_stays_pending(
    local_run: ArrowRunStore, monkeypatch: pytest.MonkeyPatch
):
    one = encoder(local_run)
    values = [1, "a", 2.5, [1], {"a": 1}]
    for i, value in enumerate(values):
        one.add(i, value, 1, 2)
    real = LocalObjects.write
    puts = 0

    def failing(self: LocalObjects, path: str, data: Any, *, if_absent: bool = False) -> None:
        nonlocal puts
        puts += 1
        if puts == 3:
            raise StorageError("the disk is full")
        real(self, path, data, if_absent=if_absent)

    monkeypatch.setattr(LocalObjects, "write", failing)
    with pytest.raises(StorageError, match="full"):
        one.flush()
    receipts = one.flush()
    assert one.pending_bytes == 0
    assert sorted(p for receipt in receipts for p in receipt.positions) == [0, 1, 2, 3, 4]
    assert local_run.receipts(0) == sorted(receipts, key=lambda r: r.part.path) or all(
        receipt.inline for receipt in receipts
    )
    assert local_run.load_all(Manifest(0, "k", receipts, 5)) == values


@pytest.mark.parametrize(
    "values",
    [
        [3, 1, -(2**63), 2**70, True],
        ["a", "", "\ud800", b"\0", None, 1.5, float("inf")],
        [{"a": 1, "b": "x"}, {"a": 2, "b": "y" * 100}],
        [{"a": 1}, {"a": 2**70}, {"a": 3}],
        [{"a": 1}, {"a": 2}, {"a": 1.5}, {"a": 2}],
        [{"a": 1}, {"a": 2}, {"a": 2}, {"a": 1.5}],
        [{"a": 1}, {"a": None}, {"b": 1, "a": 2}, {"a": 1, "b": 2}, {}],
        [{"\ud800": 1}, {"a": "\ud800"}],
        [1, {"a": 1}, "x"],
    ],
    ids=repr,
)
def test_a_column_is_stored_as_its_items_are(local_run: ArrowRunStore, values: list[Any]):
    count = len(values)
    apart, together = encoder(local_run, node=1), encoder(local_run, node=2)
    for i, value in enumerate(values):
        apart.add(10 - i, value, 10**9 * i, 10**9 * (i + 2))
    second = 10**9 * np.arange(count, dtype=np.int64)
    where = 10 - np.arange(count, dtype=np.int64)
    cut = count // 2
    for part in (slice(0, cut), slice(cut, count)):
        chosen = [dict(v) if isinstance(v, dict) else v for v in values[part]]
        times = second[part], second[part] + 2 * 10**9
        together.add_plain(where[part], chosen, set(map(type, chosen)), *times)
    assert together.pending_bytes >= 12 * count
    ours, theirs = together.flush(), apart.flush()
    assert together.pending_bytes == 0
    lost = Positions.span(0, 11 - count)

    def stored(receipts: Any, node: int) -> tuple[list[Any], list[Any]]:
        facts = [local_run.item(r, p) | {"at": p} for r in receipts for p in r.positions]
        loaded = local_run.load_all(Manifest(node, "k", receipts, 11, lost))
        return sorted(facts, key=lambda each: each["at"]), loaded

    (our_facts, our_values), (their_facts, their_values) = stored(ours, 2), stored(theirs, 1)
    assert our_facts == their_facts
    assert (
        list(map(repr, our_values)) == list(map(repr, their_values)) == [*map(repr, values[::-1])]
    )
    kinds = [sorted(receipt.part.kind for receipt in each) for each in (ours, theirs)]
    assert kinds[0] == kinds[1]


def test_pending_bytes_follow_what_is_added(local_run: ArrowRunStore):
    one = encoder(local_run)
    assert one.pending_bytes == 0
    for value in (
        "x" * 10_000,
        b"x" * 10_000,
        {"a": "x" * 10_000},
        {1: b"x" * 10_000},
        np.zeros(1250),
    ):
        before = one.pending_bytes
        one.add(before, value, 1, 2)
        assert 10_000 <= one.pending_bytes - before < 12_000
    one.flush()
    assert one.pending_bytes == 0


# -------------------------------------------------------------------------------- streams


def test_generators_of_tables_become_one_table(run: ArrowRunStore):
    def tables() -> Any:
        for i in range(5):
            yield pa.table({"a": [i] * 3, "b": ["x"] * 3})

    def batches() -> Any:
        yield pa.record_batch({"a": [1]})
        yield pa.record_batch({"a": [2]})

    values = [
        tables(),
        batches(),
        pa.table({"q": [1, 2]}).to_reader(),
        (pd.DataFrame({"a": [i]}) for i in range(2)),
        ({"i": i, "x": None if i % 2 else "y"} for i in range(20_000)),
        ({"i": i} if i < 9000 else {"z": "late", "i": 0.5} for i in range(10_000)),
        (i * i for i in range(4)),
        iter(()),
        ({"a": 1} if i else 5 for i in range(3)),
        map(str, range(3)),
    ]
    manifest = commit(run, values)
    got = run.load_all(manifest)
    assert got[0].equals(pa.concat_tables(tables()))
    assert got[1].to_pydict() == {"a": [1, 2]}
    assert isinstance(got[2], pa.RecordBatchReader)
    assert got[2].read_all().to_pydict() == {"q": [1, 2]}
    assert got[3].to_dict("list") == {"a": [0, 1]}
    assert got[4] == [{"i": i, "x": None if i % 2 else "y"} for i in range(20_000)]
    assert got[5] == [{"i": i} if i < 9000 else {"z": "late", "i": 0.5} for i in range(10_000)]
    assert got[6:] == [[0, 1, 4, 9], [], [5, {"a": 1}, {"a": 1}], ["0", "1", "2"]]
    paths = {receipt.part.path for receipt in manifest.receipts}
    assert {info.path for info in run.list("")} == paths
    by_path = {receipt.part.path: receipt for receipt in run.receipts(0)}
    for receipt in manifest.receipts:
        found = by_path[receipt.part.path]
        assert (found.part, found.rows, found.positions) == (
            receipt.part,
            receipt.rows,
            receipt.positions,
        )


def test_a_generators_error_passes_through_and_leaves_nothing(local_run: ArrowRunStore):
    def broken() -> Any:
        yield pa.table({"a": [1] * 200_000})
        raise KeyError("user's own")

    def mixed() -> Any:
        yield pa.table({"a": [1]})
        yield {"a": 1}

    def drifting() -> Any:
        yield pa.table({"a": [1]})
        yield pa.table({"b": [1]})

    one = encoder(local_run)
    with pytest.raises(KeyError, match="user's own"):
        one.add(0, broken(), 1, 2)
    with pytest.raises(UnstorableError, match="element 1"):
        one.add(0, mixed(), 1, 2)
    with pytest.raises(UnstorableError, match="'a'"):
        one.add(0, drifting(), 1, 2)
    assert one.flush() == ()
    assert isinstance(local_run.objects, LocalObjects)
    left = [p for p in Path(local_run.objects.root).rglob("*") if p.is_file()]
    assert left == []


# --------------------------------------------------------------------------- stated schemas


def test_a_stated_schema_is_a_contract(local_run: ArrowRunStore):
    schema = pa.schema([pa.field("a", pa.int16()), pa.field("b", pa.string(), nullable=False)])
    spec = dataclasses.replace(SPEC, schema=schema.serialize().to_pybytes())
    one = encoder(local_run, spec=spec)
    one.add(0, pa.table({"b": ["x"], "a": [1]}), 1, 2)
    for table, why in [
        (pa.table({"a": [1]}), "'b'.*missing"),
        (pa.table({"a": [1], "b": ["x"], "c": [1]}), "'c' is not"),
        (pa.table({"a": [70_000], "b": ["x"]}), "'a' is int64"),
        (pa.table({"a": [1], "b": pa.array([None], pa.string())}), "'b' has nulls"),
    ]:
        with pytest.raises(UnstorableError, match=why):
            one.add(1, table, 1, 2)
    for rows, why in [
        ({"a": 1}, "'b' of the task's schema is missing"),
        ([{"a": "x", "b": "x"}], "'a' is string"),
        ([{"a": 1, "b": "x", "c": 1}], "'c' is not"),
        ([{"a": 1, "b": None}], "'b' has nulls"),
        (({"a": n, "b": "x"} for n in (1, 70_000)), "'a' is int64"),
        ({"a": 70_000, "b": "x"}, "'a' is int64"),
        ({"b": object()}, "'b' has values .* no type for"),
        ([{"b": "x", "a": 1}, {"b": "x", "a": "y"}], "'a' has values of several types"),
        (({"b": each} for each in ("x", 1)), "'b' has values"),
        (pd.DataFrame({"b": [object()]}), "DataFrame has no columns"),
        ("text", "str has no columns"),
        ({1: 2}, "dict has no columns"),
        (5, "int has no columns"),
        ([5], "list has no columns"),
        (iter([5]), "list has no columns"),
    ]:
        with pytest.raises(UnstorableError, match=why):
            one.add(1, rows, 1, 2)
    for position, rows in enumerate([{"b": "x"}, [{"b": "y", "a": 3}], [], None], 1):
        one.add(position, rows, 1, 2)
    manifest = Manifest(0, "k", one.flush(), 5, schema=spec.schema)
    got, *others = local_run.load_all(manifest)
    assert got.schema == schema
    assert others == [{"b": "x"}, [{"b": "y", "a": 3}], [], None]
    rows = local_run.dataset(manifest).to_table()
    assert (rows.schema, rows["a"].to_pylist()) == (schema, [1, None, 3])


def test_what_a_stated_schema_would_change_is_an_error_and_not_another_value(
    local_run: ArrowRunStore,
):
    def stated(kind: Any, value: Any) -> Any:
        schema = pa.schema([("a", kind)])
        spec = dataclasses.replace(SPEC, schema=schema.serialize().to_pybytes())
        one = encoder(local_run, spec=spec)
        one.add(0, value, 1, 2)
        manifest = Manifest(0, "k", one.flush(), 1, schema=spec.schema)
        return local_run.dataset(manifest).to_table()["a"].to_pylist()

    noon, both = datetime(2026, 1, 1, 12), pa.list_(pa.struct([("x", pa.int8())]))
    for kind, value, why in [
        (pa.binary(), [{"a": b"x"}, {"a": 3}], "several types"),  # in the column they are pickles
        (pa.binary(), ({"a": a} for a in (b"x", 3)), "several types"),
        (pa.binary(), {"a": {1, 2}}, "no type for"),
        (pa.bool_(), {"a": 5}, "would be lost"),
        (pa.date32(), {"a": noon}, "would be lost"),
        (both, pa.table({"a": [[{"x": 1, "y": 2}]]}), "field 'y' would be lost"),
    ]:
        with pytest.raises(UnstorableError, match=why):
            stated(kind, value)
    assert stated(pa.bool_(), {"a": 1}) == [True]
    assert stated(pa.date32(), {"a": datetime(2026, 1, 1)}) == [date(2026, 1, 1)]
    assert stated(both, {"a": [{"x": 1}]}) == [[{"x": 1}]]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, pa.int16()),
        (-1, pa.uint8()),
        (1.5, pa.float32()),
        (2**53 + 1, pa.float64()),
        ("5", pa.int32()),
        ("x", pa.large_string()),
        ("x", pa.bool_()),
        (None, pa.struct([("x", pa.int8())])),
        ([1, 2], pa.list_(pa.int8())),
        ({"x": 1}, pa.struct([("x", pa.int8())])),
        (np.float32(1.5), pa.float64()),
        (datetime(2026, 1, 1), pa.timestamp("ms")),
        (datetime(2026, 1, 1, 12), pa.date32()),
        (5, pa.bool_()),
        ({"x": 1, "y": 2}, pa.struct([("x", pa.int8())])),
    ],
)
def test_a_dict_fits_a_schema_as_a_table_of_it_does(
    local_run: ArrowRunStore, value: Any, kind: pa.DataType
):
    schema = pa.schema([("a", kind)])
    one = encoder(local_run, spec=dataclasses.replace(SPEC, schema=schema.serialize().to_pybytes()))
    frozen = freeze_rows([{"a": value}])
    assert frozen is not None
    try:
        expected = conform(frozen.table(), schema)
    except UnstorableError:
        with pytest.raises(UnstorableError, match="'a'"):
            one.add(0, {"a": value}, 1, 2)
        return
    one.add(0, {"a": value}, 1, 2)
    spec = schema.serialize().to_pybytes()
    dataset = local_run.dataset(Manifest(0, "k", one.flush(), 1, schema=spec))
    assert dataset.to_table().equals(expected)


def test_none_is_no_row_where_a_schema_is_stated(local_run: ArrowRunStore):
    spec = dataclasses.replace(SPEC, schema=pa.schema([("a", pa.int8())]).serialize().to_pybytes())
    one = encoder(local_run, spec=spec)
    one.add(0, None, 1, 2)
    manifest = Manifest(0, "k", one.flush(), 1, schema=spec.schema)
    assert local_run.dataset(manifest).num_rows == 0


# ------------------------------------------------------------------------ damage and adoption


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_damage_is_found_and_named(tmp_path: Any, format: str):
    run = ArrowStore(tmp_path, format=format).run("r")
    manifest = commit(run, list(range(1000)), inline_bytes=0)
    (receipt,) = manifest.receipts
    data = run.read(receipt.part.path)
    middle = data.index(b"\x2a") if format == "arrow" else len(data) // 3
    run.write(receipt.part.path, data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(DamagedPartitionError, match=receipt.part.path):
        run.load_all(manifest)


def test_only_whole_partitions_of_the_run_are_adopted(run: ArrowRunStore):
    manifest = commit(run, [1, "a"], inline_bytes=0)
    whole, other = manifest.receipts
    data = run.read(whole.part.path)
    run.write("data/00000/00000000-abcdef-0-00000000.arrow", data[: len(data) // 2])
    run.write("data/00000/00000000-abcdef-1-00000000.parquet", b"")
    run.write("data/00000/00000000-abcdef-2-00000000.arrow", b"\0" * 100)
    run.write("data/00000/notes.txt", b"foreign")
    stranger = run.store.run("run-2")
    stranger.write(whole.part.path, data)
    assert stranger.receipts(0) == []
    assert run.receipts(0) == sorted([whole, other], key=lambda r: r.part.path)
    assert run.receipts(0, 0) == run.receipts(0)
    assert run.receipts(0, 1) == run.receipts(1) == []


def test_two_executions_of_a_batch_do_not_meet(local_run: ArrowRunStore):
    commit(local_run, [1, 2], inline_bytes=0)
    commit(local_run, [1, 2], inline_bytes=0)
    assert len(local_run.receipts(0, 0)) == 2


def test_winners_say_which_of_two_values_counts(local_run: ArrowRunStore):
    first = commit(local_run, ["a0", "a1", "a2"]).receipts[0]
    second = commit(local_run, ["b0", "b1", "b2", "b3"]).receipts[0]
    wins = (Positions.span(0, 2), Positions.span(2, 4))
    manifest = Manifest(0, "k", (first, second), 4, winners=wins)
    assert local_run.load_all(manifest) == ["a0", "a1", "b2", "b3"]
    assert local_run.dataset(manifest).to_table().to_pydict() == {"value": ["a0", "a1", "b2", "b3"]}


def test_columns_of_references_load_in_any_order(local_run: ArrowRunStore):
    manifest = commit(local_run, [0, "one", 2, {"a": 3}, {"b": 4}, 5], inline_bytes=0)
    parts = tuple(receipt.part for receipt in manifest.receipts)
    kinds = {part.kind: number for number, part in enumerate(parts)}
    which = [kinds["row"], kinds["int"], kinds["row"], kinds["int"], kinds["str"], kinds["int"]]
    index = [1, 2, 0, 0, 0, 0]
    column = RefColumn(parts, which, index, index, [1] * 6, (None,) * len(parts))
    expected = [{"b": 4}, 5, {"a": 3}, 0, "one", 0]
    assert local_run.load(column) == expected
    assert local_run.load(column[1:4]) == expected[1:4]
    assert local_run.load(column[0:0]) == []


def test_a_part_that_is_gone_is_told(local_run: ArrowRunStore):
    part = Part("data/00000/00000000-ab-0-00000000.arrow", "arrow", "int", 10, 1, 0)
    with pytest.raises(StorageError, match="no such object"):
        local_run.load(RefColumn((part,), [0], [0], [0], [1], (None,)))


def test_plain_readers_see_the_data_columns_only(local_run: ArrowRunStore, tmp_path: Path):
    import duckdb
    import polars as pl

    manifest = commit(local_run, [{"a": i, "b": str(i)} for i in range(5)], node=1)
    assert isinstance(local_run.objects, LocalObjects)
    path = f"{local_run.objects.root}/{manifest.receipts[0].part.path}"
    expected = {"a": [0, 1, 2, 3, 4], "b": ["0", "1", "2", "3", "4"]}
    assert ds.dataset(path, format="arrow").to_table().to_pydict() == expected
    assert pl.read_ipc(path).to_dict(as_series=False) == expected
    run = ArrowStore(tmp_path, format="parquet").run("r")
    (receipt,) = commit(run, [{"a": i, "b": str(i)} for i in range(5)], node=1).receipts
    path = f"{tmp_path}/r/{receipt.part.path}"
    assert ds.dataset(path).to_table().to_pydict() == expected
    assert pl.read_parquet(path).to_dict(as_series=False) == expected
    assert cast(Any, duckdb).sql(f"select a, b from '{path}' where a > 3").fetchall() == [(4, "4")]


def test_a_large_table_is_written_in_row_groups_that_a_page_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(partitions, "MOST_GROUP_BYTES", 10_000)
    table = pa.table({"text": ["x" * 20_000, *["y"] * 1000, *["z" * 3000] * 8]})
    header, start = Header("run", 0, "k-0", 0, 1, "ab", "table", 1), np.zeros(1, np.int64)
    items = ItemTable.of(start, start, start, table.num_rows)
    buffer = partitions.encode_partition(table, header, items, "parquet", compress=True)
    reader = partitions.PartitionReader(buffer, "parquet", "here")
    assert reader.read().equals(table)
    sizes = [reader.group(number).nbytes for number in range(reader.groups)]
    assert len(sizes) > 5
    assert sum(size > 10_000 for size in sizes) == 1, "of one row that is larger"
