"""Datasets: ordered and lazy, in partitions, written whole, from files of every format and scheme."""

import gc
import json
import os
import pickle
import resource
import sys
from pathlib import Path
from typing import Any, cast

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import s3fs
from servers.object_store import ObjectStore
from storage.batches import commit

from headrace import flow, task
from headrace.core.errors import (
    AlreadyExistsError,
    ConfigurationError,
    NotFoundError,
    StorageError,
)
from headrace.core.interfaces import Loadable, Manifest
from headrace.storage import sinks, splitting
from headrace.storage.datasets import (
    Dataset,
    Partition,
    dataset_of_table,
    open_dataset,
    parse_bytes,
)
from headrace.storage.locations import parse_location
from headrace.storage.objects import open_objects
from headrace.storage.opening import MANIFEST
from headrace.storage.partitions import ROW_GROUP_ROWS
from headrace.storage.shares import shares_of
from headrace.storage.sinks import DatasetWriter
from headrace.storage.store import ArrowRunStore, ArrowStore
from headrace.storage.targets import STAGING, Target

ROWS = [{"a": i, "b": "x" * (i % 5)} if i % 3 else {"b": None, "c": i / 2} for i in range(40)]
TABLE = pa.table(
    {
        "b": [row["b"] for row in ROWS],
        "c": [row.get("c") for row in ROWS],
        "a": [row.get("a") for row in ROWS],
    }
)


@pytest.fixture
def rows(run: ArrowRunStore) -> Dataset:
    return run.dataset(commit(run, ROWS, [3, 9, 27], inline_bytes=0))


def test_a_node_reads_as_a_table_in_item_order(rows: Dataset):
    assert rows.schema.equals(TABLE.schema)
    assert rows.num_rows == 40
    assert rows.to_table().equals(TABLE)
    assert rows.to_table(columns=["c", "a"], filter=[("a", ">", 35)]).to_pydict() == {
        "c": [None, None],
        "a": [37, 38],
    }
    assert rows.head(5).equals(TABLE.slice(0, 5))
    assert pa.Table.from_batches(rows.iter_batches(), schema=rows.schema).equals(TABLE)
    assert rows.to_arrow_dataset().to_table().equals(TABLE)
    assert rows.to_arrow_dataset().count_rows(filter=ds.field("a") > 35) == 2
    assert len(rows.files) == 4
    assert rows.select(["a"]).to_table().equals(TABLE.select(["a"]))


def test_other_tools_read_it_as_it_is(rows: Dataset):
    assert pa.table(rows).equals(TABLE)
    assert pl.DataFrame(rows).shape == (40, 3)
    assert rows.to_polars()["a"].to_list() == TABLE["a"].to_pylist()
    pd.testing.assert_frame_equal(pd.DataFrame.from_arrow(rows), TABLE.to_pandas())
    pd.testing.assert_frame_equal(rows.to_pandas(), TABLE.to_pandas())
    assert cast(Any, duckdb).sql("select count(*), sum(a) from rows").fetchall() == [
        (40, sum(filter(None, TABLE["a"].to_pylist())))
    ]


def test_order_holds_where_partitions_interleave(local_run: ArrowRunStore):
    values = [{"n": i} if i % 2 else [{"n": i}, {"n": i}] for i in range(20)]
    dataset = local_run.dataset(commit(local_run, values))
    assert dataset.to_table()["n"].to_pylist() == [n for i in range(20) for n in [i] * (2 - i % 2)]
    assert dataset.to_arrow_dataset().to_table().equals(dataset.to_table())


def test_items_of_many_kinds(local_run: ArrowRunStore):
    def table(values: list[Any]) -> Any:
        return local_run.dataset(commit(local_run, values)).to_table()

    assert table([1, 2.5, None, True if False else 3]).to_pydict() == {
        "value": [1.0, 2.5, None, 3.0]
    }
    assert table(
        [{"a": 1}, None, [], pd.DataFrame({"a": [2, 3]}), pa.table({"b": ["x"]})]
    ).to_pydict() == {
        "a": [1, 2, 3, None],
        "b": [None, None, None, "x"],
    }
    assert table([None, None]).to_pydict() == {"value": [None, None]}
    assert table([(1, 2), (3,)]).to_pydict() == {"value": [[1, 2], [3]]}
    assert (
        table([{1}]).schema.field("value").metadata[b"ARROW:extension:name"] == b"headrace.pickle"
    )
    assert table([]).num_rows == 0
    for values, told in [
        ([1, "a"], r"(?s)'value'.*int64  in .*arrow.*string  in"),
        ([{"a": 1}, {"a": "x"}], r"(?s)'a'.*int64.*string"),
        ([1, {1}], "pickled objects"),
        ([b"x", {1}], "pickled objects"),
        ([{"a": 1}, 5], "item 0 is of kind 'row', item 1 is of kind 'int'"),
        ([2**53 + 1, 0.5], "without loss"),
    ]:
        with pytest.raises(ConfigurationError, match=told):
            table(values)


def test_no_items_make_an_empty_dataset_of_the_stated_schema(local_run: ArrowRunStore):
    schema = pa.schema([("a", pa.int8())])
    empty = local_run.dataset(Manifest(0, "k", (), 0, schema=schema.serialize().to_pybytes()))
    assert empty.to_table().equals(schema.empty_table())
    assert empty.partitions() == []
    assert local_run.dataset(Manifest(0, "k", (), 0)).to_table().num_rows == 0


# ----------------------------------------------------------------------------------- partitions


@pytest.mark.parametrize(
    "aim", [{"rows": 7}, {"rows": 1}, {"rows": 1000}, {"bytes": "1KB"}, {"files": 3}, {}], ids=str
)
def test_partitions_hold_all_rows_in_order(local_run: ArrowRunStore, aim: dict[str, Any]):
    rows = local_run.dataset(commit(local_run, ROWS, [3, 9, 27], inline_bytes=0))
    parts = rows.partitions(**aim)
    assert all(isinstance(part, Loadable) for part in parts)
    assert sum(part.rows for part in parts) == 40
    if aim.get("rows") == 7:
        assert [part.rows for part in parts] == [7, 7, 7, 7, 7, 5]
    if aim == {"files": 3}:
        assert len(parts) == 2
    loaded = [part.__headrace_load__(None) for part in parts]
    assert pa.concat_tables(loaded).equals(TABLE)
    assert len({part.fingerprint for part in parts}) == len(parts)
    assert [p.fingerprint for p in rows.partitions(**aim)] == [p.fingerprint for p in parts]


def test_a_partition_is_a_small_handle_that_travels(local_run: ArrowRunStore):
    dataset = local_run.dataset(commit(local_run, [{"a": "x" * 1000} for _ in range(500)]))
    part = dataset.partitions(rows=100)[1]
    handle = pickle.dumps(part)
    assert len(handle) < 4000
    again = pickle.loads(handle)
    assert isinstance(again, Partition)
    assert again.fingerprint == part.fingerprint
    assert again.__headrace_load__(pd.DataFrame).shape == (100, 1)
    assert again.__headrace_load__(pa.RecordBatchReader).read_all().num_rows == 100
    assert again.__headrace_load__(list[dict[str, Any]])[0] == {"a": "x" * 1000}
    assert 0 < part.bytes < dataset.bytes


@pytest.mark.parametrize(
    "aim",
    [
        {"rows": 0},
        {"rows": "10"},
        {"rows": 1.5},
        {"bytes": "-1"},
        {"bytes": "many"},
        {"bytes": []},
        {"rows": 1, "files": 1},
        {"files": -1},
    ],
)
def test_odd_aims_are_told(local_run: ArrowRunStore, aim: dict[str, Any]):
    with pytest.raises(ConfigurationError):
        dataset_of_table(TABLE).partitions(**aim)


def test_sizes_are_read():
    sizes = ["64MB", "64 MiB", "1.5kb", 7, 1e6, "10", "2GiB"]
    read = [64_000_000, 64 << 20, 1500, 7, 10**6, 10, 2 << 30]
    assert [parse_bytes(size) for size in sizes] == read


# ------------------------------------------------------------------------------ files of all formats


def folder_of(store: ArrowStore, files: dict[str, bytes]) -> str:
    run = store.run("input")
    for name, data in files.items():
        run.write(name, data)
    return run.url


def parquet(table: Any, **more: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **more)
    return sink.getvalue().to_pybytes()


def arrow(table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_every_format_on_every_scheme(store: ArrowStore):
    numbers = pa.table({"i": list(range(100))})
    url = folder_of(
        store,
        {
            "p/a.parquet": parquet(numbers, row_group_size=30),
            "p/sub/b.pq": parquet(numbers.slice(0, 5)),
            "p/_SUCCESS": b"",
            "p/.hidden.parquet": b"no parquet",
            "a/x.arrow": arrow(numbers),
            "c/1.csv": b"a,b\n1,x\n2,y\n",
            "c/2.csv": b"b,a\nz,1.5\n",
            "j/1.jsonl": b'{"a": 1}\n{"a": 2, "b": [1]}\n',
            "t/1.txt": "eins\nzwei\r\n\nä".encode() + b"\xff",
            "t/2.txt": b"",
        },
    )
    options = store.storage_options

    def open_it(path: Any, **more: Any) -> Dataset:
        return open_dataset(f"{url}/{path}", storage_options=options, **more)

    dataset = open_it("p")
    assert dataset.num_rows == 105
    assert dataset.to_table()["i"].to_pylist() == [*range(100), *range(5)]
    assert [part.rows for part in dataset.partitions(rows=60)] == [60, 45]
    assert [part.rows for part in dataset.partitions(bytes=1)] == [30, 30, 30, 10, 5]
    assert pickle.loads(pickle.dumps(dataset.partitions(bytes=1)[3])).to_table()[
        "i"
    ].to_pylist() == [*range(90, 100)]
    assert dataset.to_arrow_dataset().count_rows() == 105
    assert open_it("p", columns=["i"], filter=pc.field("i") >= 98).to_table()["i"].to_pylist() == [
        98,
        99,
    ]
    assert open_it("p", filter=[("i", ">=", 98)]).num_rows == 2
    assert (
        open_it("p/*.parquet").num_rows
        == open_it("a").num_rows
        == open_it("a/x.arrow").num_rows
        == 100
    )
    assert open_it("c").to_table().to_pydict() == {"a": [1.0, 2.0, 1.5], "b": ["x", "y", "z"]}
    assert open_it("j").to_table().to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": [1]}]
    text = open_it("t")
    assert text.to_table()["text"].to_pylist() == ["eins", "zwei", "", "ä\ufffd"]
    assert text.num_rows == 4
    files = open_it("c", format="files")
    first = files.to_table().to_pylist()[0]
    assert (first["path"], first["size"], first["content"]) == (
        f"{url}/c/1.csv",
        12,
        b"a,b\n1,x\n2,y\n",
    )
    assert first["modified"].year >= 2024
    assert files.to_table(columns=["size"]).to_pydict() == {"size": [12, 10]}
    assert (
        files.to_table(filter=pc.field("path").cast(pa.string()) == f"{url}/c/2.csv").num_rows == 1
    )
    both = open_dataset([f"{url}/a/x.arrow", f"{url}/p/sub"], storage_options=options)
    assert both.num_rows == 105
    assert "hush" not in repr(both)


def test_what_cannot_be_opened_is_told(tmp_path: Path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet at all")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "x.bin").write_bytes(b"")
    (tmp_path / "x.jsonl").write_bytes(b'{"a": \n')
    with pytest.raises(NotFoundError, match="no such file"):
        open_dataset(tmp_path / "nothing")
    with pytest.raises(NotFoundError):
        open_dataset(tmp_path / "*.nothing")
    with pytest.raises(ConfigurationError, match=r"cannot tell the format of x\.bin"):
        open_dataset(tmp_path / "odd")
    with pytest.raises(ConfigurationError, match="unknown format 'xml'"):
        open_dataset(tmp_path, format="xml")
    with pytest.raises(ConfigurationError, match=r"x\.parquet cannot be read as parquet"):
        open_dataset(tmp_path / "x.parquet").to_table()
    with pytest.raises(ConfigurationError, match=r"x\.jsonl cannot be read as jsonl"):
        open_dataset(tmp_path / "x.jsonl").to_table()
    with pytest.raises(ConfigurationError, match="not a filter"):
        open_dataset(tmp_path / "x.parquet", filter=5)
    with pytest.raises(ConfigurationError, match=r"no column 'z'.*it has a"):
        dataset_of_table(pa.table({"a": [1]})).to_table(columns=["z"])
    (tmp_path / "empty").mkdir()
    assert open_dataset(tmp_path / "empty", filter=[("a", ">", 1)]).to_table().num_rows == 0
    (tmp_path / "list.json").write_text('[{"a": 1}]')
    with pytest.raises(ConfigurationError, match=r"list\.json.*an object in each line"):
        open_dataset(tmp_path / "list.json").to_table()
    for odd in ([("z", ">", 1)], [("a", ">", "x")]):  # told before anything runs
        with pytest.raises(
            ConfigurationError, match=r"filter .* does not fit .*columns are a: int64"
        ):
            Dataset(dataset_of_table(pa.table({"a": [1]})).pieces, filter=odd).partitions()
    (tmp_path / "latin.csv").write_bytes("ä,b\n1,2\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"latin\.csv cannot be read as csv: 'utf-8'"):
        _ = open_dataset(tmp_path / "latin.csv").schema
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    (tmp_path / "twice.arrow").write_bytes(arrow(twice))
    with pytest.raises(ConfigurationError, match=r"twice\.arrow has several columns 'a'"):
        open_dataset(tmp_path / "twice.arrow").to_table()
    with pytest.raises(ConfigurationError, match=r"pyarrow\.Schema"):
        open_dataset(tmp_path, schema={"a": "int64"})


def test_files_without_a_byte_have_no_rows(tmp_path: Path):
    for ending, data in (("csv", "a\n1\n"), ("jsonl", '{"a": 1}\n'), ("txt", "1\n")):
        (tmp_path / ending).mkdir()
        (tmp_path / ending / f"1.{ending}").write_text("")
        (tmp_path / ending / f"2.{ending}").write_text(data)
        assert open_dataset(tmp_path / ending).to_table().num_rows == 1
        assert open_dataset(tmp_path / ending / f"1.{ending}").to_table().num_rows == 0


def test_a_column_of_folder_and_file_is_the_files(tmp_path: Path):
    for year in (2025, 2026):
        (tmp_path / f"year={year}").mkdir()
        data = parquet(pa.table({"year": [year], "n": [1]}))
        (tmp_path / f"year={year}" / "x.parquet").write_bytes(data)
    tree = open_dataset(tmp_path, filter=[("year", ">", 2025)])
    assert [part.to_table().to_pydict() for part in tree.partitions(bytes=1)] == [
        {"year": [2026], "n": [1]}
    ]
    assert tree.partitions()[0].statistics["year"].max == 2026


def test_a_file_that_is_named_twice_has_its_rows_twice(tmp_path: Path):
    rows = pa.table({"name": range(10)})
    pq.write_table(rows, tmp_path / "x.parquet", row_group_size=5)
    twice = open_dataset([tmp_path / "x.parquet"] * 2)
    want = pa.concat_tables([rows, rows])
    for aim in ({}, {"bytes": 1}, {"rows": 7}, {"files": 1}):
        parts = twice.partitions(**cast(Any, aim))
        assert pa.concat_tables([part.to_table() for part in parts]).equals(want)
    assert twice.sort("name").to_table(columns="name").equals(want.sort_by("name"))


def test_a_globs_folders_tell_columns(tmp_path: Path):
    for year in ("2025", "2026"):
        (tmp_path / f"run=1/year={year}").mkdir(parents=True)
        pq.write_table(pa.table({"n": [1]}), tmp_path / f"run=1/year={year}/x.parquet")
    for pattern in ("year=*/x.parquet", "**/*.parquet", "year=202[56]/*"):
        found = open_dataset(f"{tmp_path}/run=1/{pattern}").to_table()
        assert found.to_pydict() == {"n": [1, 1], "year": ["2025", "2026"]}
    schema = pa.schema([("year", pa.int16()), ("run", pa.int8())])
    files = [f"{tmp_path}/run=1/year={year}/x.parquet" for year in (2026, 2025)]
    stated = open_dataset(files, schema=schema, filter=[("year", ">", 2025)])
    assert stated.to_table().to_pydict() == {"year": [2026], "run": [1]}
    assert open_dataset(files[0]).schema.names == ["n"]


def test_a_stated_schema_is_part_of_what_a_partition_is(tmp_path: Path):
    pq.write_table(pa.table({"n": [1]}), tmp_path / "x.parquet")
    kinds = [None, pa.schema([("n", pa.int64())]), pa.schema([("n", pa.string())])]
    opened = [open_dataset(tmp_path, schema=kind) for kind in kinds]
    assert len({each.fingerprint for each in opened}) == 3
    assert len({each.partitions()[0].fingerprint for each in opened}) == 3
    shares = [shares_of(each.pieces, each.scan(), 100)[0] for each in opened]
    assert len({share.__headrace_fingerprint__() for share in shares}) == 3
    several = [list(range(500)), [*range(250), -1, *range(251, 500)]]
    filtered = [open_dataset(tmp_path, filter=[("n", "in", ns)]) for ns in several]
    shares = [shares_of(each.pieces, each.scan(), 100)[0] for each in filtered]
    assert len({share.__headrace_fingerprint__() for share in shares}) == 2


def test_files_that_differ_unify_or_say_how(tmp_path: Path):
    (tmp_path / "1.parquet").write_bytes(
        parquet(pa.table({"a": pa.array([1], pa.int32()), "b": ["x"]}))
    )
    (tmp_path / "2.parquet").write_bytes(parquet(pa.table({"c": [[1.5]], "a": [2]})))
    dataset = open_dataset(tmp_path)
    assert dataset.to_table().to_pydict() == {"a": [1, 2], "b": ["x", None], "c": [None, [1.5]]}
    assert dataset.schema.field("a").type == pa.int64()
    categories = pa.array(["y"]).dictionary_encode()
    (tmp_path / "2b.parquet").write_bytes(parquet(pa.table({"b": categories})))
    assert open_dataset(tmp_path).to_table()["b"].to_pylist() == ["x", None, "y"]
    (tmp_path / "3.parquet").write_bytes(parquet(pa.table({"a": ["text"]})))
    with pytest.raises(
        ConfigurationError, match=r"(?s)'a'.*int32  in  .*1\.parquet.*string  in  .*3\.parquet"
    ):
        _ = open_dataset(tmp_path).schema


def test_of_very_many_files_some_are_asked_and_others_held_against_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(splitting, "MOST_ASKED", 3)  # of ten files the first, the fifth, the last
    (tmp_path / "in").mkdir()
    for number in range(10):
        (tmp_path / f"in/{number}.jsonl").write_text('{"n": 1.5, "t": "x"}\n')

    def opened(third: str, **more: Any) -> Dataset:
        (tmp_path / "in/2.jsonl").write_text(third)
        return open_dataset(tmp_path / "in", **more)

    for fits in ('{"t": "y"}\n', '{"t": null, "n": 1}\n'):
        rows = opened(fits).to_table()
        assert rows.schema == pa.schema([("n", pa.float64()), ("t", pa.string())])
        assert rows.num_rows == 10
    table = r"(?s)'more'.*no such column  in  the 3 files.*int64  in  \S*2\.jsonl.*schema=\"all\""
    raw = opened('{"n": 1.5, "t": "x", "more": 1}\n')
    for part in raw.partitions(files=1):  # packing opens three of them
        for same in (part, pickle.loads(pickle.dumps(part)), part.select(["n"])):
            if part.files[0].endswith("2.jsonl"):
                with pytest.raises(ConfigurationError, match=table):
                    same.to_table()
            else:
                assert same.num_rows == same.to_table().num_rows == 1
    for read in (raw.to_table, raw.to_arrow_dataset, raw.to_polars, raw.head):
        with pytest.raises(ConfigurationError, match=table):
            read()
    with pytest.raises(ConfigurationError, match=table):
        raw.write(tmp_path / "out")
    with pytest.raises(ConfigurationError, match=r"'n'.*string  in  \S*2\.jsonl|'n'(?s:.*)double"):
        opened('{"n": "one", "t": "x"}\n').to_table()
    every = opened('{"n": 1.5, "t": "x", "more": 1}\n', schema="all").to_table()
    assert every.column("more").to_pylist() == [None, None, 1, *[None] * 7]
    opened("no line of this kind").partitions()


def test_a_changed_file_changes_the_fingerprint(tmp_path: Path):
    path = tmp_path / "x.parquet"
    path.write_bytes(parquet(pa.table({"a": [1, 2]})))
    before = open_dataset(path).partitions()[0].fingerprint
    assert open_dataset(path).partitions()[0].fingerprint == before
    assert open_dataset(path, columns=["a"]).partitions()[0].fingerprint != before
    os.utime(path, (1, 1))
    assert open_dataset(path).partitions()[0].fingerprint != before


# ------------------------------------------------------------------------------------------ write


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_what_is_written_is_read_by_others(store: ArrowStore, format: str):
    rows = dataset_of_table(TABLE)
    url = f"{store.url}/out"
    options = store.storage_options
    written = rows.write(url, format, storage_options=options, max_rows_per_file=15)
    assert written.to_table().equals(TABLE)
    assert [part.rows for part in written.partitions(files=1)] == [15, 15, 10]
    assert open_dataset(url, storage_options=options).to_table().equals(TABLE)
    with pytest.raises(AlreadyExistsError, match="mode="):
        rows.write(url, storage_options=options)
    assert rows.write(url, format, storage_options=options, mode="ignore").num_rows == 40
    assert rows.write(url, format, storage_options=options, mode="append").num_rows == 80
    half = dataset_of_table(TABLE.slice(0, 20))
    assert half.write(url, format, storage_options=options, mode="overwrite").num_rows == 20
    names = [info.path for info in store.run("out").list("")]
    assert len(names) == 2
    assert MANIFEST in names
    manifest = json.loads(store.run("out").read(MANIFEST))
    assert [file["rows"] for file in manifest["files"]] == [20]


def test_plain_tools_read_a_written_folder(tmp_path: Path):
    dataset_of_table(TABLE).write(tmp_path / "out", max_rows_per_file=10)
    assert ds.dataset(tmp_path / "out").to_table().equals(TABLE)
    assert pl.read_parquet(tmp_path / "out" / "*.parquet").shape == (40, 3)
    assert pl.scan_parquet(tmp_path / "out", hidden_file_prefix="_").collect().shape == (40, 3)
    assert pd.read_parquet(tmp_path / "out").shape == (40, 3)


def test_columns_become_folders_and_come_back_with_their_types(tmp_path: Path):
    table = pa.table(
        {
            "year": pa.array([2026, 2025, None, 2026], pa.int16()),
            "kind": ["a/b", "ä", "", "a/b"],
            "n": [1, 2, 3, 4],
        }
    )
    written = dataset_of_table(table).write(tmp_path, partition_by=["year", "kind"])
    assert written.schema.field("year").type == pa.int16()
    assert (
        sorted(written.to_table().to_pylist(), key=lambda r: r["n"])
        == table.select(["n", "year", "kind"]).to_pylist()
    )
    assert written.to_table(filter=[("year", "=", 2026)])["n"].to_pylist() == [1, 4]
    assert (tmp_path / "year=2026" / "kind=a%2Fb").is_dir()
    (tmp_path / MANIFEST).unlink()
    assert open_dataset(tmp_path).to_table(columns=["n"], filter=[("year", "=", "2025")])[
        "n"
    ].to_pylist() == [2]
    with pytest.raises(ConfigurationError, match="partition by 'z'"):
        dataset_of_table(table).write(tmp_path / "x", partition_by="z")
    with pytest.raises(ConfigurationError, match="no column is left"):
        dataset_of_table(table).write(tmp_path / "x", partition_by=["n", "kind", "year"])


def test_each_row_goes_into_one_folder(tmp_path: Path):
    """Also where equality says otherwise: NaN is not NaN, and -0.0 is 0.0."""
    keys = [0.0, -0.0, float("nan"), None, float("nan"), 1.0]
    table = pa.table({"key": keys, "row": range(6)})
    written = dataset_of_table(table).write(tmp_path / "out", partition_by="key").to_table()
    found = dict(zip(written["row"].to_pylist(), map(str, written["key"].to_pylist()), strict=True))
    assert len(written) == 6
    assert found == dict(enumerate(map(str, keys)))


@pytest.mark.parametrize(
    "column",
    [
        pa.nulls(2),
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([b"a", b"b"]),
        pa.array([b"a", b"b"], pa.binary(1)),
        pa.array([1, 2], pa.time64("us")),
        pa.array([1, 2], pa.duration("us")),
    ],
    ids=lambda column: str(column.type),
)
def test_what_folders_names_cannot_hold_is_told_before_anything_runs(tmp_path: Path, column: Any):
    table = pa.table({"key": column, "n": [1, 2]})
    with pytest.raises(ConfigurationError, match=r"by 'key': folders' names cannot hold .*; cast"):
        dataset_of_table(table).write(tmp_path / "out", partition_by="key")
    assert not (tmp_path / "out").exists()


def test_keys_in_dictionaries_and_views_become_folders(tmp_path: Path):
    keys = ["a", None, "b"]
    columns = [pa.array(keys).dictionary_encode(), pa.array(keys, pa.string_view())]
    for number, column in enumerate(columns):
        table = pa.table({"key": column, "text": pa.array(keys, pa.string_view())})
        written = dataset_of_table(table).write(tmp_path / str(number), partition_by="key")
        rows = written.to_table().to_pylist()
        assert sorted(map(str, rows)) == sorted(str({"text": k, "key": k}) for k in keys)


def test_more_folders_than_files_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = pa.table({"key": [n % 300 for n in range(3000)], "n": range(3000)})
    pieces = [
        piece for part in dataset_of_table(table).partitions(rows=500) for piece in part.pieces
    ]
    cut = Dataset(pieces, schema=table.schema)

    @task
    def write(name: str) -> Dataset:
        return cut.write(tmp_path / name, partition_by="key")

    @flow(executor="inline")
    def writes() -> tuple[Dataset, Dataset]:
        whole = write("whole")
        monkeypatch.setattr(sinks, "_MOST_HELD", 4000)
        monkeypatch.setattr(sinks, "_MOST_OPEN", 20)
        return whole, write("parts")

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(list(Path("/proc/self/fd").iterdir()))  # what earlier tests keep: pools, histories
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 150, hard))
    try:
        whole, parts = writes()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(parts.files) > len(whole.files) == 300
    for each in (whole, parts):
        assert each.to_table().select(["key", "n"]).sort_by("n").equals(table)


def test_a_file_that_made_place_for_another_is_finished_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sinks, "_MOST_HELD", 4000)
    monkeypatch.setattr(sinks, "_MOST_OPEN", 2)
    table = pa.table({"key": [0] + [1] * 500 + [2] * 500, "n": range(1001)})
    objects, schema = open_objects(parse_location(tmp_path), {}), table.schema
    writer = DatasetWriter(objects, schema, "parquet", ["key"], None, 1 << 30)
    for rows in (1, 500, 500):
        writer.write(table.slice(0, rows))
        table = table.slice(rows)
    assert sorted(file.rows for file in writer.close()) == [1, 500, 500]


def test_categories_do_not_count_in_each_folder(tmp_path: Path):
    texts = pa.array([f"{n:0500}" for n in range(400)]).dictionary_encode()
    table = pa.table({"key": [n % 20 for n in range(400)], "text": texts})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=40)

    @task
    def write() -> int:
        return len(
            open_dataset(tmp_path / "in.parquet")
            .write(tmp_path / "out", partition_by="key", max_bytes_per_file=20_000)
            .files
        )

    @flow(executor="inline")
    def writes() -> int:
        return write()

    assert writes() == 20


def test_a_folder_whose_name_the_disk_does_not_take_is_told(tmp_path: Path):
    table = pa.table({"key": ["x" * 300], "n": [1]})
    with pytest.raises(StorageError, match=r"cannot write .*File name too long"):
        dataset_of_table(table).write(tmp_path / "out", partition_by="key")


def test_only_what_fits_is_appended(tmp_path: Path):
    rows = pa.table({"day": pa.array([1, 2], pa.int16()), "n": [1, 2]})
    plain = dataset_of_table(rows).write(tmp_path / "plain")
    by_day = dataset_of_table(rows).write(tmp_path / "days", partition_by="day")
    texts = pa.table({"n": ["x"], "day": pa.array([3], pa.int16())})
    odd: list[tuple[str, Any, dict[str, Any], str]] = [
        (
            "plain",
            texts,
            {},
            r"(?s)'n'.*int64  in  files of .*plain.*string  in  the rows to append",
        ),
        ("plain", rows, {"format": "arrow"}, "cannot append arrow files to .*plain: .* is parquet"),
        ("plain", rows, {"partition_by": "day"}, "what is there has \\[\\] in its folders"),
        ("days", rows, {}, "what is there has \\['day'\\] in its folders"),
        ("days", pa.table({"n": [1], "m": [1]}), {}, "what is there has \\['day'\\]"),
    ]
    for folder, table, more, told in odd:
        with pytest.raises(ConfigurationError, match=told):
            dataset_of_table(table).write(tmp_path / folder, mode="append", **more)
    assert plain.to_table().equals(rows)
    assert by_day.to_table().select(["day", "n"]).equals(rows)
    wider = pa.table({"day": [300_000], "n": pa.array([3], pa.int8()), "new": ["x"]})
    days = dataset_of_table(wider).write(tmp_path / "days", mode="append", partition_by="day")
    assert days.to_table().to_pydict() == {
        "n": [1, 2, 3],
        "day": [1, 2, 300_000],
        "new": [None, None, "x"],
    }


def test_rows_are_appended_to_folders_of_others(tmp_path: Path):
    for day in ("1", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"day={day}").mkdir()
        pq.write_table(pa.table({"n": [1]}), tmp_path / f"day={day}" / "x.parquet")
    (tmp_path / "_temporary").mkdir()  # of a job that died: no reader looks into it
    pq.write_table(pa.table({"n": [9]}), tmp_path / "_temporary" / "x.parquet")
    rows = dataset_of_table(pa.table({"day": [2], "n": [2]}))
    assert rows.write(tmp_path, mode="append", partition_by="day").to_table().to_pydict() == {
        "n": [1, 1, 2],
        "day": [1, None, 2],
    }
    assert open_dataset(tmp_path).num_rows == 3
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "day=noon").mkdir()
    pq.write_table(pa.table({"n": [1]}), tmp_path / "text" / "day=noon" / "x.parquet")
    with pytest.raises(ConfigurationError, match="day=noon"):
        rows.write(tmp_path / "text", mode="append", partition_by="day")


def test_an_append_lists_its_folder_twice_before_it_writes(
    s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    url, options = s3_server.new_bucket() + "/out", s3_server.storage_options
    dataset_of_table(TABLE).to_pandas().to_parquet(f"{url}/x.parquet", storage_options=options)
    listed: list[str] = []
    list_one = s3fs.S3FileSystem._lsdir

    def counted(self: Any, path: str, *args: Any, **more: Any) -> Any:
        listed.append(path)
        return list_one(self, path, *args, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", counted)
    target = Target(
        parse_location(url), options, TABLE.schema, "parquet", (), "append", None, 1, "w"
    )
    assert [file["path"] for file in target.begin() or ()] == ["x.parquet"]
    assert len(listed) == 2


@pytest.mark.parametrize("mode", ["append", "error", "ignore"])
def test_rows_that_others_have_written_meanwhile_are_not_lost(tmp_path: Path, mode: str):
    if mode == "append":
        dataset_of_table(TABLE).write(tmp_path)

    class Other:  # a Piece
        name, rows, bytes, fingerprint, origin = "other", 1, 1, "", None

        def units(self, scan: Any = None) -> list[Any]:
            return [self]

        def batches(self, scan: Any) -> Any:
            dataset_of_table(TABLE).write(tmp_path, mode="append")
            yield from TABLE.to_batches()

    dataset = Dataset([Other()], schema=TABLE.schema)  # type: ignore[list-item]
    with pytest.raises(StorageError, match=r"written by another one .*; write again"):
        dataset.write(tmp_path, mode=mode)
    assert open_dataset(tmp_path).num_rows == (80 if mode == "append" else 40)


def test_rows_without_columns_or_with_two_of_a_name_are_counted_and_not_written(tmp_path: Path):
    pq.write_table(pa.table({"n": range(10)}), tmp_path / "in.parquet")
    bare = open_dataset(tmp_path / "in.parquet").select([])
    assert bare.num_rows == bare.to_table().num_rows == bare.to_pandas().shape[0] == 10
    assert [part.to_table().num_rows for part in bare.partitions()] == [10]
    with pytest.raises(ConfigurationError, match="rows without columns"):
        bare.write(tmp_path / "out")
    twice = open_dataset(tmp_path / "in.parquet").select(["n", "n"])
    for odd in (lambda: twice.write(tmp_path, mode="overwrite"), twice.distinct):
        with pytest.raises(ConfigurationError, match=r"several columns .n. .*select each once"):
            odd()
    assert open_dataset(tmp_path).num_rows == 10
    empty = dataset_of_table(pa.table({"x": pa.array([{}], pa.struct([]))}))
    with pytest.raises(ConfigurationError, match="format='arrow'"):
        empty.write(tmp_path / "out")
    assert empty.write(tmp_path / "out", "arrow").to_table().to_pylist() == [{"x": {}}]


@pytest.mark.parametrize("where", ["flow", "task"])
def test_a_failed_write_leaves_the_old_dataset(tmp_path: Path, where: str):
    target = tmp_path / "out"
    dataset_of_table(TABLE).write(target)
    before = sorted(p.name for p in target.iterdir())

    class Broken:  # a Piece
        name, rows, bytes, fingerprint, origin = "broken", 1, 1, "", None

        def units(self, scan: Any = None) -> list[Any]:
            return [self]

        def schema(self) -> Any:
            return TABLE.schema

        def batches(self, scan: Any) -> Any:
            yield TABLE.to_batches()[0]
            raise StorageError("lost")

    def write() -> int:
        dataset = Dataset([Broken()])  # type: ignore[list-item]
        return dataset.write(target, mode="overwrite", max_rows_per_file=5).num_rows

    @flow(executor="inline")
    def in_a_task() -> int:
        return task(write).submit().result()

    with pytest.raises(StorageError, match="lost"):
        in_a_task() if where == "task" else write()
    staged = [] if where == "task" else [STAGING]  # for who resumes the run
    assert sorted(p.name for p in target.iterdir() if p.name not in staged) == before
    assert open_dataset(target).to_table().equals(TABLE)
    assert dataset_of_table(TABLE).write(target, mode="overwrite").to_table().equals(TABLE)
    assert not (target / STAGING).exists()


def test_a_write_that_is_broken_off_in_a_file_leaves_nothing_that_complains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As Ctrl-C in a notebook does; pyarrow's writers close themselves when they are collected."""
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    target = Target(
        *(parse_location(tmp_path), {}, TABLE.schema, "parquet", (), "error", None, 10**9, "w")
    )
    writer = target.writer(())
    writer.write(TABLE.take(pa.array([0] * ROW_GROUP_ROWS)))
    writer.discard()
    del writer
    gc.collect()
    assert complaints == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_reader_sees_the_old_dataset_until_the_manifest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "out"
    dataset_of_table(TABLE).write(target)
    real = DatasetWriter.close
    seen: list[int] = []

    def close(self: DatasetWriter) -> Any:
        done = real(self)
        seen.append(open_dataset(target).num_rows)
        return done

    monkeypatch.setattr(DatasetWriter, "close", close)
    assert dataset_of_table(TABLE.slice(0, 7)).write(target, mode="overwrite").num_rows == 7
    assert dataset_of_table(TABLE.slice(0, 7)).write(target, mode="append").num_rows == 14
    assert seen == [40, 7]


def test_no_rows_are_written_as_a_file_that_tells_the_schema(tmp_path: Path):
    none = dataset_of_table(TABLE.slice(0, 0))
    written = none.write(tmp_path / "out")
    assert written.schema.equals(TABLE.schema)
    assert written.num_rows == 0
    in_folders = none.write(tmp_path / "folders", partition_by="b")
    assert in_folders.to_table().equals(TABLE.slice(0, 0).select(["c", "a", "b"]))
    more = dataset_of_table(TABLE).write(tmp_path / "folders", mode="append", partition_by="b")
    assert (more.num_rows, more.schema.names) == (40, ["c", "a", "b"])


@pytest.mark.parametrize(
    "odd",
    [{"format": "xml"}, {"mode": "maybe"}, {"max_rows_per_file": 0}, {"max_bytes_per_file": "0"}],
)
def test_odd_ways_to_write_are_told(tmp_path: Path, odd: dict[str, Any]):
    with pytest.raises(ConfigurationError, match=r"use|positive"):
        dataset_of_table(TABLE).write(tmp_path / "out", **odd)
