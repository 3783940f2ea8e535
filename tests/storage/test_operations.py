"""Operations across partitions: the rows of a single process, in an order that layout does not change."""

import os
import signal
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import hypothesis.strategies as st
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from storage.batches import commit
from storage.stores import make_store

from headrace import flow, open_dataset, task
from headrace.core.errors import ConfigurationError, NestedSubmitError, UnstorableError
from headrace.core.interfaces import data_prefix
from headrace.storage.datasets import Dataset, dataset_of_table
from headrace.storage.exchange import HASH, hash_ranges, sorted_ranges
from headrace.storage.hashing import place_hashes, row_hashes
from headrace.storage.ordering import Order
from headrace.storage.store import ArrowRunStore, ArrowStore

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("number", pa.int64()),
        ("real", pa.float64()),
        ("list", pa.list_(pa.int8())),
        ("row", pa.int64()),
    ]
)
ROWS: Any = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.none() | st.sampled_from(["", "a", "bb", "a longer text than eight bytes"]),
            "number": st.none() | st.integers(-3, 3),
            "real": st.none() | st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("-inf")]),
            "list": st.none() | st.lists(st.none() | st.integers(0, 1), max_size=2),
        }
    ),
    max_size=60,
)


def table_of(rows: list[dict[str, Any]]) -> Any:
    return pa.Table.from_pylist([row | {"row": i} for i, row in enumerate(rows)], SCHEMA)


def same(row: dict[str, Any], names: Any) -> tuple[Any, ...]:
    """What tells rows apart: any NaN is one, and so is any zero."""
    return tuple(
        "nan" if value != value else value + 0.0 if type(value) is float else repr(value)  # noqa: PLR0124
        for value in (row[name] for name in names)
    )


def cut(table: Any, cuts: list[int]) -> list[Any]:
    borders = [0, *sorted(at % (table.num_rows + 1) for at in cuts), table.num_rows]
    return [table.slice(a, b - a) for a, b in pairwise(borders)]


def everything(dataset: Dataset, size: int) -> dict[str, Any]:
    """What each operation gives of a dataset, as rows or lists of rows."""
    options: Any = {"partition_bytes": size}
    made: dict[str, Any] = {
        "shuffle": dataset.shuffle(5, **options),
        "sort": dataset.sort("key", **options),
        "sort_down": dataset.sort(["real", "number"], [True, False], **options),
        "sort_number": dataset.sort("number", descending=True, **options),
        "distinct": dataset.distinct(**options),
        "distinct_on": dataset.distinct(["real", "list"], **options),
        "groups": dataset.group_by("key", **options).map(told),
        "some": dataset.sample(0.5, seed=3, **options),
        "ten": dataset.sample(n=10, seed=3, **options),
        "rows": dataset.repartition(rows=7, **options),
        "bytes": dataset.repartition(bytes=400, **options),
        "files": dataset.repartition(files=3, **options),
        "compact": dataset.compact(size),
    }
    parts = dataset.split([0.5, 0.3], seed=1, **options)
    by_key = dataset.split({"train": 0.6, "test": 0.4}, by="key", **options)
    made |= {"first": parts[0], "second": parts[1], **by_key}
    made["first_sorted"] = parts[0].sort("number", descending=True, **options)
    out = {name: each.to_table().to_pylist() for name, each in made.items()}
    assert made["shuffle"].schema == made["compact"].schema == SCHEMA
    assert {piece.count() for piece in made["rows"].pieces[:-1]} <= {7}
    assert len(made["files"].pieces) == min(3, dataset.num_rows)
    return out


def told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"key": rows[0]["key"], "rows": [row["row"] for row in rows]}


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rows=ROWS, cuts=st.lists(st.integers(0, 60), max_size=3), size=st.sampled_from([300, 10**6]))
def test_the_rows_are_those_of_one_process(tmp_path_factory: Any, rows: Any, cuts: Any, size: int):
    table = table_of(rows)
    run = ArrowStore(tmp_path_factory.mktemp("store")).run("input")
    dataset = run.dataset(commit(run, cut(table, cuts), [1]))

    @flow(executor="inline", intermediates="drop")
    def job() -> dict[str, Any]:
        return everything(dataset, size)

    found = {name: [same(row, row) for row in rows] for name, rows in job().items()}
    rows = table.to_pylist()
    all_of = [same(row, row) for row in rows]

    def ordered(keys: Any) -> list[Any]:
        indices = pc.sort_indices(table, sort_keys=keys)
        return [all_of[i] for i in indices.to_pylist()]

    for name in ("rows", "bytes", "files", "compact"):
        assert found[name] == all_of
    assert found["sort"] == ordered([("key", "ascending")])
    assert found["sort_down"] == ordered([("real", "descending"), ("number", "ascending")])
    assert found["sort_number"] == ordered([("number", "descending")])
    hashes = place_hashes(np.arange(len(rows)), 5)
    assert found["shuffle"] == [all_of[i] for i in np.argsort(hashes)]
    for name, on in (("distinct", SCHEMA.names), ("distinct_on", ["real", "list"])):
        firsts = {same(row, on): same(row, row) for row in reversed(rows)}
        assert sorted(map(repr, found[name])) == sorted(map(repr, firsts.values()))
    groups: dict[Any, list[int]] = {}
    for row in rows:
        groups.setdefault(row["key"], []).append(row["row"])
    expected = [same({"key": k, "rows": v}, ["key", "rows"]) for k, v in groups.items()]
    assert sorted(found["groups"]) == sorted(expected)
    chosen = place_hashes(np.arange(len(rows)), 3)
    assert found["some"] == [all_of[i] for i in np.flatnonzero(chosen < 2**63)]
    assert found["ten"] == [all_of[i] for i in sorted(np.argsort(chosen)[:10])]
    assert not set(found["first"]) & set(found["second"])
    first = [row for row in rows if same(row, row) in set(found["first"])]
    by_number = sorted(first, key=lambda row: (row["number"] is None, -(row["number"] or 0)))
    assert found["first_sorted"] == [same(row, row) for row in by_number]
    for name in ("first", "second", "train", "test"):
        assert found[name] == [row for row in all_of if row in set(found[name])]
    assert sorted(map(repr, found["train"] + found["test"])) == sorted(map(repr, all_of))
    assert not {row[0] for row in found["train"]} & {row[0] for row in found["test"]}


def data(rows: int = 3000) -> Any:
    """Rows of which 40 % have one key, every second time as a text."""
    random = np.random.default_rng(0)
    key = np.where(random.random(rows) < 0.4, 7, random.integers(0, 200, rows))
    return pa.table(
        {
            "key": pa.array(key).cast(pa.string()),
            "number": key,
            "real": random.random(rows),
            "list": [[i % 3] for i in range(rows)],
            "row": np.arange(rows),
        },
        schema=SCHEMA,
    )


@pytest.mark.parametrize("executor", ["threads", "processes", "dask", "ray"])
def test_order_and_rows_are_the_same_on_every_executor(executor: str, local_run: ArrowRunStore):
    """Other cuts of the rows into items, other sizes of partitions, and many workers."""
    table = data(900)

    @task
    def part(first: int, rows: int) -> pa.Table:
        return data(900).slice(first, rows)

    @flow(executor=executor)
    def job() -> dict[str, Any]:
        made = part.map(range(0, 900, 90), 90)
        return everything(made.dataset(), 20_000)

    @flow(executor="inline")
    def alone() -> dict[str, Any]:
        return everything(local_run.dataset(commit(local_run, [table])), 10**9)

    assert job() == alone()


def test_a_key_with_most_rows_goes_through_in_ranges():
    """The ranges of a bucket are small, but for a single hash; no row is lost or moved."""
    table = data()
    hashes = row_hashes(table.select(["key"]))
    runs: list[Any] = []
    for first in range(0, 3000, 500):
        line = first + np.argsort(hashes[first : first + 500], kind="stable")
        run = table.take(line).append_column(HASH, pa.array(hashes[line])).combine_chunks()
        runs += run.to_batches()
    limit = sum(run.nbytes for run in runs) // 10
    ranges = list(hash_ranges(runs, limit))
    seen: list[Any] = []
    for part in ranges:
        whole = pa.Table.from_batches(part)
        assert whole.nbytes < 2 * limit or len(set(whole[HASH].to_pylist())) == 1
        seen += whole.take(np.argsort(whole[HASH].to_numpy(), kind="stable"))["row"].to_pylist()
    assert seen == np.argsort(hashes, kind="stable").tolist()
    assert len(ranges) > 5
    order = Order.of("number", False, table.schema)
    runs = [table.slice(at, 500).sort_by("number").combine_chunks() for at in range(0, 3000, 500)]
    seen = []
    for part in sorted_ranges([batch for run in runs for batch in run.to_batches()], order, limit):
        whole = pa.Table.from_batches(part)
        assert whole.nbytes < 2 * limit
        seen += whole.take(order.indices(whole))["row"].to_pylist()
    assert seen == order.indices(table).tolist()


def test_a_large_group_streams_to_a_reader_and_others_come_whole(local_run: ArrowRunStore):
    table = data()
    dataset = local_run.dataset(commit(local_run, cut(table, [1000, 2000]), [1]))

    def batches(rows: pa.RecordBatchReader) -> dict[str, Any]:
        read = list(rows)
        key = {k for batch in read for k in batch.column(0).to_pylist()}
        assert len(key) == 1
        each = [batch.column("row").to_pylist() for batch in read]
        return {"key": key.pop(), "batches": len(read), "rows": [r for rows in each for r in rows]}

    found = dataset.group_by("key", partition_bytes=20_000).map(batches).to_table().to_pylist()
    assert {row["key"]: row["rows"] for row in found} == {
        key: table.filter(pc.field("key") == key)["row"].to_pylist()
        for key in table["key"].unique().to_pylist()
    }
    assert [row["key"] for row in found if row["batches"] > 4] == ["7"]


def test_tasks_over_groups_keep_their_options(local_run: ArrowRunStore):
    table = data(300)
    dataset = local_run.dataset(commit(local_run, [table]))
    schema = pa.schema([("key", pa.string()), ("total", pa.int64())])

    @task(schema=schema)
    def total(rows: pa.Table) -> pa.Table | None:
        if rows["number"][0].as_py() == 7:
            return None
        return pa.table({"key": rows["key"][:1], "total": [pc.sum(rows["row"]).as_py()]})

    found = dataset.group_by("key").map(total)
    assert found.schema == schema
    expected = table.filter(pc.field("number") != 7).group_by("key").aggregate([("row", "sum")])
    assert dict(zip(*found.to_table().to_pydict().values(), strict=True)) == dict(
        zip(*expected.to_pydict().values(), strict=True)
    )
    with pytest.raises(ZeroDivisionError):
        dataset.group_by("key").map(lambda rows: 1 / 0).to_table()


# ------------------------------------------------------------------------------------- workers die


def test_workers_that_are_killed_in_the_middle_change_nothing(tmp_path: Path):
    """Each operation loses a child of this process to SIGKILL while it works."""
    marks = tmp_path

    def dying(what: str) -> None:
        mark = marks / what
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    @task
    def part(first: int) -> pa.Table:
        dying(f"part-{first // 90 % 2}")
        return data(900).slice(first, 90)

    def size(rows: pa.Table) -> dict[str, Any]:
        if rows["number"][0].as_py() == 7:
            dying("group")
        return {"key": rows["key"][0].as_py(), "rows": rows.num_rows}

    def chained(dataset: Dataset) -> Any:
        mixed = dataset.shuffle(1, partition_bytes=9000).sort("number", partition_bytes=9000)
        return mixed.group_by("key", partition_bytes=9000).map(size).to_table()

    stop = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        """One child after the other, each as soon as it has begun to work."""
        while not stop.wait(0.4) and len(killed) < 4:
            for child in psutil.Process().children(recursive=True):
                if child.pid not in killed and "headrace.executors.child" in " ".join(
                    child.cmdline()
                ):
                    killed.append(child.pid)
                    child.kill()
                    break

    @flow(executor="processes")
    def job() -> Any:
        made = part.map(range(0, 900, 90)).dataset()
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            return chained(made)
        finally:
            stop.set()
            killer.join()

    @flow(executor="inline")
    def alone() -> Any:
        (marks / "group").touch()
        return chained(part.map(range(0, 900, 90)).dataset())

    found = job()
    assert {path.name for path in marks.iterdir()} == {"part-0", "part-1", "group"}
    assert killed
    assert found.equals(alone())


def test_a_run_that_failed_goes_on_behind_what_its_operations_have_made(tmp_path: Path):
    fails = tmp_path / "fails"
    fails.touch()
    starts = tmp_path / "starts"

    @task
    def part(first: int) -> pa.Table:
        with open(starts, "ab", buffering=0) as file:
            file.write(b"part\n")
        return data(300).slice(first, 30)

    def size(rows: pa.Table) -> dict[str, Any]:
        if fails.exists():
            raise RuntimeError("not yet")
        return {"key": rows["key"][0].as_py(), "rows": rows.num_rows}

    @flow(executor="threads")
    def job() -> int:
        mixed = part.map(range(0, 300, 30)).dataset().shuffle(1, partition_bytes=3000)
        return mixed.group_by("key", partition_bytes=3000).map(size).num_rows

    run = job.start()
    with pytest.raises(Exception, match="not yet"):
        run.result()
    fails.unlink()
    again = run.resume()
    assert again.result() == len(set(data(300)["key"].to_pylist()))
    assert starts.read_text().splitlines() == ["part"] * 10


# ---------------------------------------------------------------------------------- what goes away


def test_what_an_operation_has_scattered_is_dropped_with_its_use(tmp_path: Path):
    @task
    def part(first: int) -> pa.Table:
        return data(900).slice(first, 90)

    store = ArrowStore(tmp_path / "store")

    @flow(executor="threads", storage=store, intermediates="drop")
    def job() -> Dataset:
        made = part.map(range(0, 900, 90)).dataset()
        mixed = made.shuffle(1, partition_bytes=9000)
        return mixed.sort("number", partition_bytes=9000).distinct(partition_bytes=9000)

    found = job()
    rows = [row["row"] for row in found.to_table().to_pylist()]
    assert sorted(rows) == list(range(900))
    (run,) = map(store.run, store.runs())
    left = {int(info.path.split("/")[1]) for info in run.list(data_prefix(None))}
    keys = {receipt.node: receipt.key for receipt in run.receipts(None)}
    assert {keys[node] for node in left} <= {"part-0", "sort-choose-cuts-0", "distinct-gather-0"}


# -------------------------------------------------------------------------------------- of files


@pytest.mark.parametrize("scheme", ["memory", "s3"])
def test_files_of_every_format_far_away(scheme: str, request: pytest.FixtureRequest):
    """Parquet row groups and buckets behind a network; filters and columns; rows that nobody counted."""
    store = make_store(scheme, request)
    source = store.run("input")
    table = data(600)
    sink = pa.BufferOutputStream()
    pq.write_table(table.drop_columns(["list"]), sink, row_group_size=100)
    source.write("a.parquet", sink.getvalue().to_pybytes())
    text = "row,number\n" + "".join(f"{i},{i % 5}\n" for i in range(50))
    source.write("b/1.csv", text.encode())
    source.write("b/2.csv", text.encode())
    options = dict(store.storage_options)

    def opened(name: str, **more: Any) -> Dataset:
        return open_dataset(f"{source.url}/{name}", storage_options=options, **more)

    @flow(executor="threads", storage=store)
    def job() -> list[Any]:
        some = opened("a.parquet", columns=["row", "key"], filter=[("number", "<", 50)])
        counted = opened("b")
        made = [
            some.shuffle(1, partition_bytes=8000),
            some.sort("row", descending=True, partition_bytes=8000),
            some.repartition(rows=50, partition_bytes=8000),
            counted.distinct("number", partition_bytes=300),
            counted.sample(n=20),
            counted.shuffle(2),
            *counted.split([0.5, 0.5]),
        ]
        return [each.to_table() for each in made]

    shuffled, descending, cut_up, distinct, drawn, mixed, first, second = job()
    kept = table.filter(pc.field("number") < 50).select(["row", "key"])
    assert cut_up.equals(kept)
    assert descending.equals(kept.sort_by([("row", "descending")]))
    assert shuffled.sort_by("row").equals(kept)
    assert not shuffled.equals(kept)
    assert sorted(distinct["number"].to_pylist()) == [0, 1, 2, 3, 4]
    assert distinct["row"].to_pylist() == distinct["number"].to_pylist()
    assert drawn.num_rows == 20
    twice = sorted([*range(50), *range(50)])
    assert sorted(mixed["row"].to_pylist()) == twice
    assert sorted(first["row"].to_pylist() + second["row"].to_pylist()) == twice


def test_compact_leaves_large_files_alone(tmp_path: Path):
    table = data(1000)
    rows = [400, 10, 10, 10, 400, 100, 70]
    at = 0
    for number, count in enumerate(rows):
        pq.write_table(table.slice(at, count), tmp_path / f"{number}.parquet")
        at += count
    dataset = open_dataset(tmp_path)
    sizes = [piece.bytes for piece in dataset.pieces]
    made = dataset.compact(sizes[0] * 2)
    assert made.to_table().equals(table)
    kept = {Path(file).name for file in made.files if file.startswith(str(tmp_path))}
    assert kept == {"0.parquet", "4.parquet"}
    assert len(made.files) == 4
    assert made.compact(sizes[0] * 2).files == made.files


def test_dictionaries_are_decoded_and_empty_datasets_keep_their_schema(local_run: ArrowRunStore):
    words = pa.array(["a", "b", None, "a"]).dictionary_encode()
    table = pa.table({"word": words, "n": [1, 2, 3, 4]})
    dataset = local_run.dataset(commit(local_run, [table, table], [1]))
    found = dataset.sort("word").to_table()
    assert found.schema == pa.schema([("word", pa.string()), ("n", pa.int64())])
    assert found["word"].to_pylist() == ["a", "a", "a", "a", "b", "b", None, None]
    nothing = local_run.dataset(commit(local_run, [table.slice(0, 0)], [1]))
    for made in (nothing.shuffle(1), nothing.distinct(), nothing.sort("n"), nothing.sample(n=3)):
        assert made.to_table().equals(found.slice(0, 0))


def test_views_as_polars_writes_them_go_through(tmp_path: Path):
    table = pa.table(
        {"word": pa.array(["b", None, "a", "b" * 40], pa.string_view()), "n": range(4)}
    )
    for number in range(2):
        with pa.ipc.new_file(str(tmp_path / f"{number}.arrow"), table.schema) as writer:
            writer.write_table(table)
    dataset = open_dataset(str(tmp_path / "*.arrow"))
    assert dataset.sort("word").to_table()["n"].to_pylist() == [2, 2, 0, 0, 3, 3, 1, 1]
    assert sorted(dataset.distinct().to_table()["n"].to_pylist()) == [0, 1, 2, 3]
    assert dataset.shuffle(1).to_table().num_rows == 8
    assert dataset.compact().to_table()["word"].to_pylist() == table["word"].to_pylist() * 2


def test_a_group_gives_rows_and_nothing_else():
    groups = dataset_of_table(pa.table({"key": [1, 1, 2]})).group_by("key")

    def mixed(rows: pa.Table) -> Any:
        return [{"n": rows.num_rows}, rows.num_rows] if rows.num_rows == 2 else {"n": 1}

    for function in (len, mixed):
        with pytest.raises(UnstorableError, match="a group gave a int: return a table"):
            groups.map(function)


def test_what_cannot_be_is_told(local_run: ArrowRunStore):
    dataset = local_run.dataset(commit(local_run, [data(10)]))
    bare = pa.array([{}], pa.struct([]))
    odd = dataset_of_table(pa.table({"bare": bare, "deep": pa.array([{"x": {}}])}))
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: dataset.sort("none"), "none"),
        (lambda: dataset.sort("list"), "cannot sort by list"),
        (lambda: dataset.sort(["row", "list"]), "cannot sort by row, list"),
        (lambda: dataset.sort([]), "takes columns"),
        (lambda: dataset.sort(["key", "row"], [True]), "for each"),
        (lambda: dataset.distinct("none"), "no column 'none'"),
        (lambda: dataset.group_by("none").map(len), "no column 'none'"),
        (lambda: dataset.split([]), "fractions"),
        (lambda: dataset.split([0.9, 0.2]), "fractions"),
        (dataset.sample, "fraction= or n="),
        (lambda: dataset.sample(2.0), "from 0 to 1"),
        (dataset.repartition, "one of rows="),
        (lambda: dataset.repartition(rows=0), "positive"),
        (lambda: dataset.shuffle(1, partition_bytes="many"), "not a size"),
        (lambda: dataset.shuffle(1, partition_bytes=0), "partition_bytes= .* positive"),
        (lambda: dataset.compact(cast(Any, float("nan"))), "not a size"),
        (lambda: dataset.shuffle(cast(Any, None)), "number as its seed, not None"),
        (lambda: dataset.sample(0.5, seed=cast(Any, "a")), "number as its seed, not 'a'"),
        (lambda: dataset.split([1], seed=cast(Any, 1.5)), "number as its seed, not 1.5"),
        (lambda: dataset.sample(n=cast(Any, 2.5)), "a number of rows: None, 2.5"),
        (lambda: dataset.group_by("key").map(cast(Any, 5)), "a function or a task, not 5"),
        (lambda: dataset.select([]).shuffle(1), "rows without columns"),
        (lambda: odd.sort("bare"), "struct<> has no order"),
        (lambda: odd.sort("deep"), "has no order"),
    ]
    for call, told_so in wrong:
        with pytest.raises(ConfigurationError, match=told_so):
            call()

    @task
    def inside() -> Any:
        return dataset.shuffle(1)

    with pytest.raises(NestedSubmitError, match=r"dataset\.shuffle"):
        inside.submit().result()
